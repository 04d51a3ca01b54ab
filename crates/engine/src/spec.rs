//! From what the CRI asks and the image says to what the shim is told. Pure.

mod capabilities;
mod command;
mod namespaces;
mod ports;
mod signals;

use std::path::{Component, Path, PathBuf};

use cgroup::{DevicePolicy, Limits};
use cri::{Refused, v1};
use image::ImageConfig;
use shim::protocol::{self, ContainerSpec, Mount, MountSource, Process, Propagation, Root, Stdin};

use crate::network::Pins;
pub(crate) use capabilities::Privileged;
pub(crate) use namespaces::{Scope, Shares, shares};
pub(crate) use ports::host_ports;
pub(crate) use signals::{protocol_name, stop_signal};

/// What a container that is not privileged finds empty.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// What the CPUs' thermal events tell of other containers' work.
const THERMAL: &str = "thermal_throttle";
const CPUS: &str = "/sys/devices/system/cpu";

/// More mounts than this are no pod's.
const MAX_MOUNTS: usize = 1024;

/// What a container's specification is made of.
pub(crate) struct Inputs<'a> {
    /// The one that the sandbox's shim speaks.
    pub(crate) version: u32,
    pub(crate) id: &'a str,
    pub(crate) config: &'a v1::ContainerConfig,
    pub(crate) image: &'a ImageConfig,
    pub(crate) root: Root,
    pub(crate) sandbox: &'a v1::PodSandboxConfig,
    pub(crate) sandbox_dir: &'a Path,
    pub(crate) hostname: &'a str,
    pub(crate) group: &'a cgroup::Group,
    pub(crate) log: Option<protocol::Log>,
    /// The machine's devices, which a privileged container has.
    pub(crate) devices: Vec<protocol::Device>,
    /// Capabilities that this process has.
    pub(crate) held: u64,
    /// Number of CPUs the kernel can have.
    pub(crate) cpus: usize,
}

/// Makes a container's specification.
///
/// # Errors
/// The first field that cannot be granted.
pub(crate) fn build(inputs: Inputs<'_>) -> Result<ContainerSpec, Refused> {
    let config = inputs.config;
    let security = security_context(config);
    refuse_unsupported(config, &security)?;
    let privileged = privileged(&security);
    let pins = Pins::new(inputs.sandbox_dir);
    let shares = shares(inputs.sandbox)?;
    let own = |scope: Scope, path: PathBuf| (scope == Scope::Pod).then_some(path);
    let (masked_paths, readonly_paths) = hidden_paths(&security, inputs.cpus);
    Ok(ContainerSpec {
        version: inputs.version,
        id: inputs.id.to_owned(),
        process: Process {
            args: command::arguments(config, inputs.image)?,
            env: command::environment(config, inputs.image, inputs.hostname)?,
            cwd: command::working_directory(config, inputs.image)?,
            user: command::user(&security, inputs.image)?,
            terminal: config.tty,
            window: None,
            capabilities: capabilities::resolve(security.capabilities.as_ref(), privileged, inputs.held)?,
            no_new_privs: security.no_new_privs,
            rlimits: Vec::new(),
            oom_score_adj: oom_score_adj(config)?,
        },
        root: inputs.root,
        mounts: mounts(config, inputs.sandbox_dir, shares.ipc)?,
        net_ns: own(shares.network, pins.net()),
        ipc_ns: own(shares.ipc, pins.ipc()),
        uts_ns: own(shares.network, pins.uts()),
        pid_ns: namespaces::pid(&security, inputs.sandbox)?,
        cgroups: inputs.group.dirs(),
        memory_cgroup: inputs.group.memory_dir(),
        masked_paths,
        readonly_paths,
        privileged: privileged == Privileged::Yes,
        devices: if privileged == Privileged::Yes { inputs.devices } else { Vec::new() },
        log: inputs.log,
        stdin: match (config.stdin, config.stdin_once) {
            (true, true) => Some(Stdin::Once),
            (true, false) => Some(Stdin::Kept),
            (false, _) => None,
        },
    })
}

/// The limits of a container's control group.
pub(crate) fn limits(config: &v1::ContainerConfig) -> Limits {
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let set = |value: i64| Some(value).filter(|value| *value != 0);
    Limits {
        cpu_shares: positive(resources.cpu_shares),
        cpu_quota_us: set(resources.cpu_quota),
        cpu_period_us: positive(resources.cpu_period),
        memory_bytes: set(resources.memory_limit_in_bytes),
        pids: None,
        devices: match privileged(&security_context(config)) {
            Privileged::Yes => DevicePolicy::AllowAll,
            Privileged::No => DevicePolicy::Default(Vec::new()),
        },
        oom_group: true,
    }
}

/// Whether the container's root is read-only.
pub(crate) fn read_only_root(config: &v1::ContainerConfig) -> bool {
    security_context(config).readonly_rootfs
}

fn security_context(config: &v1::ContainerConfig) -> v1::LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

/// Whether a container asks for all that the machine has.
pub(crate) fn is_privileged(config: &v1::ContainerConfig) -> bool {
    security_context(config).privileged
}

fn privileged(security: &v1::LinuxContainerSecurityContext) -> Privileged {
    if security.privileged { Privileged::Yes } else { Privileged::No }
}

