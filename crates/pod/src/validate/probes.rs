//! Probes and hooks.

use super::Errors;
use super::containers::Scope;
use crate::names::{self, PORT_NAME_RULE};
use crate::signals::{self, SIGNAL_RULE};
use core::net::IpAddr;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

const NUMBER_RULE: &str = "must be 1 to 65535";
/// What an init container that ends may not have: nothing of it would ever be asked or told.
const SIDECARS_ONLY: &str = "may not be set for an init container without restartPolicy Always";

/// Which of the three a probe is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

pub(super) fn check(path: &str, container: &Container, scope: &Scope<'_>, errors: &mut Errors) {
    let probes = [
        (Kind::Startup, "startupProbe", &container.startup_probe),
        (Kind::Liveness, "livenessProbe", &container.liveness_probe),
        (Kind::Readiness, "readinessProbe", &container.readiness_probe),
    ];
    for (kind, field, probe) in probes {
        if let Some(probe) = probe {
            check_probe(Field { path: &format!("{path}.{field}"), container }, probe, kind, errors);
        }
    }
    if let Some(hooks) = &container.lifecycle {
        check_hooks(Field { path: &format!("{path}.lifecycle"), container }, hooks, scope, errors);
    }
}

/// An init container that runs to its end has neither probes nor hooks.
pub(super) fn check_absent(path: &str, container: &Container, errors: &mut Errors) {
    let fields = [
        ("startupProbe", container.startup_probe.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
        errors.forbidden(format!("{path}.{field}"), SIDECARS_ONLY);
    }
}

/// A field and the container it belongs to, whose ports it may name.
#[derive(Clone, Copy)]
struct Field<'a> {
    path: &'a str,
    container: &'a Container,
}

fn check_probe(field: Field<'_>, probe: &Probe, kind: Kind, errors: &mut Errors) {
    let path = field.path;
    let given = [
        ("exec", probe.exec.is_some()),
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
        ("grpc", probe.grpc.is_some()),
    ];
    check_one(path, &given, errors);
    if let Some(exec) = &probe.exec {
        check_exec(path, exec, errors);
    }
    if let Some(get) = &probe.http_get {
        check_http(field, get, errors);
    }
    if let Some(socket) = &probe.tcp_socket {
        check_port(field, "tcpSocket", &socket.port, errors);
    }
    if let Some(grpc) = &probe.grpc
        && !is_port(grpc.port)
    {
        errors.invalid(format!("{path}.grpc.port"), grpc.port, NUMBER_RULE);
    }
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (name, number) in numbers {
        if let Some(number) = number.filter(|number| *number < 0) {
            errors.invalid(format!("{path}.{name}"), number, "must not be negative");
        }
    }
    if let Some(successes) = probe.success_threshold.filter(|successes| *successes > 1 && kind != Kind::Readiness) {
        errors.invalid(format!("{path}.successThreshold"), successes, "must be 1 for a liveness or startup probe");
    }
    if let Some(grace) = probe.termination_grace_period_seconds {
        let path = format!("{path}.terminationGracePeriodSeconds");
        if kind == Kind::Readiness {
            errors.forbidden(path, "must not be set for a readiness probe, which never stops the container");
        } else if !(1..=super::spec::GRACE_PERIOD_MAX_SECONDS).contains(&grace) {
            let message = format!("must be 1 to {} seconds", super::spec::GRACE_PERIOD_MAX_SECONDS);
            errors.invalid(path, grace, message);
        }
    }
}

fn check_hooks(field: Field<'_>, hooks: &Lifecycle, scope: &Scope<'_>, errors: &mut Errors) {
    for (name, hook) in [("postStart", &hooks.post_start), ("preStop", &hooks.pre_stop)] {
        if let Some(hook) = hook {
            check_hook(Field { path: &format!("{}.{name}", field.path), ..field }, hook, scope, errors);
        }
    }
    if let Some(signal) = hooks.stop_signal.as_deref().filter(|signal| !signal.is_empty()) {
        let path = format!("{}.stopSignal", field.path);
        if !signals::is_signal(signal) {
            errors.invalid(&path, signal, SIGNAL_RULE);
        }
        if scope.spec.os.as_ref().is_none_or(|os| os.name.is_empty()) {
            errors.invalid(&path, signal, "needs spec.os.name, as the signals depend on it: set that to linux");
        }
    }
}

