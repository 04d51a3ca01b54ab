//! What is done to sandboxes from outside.

use crate::world::{World, eventually, shell, with_world};
use cri::{Code, Runtime, v1};
use rustix::process::{Pid, Signal, kill_process};
use shim::protocol::{ShimRecord, StartedRecord};
use std::fs;

pub(crate) fn shim_pid(world: &World, sandbox: &str) -> Pid {
    let bytes = fs::read(world.sandbox_dir(sandbox).join("shim.pid")).unwrap();
    Pid::from_raw(postcard::from_bytes::<ShimRecord>(&bytes).unwrap().pid).unwrap()
}

pub(crate) fn init_pid(world: &World, sandbox: &str, container: &str) -> i32 {
    let path = world.sandbox_dir(sandbox).join("containers").join(container).join("started");
    postcard::from_bytes::<StartedRecord>(&fs::read(path).unwrap()).unwrap().pid
}

/// Whether a process still runs; one that only waits for its parent does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn f_g05_a_killed_shim_ends_its_containers_as_unknown() {
    with_world(|world| async move {
        let sandbox = world.sandbox("lost").await;
        let running = world.run(&sandbox, "running", "exec sleep 1000").await;
        let ended = world.run(&sandbox, "ended", "exit 3").await;
        world.exited(&ended).await;
        let created = world.create(&sandbox, shell("created", "true")).await.unwrap();
        let other = world.sandbox("other").await;
        let untouched = world.run(&other, "app", "exec sleep 1000").await;
        let init = init_pid(&world, &sandbox, &running);
        kill_process(shim_pid(&world, &sandbox), Signal::KILL).unwrap();

        let status = world.exited(&running).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "ContainerStatusUnknown"));
        assert!(!is_alive(init), "its process is gone before it is told");
        assert_eq!(world.status(&ended).await.exit_code, 3);
        eventually("the sandbox's end", || async {
            let state = world.sandbox_status(&sandbox).await.state();
            (state == v1::PodSandboxState::SandboxNotready).then_some(())
        })
        .await;
        assert_eq!(world.start(&created).await.unwrap_err().code, Code::FailedPrecondition);
        assert_eq!(world.create(&sandbox, shell("new", "true")).await.unwrap_err().code, Code::FailedPrecondition);
        assert_eq!(world.status(&untouched).await.state(), v1::ContainerState::ContainerRunning);
        world
    });
}

#[test]
fn stopping_while_the_shim_is_killed_does_not_hang() {
    with_world(|world| async move {
        let sandbox = world.sandbox("race").await;
        let id = world.run(&sandbox, "deaf", "trap '' TERM; echo ready; while true; do sleep 1; done").await;
        eventually("the container", || async { world.log("race", "deaf").contains("ready").then_some(()) }).await;
        let engine = world.engine();
        let request = v1::StopContainerRequest { container_id: id.clone(), timeout: 100_000 };
        let stopping = tokio::spawn(async move { engine.stop_container(request).await });
        kill_process(shim_pid(&world, &sandbox), Signal::KILL).unwrap();
        stopping.await.unwrap().unwrap();
        assert_eq!(world.status(&id).await.reason, "ContainerStatusUnknown");
        world
    });
}

#[test]
fn f_d01_a_namespace_unmounted_by_hand_is_survived() {
    with_world(|world| async move {
        let sandbox = world.sandbox("umount").await;
        let pin = world.sandbox_dir(&sandbox).join("ns/net");
        rustix::mount::unmount(&pin, rustix::mount::UnmountFlags::DETACH).unwrap();
        let id = world.create(&sandbox, shell("app", "true")).await.unwrap();
        world.start(&id).await.unwrap_err();
        world.remove_sandbox(&sandbox).await;
        world
    });
}

