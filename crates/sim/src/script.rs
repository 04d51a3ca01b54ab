//! Scripts: a pod, what its containers do, and what happens to it, written once and played twice: in a world of the model
//! runtime without time, and on a real machine with the real kubelet. Both must tell the same.

pub mod all;
mod trace;

pub use trace::{Log, Trace, count, sight};

use serde_json::{Map, Value, json};

/// A pod, and what happens to it.
#[derive(Debug, Clone)]
pub struct Script {
    /// The policy of the pod, as the manifest has it.
    pub policy: &'static str,
    pub grace_s: u64,
    /// Fields of the pod's spec besides.
    pub fields: Map<String, Value>,
    pub roles: Vec<Role>,
    pub steps: Vec<Step>,
    /// Pairs of lines of the log: the first comes before the second. `#2` after a line means its second time.
    pub orders: Vec<(&'static str, &'static str)>,
}

/// One container, and what its process does: it says that it has started, and runs until it is told to exit.
#[derive(Debug, Clone)]
pub struct Role {
    pub name: &'static str,
    pub kind: Kind,
    /// It exits at once with this code, untold.
    pub brief: Option<i32>,
    pub term: Term,
    pub hooks: Vec<(Moment, Hook)>,
    /// Its probes, and whether they succeed at first.
    pub probes: Vec<(Probe, bool)>,
    /// Fields of the container besides.
    pub fields: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Init,
    Sidecar,
    Regular,
}

/// What a process does with SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// Exits with [`TERM_CODE`].
    Exits,
    Ignores,
}

/// The exit code of a process that heeds SIGTERM.
pub const TERM_CODE: i32 = 143;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    PostStart,
    PreStop,
}

impl Moment {
    /// The field of the manifest.
    pub fn field(self) -> &'static str {
        match self {
            Moment::PostStart => "postStart",
            Moment::PreStop => "preStop",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Succeeds,
    Fails,
    /// Until the script lets it end, once and for all runs to come.
    Waits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Startup,
    Liveness,
    Readiness,
}

impl Probe {
    /// The field of the manifest.
    pub fn field(self) -> &'static str {
        match self {
            Probe::Startup => "startupProbe",
            Probe::Liveness => "livenessProbe",
            Probe::Readiness => "readinessProbe",
        }
    }
}

/// What happens next. The manifest is there from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Until a line stands in the log so often.
    Await(&'static str, usize),
    /// Lets everything settle that does not take long, and looks at the pod's status.
    See,
    /// A container's process exits with this code.
    Exit(&'static str, i32),
    /// From now on a probe of a container succeeds, or fails.
    Succeed(&'static str, Probe),
    Fail(&'static str, Probe),
    /// A hook that waits ends well.
    EndHook(&'static str, Moment),
    RemoveManifest,
    /// As `kill -9` does.
    KillKubelet,
    StartKubelet,
    /// All processes of the pod's sandbox die, and who looked after them with them.
    LoseSandbox,
    /// Until nothing of the pod is left.
    Gone,
}

impl Role {
    pub fn new(kind: Kind, name: &'static str) -> Role {
        Role { name, kind, brief: None, term: Term::Exits, hooks: Vec::new(), probes: Vec::new(), fields: Map::new() }
    }

    pub fn brief(mut self, code: i32) -> Role {
        self.brief = Some(code);
        self
    }

    pub fn ignores_term(mut self) -> Role {
        self.term = Term::Ignores;
        self
    }

    pub fn hook(mut self, moment: Moment, hook: Hook) -> Role {
        self.hooks.push((moment, hook));
        self
    }

    /// A probe that succeeds from the beginning.
    pub fn well(mut self, probe: Probe) -> Role {
        self.probes.push((probe, true));
        self
    }

    /// A probe that fails until it is turned.
    pub fn unwell(mut self, probe: Probe) -> Role {
        self.probes.push((probe, false));
        self
    }

    pub fn field(mut self, key: &str, value: Value) -> Role {
        self.fields.insert(key.to_owned(), value);
        self
    }

    /// What the role asks of whoever plays it; `acts` says what a handler executes.
    fn container(&self, acts: &dyn Fn(Act<'_>) -> Value) -> Value {
        let mut container = json!({ "name": self.name, "image": "busybox", "imagePullPolicy": "IfNotPresent" });
        container["command"] = acts(Act::Run(self));
        if self.kind == Kind::Sidecar {
            container["restartPolicy"] = json!("Always");
        }
        for (moment, hook) in &self.hooks {
            container["lifecycle"][moment.field()] =
                json!({ "exec": { "command": acts(Act::Hook(self, *moment, *hook)) } });
        }
        for (probe, _) in &self.probes {
            // A start may take its time; a machine under load must not make a healthy container look dead.
            let failures = if *probe == Probe::Startup { 100 } else { 1 };
            container[probe.field()] = json!({
                "exec": { "command": acts(Act::Probe(self, *probe)) },
                "periodSeconds": 1,
                "failureThreshold": failures,
                "timeoutSeconds": 30,
            });
        }
        container.as_object_mut().into_iter().for_each(|fields| fields.extend(self.fields.clone()));
        container
    }
}

/// What a container executes.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    Run(&'a Role),
    Hook(&'a Role, Moment, Hook),
    Probe(&'a Role, Probe),
}

impl Script {
    /// Its grace is 30 s: nobody waits for it who heeds SIGTERM.
    pub fn new(policy: &'static str) -> Script {
        Script { policy, grace_s: 30, fields: Map::new(), roles: Vec::new(), steps: Vec::new(), orders: Vec::new() }
    }

    pub fn grace_s(mut self, grace_s: u64) -> Script {
        self.grace_s = grace_s;
        self
    }

    pub fn field(mut self, key: &str, value: Value) -> Script {
        self.fields.insert(key.to_owned(), value);
        self
    }

    pub fn role(mut self, role: Role) -> Script {
        self.roles.push(role);
        self
    }

    pub fn step(mut self, step: Step) -> Script {
        self.steps.push(step);
        self
    }

    /// The first comes before the second.
    pub fn order(mut self, first: &'static str, second: &'static str) -> Script {
        self.orders.push((first, second));
        self
    }

    /// The pod's manifest; `acts` gives the command of each thing a container executes.
    pub fn manifest(&self, name: &str, acts: &dyn Fn(Act<'_>) -> Value) -> Value {
        let of = |regular: bool| -> Vec<Value> {
            let roles = self.roles.iter().filter(|role| (role.kind == Kind::Regular) == regular);
            roles.map(|role| role.container(acts)).collect()
        };
        let mut spec = json!({
            "restartPolicy": self.policy,
            "terminationGracePeriodSeconds": self.grace_s,
            "containers": of(true),
        });
        let early = of(false);
        if !early.is_empty() {
            spec["initContainers"] = early.into();
        }
        spec.as_object_mut().into_iter().for_each(|fields| fields.extend(self.fields.clone()));
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
    }
}
