//! A sandbox's life: run, stop, remove. Each caller holds the sandbox's turn.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::{Error, Refused, v1};
use shim::protocol::{Request, records};
use tokio::sync::OwnedMutexGuard;
use tracing::{info, warn};

use crate::delete;
use crate::error::{internal, on_pool};
use crate::files;
use crate::ids;
use crate::network::{self, Connection, Pins, Plan, Ports};
use crate::record::{self, Phase, SandboxRecord};
use crate::recover::CGROUP_FILE;
use crate::shim_link::{ShimError, ShimLink};
use crate::shim_process;
use crate::spec::{self, Scope};
use crate::state::{Core, Sandbox, now_ns};

/// A shim answers within microseconds; one that takes this long on a loaded machine is stuck.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);
/// The names that a pod on the machine's network knows.
const MACHINE_HOSTS: &str = "/etc/hosts";
/// sethostname(2) takes 64 bytes.
const MAX_HOSTNAME_BYTES: usize = 64;

/// Whoever holds this may change the sandbox.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// What a sandbox is made of, decided before anything is made.
struct Making {
    resolv_conf: String,
    hosts: String,
    plan: Plan,
}

impl Core {
    /// Makes a sandbox; a repeated request gets the one that its first made.
    pub(crate) async fn run_sandbox(self: &Arc<Self>, config: v1::PodSandboxConfig) -> Result<String, Error> {
        check(&config).map_err(|refused| Error::invalid_argument(format!("pod sandbox: {refused}")))?;
        let machine = self.config.resolv_conf.as_deref();
        let resolv_conf = files::resolv_conf(config.dns_config.as_ref(), machine)
            .map_err(|fault| Error::invalid_argument(format!("pod sandbox: {fault}")))?;
        loop {
            let sandbox = self.new_sandbox(&config)?;
            let turn = Arc::clone(&sandbox.turn).lock_owned().await;
            let Some(other) = self.insert_sandbox(&sandbox) else {
                return self.make(sandbox, turn, resolv_conf).await;
            };
            // Its turn is free once whoever makes or removes it has done so.
            let _turn = other.turn.lock().await;
            match other.phase() {
                Phase::Ready => return Ok(other.id.clone()),
                Phase::Removed => {}
                Phase::Creating | Phase::NotReady | Phase::Stopped => return Err(already_exists(&other)),
            }
        }
    }

    fn new_sandbox(&self, config: &v1::PodSandboxConfig) -> Result<Arc<Sandbox>, Error> {
        let id = ids::new_id().map_err(internal("make an id"))?;
        let named = config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
        let cgroup = match named {
            "" => self.default_cgroup(&id),
            named => named.trim_end_matches('/').to_owned(),
        };
        let record = SandboxRecord {
            config: Some(config.clone()),
            created_at_ns: now_ns(),
            address: None,
            phase: Phase::Creating.into(),
            cgroup,
        };
        let dir = self.sandboxes_dir().join(&id);
        Ok(Arc::new(Sandbox::new(id, dir, record)))
    }

    async fn make(self: &Arc<Self>, sandbox: Arc<Sandbox>, turn: Turn, resolv_conf: String) -> Result<String, Error> {
        let made = self.make_all(&sandbox, resolv_conf).await;
        let Err(error) = made else {
            drop(turn);
            self.announce(&sandbox, &sandbox.id, v1::ContainerEventType::ContainerCreatedEvent);
            self.announce(&sandbox, &sandbox.id, v1::ContainerEventType::ContainerStartedEvent);
            return Ok(sandbox.id.clone());
        };
        // What cannot be undone now stays listed as not ready, for its owner to remove.
        let undone = async {
            self.stop_held(&sandbox).await?;
            self.remove_held(&sandbox).await
        };
        if let Err(left) = undone.await {
            warn!(sandbox = %sandbox.id, error = %left, "a sandbox that could not be made is not all removed");
        }
        Err(error)
    }

