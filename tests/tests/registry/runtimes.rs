//! The same policies and credentials on every runtime, those that pull by themselves among them.

use crate::{PASSWORD, WRONG_PASSWORD, app, await_waiting, docker_config, finish, label, pod, secret, sleeping, with};
use e2e::await_some;
use e2e::registry::{self, Access, Registry, Wire};
use e2e::{Machine, Options, Runtime};
use serde_json::json;

fn suite(runtime: Runtime) {
    if !runtime.is_available() || !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Password, Wire::Plain);
    registry.put("private/app:1", &app("first"));
    let name = format!("{}/private/app:1", registry.host());
    let flags = vec!["--v=9".to_owned(), "--registry-qps=0".to_owned()];
    let mut machine = Machine::start(Options { runtime, flags, ..Options::default() });
    let keys = json!({"spec": {"imagePullSecrets": [{"name": "keys"}]}});
    let policy = |policy: &str| with(with(sleeping(), keys.clone()), json!({"imagePullPolicy": policy}));
    pod(&machine, "never", &name, &policy("Never"));
    assert!(await_waiting(&machine, "never", "ErrImageNeverPull").contains(&name));
    secret(&machine, "keys", &docker_config(&registry.host(), WRONG_PASSWORD));
    pod(&machine, "always", &name, &policy("Always"));
    let message = await_waiting(&machine, "always", "ErrImagePull");
    assert!(message.contains("private/app"), "{message}");
    secret(&machine, "keys", &docker_config(&registry.host(), PASSWORD));
    assert_eq!(label(&machine, "always"), "first");
    assert_eq!(label(&machine, "never"), "first");
    machine.await_events("always", |events| events.contains("Successfully pulled image"));
    let second = app("second");
    registry.put("private/app:1", &second);
    pod(&machine, "if-not-present", &name, &policy("IfNotPresent"));
    assert_eq!(label(&machine, "if-not-present"), "first");
    pod(&machine, "moved", &name, &policy("Always"));
    assert_eq!(label(&machine, "moved"), "second");

    // Who has no key is not let in by what others brought, and a kubelet that was killed knows who has one.
    let guest = |policy: &str| with(sleeping(), json!({"imagePullPolicy": policy}));
    pod(&machine, "guest", &name, &guest("IfNotPresent"));
    await_waiting(&machine, "guest", "ErrImagePull");
    let digest = format!("{}/private/app@{}", registry.host(), second.manifest.digest);
    for policy in ["IfNotPresent", "Always"] {
        let name = format!("guest-{}", policy.to_lowercase());
        pod(&machine, &name, &digest, &guest(policy));
        await_waiting(&machine, &name, "ErrImagePull");
    }
    // A containerd whose caller dies while it makes a sandbox may lose that, and images are asked for beside it.
    await_some("all sandboxes", || {
        let waiting = machine.pods().into_iter().filter(|pod| pod["status"]["podIP"].is_null());
        let names: Vec<_> = waiting.map(|pod| pod["metadata"]["name"].to_string()).collect();
        if names.is_empty() { Ok(()) } else { Err(names.join(", ")) }
    });
    machine.kill_kubelet();
    machine.start_kubelet();
    pod(&machine, "never-guest", &name, &guest("Never"));
    await_waiting(&machine, "never-guest", "ErrImageNeverPull");
    drop(registry);
    pod(&machine, "again", &name, &policy("IfNotPresent"));
    assert_eq!(label(&machine, "again"), "second", "without asking anybody");
    finish(machine);
}

#[test]
fn the_embedded_engine_is_given_credentials() {
    suite(Runtime::Embedded);
}

#[test]
fn docker_is_given_credentials() {
    suite(Runtime::Docker);
}

#[test]
fn containerd_is_given_credentials() {
    suite(Runtime::Containerd);
}

#[test]
fn containerd_of_sid_is_given_credentials() {
    suite(Runtime::ContainerdSid);
}
