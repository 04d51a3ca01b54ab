//! A small language for table tests: `<time> <input> => <expected actions>`, one line each.
//!
//! Inputs: `admit`, `tick`, `delete GRACE`, `images`, `hash NAME HASH` (the plan changes in place),
//! `see OBJECTS` (an answer asked for at this very time), `old STAMP OBJECTS`, `event OBJECTS` (unstamped),
//! `reject REASON`, `ok|ill|failed|gone|cancelled|unknown EFFECT`, `failed:REASON EFFECT`.
//! Objects: `s0` (ready), `s0!` (not ready), `s0?` (no address), and after the sandbox they are in `a#0` (running),
//! `a#0=new`, `a#0=?`, `a#0=137` (exited), each with `/HASH` if it differs from the plan's.
//! Checks: `is NAME STATE`, `last NAME CODE`, `restarts NAME N`, `phase P`, `stage S`, `deadline MS`, `ready BOOL`, `ips LIST`.

use super::plans::plan;
use crate::*;

pub(super) struct Script {
    pub(super) machine: PodMachine,
    plan: PodPlan,
    outstanding: Vec<(EffectId, String, Effect)>,
    now_ms: Millis,
}

pub(super) fn now(mono_ms: Millis) -> Now {
    Now { mono_ms, wall_ns: 1_000_000_000_000_000_000 + mono_ms as i64 * 1_000_000 }
}

pub(super) fn failure(class: FailureClass, reason: &str) -> Outcome {
    Outcome::Failed(Failure { class, reason: reason.into(), message: "it broke".into() })
}

pub(super) fn name_of(effect: &Effect) -> String {
    match effect {
        Effect::SetUp => "set_up".into(),
        Effect::RunSandbox { attempt } => format!("sandbox {attempt}"),
        Effect::EnsureImage { container } => format!("image {container}"),
        Effect::StartContainer { container, attempt, sandbox_id, image_ref } => {
            assert_eq!(*image_ref, format!("ref-{container}"));
            format!("start {container}#{attempt} in {sandbox_id}")
        }
        Effect::PostStart { container_id, .. } => format!("post_start {container_id}"),
        Effect::PreStop { container_id, grace_ms, .. } => format!("pre_stop {container_id} {grace_ms}"),
        Effect::Probe { container_id, kind, .. } => format!("probe {container_id} {kind:?}"),
        Effect::StopContainer { container_id, grace_ms } => format!("stop {container_id} {grace_ms}"),
        Effect::RemoveContainer { container_id } => format!("remove {container_id}"),
        Effect::StopSandbox { sandbox_id } => format!("stop_sandbox {sandbox_id}"),
        Effect::RemoveSandbox { sandbox_id } => format!("remove_sandbox {sandbox_id}"),
        Effect::Inspect => "inspect".into(),
        Effect::TearDown => "tear_down".into(),
    }
}

pub(super) fn done_of(effect: &Effect) -> Done {
    match effect {
        Effect::RunSandbox { attempt } => {
            Done::Sandbox { id: format!("s{attempt}"), ips: vec![format!("10.0.0.{attempt}")] }
        }
        Effect::EnsureImage { container } => Done::Image { image_ref: format!("ref-{container}") },
        Effect::StartContainer { container, attempt, .. } => Done::Container { id: format!("{container}#{attempt}") },
        Effect::Probe { .. } => Done::Probe { healthy: true, output: String::new() },
        _ => Done::Nothing,
    }
}

impl Script {
    pub(super) fn new(text: &str) -> Script {
        let plan = plan(text);
        let machine = PodMachine::new(plan.clone(), now(1_000));
        Script { machine, plan, outstanding: Vec::new(), now_ms: 1_000 }
    }

    pub(super) fn orphan(grace_ms: u64) -> Script {
        let machine = PodMachine::orphan("uid-1".into(), "pod_default".into(), grace_ms, now(1_000));
        Script { machine, plan: plan("Never"), outstanding: Vec::new(), now_ms: 1_000 }
    }

    /// A pod with container `a` that runs since 1,040 and was seen running at 1,050.
    pub(super) fn up(text: &str) -> Script {
        let mut script = Script::new(text);
        script.run(
            "1000 admit          => inspect
             1001 see            => set_up, image a
             1001 ok inspect     =>
             1010 ok set_up      => sandbox 0
             1020 ok image a     =>
             1030 ok sandbox 0   => start a#0 in s0
             1040 ok start a#0   =>
             1050 see s0 a#0     =>
             1050 is a Running   =>",
        );
        script
    }

