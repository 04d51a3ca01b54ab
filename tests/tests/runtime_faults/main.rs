//! Runtimes that fail: each call with an error, without an answer, with an answer that is lost or comes too late; and
//! daemons that are killed. In the end every pod has come up once and gone down once.

mod others;

use e2e::faults::Fault;
use e2e::oci::{self, Image, Packing};
use e2e::registry::{self, Access, Registry, Wire};
use e2e::story::{is, once_started, probe, restarts, status};
use e2e::{Machine, Options, Part, Play, Runtime, await_some, await_true};
use others::{By, Victim, When};
use serde_json::{Value, json};
use std::time::Duration;

/// A call that hangs is told after five seconds, beyond what it takes by its nature: there it must not be given up before.
const PATIENT: &str = "--runtime-request-timeout=15s";
const BRIEF: &str = "--runtime-request-timeout=3s";
/// One after the other, as is usual, all pulls would wait for the one that hangs.
const AT_ONCE: &str = "--serialize-image-pulls=false";
/// For the brief one, an answer that comes so late comes too late.
const TOO_LATE: Duration = Duration::from_secs(4);
const FAULTS: [(&str, Fault); 4] =
    [("error", Fault::Error), ("lost", Fault::ReplyLost), ("late", Fault::Late(TOO_LATE)), ("hang", Fault::Hang)];
/// Pods of a round: which of them a fault falls upon is chance.
const PODS: usize = 4;
/// Pods that live while their daemon dies.
const LIVE_PODS: usize = 20;

/// The calls of a daemon, by what they are made for.
struct Calls {
    up: &'static [&'static str],
    down: &'static [&'static str],
    /// Those that hang for one pod alone.
    victims: &'static [Victim],
}

const CRI: Calls = Calls {
    up: &[
        "Version",
        "RuntimeConfig",
        "Status",
        "ImageStatus",
        "ListPodSandbox",
        "ListContainers",
        "RunPodSandbox",
        "PodSandboxStatus",
        "CreateContainer",
        "StartContainer",
        "ContainerStatus",
        "ExecSync",
        "GetContainerEvents",
    ],
    down: &[
        "ListPodSandbox",
        "ListContainers",
        "PodSandboxStatus",
        "ContainerStatus",
        "StopContainer",
        "StopPodSandbox",
        "RemoveContainer",
        "RemovePodSandbox",
    ],
    victims: &[
        Victim { call: "RunPodSandbox", when: When::Comes, by: By::Name(""), told: "run_pod_sandbox" },
        Victim { call: "CreateContainer", when: When::Comes, by: By::Name(""), told: "create_container" },
        Victim { call: "StopContainer", when: When::Goes, by: By::ContainerId, told: "stop_container" },
        Victim { call: "ListContainers", when: When::Restarts, by: By::Uid, told: "list_containers" },
        Victim { call: "ListPodSandbox", when: When::Restarts, by: By::Uid, told: "list_pod_sandbox" },
        Victim { call: "ContainerStatus", when: When::Restarts, by: By::ContainerId, told: "container_status" },
    ],
};

const DOCKER: Calls = Calls {
    up: &[
        "GET /_ping",
        "GET /version",
        "GET /events",
        "GET /containers/json",
        "GET /containers/*/json",
        "GET /images/docker.io/library/*/json",
        "GET /images/busybox/json",
        "POST /containers/create",
        "POST /containers/*/start",
        "POST /containers/*/exec",
        "POST /exec/*/start",
        "GET /exec/*/json",
    ],
    down: &[
        "GET /containers/json",
        "GET /containers/*/json",
        "POST /containers/*/kill",
        "POST /containers/*/stop",
        "DELETE /containers/*",
    ],
    victims: &[
        Victim {
            call: "POST /containers/create",
            when: When::Comes,
            by: By::Name("k8s_POD_"),
            told: "run_pod_sandbox",
        },
        Victim {
            call: "POST /containers/create",
            when: When::Comes,
            by: By::Name("k8s_main_"),
            told: "create_container",
        },
        // A stop that hangs ends with the grace: the container is killed then.
        Victim { call: "DELETE /containers/*", when: When::Goes, by: By::ContainerId, told: "remove_container" },
        Victim {
            call: "GET /containers/*/json",
            when: When::Restarts,
            by: By::ContainerId,
            told: "pod_sandbox_status",
        },
    ],
};

