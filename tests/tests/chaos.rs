//! The kubelet is killed again and again while pods come, run, fail and go: no container starts twice, no exit code and
//! no line of a log is lost, and nothing is left behind.
//!
//! `CHAOS_KILLS` and `CHAOS_CONTAINERS` say how much of it; `SEED` repeats a run.

use e2e::dice::{Dice, number_from_env};
use e2e::story::{ended, restarts, status};
use e2e::{Machine, Options, await_some};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SLOTS: u64 = 20;

/// One run of a container: how many numbered lines it writes, and its code.
#[derive(Debug, Clone, Copy)]
struct Run {
    lines: u64,
    code: i64,
}

/// One pod of the churn. Its slot gives the name, its round tells it from the others of that name.
#[derive(Debug, Clone)]
struct Extra {
    slot: u64,
    round: u64,
    init: Run,
    /// Runs of the regular containers: the last one of each is not restarted.
    main: Vec<Vec<Run>>,
}

impl Extra {
    fn new(slot: u64, round: u64, dice: &mut Dice) -> Extra {
        let mut run = |code: i64| Run { lines: 1 + dice.below(300), code };
        let init = run(0);
        let mut main = Vec::new();
        for _ in 0..=round % 2 {
            main.push(vec![run(0)]);
        }
        for runs in &mut main {
            let failure = 1 + dice.below(255) as i64;
            match dice.below(3) {
                // Fails once and is restarted at once; the second run succeeds.
                0 => runs.insert(0, Run { lines: 1 + dice.below(300), code: failure }),
                1 => runs[0].code = failure,
                _ => {}
            }
        }
        Extra { slot, round, init, main }
    }

    fn name(&self) -> String {
        format!("p{}", self.slot)
    }

    fn dir(&self, machine: &Machine) -> PathBuf {
        machine.dir.join(format!("chaos/{}-{}", self.slot, self.round))
    }

    /// A failed run is restarted only where there is another one to run.
    fn policy(&self) -> &'static str {
        if self.main.iter().any(|runs| runs.len() > 1) { "OnFailure" } else { "Never" }
    }

    /// With `OnFailure` every last run has to succeed for the pod to end.
    fn settle(mut self) -> Extra {
        if self.policy() == "OnFailure" {
            for runs in &mut self.main {
                if let Some(last) = runs.last_mut() {
                    last.code = 0;
                }
            }
        }
        self
    }

    fn containers(&self) -> Vec<(String, Vec<Run>)> {
        let main = self.main.iter().enumerate().map(|(index, runs)| (format!("main-{index}"), runs.clone()));
        std::iter::once(("init".to_owned(), vec![self.init])).chain(main).collect()
    }

    fn phase(&self) -> &'static str {
        let codes = self.main.iter().filter_map(|runs| runs.last());
        if codes.into_iter().all(|run| run.code == 0) { "Succeeded" } else { "Failed" }
    }

    fn manifest(&self, machine: &Machine) -> String {
        let container = |(name, runs): &(String, Vec<Run>)| {
            let mut script = format!("echo start >> /told/{name}\nn=$(wc -l < /told/{name})\nlines=0; code=99\n");
            for (index, run) in runs.iter().enumerate() {
                script += &format!("[ $n = {} ] && lines={} code={}\n", index + 1, run.lines, run.code);
            }
            script += "i=0; while [ $i -lt $lines ]; do i=$((i + 1)); echo line $i; done; exit $code\n";
            json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", script], "volumeMounts": [{"name": "told", "mountPath": "/told"}]})
        };
        let containers: Vec<Value> = self.containers().iter().map(container).collect();
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name(), "labels": {"round": format!("r{}", self.round)}},
            "spec": {"restartPolicy": self.policy(), "terminationGracePeriodSeconds": 1,
                "initContainers": [containers[0]], "containers": containers[1..],
                "volumes": [{"name": "told", "hostPath": {"path": self.dir(machine), "type": "Directory"}}]},
        })
        .to_string()
    }

    fn enter(&self, machine: &Machine) {
        std::fs::create_dir_all(self.dir(machine)).expect("made");
        machine.drop_manifest(&format!("{}.yaml", self.name()), &self.manifest(machine));
    }

    /// The pod of this round, if it has come to its end.
    fn over<'a>(&self, pods: &'a [Value]) -> Option<&'a Value> {
        let mine = |pod: &&Value| {
            pod["metadata"]["name"] == format!("{}-node-1", self.name())
                && pod["metadata"]["labels"]["round"] == format!("r{}", self.round)
        };
        let ends = |pod: &&Value| ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
        pods.iter().filter(mine).find(ends)
    }

    /// What its containers wrote themselves, against what the kubelet says of them.
    fn check(&self, machine: &Machine, pod: &Value) {
        assert_eq!(pod["status"]["phase"], self.phase(), "{self:?}: {}", pod["status"]);
        let uid = pod["metadata"]["uid"].as_str().expect("a UID");
        let logs = machine.dir.join("logs").join(format!("default_{}-node-1_{uid}", self.name()));
        for (name, runs) in self.containers() {
            let starts = std::fs::read_to_string(self.dir(machine).join(&name)).unwrap_or_default().lines().count();
            assert_eq!(starts, runs.len(), "starts of {name} of {self:?}: {}", pod["status"]);
            assert_eq!(restarts(pod, &name) as usize, runs.len() - 1, "{name} of {self:?}: {}", pod["status"]);
            let last = runs[runs.len() - 1];
            assert_eq!(ended(pod, &name).0, last.code, "{name} of {self:?}: {}", pod["status"]);
            if runs.len() > 1 {
                let before = &status(pod, &name)["lastState"]["terminated"]["exitCode"];
                assert_eq!(*before, runs[runs.len() - 2].code, "{name} of {self:?}: {}", pod["status"]);
            }
            // Of an attempt before the last one not even the log is kept.
            for (attempt, run) in runs.iter().enumerate().skip(runs.len().saturating_sub(2)) {
                check_log(&logs.join(&name).join(format!("{attempt}.log")), run.lines);
            }
        }
    }
}

