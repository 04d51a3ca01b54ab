//! What needs the kubelet for itself.

use e2e::story::{ended, is, restarts, status};
use e2e::{Machine, Part, Play, Term};

/// Containers keep their pids, nothing is started twice, and what ended meanwhile is told as it was.
pub(crate) fn a_killed_kubelet_finds_its_pods_again(machine: &mut Machine) {
    let stays = Play::new("stays", "Always").init(Part::brief("init", 0)).main(Part::forever("main"));
    machine.play(&stays.main(Part::forever("other")));
    machine.play(&Play::new("ends", "Never").main(Part::gated("main", 23)));
    machine.play(&Play::new("goes", "Always").main(Part::forever("main").on_term(Term::Exit(0))));
    for pod in ["stays", "ends", "goes"] {
        machine.await_told(pod, "main Started", 1);
        machine.await_pod(pod, |pod| is(pod, "main", "running"));
    }
    machine.await_pod("stays", |pod| is(pod, "other", "running"));
    let (pids, before) = (machine.init_pids(), machine.pod("stays").expect("the pod"));
    machine.kill_kubelet();
    machine.start_kubelet();
    let after = machine.await_pod("stays", |pod| is(pod, "main", "running"));
    assert_eq!(machine.init_pids(), pids, "containers keep their pids");
    assert_eq!(status(&after, "main")["containerID"], status(&before, "main")["containerID"]);

    machine.kill_kubelet();
    machine.open("ends", "main.end");
    machine.await_told("ends", "main Exiting", 1);
    machine.end_play("goes");
    machine.start_kubelet();
    let pod = machine.await_phase("ends", "Failed");
    assert_eq!(ended(&pod, "main"), (23, "Error".to_owned()));
    machine.await_told("goes", "main Exiting", 1);
    for (pod, container) in [("stays", "init"), ("stays", "main"), ("stays", "other"), ("ends", "main")] {
        machine.story(pod).starts(container, 1);
    }
    let pod = machine.pod("stays").expect("the pod");
    assert_eq!((restarts(&pod, "main"), restarts(&pod, "other")), (0, 0));
    machine.await_end("stays");
    machine.await_end("ends");
}
