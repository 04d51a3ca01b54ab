//! The simulator's scripts on the real machine: what the kubelet and the kernel make of them must be what the model makes.
//! What a container's process or a hook does it tells itself, a line each; where it waits, it waits at a gate.

use e2e::{Machine, Options, PATIENCE};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use sim::script::{Act, Hook, Log, Moment, Probe, Role, Script, Step, TERM_CODE, Term, Trace, all, count, sight};
use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const POD: &str = "scripted";
const FILE: &str = "scripted.yaml";
/// How often another process's doings are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What looks the same so often is not about to change.
const SETTLED_LOOKS: u32 = 100;

macro_rules! parity {
    ($($script:ident),* $(,)?) => {
        $(
            #[test]
            fn $script() {
                plays_as_the_model_does(&all::$script());
            }
        )*

        #[test]
        fn no_script_is_left_out() {
            let known: Vec<&str> = all::all().into_iter().map(|(name, _)| name).collect();
            assert_eq!(known, [$(stringify!($script)),*]);
        }
    };
}

parity![
    a_container_that_fails_starts_again_at_once_and_then_later,
    a_pod_that_is_never_restarted_ends_as_its_containers_do,
    init_containers_run_one_after_the_other,
    a_failed_init_container_ends_the_pod,
    sidecars_start_in_order_and_stop_the_other_way_round,
    sidecars_end_after_the_main_containers_are_done,
    a_container_that_ignores_the_stop_signal_is_killed,
    hooks_surround_a_container,
    a_failed_post_start_hook_takes_its_container_along,
    a_pre_stop_hook_that_does_not_end_is_cut_off,
    readiness_turns,
    liveness_restarts_a_container,
    a_startup_probe_holds_back_what_comes_after,
    a_rule_restarts_a_container,
    a_rule_restarts_all_containers,
    a_container_ends_while_no_kubelet_runs,
    a_kubelet_killed_amid_init_goes_on,
    a_kubelet_killed_amid_a_hook_runs_it_again,
    a_kubelet_killed_amid_termination_ends_it,
    a_manifest_goes_while_no_kubelet_runs,
    a_lost_sandbox_comes_back,
    a_deadline_ends_the_pod,
    a_pod_that_cannot_run_here_is_rejected,
    a_sidecar_that_fails_starts_again_beside_the_others,
    a_lost_sandbox_ends_a_pod_that_is_never_restarted,
    a_kubelet_killed_amid_a_restart_of_all_goes_on,
    a_kubelet_killed_amid_a_pre_stop_hook_ends_the_pod,
    a_pod_that_has_ended_stays_so_for_the_next_kubelet,
    a_manifest_goes_amid_init,
    containers_share_their_processes,
];

#[track_caller]
fn plays_as_the_model_does(script: &Script) {
    let model = sim::play(script, 1).unwrap_or_else(|how| panic!("the model: {how}"));
    let mut stage = Stage::new(script);
    for step in &script.steps {
        stage.act(step, &model);
    }
    // What was done may be told a moment later than it shows.
    stage.patiently(|stage| stage.trace() == model);
    if let Some(difference) = model.difference(&stage.trace()) {
        let log = stage.machine.log();
        panic!("- the model, + the machine\n{difference}in order: {:#?}\nlog:\n{log}", stage.log);
    }
    stage.finish();
}

/// The real machine with the pod of a script.
struct Stage<'a> {
    machine: Machine,
    script: &'a Script,
    log: Log,
    /// Lines of the containers that are in the log.
    read: usize,
    sights: Vec<Vec<String>>,
}