/// Lines `1..=count`, each of them once and in order.
fn check_log(path: &Path, count: u64) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let told: Vec<&str> = text.lines().filter_map(|line| line.split_once(" stdout F ").map(|(_, told)| told)).collect();
    let expected: Vec<String> = (1..=count).map(|number| format!("line {number}")).collect();
    assert_eq!(told, expected, "{}", path.display());
}

#[test]
fn g_02_the_kubelet_killed_at_random_while_pods_churn() {
    let kills = number_from_env("CHAOS_KILLS", 20);
    let mut dice = Dice::from_env();
    let mut machine = Machine::start(Options::default());
    let mut round = SLOTS;
    let mut cast: Vec<Extra> = (0..SLOTS).map(|slot| Extra::new(slot, slot, &mut dice).settle()).collect();
    cast.iter().for_each(|extra| extra.enter(&machine));
    let (mut checked, mut cut) = (0, 0);
    for _ in 0..kills {
        // The moment is what is random here: there is nothing to be awaited.
        std::thread::sleep(Duration::from_millis(dice.below(300)));
        machine.kill_kubelet();
        if dice.chance(30) {
            std::thread::sleep(Duration::from_millis(dice.below(300)));
        }
        machine.start_kubelet();
        let pods = machine.pods();
        for extra in &mut cast {
            match extra.over(&pods) {
                Some(pod) => extra.check(&machine, pod),
                // Now and then one is replaced before its end.
                None if dice.chance(1) => cut += 1,
                None => continue,
            }
            checked += usize::from(extra.over(&pods).is_some());
            round += 1;
            *extra = Extra::new(extra.slot, round, &mut dice).settle();
            extra.enter(&machine);
        }
    }
    for extra in &cast {
        let pod = await_some(&format!("the end of {extra:?}"), || {
            let pods = machine.pods();
            extra.over(&pods).cloned().ok_or_else(|| format!("{pods:?}; log:\n{}", machine.log()))
        });
        extra.check(&machine, &pod);
    }
    println!("{kills} kills, {} pods checked to their end, {cut} replaced before it", checked + cast.len());
    machine.finish();
}

/// Signals whose default is to end the process; without SIGQUIT, which busybox's shell ignores.
const SIGNALS: [i64; 22] = [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31];
const PODS_AT_ONCE: usize = 50;
const CONTAINERS_OF_A_POD: usize = 4;

