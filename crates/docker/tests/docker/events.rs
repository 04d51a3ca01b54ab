//! What happens is told, with what is true after it.

use cri::{Runtime, v1};
use tokio::sync::mpsc;
use v1::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};

use crate::daemon::Daemon;
use crate::world::{PATIENCE, World};

/// The next event of this container and kind.
async fn next(
    events: &mut mpsc::Receiver<v1::ContainerEventResponse>,
    (id, kind): (&str, v1::ContainerEventType),
) -> v1::ContainerEventResponse {
    let waiting = async {
        loop {
            let event = events.recv().await.expect("the stream goes on");
            if event.container_id == id && event.container_event_type() == kind {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no event {kind:?} of {id}"))
}

fn container(event: &v1::ContainerEventResponse, id: &str) -> v1::ContainerStatus {
    event.containers_statuses.iter().find(|status| status.id == id).unwrap().clone()
}

#[tokio::test]
async fn every_step_is_told_with_the_state_of_the_pod() {
    let Some(world) = World::new() else { return };
    let mut events = world.docker.events().await.unwrap();
    let sandbox = world.run().await.unwrap();
    let event = next(&mut events, (&sandbox, ContainerStartedEvent)).await;
    assert_eq!(event.pod_sandbox_status.unwrap().metadata, world.pod.metadata);
    let id = world.create(&sandbox, world.container("app", "exit 4")).await.unwrap();
    next(&mut events, (&id, ContainerCreatedEvent)).await;
    world.start(&id).await.unwrap();
    next(&mut events, (&id, ContainerStartedEvent)).await;
    let event = next(&mut events, (&id, ContainerStoppedEvent)).await;
    let status = container(&event, &id);
    assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 4));
    assert!(event.created_at > 0);
    world.remove(&id).await.unwrap();
    let event = next(&mut events, (&id, ContainerDeletedEvent)).await;
    assert!(event.containers_statuses.is_empty());
    world.remove_sandbox(&sandbox).await.unwrap();
    let event = next(&mut events, (&sandbox, ContainerDeletedEvent)).await;
    let status = event.pod_sandbox_status.unwrap();
    assert_eq!((&status.labels, status.state()), (&world.pod.labels, v1::PodSandboxState::SandboxNotready));
    assert_eq!(status.metadata, world.pod.metadata);
}

#[tokio::test]
async fn a_stream_goes_on_when_the_daemon_is_back_and_tells_what_was_missed() {
    let Some(daemon) = Daemon::own() else { return };
    let world = World::on(daemon);
    let sandbox = world.run().await.unwrap();
    let stays = world.started(&sandbox, "stays", "sleep 1000").await;
    let goes = world.started(&sandbox, "goes", "while ! test -e /tmp/go; do sleep 0.05; done; exit 9").await;
    let mut events = world.docker.events().await.unwrap();
    let pid = world.daemon.inspect(&goes)["State"]["Pid"].as_i64().unwrap();
    world.daemon.end(rustix::process::Signal::KILL);
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    world.daemon.start();
    let event = next(&mut events, (&sandbox, ContainerStartedEvent)).await;
    assert_eq!(container(&event, &stays).state(), v1::ContainerState::ContainerRunning);
    let status = container(&event, &goes);
    assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 9));
    world.stop(&stays, 0).await.unwrap();
    next(&mut events, (&stays, ContainerStoppedEvent)).await;
    world.remove_sandbox(&sandbox).await.unwrap();
}
