//! Which namespaces a container joins.

use bollard::models::HostConfig;
use cri::{Refused, v1};

const HOST: &str = "host";
const NOT_SUPPORTED: &str = "this mode is not supported with docker";

/// Whose a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Pod,
    Machine,
}

/// Of a sandbox.
///
/// # Errors
/// A mode that cannot be granted.
pub(super) fn of_sandbox(options: Option<&v1::NamespaceOption>, host: &mut HostConfig) -> Result<Scope, Refused> {
    let options = options.cloned().unwrap_or_default();
    refuse_users(&options)?;
    let network = scope("network", options.network)?;
    if network == Scope::Machine {
        host.network_mode = Some(HOST.to_owned());
        // With the network goes the name: a pod on the machine's network has the machine's.
        host.uts_mode = Some(HOST.to_owned());
    }
    host.ipc_mode = Some(match scope("ipc", options.ipc)? {
        Scope::Pod => "shareable".to_owned(),
        Scope::Machine => HOST.to_owned(),
    });
    if pid_mode(options.pid)? == v1::NamespaceMode::Node {
        host.pid_mode = Some(HOST.to_owned());
    }
    Ok(network)
}

/// Of a container in a sandbox, which has network and IPC in common with it.
///
/// # Errors
/// A mode that cannot be granted, or one of network or IPC that is not its sandbox's.
pub(super) fn of_container(
    asked: Option<&v1::NamespaceOption>,
    (sandbox_id, sandbox): (&str, &HostConfig),
    host: &mut HostConfig,
) -> Result<(), Refused> {
    let of_pod = |mode: &Option<String>| if mode.as_deref() == Some(HOST) { Scope::Machine } else { Scope::Pod };
    let (network, ipc) = (of_pod(&sandbox.network_mode), of_pod(&sandbox.ipc_mode));
    let joined = format!("container:{sandbox_id}");
    host.network_mode = Some(joined.clone());
    host.ipc_mode = Some(if ipc == Scope::Machine { HOST.to_owned() } else { joined.clone() });
    if network == Scope::Machine {
        host.uts_mode = Some(HOST.to_owned());
    }
    let Some(asked) = asked else {
        host.pid_mode.clone_from(&sandbox.pid_mode);
        return Ok(());
    };
    refuse_users(asked)?;
    for (field, mode, expected) in [("network", asked.network, network), ("ipc", asked.ipc, ipc)] {
        if scope(field, mode)? != expected {
            let fault = "expected the mode of the pod's sandbox: containers of a pod have it in common";
            return Err(Refused::new(&format!("namespace_options.{field}"), fault));
        }
    }
    host.pid_mode = match pid_mode(asked.pid)? {
        v1::NamespaceMode::Node => Some(HOST.to_owned()),
        v1::NamespaceMode::Pod => Some(joined),
        v1::NamespaceMode::Container | v1::NamespaceMode::Target => None,
    };
    Ok(())
}

fn scope(field: &str, mode: i32) -> Result<Scope, Refused> {
    match v1::NamespaceMode::try_from(mode) {
        Ok(v1::NamespaceMode::Pod) => Ok(Scope::Pod),
        Ok(v1::NamespaceMode::Node) => Ok(Scope::Machine),
        _ => Err(Refused::new(&format!("namespace_options.{field}"), NOT_SUPPORTED)),
    }
}

fn pid_mode(mode: i32) -> Result<v1::NamespaceMode, Refused> {
    match v1::NamespaceMode::try_from(mode) {
        Ok(v1::NamespaceMode::Target) | Err(_) => Err(Refused::new("namespace_options.pid", NOT_SUPPORTED)),
        Ok(mode) => Ok(mode),
    }
}

fn refuse_users(options: &v1::NamespaceOption) -> Result<(), Refused> {
    let node: i32 = v1::NamespaceMode::Node.into();
    match &options.userns_options {
        Some(users) if users.mode != node => Err(Refused::new("namespace_options.userns_options", NOT_SUPPORTED)),
        _ => Ok(()),
    }
}