#[test]
fn a_process_killed_by_hand_is_an_exit_like_any_other() {
    with_world(|world| async move {
        let sandbox = world.sandbox("byhand").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        kill_process(Pid::from_raw(init_pid(&world, &sandbox, &id)).unwrap(), Signal::KILL).unwrap();
        let status = world.exited(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
        world
    });
}

#[test]
fn f_d01_a_sandbox_that_cannot_be_made_leaves_nothing() {
    with_world(|world| async move {
        let bridge = world.config.bridge.clone();
        let link = |args: &[&str]| {
            let done = std::process::Command::new("ip").arg("link").args(args).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        // A link of this name that is no bridge takes no ports, and is not ours to change.
        link(&["add", &bridge, "type", "veth", "peer", "name", &format!("{bridge}p")]);
        for _ in 0..5 {
            let config = Some(world.sandbox_config("nowhere"));
            let request = v1::RunPodSandboxRequest { config, ..Default::default() };
            let error = world.engine().run_pod_sandbox(request).await.unwrap_err();
            assert!(error.message.contains(&format!("add bridge {bridge}: a link of this name exists")), "{error}");
            assert!(world.sandboxes().await.is_empty());
            assert_eq!(fs::read_dir(world.config.run_dir.join("sandboxes")).unwrap().count(), 0);
        }
        assert_eq!(crate::world::mounts(&world.mark), Vec::<String>::new());
        assert_eq!(crate::network::run("ip", &["-o", "-4", "address", "show", "dev", &bridge]), "");
        link(&["delete", &bridge]);
        world.sandbox("nowhere").await;
        world
    });
}

#[test]
fn f_d01_when_all_addresses_are_taken_it_is_said_and_one_given_back_is_used() {
    with_world(|mut world| async move {
        let network = world.config.pod_cidr.network();
        world.config.pod_cidr = format!("{network}/29").parse().unwrap();
        world.reopen().await;
        let mut sandboxes = Vec::new();
        for number in 0..5 {
            sandboxes.push(world.sandbox(&format!("pod{number}")).await);
        }
        let config = Some(world.sandbox_config("late"));
        let request = v1::RunPodSandboxRequest { config, ..Default::default() };
        let error = world.engine().run_pod_sandbox(request).await.unwrap_err();
        assert!(error.code == Code::ResourceExhausted && error.message.contains("/29"), "{error}");
        let freed = world.sandbox_status(&sandboxes[2]).await.network;
        world.remove_sandbox(&sandboxes[2]).await;
        let late = world.sandbox("late").await;
        assert_eq!(world.sandbox_status(&late).await.network, freed);
        world
    });
}

#[test]
fn f_b04_a_request_that_its_caller_gave_up_is_finished_once() {
    with_world(|world| async move {
        let engine = world.engine();
        let request = || v1::RunPodSandboxRequest { config: Some(world.sandbox_config("gone")), ..Default::default() };
        // Polled once, which begins the work, and dropped.
        tokio::select! {
            biased;
            _ = engine.run_pod_sandbox(request()) => panic!("nothing is made that quickly"),
            () = std::future::ready(()) => {}
        }
        let sandbox = engine.run_pod_sandbox(request()).await.unwrap().pod_sandbox_id;
        assert_eq!(world.sandboxes().await.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&sandbox]);
        tokio::select! {
            biased;
            _ = world.create(&sandbox, shell("app", "exit 3")) => panic!("nothing is made that quickly"),
            () = std::future::ready(()) => {}
        }
        let container = world.create(&sandbox, shell("app", "exit 3")).await.unwrap();
        tokio::select! {
            biased;
            _ = world.start(&container) => panic!("nothing is started that quickly"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(world.exited(&container).await.exit_code, 3);
        world
    });
}

#[test]
fn s_c05_a_shim_has_nothing_of_our_environment() {
    with_world(|world| async move {
        let sandbox = world.sandbox("env").await;
        let pid = shim_pid(&world, &sandbox).as_raw_nonzero();
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let names: Vec<_> = environment.split('\0').filter_map(|entry| entry.split('=').next()).collect();
        assert_eq!(names, ["SHIM_CGROUP", ""]);
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name, "kubelet-shim\n");
        world
    });
}