fn check_hook(field: Field<'_>, hook: &LifecycleHandler, scope: &Scope<'_>, errors: &mut Errors) {
    let path = field.path;
    let given = [
        ("exec", hook.exec.is_some()),
        ("httpGet", hook.http_get.is_some()),
        ("tcpSocket", hook.tcp_socket.is_some()),
        ("sleep", hook.sleep.is_some()),
    ];
    check_one(path, &given, errors);
    if let Some(exec) = &hook.exec {
        check_exec(path, exec, errors);
    }
    if let Some(get) = &hook.http_get {
        check_http(field, get, errors);
    }
    if let Some(socket) = &hook.tcp_socket {
        check_port(field, "tcpSocket", &socket.port, errors);
    }
    if let Some(sleep) = &hook.sleep
        && !(0..=scope.grace_seconds()).contains(&sleep.seconds)
    {
        let message = format!("must be 0 to {} seconds, spec.terminationGracePeriodSeconds", scope.grace_seconds());
        errors.invalid(format!("{path}.sleep.seconds"), sleep.seconds, message);
    }
}

/// Exactly one way to act is given.
fn check_one(path: &str, given: &[(&str, bool)], errors: &mut Errors) {
    let names = |all: bool| given.iter().filter(move |(_, set)| all || *set).map(|(name, _)| *name);
    match names(false).count() {
        0 => errors.missing(path, format!("one of {}", names(true).collect::<Vec<_>>().join(", "))),
        1 => {}
        _ => {
            let found = names(false).collect::<Vec<_>>().join(" and ");
            errors.invalid(path, found, "may not specify more than 1 handler type: keep one");
        }
    }
}

fn check_exec(path: &str, exec: &ExecAction, errors: &mut Errors) {
    if exec.command.as_ref().is_none_or(Vec::is_empty) {
        errors.missing(format!("{path}.exec.command"), "a command with its arguments, as in [\"cat\", \"/ready\"]");
    }
}

fn check_http(field: Field<'_>, get: &HTTPGetAction, errors: &mut Errors) {
    check_port(field, "httpGet", &get.port, errors);
    let path = format!("{}.httpGet", field.path);
    errors.one_of(&format!("{path}.scheme"), get.scheme.as_deref(), &["HTTP", "HTTPS"]);
    // What follows becomes one request line, its headers and an address: nothing in it may begin another.
    if let Some(target) = get.path.as_deref().filter(|target| target.chars().any(char::is_control)) {
        errors.invalid(format!("{path}.path"), target, "must not contain control characters");
    }
    if let Some(host) = get.host.as_deref().filter(|host| !host.is_empty() && !is_host(host)) {
        errors.invalid(format!("{path}.host"), host, "must be a host name or an IP address");
    }
    for (index, header) in get.http_headers.iter().flatten().enumerate() {
        let path = format!("{path}.httpHeaders[{index}]");
        if header.name.is_empty() {
            errors.missing(format!("{path}.name"), "the name of a header, as in Accept");
        } else if !names::is_header(&header.name) {
            let message = "must be the name of a header: letters, digits and '-', as in X-Check";
            errors.invalid(format!("{path}.name"), &header.name, message);
        }
        if header.value.chars().any(|c| c.is_control() && c != '\t') {
            errors.invalid(format!("{path}.value"), &header.value, "must not contain control characters");
        }
    }
}

fn is_host(host: &str) -> bool {
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    host.parse::<IpAddr>().is_ok() || (host.len() <= names::SUBDOMAIN_MAX && host.bytes().all(name))
}

fn check_port(field: Field<'_>, action: &str, port: &IntOrString, errors: &mut Errors) {
    let path = format!("{}.{action}.port", field.path);
    match port {
        IntOrString::Int(number) if is_port(*number) => {}
        IntOrString::Int(number) => errors.invalid(path, number, NUMBER_RULE),
        IntOrString::String(name) if name.parse::<u16>().is_ok() => {
            errors.invalid(path, name, "must be a number without quotes, or the name of a port");
        }
        IntOrString::String(name) if !names::is_port_name(name) => errors.invalid(path, name, PORT_NAME_RULE),
        IntOrString::String(name) => {
            let declared = || field.container.ports.iter().flatten().filter_map(|port| port.name.as_deref());
            if !declared().any(|declared| declared == name) {
                let there = declared().take(10).collect::<Vec<_>>().join(", ");
                let there = if there.is_empty() { "none" } else { &crate::field::escape(&there) };
                let message = format!("no port of this name in the container's ports (there: {there})");
                errors.invalid(path, name, message);
            }
        }
    }
}

fn is_port(number: i32) -> bool {
    (1..=65_535).contains(&number)
}
