//! Pods whose containers tell what they do, a line for each step, into one file of the pod: the order of its lines is the
//! order of what happened. Where a step has to wait for another, it waits at a gate that the test opens, never for time.

use crate::{Machine, await_some};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// How a container's process runs once it has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runs {
    Briefly,
    /// Until the gate `<container>.end` opens; each opening ends one run.
    ToItsGate,
    Forever,
}

/// What a container's process does with SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    Exit(i32),
    /// Exits once the gate `<container>.term` opens.
    Gate(i32),
    /// Goes on until it is killed.
    Ignore,
}

/// One container. It tells `Starting`, `Started`, `Terminating` (on SIGTERM) and `Exiting`; a killed one does not tell
/// the last. The file `/tmp/started` says from the inside that it has started.
#[derive(Debug, Clone)]
pub struct Part {
    name: String,
    runs: Runs,
    code: i32,
    held: bool,
    term: Term,
    fields: Map<String, Value>,
}

impl Part {
    fn new(name: &str, runs: Runs, code: i32) -> Part {
        Part { name: name.to_owned(), runs, code, held: false, term: Term::Exit(0), fields: Map::new() }
    }

    pub fn forever(name: &str) -> Part {
        Part::new(name, Runs::Forever, 0)
    }

    pub fn brief(name: &str, code: i32) -> Part {
        Part::new(name, Runs::Briefly, code)
    }

    pub fn gated(name: &str, code: i32) -> Part {
        Part::new(name, Runs::ToItsGate, code)
    }

    /// Between `Starting` and `Started` it waits at the gate `<container>.start`.
    pub fn held(mut self) -> Part {
        self.held = true;
        self
    }

    pub fn on_term(mut self, term: Term) -> Part {
        self.term = term;
        self
    }

    /// A field of the container, e.g. `lifecycle`.
    pub fn field(mut self, key: &str, value: Value) -> Part {
        self.fields.insert(key.to_owned(), value);
        self
    }

    pub fn sidecar(self) -> Part {
        self.field("restartPolicy", json!("Always"))
    }

    fn script(&self) -> String {
        let name = &self.name;
        let term = match self.term {
            Term::Exit(code) => format!("say Terminating; say Exiting; exit {code}"),
            Term::Gate(code) => format!("say Terminating; gate term; say Exiting; exit {code}"),
            Term::Ignore => "say Terminating".to_owned(),
        };
        let held = if self.held { "gate start" } else { ":" };
        let runs = match self.runs {
            Runs::Briefly => ":",
            Runs::ToItsGate => "gate end",
            Runs::Forever => "while :; do sleep 1000 & wait $!; done",
        };
        format!(
            "say() {{ echo \"{name} $1\" >> /story/told; }}\n\
             gate() {{ until [ -e /story/{name}.$1 ]; do usleep 5000; done; rm /story/{name}.$1; }}\n\
             trap '{term}' TERM\nsay Starting\n{held}\nsay Started\n: > /tmp/started\n{runs}\nsay Exiting\nexit {}\n",
            self.code
        )
    }

    fn container(&self) -> Value {
        let mut container = json!({
            "name": self.name,
            "image": "busybox",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", self.script()],
            "volumeMounts": [{"name": "story", "mountPath": "/story"}],
        });
        for (key, value) in &self.fields {
            container[key] = value.clone();
        }
        container
    }
}

/// What a hook or a probe does after it has told that it `Started`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Exit(i32),
    /// Waits at the gate `<teller>.end` first.
    Gate(i32),
    Never,
}

/// An exec handler that tells `Started`, and `Exiting` when it ends.
pub fn tells(who: &str, then: Then) -> Value {
    let (body, code) = match then {
        Then::Exit(code) => (String::new(), code),
        Then::Gate(code) => (format!("until [ -e /story/{who}.end ]; do usleep 5000; done\n"), code),
        Then::Never => ("while :; do sleep 1000; done\n".to_owned(), 0),
    };
    let script =
        format!("echo '{who} Started' >> /story/told\n{body}echo '{who} Exiting' >> /story/told\nexit {code}\n");
    json!({"exec": {"command": ["/bin/sh", "-c", script]}})
}

