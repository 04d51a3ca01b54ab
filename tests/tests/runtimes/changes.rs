//! What becomes of a running pod: by an edit of its manifest, and by its own deadline.

use e2e::story::{ended, is, restarts, status};
use e2e::{Machine, Part, Play};
use serde_json::json;

/// An edit that keeps the pod's identity restarts the one container of which it tells something else.
pub(crate) fn a_changed_image_restarts_its_container(machine: &Machine) {
    let play = Play::new("changed", "Always").main(Part::forever("first")).main(Part::forever("second")).lasting();
    machine.play(&play);
    machine.await_told("changed", "first Started", 1);
    machine.await_told("changed", "second Started", 1);
    let before = machine.await_ready("changed");
    machine.play(&play.with_image_renamed("first"));
    machine.await_told("changed", "first Started", 2).in_order(&["first Terminating", "first Exiting"]);
    let after = machine.await_pod("changed", |pod| is(pod, "first", "running") && restarts(pod, "first") == 1);
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"], "the pod's network stays");
    assert_eq!(status(&after, "second")["containerID"], status(&before, "second")["containerID"]);
    machine.await_events("changed", |events| events.contains("Container first definition changed, will be restarted"));
    machine.await_end("changed");
    machine.story("changed").starts("first", 2);
    machine.story("changed").starts("second", 1);
}

/// Without an identity of its own an edited manifest, here its command, is another pod, which comes after the one before.
pub(crate) fn a_changed_command_makes_another_pod(machine: &Machine) {
    let play = |name| Play::new("replaced", "Always").main(Part::forever(name));
    machine.play(&play("before"));
    machine.await_told("replaced", "before Started", 1);
    let before = machine.await_ready("replaced");
    machine.play(&play("after"));
    machine.await_told("replaced", "after Started", 1).one_after_another(&["before", "after"]);
    let after = machine.await_ready("replaced");
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    machine.await_end("replaced");
}

pub(crate) fn a_deadline_ends_its_pod(machine: &Machine) {
    // Enough for the container to have begun, on the slowest of runtimes with all others beside it.
    let play = Play::new("deadline", "Always").field("activeDeadlineSeconds", json!(40)).main(Part::forever("main"));
    machine.play(&play);
    machine.await_told("deadline", "main Started", 1);
    machine.await_told("deadline", "main Exiting", 1).in_order(&["main Terminating", "main Exiting"]);
    let pod = machine.await_phase("deadline", "Failed");
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded", "{}", pod["status"]);
    assert_eq!(pod["status"]["message"], "Pod was active on the node longer than the specified deadline");
    let pod = machine.await_pod("deadline", |pod| is(pod, "main", "terminated"));
    assert_eq!(ended(&pod, "main"), (0, "Completed".to_owned()), "{}", pod["status"]);
    machine.await_events("deadline", |events| events.contains("DeadlineExceeded"));
    machine.await_end("deadline");
    machine.story("deadline").starts("main", 1);
}
