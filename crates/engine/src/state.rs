//! What every part of the engine shares: the sandboxes it knows and the means to act on them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cri::v1;
use shim::protocol::{ExitRecord, StartedRecord, VERSION, records};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::Config;
use crate::events::Events;
use crate::files::FileError;
use crate::network::Network;
use crate::record::{self, ContainerRecord, EndRecord, Phase, SandboxRecord};
use crate::shim_link::ShimLink;
use crate::shim_process;
use crate::spec::{self, Scope, Shares};

/// Sandboxes that are set up at once: more would only wait for the kernel's network lock.
const SETUPS: usize = 8;
/// The reason of an end that nobody saw, and its code: that of SIGKILL.
const UNKNOWN: &str = "ContainerStatusUnknown";
const KILLED_CODE: i32 = 128 + 9;

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) layout: cgroup::Layout,
    /// The shim's program.
    pub(crate) program: OwnedFd,
    pub(crate) network: Arc<Network>,
    pub(crate) events: Events,
    pub(crate) setups: Semaphore,
    /// Read by whoever takes an image into use, written by whoever removes one.
    pub(crate) image_use: tokio::sync::RwLock<()>,
    /// Capabilities of this process.
    pub(crate) held: u64,
    pub(crate) cpus: usize,
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    /// In which sandbox each container is.
    containers: HashMap<String, Arc<Sandbox>>,
}

pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) created_at_ns: i64,
    /// The pod's control group.
    pub(crate) cgroup: String,
    /// Held by whoever changes the sandbox or its set of containers. Others are never held up by it.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<SandboxState>,
}

pub(crate) struct SandboxState {
    pub(crate) phase: Phase,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) shim: Option<Arc<ShimLink>>,
    /// The shim's pid where this process is its parent and has not waited for it.
    pub(crate) child: Option<i32>,
    pub(crate) reader: Option<AbortHandle>,
    pub(crate) containers: BTreeMap<String, Container>,
}

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) record: ContainerRecord,
    pub(crate) started: Option<StartedRecord>,
    /// `None` until it has ended; whoever waits for the end watches it.
    pub(crate) end: watch::Sender<Option<End>>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) finished_at_ns: i64,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Core {
    pub(crate) fn new(config: Config, layout: cgroup::Layout, program: OwnedFd) -> Self {
        let network = Arc::new(Network::new(config.bridge.clone(), config.pod_cidr));
        Self {
            network,
            layout,
            program,
            events: Events::default(),
            setups: Semaphore::new(SETUPS),
            image_use: tokio::sync::RwLock::default(),
            held: crate::machine::held_capabilities(),
            cpus: crate::machine::possible_cpus(),
            objects: Mutex::default(),
            config,
        }
    }

    pub(crate) fn sandboxes_dir(&self) -> PathBuf {
        self.config.run_dir.join("sandboxes")
    }

    pub(crate) fn damaged_dir(&self) -> PathBuf {
        self.config.run_dir.join("damaged")
    }

    /// Holds what containers write.
    pub(crate) fn writable_dir(&self) -> PathBuf {
        self.config.root_dir.join("containers")
    }

    pub(crate) fn sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        lock(&self.objects).sandboxes.get(id).cloned()
    }

    pub(crate) fn sandbox_of(&self, container: &str) -> Option<Arc<Sandbox>> {
        lock(&self.objects).containers.get(container).cloned()
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        lock(&self.objects).sandboxes.values().cloned().collect()
    }

    pub(crate) fn sandbox_ids(&self) -> Vec<String> {
        lock(&self.objects).sandboxes.keys().cloned().collect()
    }

    /// Adds a sandbox unless one with the same metadata is there, which is returned then.
    pub(crate) fn insert_sandbox(&self, sandbox: &Arc<Sandbox>) -> Option<Arc<Sandbox>> {
        let mut objects = lock(&self.objects);
        let same = |other: &&Arc<Sandbox>| other.config.metadata == sandbox.config.metadata;
        if let Some(other) = objects.sandboxes.values().find(same) {
            return Some(Arc::clone(other));
        }
        objects.sandboxes.insert(sandbox.id.clone(), Arc::clone(sandbox));
        None
    }

    pub(crate) fn forget_sandbox(&self, sandbox: &Sandbox) {
        let mut objects = lock(&self.objects);
        objects.sandboxes.remove(&sandbox.id);
        objects.containers.retain(|_, of| of.id != sandbox.id);
    }

    pub(crate) fn insert_container(&self, sandbox: &Arc<Sandbox>, container: Container) {
        lock(&self.objects).containers.insert(container.id.clone(), Arc::clone(sandbox));
        sandbox.state().containers.insert(container.id.clone(), container);
    }

    pub(crate) fn forget_container(&self, sandbox: &Sandbox, id: &str) {
        lock(&self.objects).containers.remove(id);
        sandbox.state().containers.remove(id);
    }

    /// Ids of the images that containers are made of, running or not.
    pub(crate) fn used_images(&self) -> BTreeSet<String> {
        let image_ids = |sandbox: Arc<Sandbox>| {
            let state = sandbox.state();
            state.containers.values().map(|container| container.record.image_id.clone()).collect::<Vec<_>>()
        };
        self.sandboxes().into_iter().flat_map(image_ids).collect()
    }

    /// The control group of a sandbox that was given none.
    pub(crate) fn default_cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.config.cgroup_root.trim_end_matches('/'))
    }

    /// The control group of a sandbox's shim.
    pub(crate) fn shim_group(&self, sandbox: &Sandbox) -> cgroup::Group {
        self.layout.group(&format!("{}/shim", sandbox.cgroup))
    }

    pub(crate) fn container_group(&self, sandbox: &Sandbox, container: &str) -> cgroup::Group {
        self.layout.group(&format!("{}/{container}", sandbox.cgroup))
    }
}

