//! Pods that share namespaces: with the machine, or their containers with each other.

use crate::faults::{init_pid, is_alive, shim_pid};
use crate::world::{World, eventually, shell, with_world};
use cri::v1::NamespaceMode::{self, Container, Node, Pod};
use cri::{Runtime, v1};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

pub(crate) struct Modes {
    pub(crate) network: NamespaceMode,
    pub(crate) pid: NamespaceMode,
    pub(crate) ipc: NamespaceMode,
}

pub(crate) const OWN: Modes = Modes { network: Pod, pid: Container, ipc: Pod };

impl Modes {
    fn options(&self) -> Option<v1::NamespaceOption> {
        let (network, pid, ipc) = (self.network.into(), self.pid.into(), self.ipc.into());
        Some(v1::NamespaceOption { network, pid, ipc, ..Default::default() })
    }

    pub(crate) async fn sandbox(&self, world: &World, name: &str) -> String {
        let mut config = world.sandbox_config(name);
        let linux = config.linux.as_mut().unwrap();
        linux.security_context =
            Some(v1::LinuxSandboxSecurityContext { namespace_options: self.options(), ..Default::default() });
        let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        world.engine().run_pod_sandbox(request).await.unwrap().pod_sandbox_id
    }

    fn container(&self, name: &str, script: &str) -> v1::ContainerConfig {
        let security = v1::LinuxContainerSecurityContext { namespace_options: self.options(), ..Default::default() };
        let linux = v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
        v1::ContainerConfig { linux: Some(linux), ..shell(name, script) }
    }

    async fn run(&self, world: &World, sandbox: &str, (name, script): (&str, &str)) -> String {
        let id = world.create(sandbox, self.container(name, script)).await.unwrap();
        world.start(&id).await.unwrap();
        id
    }
}

/// Processes in the control groups of a pod's container, or of its `shim`.
fn procs(world: &World, pod: &str, group: &str) -> Vec<i32> {
    let layout = cgroup::Layout::detect().unwrap();
    layout.group(&format!("/{}/pod-{pod}/{group}", world.mark)).procs()
}

fn host_namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

async fn namespace(world: &World, container: &str, kind: &str) -> String {
    world.exec(container, &format!("busybox readlink /proc/self/ns/{kind}")).await.0.trim().to_owned()
}

async fn ready(world: &World, sandbox: &str) -> bool {
    world.sandbox_status(sandbox).await.state() == v1::PodSandboxState::SandboxReady
}

#[test]
fn a_pod_on_the_machines_network_has_its_name_and_no_address() {
    with_world(|mut world| async move {
        let modes = Modes { network: Node, ..OWN };
        let sandbox = modes.sandbox(&world, "hostnet").await;
        let id = modes.run(&world, &sandbox, ("app", "exec sleep 1000")).await;
        for _ in 0..2 {
            assert!(ready(&world, &sandbox).await);
            assert_eq!(world.sandbox_status(&sandbox).await.network.unwrap().ip, "");
            for (kind, shared) in [("net", true), ("uts", true), ("ipc", false), ("pid", false)] {
                assert_eq!(namespace(&world, &id, kind).await == host_namespace(kind), shared, "{kind}");
            }
            world.reopen().await;
        }
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (out, _) = world.exec(&id, "hostname; cat /etc/hostname; echo $HOSTNAME").await;
        assert_eq!(out, format!("{name}\n{name}\n{name}\n"));
        let (hosts, _) = world.exec(&id, "cat /etc/hosts").await;
        assert_eq!(hosts, fs::read_to_string("/etc/hosts").unwrap());
        let (links, _) = world.exec(&id, "ls /sys/class/net").await;
        assert!(links.split_whitespace().any(|link| link == "lo"), "{links}");
        assert_ne!(world.exec(&id, "echo 1 > /sys/kernel/uevent_seqnum").await.1, 0);
        assert_ne!(world.exec(&id, "hostname other").await.1, 0, "the machine's name is not the pod's to change");
        assert_eq!(rustix::system::uname().nodename().to_string_lossy(), name);
        let bridge = std::path::Path::new("/sys/class/net").join(&world.config.bridge);
        assert!(!bridge.exists(), "nobody needs a bridge");
        world
    });
}

