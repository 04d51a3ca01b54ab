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
