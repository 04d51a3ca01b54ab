use std::time::Duration;

use cri::calls::{SLOW_AFTER, Watched, for_pod};
use cri::testing::{Fault, FaultyProxy, Rule};
use cri::{Code, Runtime, v1};

use crate::world::{PATIENCE, client, with_each};

fn rule(call: &str, containing: &str, fault: Fault) -> Rule {
    Rule { call: call.into(), containing: containing.into(), fault, times: 1 }
}

#[test]
fn a_daemon_that_was_killed_is_unavailable_and_its_containers_run_on() {
    with_each(|world| async move {
        let (sandbox, id) = world.container("survivor", "sleep 1000").await;
        let started_at = world.status(&id).await.started_at;
        world.kill();
        let request = || v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
        let error = world.client.container_status(request()).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{error}");
        world.restart().await;
        let status = world.status(&id).await;
        assert_eq!((status.state(), status.started_at), (v1::ContainerState::ContainerRunning, started_at));
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn an_answer_that_is_lost_or_late_leaves_what_was_done() {
    with_each(|world| async move {
        let socket = world.dir.join("proxy.sock");
        let proxy = FaultyProxy::start(&socket, &world.socket()).unwrap();
        let through = client(&socket, PATIENCE);
        let run =
            |name: &str| v1::RunPodSandboxRequest { config: Some(world.sandbox_config(name)), ..Default::default() };

        proxy.inject(rule("RunPodSandbox", "", Fault::Error));
        let error = through.run_pod_sandbox(run("failed")).await.unwrap_err();
        assert_eq!((error.code, error.code.leaves_outcome_unknown()), (Code::Internal, false), "{error}");

        proxy.inject(rule("RunPodSandbox", "lost", Fault::ReplyLost));
        let error = through.run_pod_sandbox(run("lost")).await.unwrap_err();
        assert!(error.code.leaves_outcome_unknown(), "{error}");
        let error = through.run_pod_sandbox(run("lost")).await.unwrap_err();
        assert_eq!(error.code, Code::AlreadyExists, "{error}");

        proxy.inject(rule("RunPodSandbox", "late", Fault::Late(Duration::from_secs(60))));
        // Room for a slow machine: the runtime is told the limit, which is 20 s for a sandbox, and takes back what it has
        // not done by then.
        let error = client(&socket, Duration::from_secs(10)).run_pod_sandbox(run("late")).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded, "{error}");

        // The one that is late may still be under way when the client has given it up.
        let mut names = Vec::new();
        let mut listed = Vec::new();
        for _ in 0..300 {
            let all = v1::ListPodSandboxRequest::default();
            listed = world.client.list_pod_sandbox(all).await.unwrap().items;
            names = listed.iter().map(|item| item.labels["pod"].clone()).collect();
            if names.len() >= 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        names.sort();
        assert_eq!(names, ["late", "lost"]);
        assert_eq!(proxy.asked()["RunPodSandbox"], 4);
        for sandbox in listed {
            world.remove(&sandbox.id).await;
        }
        world
    });
}

#[test]
fn a_call_that_hangs_is_told_and_holds_nobody_else_up() {
    with_each(|world| async move {
        let socket = world.dir.join("proxy.sock");
        let proxy = FaultyProxy::start(&socket, &world.socket()).unwrap();
        let runtime = Watched::new(std::sync::Arc::new(client(&socket, SLOW_AFTER + Duration::from_secs(15))));
        let calls = runtime.calls();
        proxy.inject(rule("StopPodSandbox", "f00d", Fault::Hang));
        let hanging = tokio::spawn({
            let stop = v1::StopPodSandboxRequest { pod_sandbox_id: "f00d".into() };
            for_pod("default/web".into(), async move { (runtime.stop_pod_sandbox(stop).await, runtime) })
        });
        let told: Vec<String> = loop {
            assert!(!hanging.is_finished(), "it was given up before it was told");
            match &calls.troubles()[..] {
                [] => tokio::time::sleep(Duration::from_millis(100)).await,
                told => break told.iter().map(ToString::to_string).collect(),
            }
        };
        assert!(
            told.len() == 1 && told[0].starts_with("stop_pod_sandbox of pod default/web has not been answered"),
            "{told:?}"
        );
        // The same connection, and another call of the same kind.
        let other = client(&socket, PATIENCE);
        other.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: "beef".into() }).await.unwrap();
        assert!(!hanging.is_finished(), "it waited for the one that hangs");
        let (answer, runtime) = hanging.await.unwrap();
        assert_eq!(answer.unwrap_err().code, Code::DeadlineExceeded);
        assert_eq!(calls.troubles(), []);
        runtime.version(v1::VersionRequest::default()).await.unwrap();
        world
    });
}

#[test]
fn a_runtime_that_is_not_there_yet_is_used_when_it_comes() {
    with_each(|world| async move {
        let socket = world.dir.join("later.sock");
        let early = client(&socket, Duration::from_secs(10));
        assert_eq!(early.version(v1::VersionRequest::default()).await.unwrap_err().code, Code::Unavailable);
        assert_eq!(early.events().await.unwrap_err().code, Code::Unavailable);
        let _proxy = FaultyProxy::start(&socket, &world.socket()).unwrap();
        early.version(v1::VersionRequest::default()).await.unwrap();
        world
    });
}
