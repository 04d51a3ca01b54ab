//! The API's reason strings, each in one place. Scripts and dashboards match on them, so they are spelt as every kubelet spells them.

// state.waiting
pub const CONTAINER_CREATING: &str = "ContainerCreating";
pub const POD_INITIALIZING: &str = "PodInitializing";
pub const RESTARTING_ALL_CONTAINERS: &str = "RestartingAllContainers";
pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
pub const IMAGE_INSPECT_ERROR: &str = "ImageInspectError";
pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
pub const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed";
pub const CREATE_CONTAINER_CONFIG_ERROR: &str = "CreateContainerConfigError";
pub const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";
pub const POST_START_HOOK_ERROR: &str = "PostStartHookError";
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
pub const NODE_AFFINITY: &str = "NodeAffinity";
pub const NODE_PORTS: &str = "NodePorts";
pub const NODE_NAME: &str = "NodeName";
pub const UNEXPECTED_ADMISSION_ERROR: &str = "UnexpectedAdmissionError";
pub const POD_OS_NOT_SUPPORTED: &str = "PodOSNotSupported";
pub const POD_OS_SELECTOR_NODE_LABEL_DOES_NOT_MATCH: &str = "PodOSSelectorNodeLabelDoesNotMatch";

// condition types
pub const POD_READY_TO_START_CONTAINERS: &str = "PodReadyToStartContainers";
pub const INITIALIZED: &str = "Initialized";
pub const READY: &str = "Ready";
pub const CONTAINERS_READY: &str = "ContainersReady";
pub const POD_SCHEDULED: &str = "PodScheduled";
pub const ALL_CONTAINERS_RESTARTING: &str = "AllContainersRestarting";

// condition reasons
pub const CONTAINERS_NOT_INITIALIZED: &str = "ContainersNotInitialized";
pub const CONTAINERS_NOT_READY: &str = "ContainersNotReady";
pub const POD_COMPLETED: &str = "PodCompleted";
pub const POD_FAILED: &str = "PodFailed";
pub const UNKNOWN_CONTAINER_STATUSES: &str = "UnknownContainerStatuses";

// events; those that share their word with a state above have it from there
pub const PULLING: &str = "Pulling";
pub const PULLED: &str = "Pulled";
pub const FAILED: &str = "Failed";
pub const BACK_OFF: &str = "BackOff";
pub const INSPECT_FAILED: &str = "InspectFailed";
pub const CREATED: &str = "Created";
pub const STARTED: &str = "Started";
pub const KILLING: &str = "Killing";
pub const UNHEALTHY: &str = "Unhealthy";
pub const PROBE_WARNING: &str = "ProbeWarning";
pub const FAILED_POST_START_HOOK: &str = "FailedPostStartHook";
pub const FAILED_PRE_STOP_HOOK: &str = "FailedPreStopHook";
pub const LIFECYCLE_HTTP_FALLBACK: &str = "LifecycleHTTPFallback";
pub const SANDBOX_CHANGED: &str = "SandboxChanged";
pub const FAILED_CREATE_POD_SANDBOX: &str = "FailedCreatePodSandBox";
pub const FAILED_POD_SANDBOX_STATUS: &str = "FailedPodSandBoxStatus";
pub const FAILED_CREATE_POD_CONTAINER: &str = "FailedCreatePodContainer";
pub const FAILED_KILL_POD: &str = "FailedKillPod";
pub const FAILED_SYNC: &str = "FailedSync";
pub const EXCEEDED_GRACE_PERIOD: &str = "ExceededGracePeriod";
pub const NETWORK_NOT_READY: &str = "NetworkNotReady";
pub const FAILED_MOUNT: &str = "FailedMount";
pub const DNS_CONFIG_FORMING: &str = "DNSConfigForming";
pub const MISSING_CLUSTER_DNS: &str = "MissingClusterDNS";
pub const FAILED_VALIDATION: &str = "FailedValidation";
pub const FREE_DISK_SPACE_FAILED: &str = "FreeDiskSpaceFailed";
pub const IMAGE_GC_FAILED: &str = "ImageGCFailed";
pub const INVALID_DISK_CAPACITY: &str = "InvalidDiskCapacity";
pub const FAILED_TO_RETRIEVE_IMAGE_PULL_SECRET: &str = "FailedToRetrieveImagePullSecret";

// phases
pub const PHASE_PENDING: &str = "Pending";
pub const PHASE_RUNNING: &str = "Running";
pub const PHASE_SUCCEEDED: &str = "Succeeded";
pub const PHASE_FAILED: &str = "Failed";
