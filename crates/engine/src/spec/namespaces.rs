//! Which namespaces a pod has of its own, and which are the machine's.

use cri::v1;
use shim::protocol::PidNamespace;

use cri::Refused;

/// Whose a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Pod,
    Machine,
}

/// Of the namespaces that all containers of a pod have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// With the network goes the hostname: a pod on the machine's network has the machine's.
    pub(crate) network: Scope,
    pub(crate) ipc: Scope,
}

const NOT_SUPPORTED: &str = "this mode is not supported by the embedded engine";

/// What a sandbox shares; without a word about it, it shares nothing.
///
/// # Errors
/// A mode that cannot be granted.
pub(crate) fn shares(config: &v1::PodSandboxConfig) -> Result<Shares, Refused> {
    let Some(options) = sandbox_options(config) else { return Ok(Shares { network: Scope::Pod, ipc: Scope::Pod }) };
    pid_mode(Some(options))?;
    refuse_users(options)?;
    Ok(Shares { network: scope("network", options.network)?, ipc: scope("ipc", options.ipc)? })
}

/// Whose processes a container sees: it says so itself, else its sandbox does.
///
/// # Errors
/// A mode that cannot be granted, or one of network or IPC that is not its sandbox's.
pub(crate) fn pid(
    security: &v1::LinuxContainerSecurityContext,
    sandbox: &v1::PodSandboxConfig,
) -> Result<PidNamespace, Refused> {
    let Some(options) = security.namespace_options.as_ref() else { return pid_mode(sandbox_options(sandbox)) };
    refuse_users(options)?;
    let of_pod = shares(sandbox)?;
    for (field, mode, expected) in [("network", options.network, of_pod.network), ("ipc", options.ipc, of_pod.ipc)] {
        if scope(field, mode)? != expected {
            let fault = "expected the mode of the pod's sandbox: containers of a pod have it in common";
            return Err(Refused::new(&format!("namespace_options.{field}"), fault));
        }
    }
    pid_mode(Some(options))
}

fn sandbox_options(config: &v1::PodSandboxConfig) -> Option<&v1::NamespaceOption> {
    config.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()
}

fn scope(field: &str, mode: i32) -> Result<Scope, Refused> {
    match v1::NamespaceMode::try_from(mode) {
        Ok(v1::NamespaceMode::Pod) => Ok(Scope::Pod),
        Ok(v1::NamespaceMode::Node) => Ok(Scope::Machine),
        _ => Err(Refused::new(&format!("namespace_options.{field}"), NOT_SUPPORTED)),
    }
}

fn pid_mode(options: Option<&v1::NamespaceOption>) -> Result<PidNamespace, Refused> {
    let Some(options) = options else { return Ok(PidNamespace::Own) };
    match v1::NamespaceMode::try_from(options.pid) {
        Ok(v1::NamespaceMode::Pod) => Ok(PidNamespace::Pod),
        Ok(v1::NamespaceMode::Container) => Ok(PidNamespace::Own),
        Ok(v1::NamespaceMode::Node) => Ok(PidNamespace::Host),
        Ok(v1::NamespaceMode::Target) | Err(_) => Err(Refused::new("namespace_options.pid", NOT_SUPPORTED)),
    }
}

fn refuse_users(options: &v1::NamespaceOption) -> Result<(), Refused> {
    let node: i32 = v1::NamespaceMode::Node.into();
    match &options.userns_options {
        Some(users) if users.mode != node => Err(Refused::new("namespace_options.userns_options", NOT_SUPPORTED)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(network: v1::NamespaceMode, pid: v1::NamespaceMode, ipc: v1::NamespaceMode) -> v1::NamespaceOption {
        v1::NamespaceOption { network: network.into(), pid: pid.into(), ipc: ipc.into(), ..Default::default() }
    }

    fn sandbox(options: v1::NamespaceOption) -> v1::PodSandboxConfig {
        let security = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = v1::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
        v1::PodSandboxConfig { linux: Some(linux), ..Default::default() }
    }

    fn container(options: v1::NamespaceOption) -> v1::LinuxContainerSecurityContext {
        v1::LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() }
    }

    #[test]
    fn modes_become_namespaces() {
        use v1::NamespaceMode::{Container, Node, Pod, Target};
        for (network, pid_of, ipc, expected) in [
            (Pod, Container, Pod, Some((Scope::Pod, Scope::Pod, PidNamespace::Own))),
            (Node, Container, Pod, Some((Scope::Machine, Scope::Pod, PidNamespace::Own))),
            (Pod, Node, Pod, Some((Scope::Pod, Scope::Pod, PidNamespace::Host))),
            (Pod, Pod, Node, Some((Scope::Pod, Scope::Machine, PidNamespace::Pod))),
            (Container, Pod, Pod, None),
            (Pod, Target, Pod, None),
            (Pod, Pod, Container, None),
        ] {
            let asked = options(network, pid_of, ipc);
            let config = sandbox(asked.clone());
            let found = shares(&config).and_then(|shares| Ok((shares, pid(&container(asked), &config)?)));
            let found = found.ok().map(|(shares, pid)| (shares.network, shares.ipc, pid));
            assert_eq!(found, expected, "{network:?} {pid_of:?} {ipc:?}");
        }
        let silent = v1::LinuxContainerSecurityContext::default();
        assert_eq!(pid(&silent, &v1::PodSandboxConfig::default()), Ok(PidNamespace::Own));
        assert_eq!(pid(&silent, &sandbox(options(Pod, Node, Pod))), Ok(PidNamespace::Host));
    }

    #[test]
    fn what_cannot_be_granted_is_refused_by_name() {
        use v1::NamespaceMode::{Container, Node, Pod};
        let own = options(Pod, Container, Pod);
        let users = v1::NamespaceOption { userns_options: Some(v1::UserNamespace::default()), ..own.clone() };
        assert!(shares(&sandbox(users.clone())).unwrap_err().to_string().contains("userns_options"));
        assert!(pid(&container(users), &sandbox(own.clone())).is_err());
        for (other, field) in [(options(Node, Container, Pod), "network"), (options(Pod, Container, Node), "ipc")] {
            let error = pid(&container(other), &sandbox(own.clone())).unwrap_err().to_string();
            assert!(error.starts_with(&format!("namespace_options.{field}: expected")), "{error}");
        }
    }
}