/// A probe that looks every second, at once, and is believed the first time.
pub fn probe(handler: Value) -> Value {
    let mut probe = handler;
    probe["periodSeconds"] = json!(1);
    probe["failureThreshold"] = json!(1);
    // A machine under load must not make a healthy container look dead.
    probe["timeoutSeconds"] = json!(30);
    probe
}

/// What a probe execs to say yes or no of a container that has started: before that its process would not hear the
/// signal that a no brings, as the kernel keeps from an init what it does not handle.
pub fn looks(condition: &str) -> Value {
    let script = format!("until [ -e /tmp/started ]; do usleep 5000; done; {condition}");
    json!({"exec": {"command": ["/bin/sh", "-c", script]}})
}

/// A probe that succeeds once the container has told `Started`.
pub fn once_started() -> Value {
    let mut probe = probe(json!({"exec": {"command": ["test", "-e", "/tmp/started"]}}));
    probe["failureThreshold"] = json!(100);
    probe
}

/// A pod of such containers.
#[derive(Debug, Clone)]
pub struct Play {
    pub name: String,
    policy: String,
    init: Vec<Part>,
    main: Vec<Part>,
    fields: Map<String, Value>,
    metadata: Map<String, Value>,
}

impl Play {
    /// Grace is 30 s; nobody waits for it unless a container ignores SIGTERM.
    pub fn new(name: &str, restart_policy: &str) -> Play {
        Play {
            name: name.to_owned(),
            policy: restart_policy.to_owned(),
            init: Vec::new(),
            main: Vec::new(),
            fields: Map::new(),
            metadata: Map::new(),
        }
    }

    pub fn init(mut self, part: Part) -> Play {
        self.init.push(part);
        self
    }

    pub fn main(mut self, part: Part) -> Play {
        self.main.push(part);
        self
    }

    pub fn grace(self, seconds: u64) -> Play {
        self.field("terminationGracePeriodSeconds", json!(seconds))
    }

    /// A field of the spec.
    pub fn field(mut self, key: &str, value: Value) -> Play {
        self.fields.insert(key.to_owned(), value);
        self
    }

    pub fn metadata(mut self, key: &str, value: Value) -> Play {
        self.metadata.insert(key.to_owned(), value);
        self
    }

    /// The same pod, as its identity goes, whatever else its manifest will say.
    pub fn lasting(self) -> Play {
        let uid = format!(
            "5107e000-0000-4000-8000-{:012x}",
            self.name.bytes().fold(7u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(b))) & 0xffff_ffff_ffff
        );
        self.metadata("uid", json!(uid))
    }

    /// The same image by another name, for a container of any kind.
    pub fn with_image_renamed(mut self, container: &str) -> Play {
        for part in self.init.iter_mut().chain(&mut self.main).filter(|part| part.name == container) {
            part.fields.insert("image".to_owned(), json!(OTHER_NAME));
        }
        self
    }

    fn manifest(&self, machine: &Machine) -> Value {
        let containers = |parts: &[Part]| parts.iter().map(Part::container).collect::<Vec<_>>();
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name},
            "spec": {
                "restartPolicy": self.policy,
                "containers": containers(&self.main),
                "volumes": [{"name": "story", "hostPath": {"path": machine.story_dir(&self.name), "type": "Directory"}}],
            },
        });
        if !self.init.is_empty() {
            pod["spec"]["initContainers"] = containers(&self.init).into();
        }
        for (key, value) in &self.fields {
            pod["spec"][key] = value.clone();
        }
        for (key, value) in &self.metadata {
            pod["metadata"][key] = value.clone();
        }
        pod
    }
}

/// Another name of the image that all parts use.
pub const OTHER_NAME: &str = "docker.io/library/busybox:latest";

/// What the containers of one pod have told so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story(Vec<String>);