fn faulty(runtime: Runtime, flags: &[&str]) -> Option<Machine> {
    let flags = flags.iter().map(|flag| (*flag).into()).collect();
    let options = Options { runtime, faulty: true, flags, ..Options::default() };
    runtime.is_available().then(|| Machine::start(options))
}

fn probed(name: &str, grace_secs: u64) -> Play {
    Play::new(name, "Always").grace(grace_secs).main(Part::forever("main").field("readinessProbe", once_started()))
}

fn each_call_fails_in_each_way(runtime: Runtime, calls: &Calls) {
    let Some(mut machine) = faulty(runtime, &[BRIEF]) else { return };
    let steady = probe(json!({"exec": {"command": ["true"]}}));
    machine.play(&Play::new("steady", "Always").grace(2).main(Part::forever("main").field("readinessProbe", steady)));
    machine.await_ready("steady");
    for (kind, fault) in FAULTS {
        println!("{kind}");
        let pods: Vec<String> = (0..PODS).map(|number| format!("{kind}-{number}")).collect();
        // What is asked once, is asked by a kubelet that starts.
        machine.kill_kubelet();
        inject(&machine, calls.up, fault);
        machine.start_kubelet();
        // A signal that hangs for longer than the grace is one that is never heard.
        let (grace_secs, all_hear) = if fault == Fault::Hang { (2, false) } else { (20, true) };
        pods.iter().for_each(|pod| machine.play(&probed(pod, grace_secs)));
        pods.iter().for_each(|pod| drop(machine.await_ready(pod)));
        machine.faults().await_delivered(calls.up, fault);
        inject(&machine, calls.down, fault);
        pods.iter().for_each(|pod| machine.end_play(pod));
        pods.iter().for_each(|pod| machine.await_pod_gone(pod));
        machine.faults().await_delivered(calls.down, fault);
        machine.faults().heal();
        for pod in &pods {
            let story = machine.story(pod);
            let whole = ["main Starting", "main Started", "main Terminating", "main Exiting"];
            let heard = if all_hear { whole.len() } else { story.lines().len().clamp(2, whole.len()) };
            assert_eq!(story.lines(), &whole[..heard], "{pod}");
        }
        machine.story("steady").starts("main", 1);
    }
    machine.finish();
}

fn inject(machine: &Machine, calls: &[&str], fault: Fault) {
    machine.faults().heal();
    calls.iter().for_each(|call| machine.faults().inject(call, "", (fault, 1)));
}

/// A pull that fails in each way is made again; one that hangs holds nobody else up, and goes with its pod.
fn a_pull_fails_in_each_way(runtime: Runtime, pull: &str) {
    if !registry::is_available() {
        return;
    }
    let Some(machine) = faulty(runtime, &[BRIEF, AT_ONCE]) else { return };
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let image = Image::new(vec![oci::busybox(Packing::Gzip)]);
    let play = |kind: &str| {
        let name = format!("{kind}:1");
        registry.put(&name, &image);
        let main = Part::forever("main").field("image", json!(format!("{}/{name}", registry.host())));
        machine.play(&Play::new(kind, "Always").grace(2).main(main.field("imagePullPolicy", json!("Always"))));
    };
    for (kind, fault) in FAULTS {
        let times = if fault == Fault::Hang { u32::MAX } else { 1 };
        machine.faults().inject(pull, kind, (fault, times));
    }
    play("hang");
    await_some("the pull that hangs", || {
        let asked = machine.faults().asked();
        if asked.contains_key(pull) { Ok(()) } else { Err(format!("{asked:?}")) }
    });
    let others = ["error", "lost", "late", "none"];
    others.iter().for_each(|kind| play(kind));
    for kind in others {
        machine.await_ready(kind);
        machine.story(kind).starts("main", 1);
    }
    machine.story("hang").starts("main", 0);
    machine.await_end("hang");
    others.iter().for_each(|kind| machine.await_end(kind));
    machine.finish();
}