impl Sandbox {
    pub(crate) fn new(id: String, dir: PathBuf, record: SandboxRecord) -> Self {
        let phase = record.phase();
        Self {
            id,
            dir,
            config: record.config.unwrap_or_default(),
            created_at_ns: record.created_at_ns,
            cgroup: record.cgroup,
            turn: Arc::default(),
            state: Mutex::new(SandboxState {
                phase,
                address: record.address.map(Ipv4Addr::from_bits),
                shim: None,
                child: None,
                reader: None,
                containers: BTreeMap::new(),
            }),
        }
    }

    /// The state; never to be held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, SandboxState> {
        lock(&self.state)
    }

    /// Of the protocol that its shim speaks: a kubelet before this one may have started it.
    pub(crate) fn shim_version(&self) -> u32 {
        let started_here = self.state().child.is_some();
        if started_here { VERSION } else { shim_process::version(&self.dir) }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Which namespaces are the machine's. One that shares what cannot be shared was never made.
    pub(crate) fn shares(&self) -> Shares {
        spec::shares(&self.config).unwrap_or(Shares { network: Scope::Pod, ipc: Scope::Pod })
    }

    /// On the machine's network it is the machine's, whatever was asked for.
    pub(crate) fn hostname(&self) -> String {
        match self.shares().network {
            Scope::Pod => self.config.hostname.clone(),
            Scope::Machine => crate::machine::hostname(),
        }
    }

    pub(crate) fn container_dir(&self, container: &str) -> PathBuf {
        self.dir.join(records::CONTAINERS).join(container)
    }

    pub(crate) fn write_record(&self) -> Result<(), FileError> {
        let (phase, address) = {
            let state = self.state();
            (state.phase, state.address)
        };
        let record = SandboxRecord {
            config: Some(self.config.clone()),
            created_at_ns: self.created_at_ns,
            address: address.map(Ipv4Addr::to_bits),
            phase: phase.into(),
            cgroup: self.cgroup.clone(),
        };
        record::write(&self.dir.join(record::SANDBOX), &record)
    }

    /// Moves the sandbox on; its phase never goes back.
    pub(crate) fn advance(&self, phase: Phase) -> Result<(), FileError> {
        {
            let mut state = self.state();
            state.phase = state.phase.max(phase);
        }
        self.write_record()
    }

    /// Ids of the containers that may have processes.
    pub(crate) fn unended(&self) -> Vec<String> {
        let state = self.state();
        state.containers.values().filter(|container| container.end.borrow().is_none()).map(|c| c.id.clone()).collect()
    }

    /// Whether a container was started and has not ended; `None` where there is no such container.
    pub(crate) fn is_running(&self, container: &str) -> Option<bool> {
        self.state().containers.get(container).map(Container::is_running)
    }

    /// Something to await a container's end with; `None` where there is no such container.
    pub(crate) fn watch_end(&self, container: &str) -> Option<watch::Receiver<Option<End>>> {
        self.state().containers.get(container).map(|container| container.end.subscribe())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(reader) = self.state().reader.take() {
            reader.abort();
        }
    }
}

impl Container {
    pub(crate) fn new(id: String, record: ContainerRecord) -> Self {
        let end = record.end.clone().map(End::from);
        Self { id, record, started: None, end: watch::Sender::new(end) }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.started.is_some() && self.end.borrow().is_none()
    }
}

impl End {
    /// One that nobody saw: never reported as success.
    pub(crate) fn unknown() -> Self {
        Self {
            code: KILLED_CODE,
            finished_at_ns: now_ns(),
            reason: UNKNOWN.to_owned(),
            message: "the container's supervisor was gone, so the container was killed and its exit code is not known"
                .to_owned(),
        }
    }

    pub(crate) fn was_seen(&self) -> bool {
        self.reason != UNKNOWN
    }

    pub(crate) fn of(record: &ExitRecord) -> Self {
        let code = record.exit.code();
        let reason = match (record.oom_killed, code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        Self { code, finished_at_ns: record.finished_at_ns, reason: reason.to_owned(), message: String::new() }
    }

    pub(crate) fn to_record(&self) -> EndRecord {
        EndRecord {
            code: self.code,
            finished_at_ns: self.finished_at_ns,
            reason: self.reason.clone(),
            message: self.message.clone(),
        }
    }
}

impl From<EndRecord> for End {
    fn from(record: EndRecord) -> Self {
        let EndRecord { code, finished_at_ns, reason, message } = record;
        Self { code, finished_at_ns, reason, message }
    }
}

/// Locks; what these locks guard is whole at every moment, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