impl Story {
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    pub fn count(&self, line: &str) -> usize {
        self.0.iter().filter(|told| *told == line).count()
    }

    /// Index of the first such line.
    #[track_caller]
    pub fn first(&self, line: &str) -> usize {
        self.0.iter().position(|told| told == line).unwrap_or_else(|| panic!("{line:?} was not told in {:#?}", self.0))
    }

    /// Index of the last such line.
    #[track_caller]
    pub fn last(&self, line: &str) -> usize {
        self.0.iter().rposition(|told| told == line).unwrap_or_else(|| panic!("{line:?} was not told in {:#?}", self.0))
    }

    /// The first of each of these lines were told in this order.
    #[track_caller]
    pub fn in_order(&self, lines: &[&str]) {
        let places: Vec<usize> = lines.iter().map(|line| self.first(line)).collect();
        assert!(places.is_sorted(), "expected the order {lines:#?}; told: {:#?}", self.0);
    }

    /// Each container's one run begins after the one before it has ended.
    #[track_caller]
    pub fn one_after_another(&self, names: &[&str]) {
        for pair in names.windows(2) {
            self.in_order(&[&format!("{} Exiting", pair[0]), &format!("{} Starting", pair[1])]);
        }
    }

    #[track_caller]
    pub fn starts(&self, name: &str, times: usize) {
        assert_eq!(self.count(&format!("{name} Starting")), times, "starts of {name} in {:#?}", self.0);
    }

    /// The first runs of both overlap.
    #[track_caller]
    pub fn together(&self, one: &str, other: &str) {
        let run = |name: &str| {
            let end = format!("{name} Exiting");
            let end = self.0.iter().position(|told| *told == end).unwrap_or(usize::MAX);
            (self.first(&format!("{name} Started")), end)
        };
        let (one_run, other_run) = (run(one), run(other));
        assert!(one_run.0 < other_run.1 && other_run.0 < one_run.1, "{one} and {other} together in {:#?}", self.0);
    }
}

impl Machine {
    fn story_dir(&self, pod: &str) -> PathBuf {
        self.dir.join("story").join(pod)
    }

    /// Drops the manifest, or replaces it.
    pub fn play(&self, play: &Play) {
        std::fs::create_dir_all(self.story_dir(&play.name)).expect("the story's directory");
        self.drop_manifest(&format!("{}.yaml", play.name), &play.manifest(self).to_string());
    }

    pub fn end_play(&self, pod: &str) {
        self.remove_manifest(&format!("{pod}.yaml"));
    }

    pub fn story(&self, pod: &str) -> Story {
        let told = std::fs::read_to_string(self.story_dir(pod).join("told")).unwrap_or_default();
        Story(told.lines().map(str::to_owned).collect())
    }

    /// So that a pod of the same name tells a story of its own.
    pub fn forget_story(&self, pod: &str) {
        std::fs::remove_dir_all(self.story_dir(pod)).expect("the story's directory");
    }

    /// Opens a gate, e.g. `main.end`.
    pub fn open(&self, pod: &str, gate: &str) {
        std::fs::write(self.story_dir(pod).join(gate), "").expect("the gate");
    }

    /// Takes a gate away that nobody passes: a flag.
    pub fn close(&self, pod: &str, gate: &str) {
        std::fs::remove_file(self.story_dir(pod).join(gate)).expect("the gate");
    }

    /// What `kubelet events` says of the pod, once `wanted` holds for it.
    #[track_caller]
    pub fn await_events(&self, pod: &str, wanted: impl Fn(&str) -> bool) -> String {
        await_some(&format!("events of pod {pod}"), || {
            let events = self.cli(&["events", pod]);
            if wanted(&events) { Ok(events) } else { Err(events) }
        })
    }