#[test]
fn a_pod_on_the_machines_ipc_has_its_shared_memory() {
    with_world(|world| async move {
        let modes = Modes { ipc: Node, ..OWN };
        let sandbox = modes.sandbox(&world, "hostipc").await;
        let id = modes.run(&world, &sandbox, ("app", "exec sleep 1000")).await;
        assert_eq!(namespace(&world, &id, "ipc").await, host_namespace("ipc"));
        assert_ne!(namespace(&world, &id, "net").await, host_namespace("net"));
        let file = format!("{}-ipc", world.mark);
        fs::write(format!("/dev/shm/{file}"), "from the machine").unwrap();
        let (out, _) = world.exec(&id, &format!("cat /dev/shm/{file}")).await;
        fs::remove_file(format!("/dev/shm/{file}")).unwrap();
        assert_eq!(out, "from the machine");
        world
    });
}

#[test]
fn everything_of_the_machines_at_once() {
    with_world(|world| async move {
        let modes = Modes { network: Node, pid: Node, ipc: Node };
        let sandbox = modes.sandbox(&world, "all").await;
        let id = modes.run(&world, &sandbox, ("app", "exec sleep 1000")).await;
        for kind in ["net", "uts", "ipc", "pid"] {
            assert_eq!(namespace(&world, &id, kind).await, host_namespace(kind), "{kind}");
        }
        world.stop(&id, 0).await.unwrap();
        assert_eq!(world.status(&id).await.exit_code, 137);
        world
    });
}

const STRAYS: &str = "for i in 1 2 3; do busybox setsid sleep 1000 & done; (sleep 1000 & sleep 1000 &); echo ready";

#[test]
fn f_b03_among_the_machines_processes_nothing_outlives_the_container() {
    with_world(|world| async move {
        let modes = Modes { pid: Node, ..OWN };
        let sandbox = modes.sandbox(&world, "hostpid").await;
        let script = format!("{STRAYS}; while [ ! -e /go ]; do sleep 0.01; done; exit 5");
        let ends = modes.run(&world, &sandbox, ("ends", &script)).await;
        let killed = modes.run(&world, &sandbox, ("killed", &format!("{STRAYS}; exec sleep 1000"))).await;
        for name in ["ends", "killed"] {
            eventually("the strays", || async { world.log("hostpid", name).contains("ready").then_some(()) }).await;
        }
        assert_eq!(namespace(&world, &ends, "pid").await, host_namespace("pid"));
        world.exec(&ends, "echo > /go").await;
        assert_eq!(world.exited(&ends).await.exit_code, 5);
        assert!(procs(&world, "hostpid", &ends).is_empty());
        assert!(procs(&world, "hostpid", &killed).len() >= 5);
        world.stop(&killed, 0).await.unwrap();
        assert!(procs(&world, "hostpid", &killed).is_empty());
        let status = world.status(&killed).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
        world
    });
}

#[test]
fn s_m03_a_fork_bomb_among_the_machines_processes_is_killed() {
    with_world(|world| async move {
        let modes = Modes { pid: Node, ..OWN };
        let sandbox = modes.sandbox(&world, "bomb").await;
        // As fast as it can; each process lives for a moment only, for the sake of the machine.
        let script = "while true; do (sleep 0.2 & (sleep 0.2 &) &); done";
        let id = modes.run(&world, &sandbox, ("app", script)).await;
        eventually("the bomb", || async { (procs(&world, "bomb", &id).len() > 20).then_some(()) }).await;
        world.stop(&id, 0).await.unwrap();
        assert!(procs(&world, "bomb", &id).is_empty());
        assert_eq!(world.status(&id).await.exit_code, 137);
        world
    });
}

fn private_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let fields = text.lines().filter(|line| line.starts_with("Private_"));
    fields.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// The pod's PID 1: the one beside the shim in its group.
fn pod_init(world: &World, pod: &str, sandbox: &str) -> i32 {
    let shim = shim_pid(world, sandbox).as_raw_nonzero().get();
    let pids = procs(world, pod, "shim");
    assert_eq!(pids.len(), 2, "{pids:?}");
    pids.into_iter().find(|pid| *pid != shim).unwrap()
}

#[test]
fn s_m03_a_thousand_orphans_among_shared_processes_are_reaped() {
    with_world(|world| async move {
        let modes = Modes { pid: Pod, ..OWN };
        let sandbox = modes.sandbox(&world, "orphans").await;
        let script = "i=0; while [ $i -lt 1000 ]; do (true &); i=$((i+1)); done; echo made; exec sleep 1000";
        let id = modes.run(&world, &sandbox, ("app", script)).await;
        eventually("the orphans", || async { world.log("orphans", "app").contains("made").then_some(()) }).await;
        let init = pod_init(&world, "orphans", &sandbox);
        let children = || fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        eventually("the last orphan's end", || async { children().is_empty().then_some(()) }).await;
        assert_eq!(procs(&world, "orphans", &id).len(), 1);
        let (out, _) = world.exec(&id, "busybox ps -o pid,stat,comm").await;
        assert!(!out.contains(" Z"), "{out}");
        assert!(
            out.lines().any(|line| line.split_whitespace().next() == Some("1") && line.contains("pod-init")),
            "{out}"
        );
        println!("private memory of a pod's PID 1: {} KiB", private_kib(init));
        assert!(private_kib(init) <= 100, "{} KiB", private_kib(init));
        world
    });
}

