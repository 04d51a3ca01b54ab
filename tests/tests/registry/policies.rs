//! When the registry is asked, and what a pod says while its image is not there.

use crate::{WRONG_PASSWORD, app, await_waiting, docker_config, finish, label, machine, pod, secret, sleeping, with};
use e2e::await_some;
use e2e::registry::{self, Access, Fault, PASSWORD, Proxy, Registry, Wire};
use serde_json::{Value, json};

fn policy(policy: &str) -> Value {
    with(sleeping(), json!({"imagePullPolicy": policy}))
}

#[test]
fn always_if_not_present_and_never() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let proxy = Proxy::start(&registry);
    let name = format!("{}/shop/app:1", proxy.host());
    registry.put("shop/app:1", &app("first"));
    let machine = machine(&[]);
    pod(&machine, "never", &name, &policy("Never"));
    let message = await_waiting(&machine, "never", "ErrImageNeverPull");
    assert_eq!(message, format!("Container image \"{name}\" is not present with pull policy of Never"));
    machine.await_events("never", |events| events.contains("ErrImageNeverPull"));
    assert!(proxy.seen().is_empty(), "nobody asked: {:#?}", proxy.seen());

    pod(&machine, "always", &name, &policy("Always"));
    assert_eq!(label(&machine, "always"), "first");
    // Once it is there, the one that never asks runs as well.
    assert_eq!(label(&machine, "never"), "first");
    proxy.forget();
    pod(&machine, "same", &name, &policy("Always"));
    assert_eq!(label(&machine, "same"), "first");
    assert!(!proxy.seen().is_empty(), "the registry was asked what the tag means now");
    assert_eq!(proxy.blobs(), [].into(), "and nothing was fetched");

    registry.put("shop/app:1", &app("second"));
    proxy.forget();
    pod(&machine, "if-not-present", &name, &policy("IfNotPresent"));
    assert_eq!(label(&machine, "if-not-present"), "first");
    assert!(proxy.seen().is_empty(), "nobody asked: {:#?}", proxy.seen());
    pod(&machine, "moved", &name, &policy("Always"));
    assert_eq!(label(&machine, "moved"), "second");
    assert_eq!(label(&machine, "always"), "first", "what runs goes on with what it has");

    // The registry goes: who must ask waits, who need not ask runs.
    proxy.inject("/v2/", Fault::Status(503, ""), u32::MAX);
    pod(&machine, "asks", &name, &policy("Always"));
    pod(&machine, "asks-not", &name, &policy("IfNotPresent"));
    assert_eq!(label(&machine, "asks-not"), "second");
    let message = await_waiting(&machine, "asks", "ImagePullBackOff");
    assert!(message.starts_with(&format!("Back-off pulling image \"{name}\": ")), "{message}");
    finish(machine);
}

#[test]
fn names_that_name_nothing() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let machine = machine(&[]);
    pod(&machine, "name", "Not/A/Name", &sleeping());
    // What can name no image is seen before anything begins: the manifest is refused.
    await_some("the manifest is refused", || {
        let told = machine.cli(&["ps"]) + &machine.log();
        if told.contains("spec.containers[0].image: found \"Not/A/Name\"") { Ok(()) } else { Err(told) }
    });
    assert!(machine.pod("name").is_none());
    let missing = format!("{}/no/such:1", registry.host());
    pod(&machine, "missing", &missing, &sleeping());
    let message = await_waiting(&machine, "missing", "ErrImagePull");
    assert!(message.contains(&missing), "{message}");
    let events = machine.await_events("missing", |events| events.contains("Error: ErrImagePull"));
    assert!(events.contains(&format!("Failed to pull image \"{missing}\": ")), "{events}");
    let message = await_waiting(&machine, "missing", "ImagePullBackOff");
    assert!(message.starts_with(&format!("Back-off pulling image \"{missing}\": ErrImagePull: ")), "{message}");
    machine.await_events("missing", |events| events.contains("BackOff"));
    finish(machine);
}

/// A wrong password is told without the password, waits, and runs as soon as the secret is right.
#[test]
fn a_wrong_password_and_then_the_right_one() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Password, Wire::Plain);
    registry.put("private/app:1", &app("opened"));
    let name = format!("{}/private/app:1", registry.host());
    let machine = machine(&[]);
    let names = json!({"spec": {"imagePullSecrets": [{"name": "keys"}]}});
    pod(&machine, "guest", &name, &with(sleeping(), names));
    machine.await_events("guest", |events| {
        events.contains(
            "Unable to retrieve some image pull secrets (keys); attempting to pull the image may not succeed.",
        )
    });
    await_waiting(&machine, "guest", "ErrImagePull");
    secret(&machine, "keys", &docker_config(&registry.host(), WRONG_PASSWORD));
    let message = await_waiting(&machine, "guest", "ErrImagePull");
    assert!(message.contains(&registry.host()), "{message}");
    await_waiting(&machine, "guest", "ImagePullBackOff");
    secret(&machine, "keys", &docker_config(&registry.host(), PASSWORD));
    assert_eq!(label(&machine, "guest"), "opened");
    finish(machine);
}