    /// The story, once a line was told so often.
    #[track_caller]
    pub fn await_told(&self, pod: &str, line: &str, times: usize) -> Story {
        await_some(&format!("{line:?} told {times} times by pod {pod}"), || {
            let story = self.story(pod);
            if story.count(line) >= times {
                return Ok(story);
            }
            let status = self.is_running().then(|| self.pod(pod)).flatten().map(|pod| pod["status"].to_string());
            Err(format!("{:#?}; status: {status:?}; log:\n{}", story.lines(), self.log()))
        })
    }

    /// The pod, once `wanted` holds for it.
    #[track_caller]
    pub fn await_pod(&self, pod: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        await_some(&format!("pod {pod}"), || match self.pod(pod) {
            Some(found) if wanted(&found) => Ok(found),
            found => Err(format!("{found:?}; log:\n{}", self.log())),
        })
    }

    #[track_caller]
    pub fn await_phase(&self, pod: &str, phase: &str) -> Value {
        self.await_pod(pod, |found| {
            let seen = &found["status"]["phase"];
            let ended = ["Succeeded", "Failed"].iter().any(|end| seen == end);
            assert!(!ended || seen == phase, "pod {pod} ended as {seen}, not {phase}: {}", found["status"]);
            seen == phase
        })
    }

    /// The pod, once its `Ready` condition holds.
    #[track_caller]
    pub fn await_ready(&self, pod: &str) -> Value {
        self.await_pod(pod, |found| condition(found, "Ready")["status"] == "True")
    }

    /// What the kubelet would know of the pod after a power cut says what its status says: it is written a moment later.
    #[track_caller]
    pub fn await_remembered(&self, pod: &str) {
        await_some(&format!("the memory of pod {pod}"), || {
            let found = self.pod(pod).ok_or("no such pod")?;
            let uid = found["metadata"]["uid"].as_str().unwrap_or_default();
            let path = self.dir.join("root/pods").join(uid).join("state.json");
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let memory: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let known = |status: &Value| {
                if status["containerID"].as_str().unwrap_or_default().is_empty() {
                    return true;
                }
                let memories = memory["containers"].as_array().into_iter().flatten();
                memories.filter(|memory| memory["name"] == status["name"]).any(|memory| {
                    let id = memory["container_id"].as_str().unwrap_or_default();
                    let same = !id.is_empty() && status["containerID"].as_str().is_some_and(|full| full.ends_with(id));
                    // An init container that runs counts as ready there, and is shown as what it is.
                    let holds = |what: &str| status[what] != true || memory[what] == true;
                    same && memory["attempt"] == status["restartCount"] && holds("started") && holds("ready")
                })
            };
            let lists = ["initContainerStatuses", "containerStatuses"];
            let all = lists.iter().all(|list| found["status"][list].as_array().into_iter().flatten().all(known));
            if all { Ok(()) } else { Err(format!("{text}\nagainst {}", found["status"])) }
        });
    }
}

/// A container's status, of whichever kind it is; null while there is none.
pub fn status(pod: &Value, container: &str) -> Value {
    ["initContainerStatuses", "containerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == container)
        .cloned()
        .unwrap_or_default()
}

/// Whether a container is in this state: `waiting`, `running`, `terminated`.
pub fn is(pod: &Value, container: &str, state: &str) -> bool {
    status(pod, container)["state"][state].is_object()
}

/// A condition of the pod; null where there is none.
pub fn condition(pod: &Value, kind: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// `(exitCode, reason)` of a terminated container.
#[track_caller]
pub fn ended(pod: &Value, container: &str) -> (i64, String) {
    let status = status(pod, container);
    let terminated = &status["state"]["terminated"];
    let code = terminated["exitCode"].as_i64().unwrap_or_else(|| panic!("{container} has not terminated: {status}"));
    (code, terminated["reason"].as_str().unwrap_or_default().to_owned())
}

pub fn restarts(pod: &Value, container: &str) -> u64 {
    status(pod, container)["restartCount"].as_u64().unwrap_or_default()
}

/// The reason for which a container waits; empty where it does not.
pub fn waits_for(pod: &Value, container: &str) -> String {
    status(pod, container)["state"]["waiting"]["reason"].as_str().unwrap_or_default().to_owned()
}