#[test]
fn containers_of_a_pod_share_processes_and_each_ends_alone() {
    with_world(|mut world| async move {
        let modes = Modes { pid: Pod, ..OWN };
        let sandbox = modes.sandbox(&world, "together").await;
        let one = modes.run(&world, &sandbox, ("one", "exec sleep 1234")).await;
        let two = modes.run(&world, &sandbox, ("two", &format!("{STRAYS}; exec sleep 4321"))).await;
        eventually("the strays", || async { world.log("together", "two").contains("ready").then_some(()) }).await;
        assert_eq!(namespace(&world, &one, "pid").await, namespace(&world, &two, "pid").await);
        assert_ne!(namespace(&world, &one, "pid").await, host_namespace("pid"));
        assert_ne!(namespace(&world, &one, "mnt").await, namespace(&world, &two, "mnt").await);
        let (out, _) = world.exec(&one, "busybox ps -o args").await;
        assert!(out.contains("sleep 1234") && out.contains("sleep 4321"), "{out}");
        // Nobody in the pod can end its PID 1.
        for signal in ["KILL", "TERM", "STOP", "CHLD"] {
            world.exec(&one, &format!("kill -{signal} 1")).await;
        }
        let init = pod_init(&world, "together", &sandbox);
        world.reopen().await;
        assert!(is_alive(init) && ready(&world, &sandbox).await);
        // A signal from a neighbour ends it, as it would without a namespace.
        let (out, _) = world.exec(&one, "busybox ps -o pid,args").await;
        let neighbour =
            out.lines().find(|line| line.contains("sleep 4321")).unwrap().split_whitespace().next().unwrap();
        assert_eq!(world.exec(&one, &format!("kill {neighbour}")).await.1, 0);
        let status = world.exited(&two).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (143, "Error"));
        assert!(procs(&world, "together", &two).is_empty());
        assert!(is_alive(init_pid(&world, &sandbox, &one)));
        world.stop(&one, 0).await.unwrap();
        assert!(ready(&world, &sandbox).await, "PID 1 needs no containers");
        let three = modes.run(&world, &sandbox, ("three", "exit 3")).await;
        assert_eq!(world.exited(&three).await.exit_code, 3);
        world
    });
}

#[test]
fn the_end_of_the_pods_pid_1_is_the_end_of_the_sandbox() {
    with_world(|mut world| async move {
        let modes = Modes { pid: Pod, ..OWN };
        for name in ["watched", "unwatched"] {
            let sandbox = modes.sandbox(&world, name).await;
            let one = modes.run(&world, &sandbox, ("one", "exec sleep 1000")).await;
            let two = modes.run(&world, &sandbox, ("two", "exit 4")).await;
            world.exited(&two).await;
            let init = pod_init(&world, name, &sandbox);
            let shim = shim_pid(&world, &sandbox).as_raw_nonzero().get();
            if name == "unwatched" {
                world.engine = None;
            }
            kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
            if name == "unwatched" {
                eventually("the shim's end", || async { (!is_alive(shim)).then_some(()) }).await;
                world.reopen().await;
            }
            let status = world.exited(&one).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
            assert_eq!(world.status(&two).await.exit_code, 4);
            let lost = || async { (!ready(&world, &sandbox).await).then_some(()) };
            eventually("the sandbox's end", lost).await;
            assert!(procs(&world, name, "").is_empty());
        }
        world
    });
}

#[test]
fn f_g05_a_killed_shim_takes_shared_processes_along() {
    with_world(|world| async move {
        for (name, pid) in [("pods", Pod), ("machines", Node)] {
            let modes = Modes { pid, ..OWN };
            let sandbox = modes.sandbox(&world, name).await;
            let id = modes.run(&world, &sandbox, ("app", &format!("{STRAYS}; exec sleep 1000"))).await;
            eventually("the strays", || async { world.log(name, "app").contains("ready").then_some(()) }).await;
            kill_process(shim_pid(&world, &sandbox), Signal::KILL).unwrap();
            let status = world.exited(&id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (137, "ContainerStatusUnknown"));
            eventually("the sandbox's end", || async { (!ready(&world, &sandbox).await).then_some(()) }).await;
            assert!(procs(&world, name, "").is_empty());
        }
        world
    });
}
