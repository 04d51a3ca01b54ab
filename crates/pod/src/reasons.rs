//! The API's reason strings, each in one place. Scripts and dashboards match on them, so they are spelt as every kubelet spells them.

// state.waiting
pub const CONTAINER_CREATING: &str = "ContainerCreating";
pub const POD_INITIALIZING: &str = "PodInitializing";
pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
pub const IMAGE_INSPECT_ERROR: &str = "ImageInspectError";
pub const CREATE_CONTAINER_CONFIG_ERROR: &str = "CreateContainerConfigError";
pub const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";
pub const RUN_CONTAINER_ERROR: &str = "RunContainerError";
pub const KILL_CONTAINER_ERROR: &str = "KillContainerError";
pub const REMOVE_CONTAINER_ERROR: &str = "RemoveContainerError";
pub const CREATE_POD_SANDBOX_ERROR: &str = "CreatePodSandboxError";
pub const CONFIG_POD_SANDBOX_ERROR: &str = "ConfigPodSandboxError";
pub const KILL_POD_SANDBOX_ERROR: &str = "KillPodSandboxError";

// state.terminated
pub const COMPLETED: &str = "Completed";
pub const ERROR: &str = "Error";
pub const OOM_KILLED: &str = "OOMKilled";
pub const CONTAINER_CANNOT_RUN: &str = "ContainerCannotRun";
pub const START_ERROR: &str = "StartError";
pub const CONTAINER_STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

// pod.status.reason
pub const EVICTED: &str = "Evicted";
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
pub const NODE_SHUTDOWN: &str = "NodeShutdown";
pub const TERMINATED: &str = "Terminated";
pub const PREEMPTING: &str = "Preempting";

// pod.status.reason of a pod that was not admitted
pub const OUT_OF_CPU: &str = "OutOfcpu";
pub const OUT_OF_MEMORY: &str = "OutOfmemory";
pub const OUT_OF_EPHEMERAL_STORAGE: &str = "OutOfephemeral-storage";
pub const OUT_OF_PODS: &str = "OutOfpods";
pub const UNEXPECTED_ADMISSION_ERROR: &str = "UnexpectedAdmissionError";
pub const POD_OS_NOT_SUPPORTED: &str = "PodOSNotSupported";

// condition types
pub const POD_READY_TO_START_CONTAINERS: &str = "PodReadyToStartContainers";
pub const INITIALIZED: &str = "Initialized";
pub const READY: &str = "Ready";
pub const CONTAINERS_READY: &str = "ContainersReady";
pub const POD_SCHEDULED: &str = "PodScheduled";

// condition reasons
pub const CONTAINERS_NOT_INITIALIZED: &str = "ContainersNotInitialized";
pub const CONTAINERS_NOT_READY: &str = "ContainersNotReady";
pub const POD_COMPLETED: &str = "PodCompleted";
pub const POD_FAILED: &str = "PodFailed";
pub const UNKNOWN_CONTAINER_STATUSES: &str = "UnknownContainerStatuses";

// phases
pub const PHASE_PENDING: &str = "Pending";
pub const PHASE_RUNNING: &str = "Running";
pub const PHASE_SUCCEEDED: &str = "Succeeded";
pub const PHASE_FAILED: &str = "Failed";