/// What would change nothing if it were passed over in silence is refused by name.
fn refuse_unsupported(
    config: &v1::ContainerConfig,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<(), Refused> {
    let unsupported = |field: &str| Err(Refused::new(field, "not supported yet by the embedded engine"));
    if !config.devices.is_empty() {
        return unsupported("devices");
    }
    if !config.cdi_devices.is_empty() {
        return unsupported("CDI_devices");
    }
    refuse_profile("seccomp", security.seccomp.as_ref())?;
    if security.apparmor.as_ref().is_some_and(|profile| !profile.localhost_ref.is_empty()) {
        return unsupported("apparmor.localhost_ref");
    }
    Ok(())
}

/// A seccomp profile that is asked for must be in force; none is, so only `Unconfined` can be granted.
pub(crate) fn refuse_profile(field: &str, profile: Option<&v1::SecurityProfile>) -> Result<(), Refused> {
    let unconfined: i32 = v1::security_profile::ProfileType::Unconfined.into();
    match profile {
        Some(profile) if profile.profile_type != unconfined => {
            Err(Refused::new(field, "profiles other than Unconfined are not supported yet by the embedded engine"))
        }
        _ => Ok(()),
    }
}

fn oom_score_adj(config: &v1::ContainerConfig) -> Result<Option<i32>, Refused> {
    let Some(resources) = config.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else { return Ok(None) };
    match i32::try_from(resources.oom_score_adj) {
        Ok(value) if (-1000..=1000).contains(&value) => Ok(Some(value)),
        _ => {
            let fault = format!("{}: expected -1000 to 1000", resources.oom_score_adj);
            Err(Refused::new("resources.oom_score_adj", fault))
        }
    }
}

/// A request that names paths means exactly those; one that names none gets the usual ones.
fn hidden_paths(security: &v1::LinuxContainerSecurityContext, cpus: usize) -> (Vec<String>, Vec<String>) {
    if security.privileged {
        return (Vec::new(), Vec::new());
    }
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let masked = match security.masked_paths.is_empty() {
        false => security.masked_paths.clone(),
        true => {
            let thermal = (0..cpus).map(|cpu| format!("{CPUS}/cpu{cpu}/{THERMAL}"));
            owned(&MASKED).into_iter().chain(thermal).collect()
        }
    };
    let readonly = match security.readonly_paths.is_empty() {
        false => security.readonly_paths.clone(),
        true => owned(&READONLY),
    };
    (masked, readonly)
}

/// The pod's mounts, outer ones before inner ones, and those that every container has unless the pod brings its own.
fn mounts(config: &v1::ContainerConfig, sandbox_dir: &Path, ipc: Scope) -> Result<Vec<Mount>, Refused> {
    if config.mounts.len() > MAX_MOUNTS {
        let fault = format!("{} mounts: at most {MAX_MOUNTS} are possible", config.mounts.len());
        return Err(Refused::new("mounts", fault));
    }
    let asked = config.mounts.iter().map(mount).collect::<Result<Vec<_>, _>>()?;
    let shm = match ipc {
        Scope::Pod => Pins::new(sandbox_dir).shm(),
        Scope::Machine => PathBuf::from("/dev/shm"),
    };
    let own = [
        ("/dev/shm", shm, false),
        // These lie in /run, which a container must not be able to fill.
        ("/etc/hostname", sandbox_dir.join("hostname"), true),
        ("/etc/resolv.conf", sandbox_dir.join("resolv.conf"), true),
        ("/etc/hosts", sandbox_dir.join("hosts"), true),
    ];
    let own = own.into_iter().filter(|(path, ..)| !asked.iter().any(|mount| mount.destination == *path));
    let mut mounts: Vec<Mount> = own
        .map(|(destination, path, read_only)| Mount {
            source: MountSource::Bind { path },
            destination: destination.to_owned(),
            read_only,
            propagation: Propagation::Private,
        })
        .chain(asked.iter().cloned())
        .collect();
    mounts.sort_by_key(|mount| Path::new(&mount.destination).components().count());
    Ok(mounts)
}

fn mount(mount: &v1::Mount) -> Result<Mount, Refused> {
    let refused = |fault: String| Err(Refused::new("mounts", fault));
    let destination = normal_path(&mount.container_path);
    let Some(destination) = destination.filter(|path| path != "/") else {
        let found = &mount.container_path;
        return refused(format!("container path {found:?}: expected an absolute path below / without '..'"));
    };
    // What is there decides what a process believes of itself and of its masks.
    if Path::new(&destination).starts_with("/proc") {
        return refused(format!("container path {destination:?}: nothing can be mounted over /proc"));
    }
    if mount.image.is_some() || mount.recursive_read_only || !mount.uid_mappings.is_empty() {
        return refused(format!(
            "{destination}: image volumes, recursive read-only and id mappings are not supported yet"
        ));
    }
    if !mount.host_path.starts_with('/') || mount.host_path.contains('\0') {
        return refused(format!("{destination}: host path {:?}: expected an absolute path", mount.host_path));
    }
    let propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(v1::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(v1::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => return refused(format!("{destination}: propagation {} is unknown", mount.propagation)),
    };
    let source = MountSource::Bind { path: PathBuf::from(&mount.host_path) };
    Ok(Mount { source, destination, read_only: mount.readonly, propagation })
}

/// The path without empty and `.` components; `None` where it is relative or has `..`.
fn normal_path(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut normal = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => normal.push(name),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    normal.into_os_string().into_string().ok()
}

#[cfg(test)]
mod tests;
