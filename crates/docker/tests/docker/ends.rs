//! How containers end, and how they are made to.

use std::time::{Duration, Instant};

use cri::v1;

use crate::world::{PATIENCE, World};

#[tokio::test]
async fn f_b05_codes_and_signals_are_told_as_they_were() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    for (index, (script, code, reason)) in [
        ("exit 0", 0, "Completed"),
        ("exit 1", 1, "Error"),
        ("exit 255", 255, "Error"),
        // The first process of a namespace cannot be ended by a signal from within.
        ("sh -c 'kill -TERM $$'; exit $?", 143, "Error"),
        ("sh -c 'kill -KILL $$'; exit $?", 137, "Error"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = world.started(&sandbox, &format!("c{index}"), script).await;
        let status = world.ended(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
        assert!(status.finished_at >= status.started_at && status.started_at > 0);
    }
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_container_that_takes_too_much_memory_was_killed_for_that() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let mut config = world.container("app", "x=$(yes | head -c 200000000); echo $?");
    let resources = v1::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
    config.linux.as_mut().unwrap().resources = Some(resources);
    let id = world.create(&sandbox, config).await.unwrap();
    world.start(&id).await.unwrap();
    let status = world.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_not_there_ends_its_container() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let config = v1::ContainerConfig { command: vec!["/no/such".into()], ..world.container("app", "") };
    let id = world.create(&sandbox, config).await.unwrap();
    let error = world.start(&id).await.unwrap_err();
    assert!(error.message.contains("/no/such"), "{error}");
    let status = world.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("no such file or directory"), "{}", status.message);
    assert!(status.finished_at > 0);
    // The list says the same.
    let (_, containers) = world.listed().await;
    assert_eq!(containers[0].state(), v1::ContainerState::ContainerExited);
    world.start(&id).await.unwrap_err();
    world.stop(&id, 10).await.unwrap();
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn stopping_asks_then_kills() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let polite = world.started(&sandbox, "polite", "trap 'exit 7' TERM; while :; do sleep 0.05; done").await;
    let deaf = world.started(&sandbox, "deaf", "trap '' TERM; while :; do sleep 0.05; done").await;
    let created = world.create(&sandbox, world.container("created", "true")).await.unwrap();
    ready(&world, &polite).await;
    world.stop(&polite, 60).await.unwrap();
    assert_eq!(world.status(&polite).await.unwrap().exit_code, 7);
    world.stop(&polite, 60).await.unwrap();
    world.stop(&deaf, 1).await.unwrap();
    assert_eq!(world.status(&deaf).await.unwrap().exit_code, 137);
    world.stop(&created, 60).await.unwrap();
    assert_eq!(world.status(&created).await.unwrap().state(), v1::ContainerState::ContainerCreated);
    let now = world.started(&sandbox, "now", "trap 'exit 7' TERM; while :; do sleep 0.05; done").await;
    world.stop(&now, 0).await.unwrap();
    assert_eq!(world.status(&now).await.unwrap().exit_code, 137, "no time means no question");
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_second_stop_shortens_the_first_and_asks_nothing_again() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let script = "trap 'echo asked' TERM; while :; do sleep 0.05; done";
    let id = world.started(&sandbox, "app", script).await;
    ready(&world, &id).await;
    let long = world.stop(&id, 3000);
    tokio::pin!(long);
    let began = Instant::now();
    tokio::select! {
        _ = &mut long => panic!("it does not end by itself"),
        () = asked(&world) => {}
    }
    // Longer changes nothing, shorter does.
    let longer = world.stop(&id, 6000);
    tokio::pin!(longer);
    let (first, second, third) = tokio::join!(long, longer, async {
        tokio::task::yield_now().await;
        world.stop(&id, 1).await
    });
    for answer in [first, second, third] {
        answer.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(1000));
    assert_eq!(world.status(&id).await.unwrap().exit_code, 137);
    let log = std::fs::read_to_string(world.log("app")).unwrap();
    assert_eq!(log.matches("asked").count(), 1, "{log}");
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_stop_that_nobody_waits_for_is_done() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = world.started(&sandbox, "app", "trap 'echo asked' TERM; while :; do sleep 0.05; done").await;
    ready(&world, &id).await;
    tokio::select! {
        _ = world.stop(&id, 15) => panic!("it does not end by itself"),
        () = asked(&world) => {}
    }
    assert_eq!(world.ended(&id).await.exit_code, 137);
    world.remove_sandbox(&sandbox).await.unwrap();
}

/// Waits until the container's script has set its traps: it has by the time that its first sleep shows.
async fn ready(world: &World, id: &str) {
    let deadline = Instant::now() + PATIENCE;
    while world.exec(id, "pidof sleep", 0).await.unwrap().exit_code != 0 {
        assert!(Instant::now() < deadline, "it does not sleep");
    }
}

async fn asked(world: &World) {
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(world.log("app")).is_ok_and(|log| log.contains("asked")) {
        assert!(Instant::now() < deadline, "it is not asked to end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