/// What must not change: identity, counts, readiness.
fn faces(machine: &Machine) -> Vec<Value> {
    let face = |pod: &Value| {
        let status = status(pod, "main");
        json!([pod["metadata"]["name"], status["containerID"], status["restartCount"], status["ready"]])
    };
    let mut faces: Vec<Value> = machine.pods().iter().map(face).collect();
    faces.sort_by_key(Value::to_string);
    faces
}

fn a_killed_daemon_restarts_nothing(runtime: Runtime) {
    if !runtime.is_available() {
        return;
    }
    let mut machine = Machine::start(Options { runtime, ..Options::default() });
    let names: Vec<String> = (0..LIVE_PODS).map(|number| format!("live-{number:02}")).collect();
    for name in &names {
        machine.play(&Play::new(name, "Always").grace(2).main(Part::forever("main")));
    }
    names.iter().for_each(|name| drop(machine.await_ready(name)));
    let (pids, before) = (machine.init_pids(), faces(&machine));
    machine.daemon().kill();
    await_some("health says that the runtime is away", || {
        let health = machine.healthz()?;
        if health.contains("the runtime has been away for") { Ok(()) } else { Err(health) }
    });
    assert_eq!(faces(&machine), before, "the last status is kept");
    // What is asked for meanwhile comes when it can.
    machine.play(&Play::new("later", "Always").grace(2).main(Part::forever("main")));
    machine.daemon().restart();
    machine.await_ready("later");
    machine.await_end("later");
    await_true("all is well again", || machine.healthz().is_ok_and(|health| health == "ok"));
    assert_eq!(machine.init_pids(), pids, "no process is another one");
    assert_eq!(faces(&machine), before);
    names.iter().for_each(|name| machine.story(name).starts("main", 1));

    // An end while the daemon is away is told, and never as a success.
    machine.play(&Play::new("ends", "Never").main(Part::gated("main", 7)));
    machine.await_told("ends", "main Started", 1);
    machine.await_pod("ends", |pod| is(pod, "main", "running"));
    machine.daemon().kill();
    machine.open("ends", "main.end");
    machine.await_told("ends", "main Exiting", 1);
    machine.daemon().restart();
    let pod = machine.await_phase("ends", "Failed");
    println!("{runtime:?}: {}", status(&pod, "main")["state"]);
    assert_eq!(restarts(&pod, "main"), 0);
    assert_eq!(faces(&machine).iter().filter(|face| before.contains(face)).count(), LIVE_PODS);
    machine.finish();
}

#[test]
fn docker_each_call_fails_in_each_way() {
    each_call_fails_in_each_way(Runtime::Docker, &DOCKER);
}

#[test]
fn containerd_each_call_fails_in_each_way() {
    each_call_fails_in_each_way(Runtime::Containerd, &CRI);
}

#[test]
fn docker_others_are_served_while_a_call_hangs() {
    others::are_served_while_calls_hang(Runtime::Docker, &DOCKER);
}

#[test]
fn containerd_others_are_served_while_a_call_hangs() {
    others::are_served_while_calls_hang(Runtime::Containerd, &CRI);
}

#[test]
fn containerd_of_sid_each_call_fails_in_each_way() {
    each_call_fails_in_each_way(Runtime::ContainerdSid, &CRI);
}

#[test]
fn docker_a_pull_fails_in_each_way() {
    a_pull_fails_in_each_way(Runtime::Docker, "POST /images/create");
}

#[test]
fn containerd_a_pull_fails_in_each_way() {
    a_pull_fails_in_each_way(Runtime::Containerd, "PullImage");
}

#[test]
fn docker_killed_restarts_nothing() {
    a_killed_daemon_restarts_nothing(Runtime::Docker);
}

#[test]
fn containerd_killed_restarts_nothing() {
    a_killed_daemon_restarts_nothing(Runtime::Containerd);
}

#[test]
fn containerd_of_sid_killed_restarts_nothing() {
    a_killed_daemon_restarts_nothing(Runtime::ContainerdSid);
}