    async fn make_all(self: &Arc<Self>, sandbox: &Arc<Sandbox>, resolv_conf: String) -> Result<(), Error> {
        if sandbox.shares().network == Scope::Pod {
            let Some(address) = self.network.allocate() else {
                let cidr = self.network.cidr();
                return Err(Error::resource_exhausted(format!("no free address: pods have all of {cidr}")));
            };
            sandbox.state().address = Some(address);
        }
        let making = self.plan(sandbox, resolv_conf);
        let _permit = self.setups.acquire().await.map_err(internal("wait to set up a sandbox"))?;
        let (files, plan) = ((making.resolv_conf, making.hosts), making.plan);
        let prepared = Arc::clone(sandbox);
        on_pool(move || prepare(&prepared, &files)).await?.map_err(internal("prepare the sandbox's directory"))?;
        // The kernel works on the namespaces while the shim starts and joins its control groups, which on v1 can wait
        // several milliseconds for the first of them.
        let (connected, started) = tokio::join!(self.network.connect(plan), self.start_shim(sandbox));
        started?;
        connected.map_err(internal("set up the sandbox's network"))?;
        sandbox.advance(Phase::Ready).map_err(internal("record the sandbox"))
    }

    fn plan(&self, sandbox: &Sandbox, resolv_conf: String) -> Making {
        let hostname = sandbox.hostname();
        let address = sandbox.state().address;
        let hosts = match address {
            Some(address) => files::hosts(address, &hostname),
            None => files::machine_hosts(Path::new(MACHINE_HOSTS)),
        };
        let connection = address.map(|address| Connection {
            hostname,
            link: network::link_name(&sandbox.id),
            address,
            cidr: self.network.cidr(),
            ports: self.ports(sandbox, address),
        });
        Making {
            resolv_conf,
            hosts,
            plan: Plan { pins: Pins::new(&sandbox.dir), connection, ipc: sandbox.shares().ipc },
        }
    }

    /// A pod on the machine's network has no address, and no need of these.
    pub(crate) fn ports(&self, sandbox: &Sandbox, pod: Ipv4Addr) -> Ports {
        let list = spec::host_ports(&sandbox.config).unwrap_or_default();
        // After the bridge, of which there is one for each engine.
        let table = format!("{}-{}", self.config.bridge, sandbox.id.get(..8).unwrap_or(&sandbox.id));
        Ports { table, link: network::link_name(&sandbox.id), pod, list }
    }

    async fn start_shim(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let (core, of) = (Arc::clone(self), Arc::clone(sandbox));
        let started = on_pool(move || {
            let group = core.shim_group(&of);
            group.create(&cgroup::Limits::default()).map_err(internal("make the shim's control group"))?;
            let started = shim_process::start(&core.program, &of.dir, &group.dirs());
            started.map_err(internal("start the sandbox's shim"))
        });
        let (pid, socket) = started.await??;
        sandbox.state().child = Some(pid);
        let link = self.attach_shim(sandbox, socket)?;
        // Its first answer says that it runs, under the protocol that this engine speaks.
        link.call(Request::List, ANSWER).await.map_err(|error| {
            let words = shim_process::last_words(&sandbox.dir);
            Error::internal(format!("start the sandbox's shim: {error}; it said {words:?}"))
        })?;
        Ok(())
    }

    /// Begins to listen to a shim.
    pub(crate) fn attach_shim(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        socket: std::os::fd::OwnedFd,
    ) -> Result<Arc<ShimLink>, Error> {
        let link = ShimLink::new(socket).map_err(internal("listen to the sandbox's shim"))?;
        sandbox.state().shim = Some(Arc::clone(&link));
        // Weak: a shim's silence must not keep an engine alive that everyone else has let go of.
        let (core, of, reading) = (Arc::downgrade(self), Arc::downgrade(sandbox), Arc::clone(&link));
        let reader = tokio::spawn(async move {
            reading
                .read(|exited| {
                    if let (Some(core), Some(sandbox)) = (core.upgrade(), of.upgrade()) {
                        core.container_exited(&sandbox, &exited.container, &exited.record);
                    }
                })
                .await;
            if let (Some(core), Some(sandbox)) = (core.upgrade(), of.upgrade()) {
                // A task of its own: dropping the sandbox ends the reader, not what must be done.
                tokio::spawn(core.shim_gone(sandbox));
            }
        });
        sandbox.state().reader = Some(reader.abort_handle());
        Ok(link)
    }