    pub(super) fn run(&mut self, lines: &str) -> &mut Script {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (left, expected) = line.split_once("=>").unwrap_or((line, ""));
            let mut words = left.split_whitespace();
            let at: Millis = words.next().and_then(|word| word.parse().ok()).expect("a time");
            let words: Vec<&str> = words.collect();
            assert!(at >= self.now_ms, "time goes back in: {line}");
            if self.check(&words, line) {
                continue;
            }
            self.now_ms = at;
            let input = self.input(&words, line);
            let mut actions = Vec::new();
            self.machine.handle(now(at), input, &mut actions);
            let expected: Vec<&str> = expected.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
            let mut found = self.note(actions);
            if !expected.iter().any(|word| word.starts_with("tell ")) {
                found.retain(|word| !word.starts_with("tell "));
            }
            assert_eq!(found, expected, "in: {line}");
        }
        self
    }

    fn note(&mut self, actions: Vec<Action>) -> Vec<String> {
        let mut names = Vec::new();
        for action in actions {
            match action {
                Action::Do { id, effect } => {
                    names.push(name_of(&effect));
                    self.outstanding.push((id, name_of(&effect), effect));
                }
                Action::Tell(event) => names.push(format!("tell {}", event.reason)),
                Action::Cancel(id) => {
                    let (_, name, _) = self.outstanding.iter().find(|(known, ..)| *known == id).expect("outstanding");
                    names.push(format!("cancel {name}"));
                }
            }
        }
        names
    }

    fn input(&mut self, words: &[&str], line: &str) -> Input {
        let tail = &words[1..];
        match words[0] {
            "admit" => Input::Admit,
            "tick" => Input::Tick,
            "images" => Input::ImagesChanged,
            "reject" => Input::Reject { reason: tail[0].to_owned(), message: "it is so".to_owned() },
            "delete" => Input::Delete { grace_ms: tail[0].parse().expect("a grace") },
            "hash" => {
                let found = self.plan.containers.iter_mut().find(|plan| plan.name == tail[0]).expect("a container");
                found.hash = tail[1].to_owned();
                Input::Desired(self.plan.clone())
            }
            "see" => Input::Observed { stamp: self.now_ms, pod: self.objects(tail) },
            "old" => Input::Observed { stamp: tail[0].parse().expect("a stamp"), pod: self.objects(&tail[1..]) },
            "event" => Input::Observed { stamp: UNSTAMPED, pod: self.objects(tail) },
            word => {
                let wanted = tail.join(" ");
                let index = self
                    .outstanding
                    .iter()
                    .position(|(_, name, _)| name == &wanted || name.starts_with(&format!("{wanted} ")))
                    .unwrap_or_else(|| panic!("{wanted} is not outstanding in: {line}"));
                let (id, _, effect) = self.outstanding.remove(index);
                let outcome = match word.split_once(':') {
                    Some(("failed", reason)) => failure(FailureClass::Retry, reason),
                    _ => match word {
                        "ok" => Outcome::Ok(done_of(&effect)),
                        "ill" => Outcome::Ok(Done::Probe { healthy: false, output: "it said so".into() }),
                        "failed" => failure(FailureClass::Retry, "Broken"),
                        "gone" => failure(FailureClass::Gone, "Gone"),
                        "cancelled" => failure(FailureClass::Cancelled, "Cancelled"),
                        "unknown" => Outcome::Unknown,
                        other => panic!("no input: {other}"),
                    },
                };
                Input::Completed { id, outcome }
            }
        }
    }

    fn objects(&self, words: &[&str]) -> ObservedPod {
        let mut pod = ObservedPod::default();
        for word in words {
            if let Some((name, rest)) = word.split_once('#') {
                let (rest, hash) = rest.split_once('/').map_or((rest, format!("h-{name}")), |(r, h)| (r, h.to_owned()));
                let (attempt, state) = rest.split_once('=').unwrap_or((rest, "run"));
                pod.containers.push(ObservedContainer {
                    id: format!("{name}#{attempt}"),
                    sandbox_id: pod.sandboxes.last().map_or_else(String::new, |sandbox| sandbox.id.clone()),
                    name: name.to_owned(),
                    attempt: attempt.parse().expect("an attempt"),
                    hash,
                    state: state_of(state),
                    image: format!("image-{name}"),
                    image_ref: format!("ref-{name}"),
                    created_at_ns: 1,
                });
            } else {
                let id = word.trim_end_matches(['!', '?']).to_owned();
                let attempt = id[1..].parse().expect("an attempt");
                pod.sandboxes.push(ObservedSandbox {
                    id,
                    attempt,
                    ready: !word.ends_with('!'),
                    ips: if word.ends_with('?') { Vec::new() } else { vec![format!("10.0.0.{attempt}")] },
                    created_at_ns: 1,
                });
            }
        }
        pod
    }

    fn check(&self, words: &[&str], line: &str) -> bool {
        let report = self.machine.report();
        let container = |name: &str| report.containers.iter().find(|c| c.name == name).expect("a container");
        let found = match words[0] {
            "is" => match &container(words[1]).state {
                ContainerState::Running { .. } => "Running".to_owned(),
                ContainerState::Waiting { reason, .. } => reason.as_str().to_owned(),
                ContainerState::Terminated(terminated) => terminated.exit_code.to_string(),
            },
            "last" => container(words[1]).last.as_ref().map_or("none".into(), |last| last.exit_code.to_string()),
            "restarts" => container(words[1]).restart_count.to_string(),
            "phase" => report.phase.as_str().to_owned(),
            "stage" => format!("{:?}", report.stage),
            "ready" => report.ready().to_string(),
            "ips" => report.ips.join(" "),
            "deadline" => self.machine.next_deadline().map_or("none".into(), |at_ms| at_ms.to_string()),
            _ => return false,
        };
        assert_eq!(Some(&found.as_str()), words.last(), "in: {line}");
        true
    }
}

fn state_of(text: &str) -> ObservedState {
    match text {
        "run" => ObservedState::Running { started_at_ns: 5 },
        "new" => ObservedState::Created,
        "?" => ObservedState::Unknown,
        code => {
            let exit_code = code.parse().expect("an exit code");
            let reason = if exit_code == 0 { "Completed" } else { "Error" };
            ObservedState::Exited {
                started_at_ns: 5,
                finished_at_ns: 9,
                exit_code,
                reason: reason.into(),
                message: String::new(),
            }
        }
    }
}