impl Stage<'_> {
    fn new(script: &Script) -> Stage<'_> {
        let machine = Machine::start(Options::default());
        let stage = Stage { machine, script, log: Log::new(), read: 0, sights: Vec::new() };
        std::fs::create_dir_all(stage.story()).expect("the story's directory");
        for role in &script.roles {
            let well = role.probes.iter().filter(|(_, succeeds)| *succeeds);
            well.for_each(|(probe, _)| stage.turn((role.name, *probe), Turn::Well));
        }
        let mut manifest = script.manifest(POD, &command);
        let story = json!({ "name": "story", "hostPath": { "path": stage.story(), "type": "Directory" } });
        manifest["spec"]["volumes"] = json!([story]);
        for list in ["initContainers", "containers"] {
            for container in manifest["spec"][list].as_array_mut().into_iter().flatten() {
                container["volumeMounts"] = json!([{ "name": "story", "mountPath": "/story" }]);
            }
        }
        stage.machine.drop_manifest(FILE, &manifest.to_string());
        stage
    }

    fn act(&mut self, step: &Step, model: &Trace) {
        match *step {
            Step::Await(line, times) => {
                let came = self.patiently(|stage| count(&stage.log, line) >= times);
                assert!(came, "{line:?} did not come {times} times; {}", self.state());
            }
            Step::See => self.see(model),
            Step::Exit(name, code) => self.open(&format!("{name}.exit"), &code.to_string()),
            Step::Succeed(name, probe) => self.turn((name, probe), Turn::Well),
            Step::Fail(name, probe) => self.turn((name, probe), Turn::Unwell),
            Step::EndHook(name, moment) => self.open(&format!("{name}.{}", moment.field()), ""),
            Step::RemoveManifest => self.machine.remove_manifest(FILE),
            Step::KillKubelet => self.machine.kill_kubelet(),
            Step::StartKubelet => self.machine.start_kubelet(),
            Step::LoseSandbox => self.lose_sandbox(),
            Step::Gone => {
                let gone = self.patiently(|stage| stage.machine.pod(POD).is_none());
                assert!(gone, "the pod stays; {}", self.state());
                // The last line may have been told since the last look.
                self.watch();
                self.end_runs(|_| true);
            }
        }
    }

    /// Takes what the pod looks like once it goes on looking as in the model, or else after a while.
    fn see(&mut self, model: &Trace) {
        let wanted = model.sights.get(self.sights.len());
        let looks = Cell::new(0);
        self.patiently(|stage| {
            looks.set(if stage.sight().as_ref() == wanted { looks.get() + 1 } else { 0 });
            looks.get() >= SETTLED_LOOKS
        });
        let seen = self.sight().unwrap_or_default();
        self.sights.push(seen);
    }

    fn sight(&self) -> Option<Vec<String>> {
        self.machine.pod(POD).map(|pod| sight(&pod["status"]))
    }

    fn trace(&self) -> Trace {
        Trace::new(self.script, &self.log, self.sights.clone())
    }

    fn state(&self) -> String {
        let status = self.machine.is_running().then(|| self.sight());
        format!("told: {:#?}; status: {status:#?}; log:\n{}", self.log, self.machine.log())
    }

    /// Whether something came true before patience ended.
    fn patiently(&mut self, wanted: impl Fn(&Self) -> bool) -> bool {
        let begun = Instant::now();
        loop {
            self.watch();
            if wanted(self) {
                return true;
            }
            if begun.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Notes what was told since. Who was killed could not tell its end: its status does.
    fn watch(&mut self) {
        for line in self.machine.story(POD).lines().iter().skip(self.read) {
            self.read += 1;
            let (name, what) = line.split_once(' ').expect("a name and what it does");
            match what {
                "started" => self.end_runs(|of| of == name),
                // Another signal while it stops is none of its own.
                "stopping" if self.log.iter().rfind(|told| told.starts_with(&format!("{name} s"))) == Some(line) => {
                    continue;
                }
                _ => {}
            }
            self.log.push(line.clone());
        }
        let Some(pod) = self.machine.is_running().then(|| self.machine.pod(POD)).flatten() else { return };
        let killed = |name: &str, starts: usize| {
            let status = e2e::story::status(&pod, name);
            let newest = status["restartCount"].as_u64().is_some_and(|restarts| restarts + 1 == starts as u64);
            newest && status["state"]["terminated"]["exitCode"] == 137
        };
        let starts: Vec<(&str, usize)> = self
            .script
            .roles
            .iter()
            .map(|role| (role.name, count(&self.log, &format!("{} started", role.name))))
            .collect();
        let killed: Vec<&str> =
            starts.into_iter().filter(|(name, starts)| killed(name, *starts)).map(|(name, _)| name).collect();
        self.end_runs(|of| killed.contains(&of));
    }

    /// Runs that did not tell their end, and are over.
    fn end_runs(&mut self, over: impl Fn(&str) -> bool) {
        for role in self.script.roles.iter().filter(|role| over(role.name)) {
            let times = |what: &str| count(&self.log, &format!("{} {what}", role.name));
            if times("started") > times("ended") {
                self.log.push(format!("{} ended 137", role.name));
            }
        }
    }

    fn lose_sandbox(&mut self) {
        let processes = self.machine.init_pids();
        let shims = self.machine.shim_pids();
        assert_eq!(shims.len(), 1, "one pod, one shim");
        let raw = |pid: &u32| Pid::from_raw(i32::try_from(*pid).expect("a pid")).expect("not 0");
        kill_process(raw(&shims[0]), Signal::KILL).expect("killed");
        let begun = Instant::now();
        while processes.iter().any(|pid| test_kill_process(raw(pid)).is_ok()) {
            assert!(begun.elapsed() < PATIENCE, "processes outlive their shim");
            std::thread::sleep(LOOK_EVERY);
        }
        self.end_runs(|_| true);
    }

    fn story(&self) -> PathBuf {
        self.machine.dir.join("story").join(POD)
    }

    /// Opens a gate; what stands in it is there when it opens.
    fn open(&self, gate: &str, text: &str) {
        let hidden = self.story().join(format!(".{gate}"));
        std::fs::write(&hidden, text).expect("the gate");
        std::fs::rename(hidden, self.story().join(gate)).expect("the gate");
    }

    fn turn(&self, (name, probe): (&str, Probe), turn: Turn) {
        let flag = format!("{name}.{}", probe.field());
        match turn {
            Turn::Well => self.open(&flag, ""),
            Turn::Unwell => std::fs::remove_file(self.story().join(flag)).expect("the flag"),
        }
    }

    fn finish(self) {
        // No hook holds up the end.
        for role in &self.script.roles {
            role.hooks.iter().for_each(|(moment, _)| self.open(&format!("{}.{}", role.name, moment.field()), ""));
        }
        self.machine.finish();
    }
}

#[derive(Clone, Copy)]
enum Turn {
    Well,
    Unwell,
}

/// Until then the process would not hear a signal, as the kernel keeps from an init what it does not handle.
const STARTED: &str = "until [ -e /tmp/started ]; do usleep 5000; done\n";

fn command(act: Act<'_>) -> Value {
    let script = match act {
        Act::Run(role) => process(role),
        Act::Hook(role, moment, hook) => handler(role, moment, hook),
        Act::Probe(role, probe) => format!("{STARTED}test -e /story/{}.{}", role.name, probe.field()),
    };
    json!(["/bin/sh", "-c", script])
}

fn process(role: &Role) -> String {
    let name = role.name;
    let term = match role.term {
        Term::Exits => format!("say stopping; say 'ended {TERM_CODE}'; exit {TERM_CODE}"),
        Term::Ignores => "say stopping".to_owned(),
    };
    let runs = match role.brief {
        Some(code) => format!("code={code}"),
        None => format!(
            "until [ -e /story/{name}.exit ]; do usleep 5000; done; read code < /story/{name}.exit; rm /story/{name}.exit"
        ),
    };
    format!(
        "say() {{ echo \"{name} $1\" >> /story/told; }}\ntrap \"{term}\" TERM\nsay started\n: > /tmp/started\n{runs}\n\
         say \"ended $code\"\nexit $code\n"
    )
}

fn handler(role: &Role, moment: Moment, hook: Hook) -> String {
    let (name, moment) = (role.name, moment.field());
    let rest = match hook {
        Hook::Succeeds => "exit 0".to_owned(),
        Hook::Fails => "exit 1".to_owned(),
        Hook::Waits => format!("until [ -e /story/{name}.{moment} ]; do usleep 5000; done"),
    };
    format!("{STARTED}echo '{name} {moment}' >> /story/told\n{rest}\n")
}