    /// Kills what runs in a sandbox and gives back its network.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _turn = sandbox.turn.lock().await;
        self.stop_held(&sandbox).await
    }

    /// As [`Core::stop_sandbox`], by whoever holds the turn.
    pub(crate) async fn stop_held(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        if sandbox.phase() >= Phase::Stopped {
            return Ok(());
        }
        if sandbox.dir.exists() {
            sandbox.advance(Phase::NotReady).map_err(internal("record the sandbox"))?;
        } else {
            sandbox.state().phase = Phase::NotReady;
        }
        self.kill_containers(sandbox).await?;
        self.end_shim(sandbox).await?;
        let pins = Pins::new(&sandbox.dir);
        let ports = sandbox.state().address.map(|address| self.ports(sandbox, address));
        let network = Arc::clone(&self.network);
        let released =
            on_pool(move || ports.map_or(Ok(()), |ports| network.close_ports(&ports)).and_then(|()| pins.release()));
        released.await?.map_err(internal("let go of the sandbox's network and namespaces"))?;
        // Only now: while a namespace is held an address in it may still answer.
        if let Some(address) = sandbox.state().address.take() {
            self.network.release(address);
        }
        if sandbox.dir.exists() {
            sandbox.advance(Phase::Stopped).map_err(internal("record the sandbox"))?;
        } else {
            sandbox.state().phase = Phase::Stopped;
        }
        self.announce(sandbox, &sandbox.id, v1::ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    async fn end_shim(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let (link, child) = {
            let mut state = sandbox.state();
            (state.shim.take(), state.child.take())
        };
        let told = match link {
            Some(link) => link.call(Request::Shutdown, ANSWER).await,
            None => Err(ShimError::Gone),
        };
        let (core, of) = (Arc::clone(self), Arc::clone(sandbox));
        on_pool(move || {
            match told {
                Ok(_) => shim_process::end(&of.dir, child),
                Err(_) => shim_process::kill(&of.dir, child),
            }
            // A pod's PID 1 is in it too, and may be a moment behind the shim.
            core.shim_group(&of).kill().map_err(internal("kill the sandbox's shim"))?;
            core.shim_group(&of).remove().map_err(internal("remove the shim's control group"))
        })
        .await?
    }

    /// Removes a sandbox with all its containers.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _turn = sandbox.turn.lock().await;
        if sandbox.phase() == Phase::Removed {
            return Ok(());
        }
        self.stop_held(&sandbox).await?;
        self.remove_held(&sandbox).await
    }

    /// Removes a stopped sandbox, by whoever holds the turn.
    pub(crate) async fn remove_held(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let containers: Vec<String> = sandbox.state().containers.keys().cloned().collect();
        for container in containers {
            self.remove_container_held(sandbox, &container).await?;
        }
        let (core, of) = (Arc::clone(self), Arc::clone(sandbox));
        on_pool(move || core.remove_sandbox_files(&of)).await??;
        sandbox.state().phase = Phase::Removed;
        self.forget_sandbox(sandbox);
        self.announce(sandbox, &sandbox.id, v1::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    fn remove_sandbox_files(&self, sandbox: &Sandbox) -> Result<(), Error> {
        // A group that the pod's owner named is the owner's to remove.
        if sandbox.cgroup == self.default_cgroup(&sandbox.id) {
            let group = self.layout.group(&sandbox.cgroup);
            group.remove().map_err(internal("remove the sandbox's control group"))?;
        }
        // The record goes first: what is found without one is removed at the next start.
        let _ = std::fs::remove_file(sandbox.dir.join(record::SANDBOX));
        delete::remove_tree(&sandbox.dir).map_err(internal("remove the sandbox's directory"))
    }

    /// A conversation ended that nobody ended. A shim that cut it off, because this end did not read in time, is spoken
    /// to again. The containers of one that is gone are killed: nobody would write their logs or see their end.
    async fn shim_gone(self: Arc<Self>, sandbox: Arc<Sandbox>) {
        let mut pause = Duration::from_secs(1);
        loop {
            let turn = sandbox.turn.lock().await;
            if sandbox.phase() >= Phase::NotReady {
                return;
            }
            match self.reconnect(&sandbox).await {
                Ok(()) => return,
                Err(error) => warn!(sandbox = %sandbox.id, %error, "containers without a shim cannot be killed yet"),
            }
            drop(turn);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(60));
        }
    }

    /// Ends the containers of a shim that is gone, by whoever holds the turn.
    pub(crate) async fn bury(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let child = {
            let mut state = sandbox.state();
            state.shim = None;
            state.child.take()
        };
        let of = Arc::clone(sandbox);
        let core = Arc::clone(self);
        on_pool(move || {
            shim_process::kill(&of.dir, child);
            // A pod's PID 1 dies with the shim; this waits for it.
            core.shim_group(&of).kill().map_err(internal("kill the sandbox's shim"))
        })
        .await??;
        self.kill_without_shim(sandbox).await?;
        if sandbox.phase() < Phase::NotReady {
            info!(sandbox = %sandbox.id, "the shim is gone: the sandbox is not ready any more");
            sandbox.advance(Phase::NotReady).map_err(internal("record the sandbox"))?;
            self.announce(sandbox, &sandbox.id, v1::ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }
}

fn already_exists(sandbox: &Sandbox) -> Error {
    let metadata = sandbox.config.metadata.clone().unwrap_or_default();
    Error::already_exists(format!(
        "pod sandbox {} of {}/{} attempt {} exists and is not ready: remove it, or ask for another attempt",
        sandbox.id, metadata.namespace, metadata.name, metadata.attempt
    ))
}

fn check(config: &v1::PodSandboxConfig) -> Result<(), Refused> {
    if config.metadata.as_ref().is_none_or(|metadata| metadata.uid.is_empty() || metadata.name.is_empty()) {
        return Err(Refused::new("metadata", "a name and a uid are expected"));
    }
    let hostname = &config.hostname;
    if hostname.len() > MAX_HOSTNAME_BYTES || hostname.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let fault = format!("{hostname:?}: expected at most {MAX_HOSTNAME_BYTES} bytes without blanks");
        return Err(Refused::new("hostname", fault));
    }
    let shares = spec::shares(config)?;
    // On the machine's network a container listens on the port itself.
    if shares.network == Scope::Pod {
        spec::host_ports(config)?;
    }
    let Some(linux) = &config.linux else { return Ok(()) };
    if !linux.sysctls.is_empty() {
        return Err(Refused::new("sysctls", "not supported yet by the embedded engine"));
    }
    if linux.cgroup_parent.split('/').any(|part| part == "..") {
        return Err(Refused::new("cgroup_parent", format!("{:?}: expected a path without '..'", linux.cgroup_parent)));
    }
    let Some(security) = &linux.security_context else { return Ok(()) };
    spec::refuse_profile("seccomp", security.seccomp.as_ref())
}

/// The sandbox's directory with its record, before anything else of it exists.
fn prepare(sandbox: &Sandbox, (resolv_conf, hosts): &(String, String)) -> Result<(), files::FileError> {
    files::private_dirs(&sandbox.dir)?;
    sandbox.write_record()?;
    for name in ["ns", "shm", records::CONTAINERS] {
        files::private_dirs(&sandbox.dir.join(name))?;
    }
    let hostname = sandbox.hostname() + "\n";
    let files =
        [("hostname", &hostname), ("resolv.conf", resolv_conf), ("hosts", hosts), (CGROUP_FILE, &sandbox.cgroup)];
    for (name, text) in files {
        files::write_new(&sandbox.dir.join(name), text.as_bytes(), 0o644)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_granted_is_refused_by_name() {
        let metadata = v1::PodSandboxMetadata { name: "web".into(), uid: "u".into(), ..Default::default() };
        let good = v1::PodSandboxConfig { metadata: Some(metadata), hostname: "web".into(), ..Default::default() };
        assert_eq!(check(&good), Ok(()));
        let linux = |linux| v1::PodSandboxConfig { linux: Some(linux), ..good.clone() };
        let options = v1::NamespaceOption {
            network: v1::NamespaceMode::Target.into(),
            pid: v1::NamespaceMode::Container.into(),
            ..Default::default()
        };
        let shared = v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..options.clone() };
        let security =
            |options| v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let port = v1::PortMapping { host_port: 80, ..Default::default() };
        let on_machine = v1::LinuxPodSandboxConfig { security_context: Some(security(shared)), ..Default::default() };
        let on_machine = v1::PodSandboxConfig { port_mappings: vec![port.clone()], ..linux(on_machine) };
        assert_eq!(check(&on_machine), Ok(()));
        let default = v1::LinuxPodSandboxConfig::default;
        for (config, field) in [
            (v1::PodSandboxConfig::default(), "metadata"),
            (v1::PodSandboxConfig { hostname: "x".repeat(65), ..good.clone() }, "hostname"),
            (v1::PodSandboxConfig { hostname: "a\nb".into(), ..good.clone() }, "hostname"),
            (v1::PodSandboxConfig { port_mappings: vec![port], ..good.clone() }, "port_mappings.container_port"),
            (linux(v1::LinuxPodSandboxConfig { cgroup_parent: "/a/../b".into(), ..default() }), "cgroup_parent"),
            (linux(v1::LinuxPodSandboxConfig { sysctls: [("a".into(), "b".into())].into(), ..default() }), "sysctls"),
            (
                linux(v1::LinuxPodSandboxConfig { security_context: Some(security(options)), ..default() }),
                "namespace_options.network",
            ),
        ] {
            let error = check(&config).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