/// One batch of pods: the code of each container, by pod and container. In a pod that shares its processes a container
/// can send itself a signal; alone in its PID namespace it is the init there, and the kernel does not let it.
fn batch(machine: &Machine, dice: &mut Dice, containers: usize) -> BTreeMap<(String, String), i64> {
    let mut expected = BTreeMap::new();
    for pod in 0..containers.div_ceil(CONTAINERS_OF_A_POD) {
        let (name, signals) = (format!("p{pod}"), dice.chance(50));
        let mut specs = Vec::new();
        for index in 0..CONTAINERS_OF_A_POD.min(containers - pod * CONTAINERS_OF_A_POD) {
            let (code, end) = if signals {
                let signal = SIGNALS[dice.below(SIGNALS.len() as u64) as usize];
                // `$$` is how a manifest writes a `$`.
                (128 + signal, format!("kill -{signal} $$$$; exit 99"))
            } else {
                let code = dice.below(256) as i64;
                (code, format!("exit {code}"))
            };
            // Every twentieth waits for the moment at which the kubelet is killed.
            let gate = format!("{pod}-{index}");
            let gated = (pod * CONTAINERS_OF_A_POD + index).is_multiple_of(20);
            let wait = if gated { format!("until [ -e /gate/{gate} ]; do usleep 2000; done\n") } else { String::new() };
            let container = format!("c{index}");
            specs.push(json!({"name": container, "image": "busybox", "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", format!("{wait}{end}")],
                "volumeMounts": [{"name": "gate", "mountPath": "/gate"}]}));
            expected.insert((name.clone(), container), code);
        }
        let text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "shareProcessNamespace": signals,
            "containers": specs, "volumes": [{"name": "gate", "hostPath": {"path": machine.dir.join("gate"), "type": "Directory"}}]}});
        machine.drop_manifest(&format!("{name}.yaml"), &text.to_string());
    }
    expected
}

#[test]
fn f_b05_random_codes_and_signals_with_the_kubelet_killed_at_that_moment() {
    let mut left = number_from_env("CHAOS_CONTAINERS", 500);
    let (mut dice, mut machine) = (Dice::from_env(), Machine::start(Options::default()));
    let (mut seen, mut kills) = (0, 0);
    while left > 0 {
        std::fs::create_dir_all(machine.dir.join("gate")).expect("made");
        let now = left.min(PODS_AT_ONCE * CONTAINERS_OF_A_POD);
        let expected = batch(&machine, &mut dice, now);
        for number in (0..now).step_by(20) {
            let (pod, index) = (number / CONTAINERS_OF_A_POD, number % CONTAINERS_OF_A_POD);
            let (name, container) = (format!("p{pod}"), format!("c{index}"));
            machine.await_pod(&name, |pod| status(pod, &container)["state"]["running"].is_object());
            std::fs::write(machine.dir.join(format!("gate/{pod}-{index}")), "").expect("the gate");
            // Around the exit: before it, at it, after it.
            std::thread::sleep(Duration::from_micros(dice.below(8000)));
            machine.kill_kubelet();
            kills += 1;
            machine.start_kubelet();
        }
        let pods = await_some("every pod of the batch ends", || {
            let pods = machine.pods();
            let over = |pod: &Value| ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
            let open: Vec<&Value> = pods.iter().filter(|pod| !over(pod)).map(|pod| &pod["status"]).collect();
            if open.is_empty() && pods.len() == now.div_ceil(CONTAINERS_OF_A_POD) {
                Ok(pods)
            } else {
                Err(format!("{} of {}: {open:?}; log:\n{}", open.len(), pods.len(), machine.log()))
            }
        });
        for ((name, container), code) in &expected {
            let full = format!("{name}-node-1");
            let pod = pods.iter().find(|pod| pod["metadata"]["name"] == full).expect("the pod");
            assert_eq!(ended(pod, container).0, *code, "{container} of {name}: {}", pod["status"]);
        }
        seen += expected.len();
        for pod in 0..now.div_ceil(CONTAINERS_OF_A_POD) {
            machine.remove_manifest(&format!("p{pod}.yaml"));
        }
        machine.await_no_pods();
        std::fs::remove_dir_all(machine.dir.join("gate")).expect("removed");
        left -= now;
    }
    println!("{seen} containers, {kills} of them with the kubelet killed at their end: every code was right");
    machine.finish();
}
