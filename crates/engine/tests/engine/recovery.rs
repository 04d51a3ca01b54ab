//! The engine is dropped and opened again.

use crate::faults::{init_pid, is_alive, shim_pid};
use crate::world::{eventually, shell, with_world};
use cri::{Runtime, v1};
use rustix::process::{Signal, kill_process};
use std::fs;

#[test]
fn f_g02_containers_run_on_and_are_found_again() {
    with_world(|mut world| async move {
        let sandbox = world.sandbox("kept").await;
        let app = world.run(&sandbox, "app", "while true; do echo tick; sleep 0.01; done").await;
        let ended = world.run(&sandbox, "ended", "exit 5").await;
        world.exited(&ended).await;
        let meanwhile =
            world.run(&sandbox, "meanwhile", "while [ ! -e /dev/shm/go ]; do sleep 0.01; done; exit 6").await;
        let created = world.create(&sandbox, shell("created", "exit 8")).await.unwrap();
        let (init, before) = (init_pid(&world, &sandbox, &app), world.sandbox_status(&sandbox).await);
        let (app_before, ended_before) = (world.status(&app).await, world.status(&ended).await);

        world.engine = None;
        fs::write(world.sandbox_dir(&sandbox).join("shm/go"), "").unwrap();
        let exit = world.sandbox_dir(&sandbox).join("containers").join(&meanwhile).join("exit");
        eventually("the exit while nobody looks", || async { exit.exists().then_some(()) }).await;
        world.reopen().await;

        assert_eq!(world.sandbox_status(&sandbox).await, before);
        assert_eq!(world.status(&app).await, app_before);
        assert_eq!(world.status(&ended).await, ended_before);
        assert_eq!(world.status(&meanwhile).await.exit_code, 6);
        assert_eq!(init_pid(&world, &sandbox, &app), init);
        let (_, code) = world.exec(&app, "true").await;
        assert_eq!(code, 0);
        world.start(&created).await.unwrap();
        assert_eq!(world.exited(&created).await.exit_code, 8);
        let length = world.log("kept", "app").len();
        eventually("more of the log", || async { (world.log("kept", "app").len() > length).then_some(()) }).await;
        // The address of a live sandbox is not given to another.
        let other = world.sandbox("other").await;
        assert_ne!(world.sandbox_status(&other).await.network, before.network);
        world.stop(&app, 0).await.unwrap();
        world
    });
}

#[test]
fn a_shim_that_died_meanwhile_is_noticed() {
    with_world(|mut world| async move {
        let sandbox = world.sandbox("died").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let pid = shim_pid(&world, &sandbox);
        world.engine = None;
        kill_process(pid, Signal::KILL).unwrap();
        world.reopen().await;
        let status = world.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "ContainerStatusUnknown"));
        assert_eq!(world.sandbox_status(&sandbox).await.state(), v1::PodSandboxState::SandboxNotready);
        world.reopen().await;
        assert_eq!(world.status(&id).await, status);
        world
    });
}

#[test]
fn s_m02_a_damaged_sandbox_is_put_aside_and_the_others_live() {
    with_world(|mut world| async move {
        let (bad, good) = (world.sandbox("bad").await, world.sandbox("good").await);
        let lost = world.run(&bad, "app", "exec sleep 1000").await;
        let kept = world.run(&good, "app", "exec sleep 1000").await;
        let init = init_pid(&world, &bad, &lost);
        world.engine = None;
        let path = world.sandbox_dir(&bad).join("sandbox.pb");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        world.reopen().await;
        let ids: Vec<String> = world.sandboxes().await.into_iter().map(|sandbox| sandbox.id).collect();
        assert_eq!(ids, [good]);
        assert!(!is_alive(init), "no process of it runs on unknown");
        assert_eq!(fs::read_dir(world.config.run_dir.join("damaged")).unwrap().count(), 1);
        assert_eq!(world.status(&kept).await.state(), v1::ContainerState::ContainerRunning);
        world
    });
}

#[test]
fn s_m02_a_damaged_container_is_put_aside_and_its_pod_lives() {
    with_world(|mut world| async move {
        let sandbox = world.sandbox("half").await;
        let lost = world.run(&sandbox, "lost", "exec sleep 1000").await;
        let kept = world.run(&sandbox, "kept", "exec sleep 1000").await;
        world.engine = None;
        fs::write(world.sandbox_dir(&sandbox).join("containers").join(&lost).join("container.pb"), "").unwrap();
        world.reopen().await;
        let list = world.engine().list_containers(v1::ListContainersRequest::default()).await.unwrap().containers;
        assert_eq!(list.iter().map(|container| &container.id).collect::<Vec<_>>(), [&kept]);
        assert_eq!(world.sandbox_status(&sandbox).await.state(), v1::PodSandboxState::SandboxReady);
        let again = world.run(&sandbox, "lost", "exit 2").await;
        assert_eq!(world.exited(&again).await.exit_code, 2);
        world
    });
}

#[test]
fn what_was_never_finished_is_removed() {
    with_world(|mut world| async move {
        let sandbox = world.sandbox("kept").await;
        world.engine = None;
        let half = "00000000000000000000000000000001";
        fs::create_dir_all(world.sandbox_dir(half).join("ns")).unwrap();
        fs::create_dir_all(world.sandbox_dir(&sandbox).join("containers").join(half).join("root")).unwrap();
        let stray = world.root_dir().join("containers/00000000000000000000000000000002/u/deep");
        fs::create_dir_all(&stray).unwrap();
        world.reopen().await;
        assert_eq!(world.sandboxes().await.len(), 1);
        assert!(!world.sandbox_dir(half).exists());
        assert!(!world.sandbox_dir(&sandbox).join("containers").join(half).exists());
        eventually("the stray layer's removal", || async { (!stray.exists()).then_some(()) }).await;
        world
    });
}

#[test]
fn a_stopped_sandbox_stays_stopped() {
    with_world(|mut world| async move {
        let sandbox = world.sandbox("stopped").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        world.engine().stop_pod_sandbox(request).await.unwrap();
        let before = world.status(&id).await;
        assert_eq!(before.exit_code, 137);
        world.reopen().await;
        assert_eq!(world.status(&id).await, before);
        let status = world.sandbox_status(&sandbox).await;
        assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
        assert_eq!(status.network.unwrap().ip, "");
        world
    });
}
