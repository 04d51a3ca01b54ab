//! Ports that containers declare.

use super::Errors;
use super::containers::Scope;
use crate::names::{self, PORT_NAME_RULE};
use core::net::IpAddr;
use k8s_openapi::api::core::v1::{Container, ContainerPort};
use std::collections::BTreeSet;

pub(super) fn check(path: &str, container: &Container, scope: &Scope<'_>, errors: &mut Errors) {
    let mut names_seen = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{index}]");
        if !(1..=65_535).contains(&port.container_port) {
            errors.invalid(format!("{path}.containerPort"), port.container_port, "must be 1 to 65535");
        }
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            errors.name(&format!("{path}.name"), name, (names::is_port_name, PORT_NAME_RULE));
            if !names_seen.insert(name) {
                errors.invalid(format!("{path}.name"), name, "another port of the container has this name: rename one");
            }
        }
        errors.one_of(&format!("{path}.protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]);
        check_published(&path, port, scope, errors);
    }
}

/// In the machine's network a port is where it is: defaults made the two equal unless the manifest says otherwise.
fn check_published(path: &str, port: &ContainerPort, scope: &Scope<'_>, errors: &mut Errors) {
    let host_port = port.host_port.unwrap_or(0);
    if !(0..=65_535).contains(&host_port) {
        errors.invalid(format!("{path}.hostPort"), host_port, "must be 1 to 65535, or 0 for none");
    } else if scope.spec.host_network == Some(true) && host_port != port.container_port {
        let message = format!("must be the containerPort, {}, as hostNetwork is true", port.container_port);
        errors.invalid(format!("{path}.hostPort"), host_port, message);
    }
    if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty() && ip.parse::<IpAddr>().is_err()) {
        errors.invalid(format!("{path}.hostIP"), ip, "must be an IP address");
    }
}

/// Ports of the machine that containers side by side have taken: protocol, address, number.
pub(super) type HostPorts = BTreeSet<(String, String, i32)>;

/// No two containers that run side by side listen on one port of the machine.
pub(super) fn check_host(path: &str, container: &Container, taken: &mut HostPorts, errors: &mut Errors) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let Some(host_port) = port.host_port.filter(|host_port| *host_port != 0) else { continue };
        let protocol = port.protocol.clone().unwrap_or_default();
        let shown = crate::field::printable(&protocol);
        let message = format!("another port of the pod has this host port for {shown} already: change one");
        if !taken.insert((protocol, port.host_ip.clone().unwrap_or_default(), host_port)) {
            errors.invalid(format!("{path}.ports[{index}].hostPort"), host_port, message);
        }
    }
}
