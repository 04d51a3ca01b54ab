//! Sandboxes and containers from their making to their removal.

use cri::{Code, Runtime, v1};

use crate::daemon::{Daemon, run};
use crate::world::{World, adapter};

#[tokio::test]
async fn a_sandbox_is_made_once_shown_stopped_and_removed() {
    let Some(world) = World::new() else { return };
    let id = world.run().await.unwrap();
    assert_eq!(world.run().await.unwrap(), id, "the same attempt is the same sandbox");
    let status = world.sandbox_status(&id).await.unwrap();
    assert!(status.containers_statuses.is_empty());
    let status = status.status.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, world.pod.metadata);
    assert_eq!((&status.labels, &status.annotations), (&world.pod.labels, &world.pod.annotations));
    assert!(status.created_at > 0);
    assert!(status.network.unwrap().ip.starts_with("10.199."));
    let shown = world.daemon.inspect(&id);
    let name = format!("/k8s_POD_{}_shop_{}_0", world.key().name, world.key().uid);
    assert_eq!(shown["Name"], name.as_str());
    assert_eq!(shown["Config"]["Entrypoint"][0], "/pause");
    assert_eq!(shown["Config"]["Labels"]["io.kubernetes.docker.type"], "podsandbox");
    assert_eq!(shown["HostConfig"]["RestartPolicy"]["Name"], "no");
    let (sandboxes, _) = world.listed().await;
    assert_eq!(sandboxes.len(), 1);
    assert_eq!((&sandboxes[0].id, &sandboxes[0].metadata), (&id, &world.pod.metadata));

    for _ in 0..2 {
        world.stop_sandbox(&id).await.unwrap();
        let status = world.sandbox_status(&id).await.unwrap().status.unwrap();
        assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
        assert_eq!(status.network.unwrap().ip, "");
    }
    assert_eq!(world.run().await.unwrap_err().code, Code::AlreadyExists);
    let mut next = World::on(world.daemon.clone());
    next.pod = world.pod.clone();
    next.pod.metadata.as_mut().unwrap().attempt = 1;
    let second = next.run().await.unwrap();
    assert_ne!(second, id);
    for sandbox in [&id, &second, &id] {
        world.remove_sandbox(sandbox).await.unwrap();
        assert_eq!(world.sandbox_status(sandbox).await.unwrap_err().code, Code::NotFound);
    }
    assert!(world.listed().await.0.is_empty());
}

#[tokio::test]
async fn twenty_calls_at_once_make_one_sandbox_and_one_container() {
    let Some(world) = World::new() else { return };
    let calls: Vec<_> = (0..20).map(|_| world.run()).collect();
    let ids: Vec<String> = futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let calls: Vec<_> = (0..20).map(|_| world.create(&ids[0], world.container("app", "sleep 1000"))).collect();
    let made: Vec<String> = futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
    let (sandboxes, containers) = world.listed().await;
    assert_eq!((sandboxes.len(), containers.len()), (1, 1));
    world.remove_sandbox(&ids[0]).await.unwrap();
}

#[tokio::test]
async fn half_made_ones_are_found_again() {
    let Some(world) = World::new() else { return };
    let id = world.run().await.unwrap();
    let container = world.create(&id, world.container("app", "sleep 1000")).await.unwrap();
    // As if killed before the resolver file was written.
    let resolver = world.daemon.inspect(&id)["ResolvConfPath"].as_str().unwrap().to_owned();
    std::fs::write(&resolver, "nameserver 8.8.8.8\n").unwrap();
    // Another kubelet, after a crash.
    let again = World { docker: adapter(&world.daemon), pod: world.pod.clone(), daemon: world.daemon.clone() };
    assert_eq!(again.run().await.unwrap(), id);
    assert!(std::fs::read_to_string(&resolver).unwrap().contains("nameserver 10.96.0.10"));
    assert_eq!(again.create(&id, world.container("app", "sleep 1000")).await.unwrap(), container);
    again.start(&container).await.unwrap();
    let error = again.create(&id, world.container("app", "sleep 1000")).await.unwrap_err();
    assert_eq!(error.code, Code::AlreadyExists);
    assert_eq!(again.start(&container).await.unwrap_err().code, Code::FailedPrecondition);
    again.remove_sandbox(&id).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_was_created_and_not_started_is_adopted() {
    let Some(world) = World::new() else { return };
    let id = world.run().await.unwrap();
    let shown = world.daemon.inspect(&id);
    world.remove_sandbox(&id).await.unwrap();
    // What is left of a kubelet that was killed between the two calls.
    let name = shown["Name"].as_str().unwrap().trim_start_matches('/').to_owned();
    let labels = shown["Config"]["Labels"].as_object().unwrap().clone();
    let mut create = world.daemon.client();
    create.args(["create", "--name", &name]);
    for (key, value) in &labels {
        create.args(["--label", &format!("{key}={}", value.as_str().unwrap())]);
    }
    let half = run(create.arg(shown["Config"]["Image"].as_str().unwrap())).trim().to_owned();
    let (sandboxes, _) = world.listed().await;
    assert_eq!((sandboxes[0].id.as_str(), sandboxes[0].state()), (half.as_str(), v1::PodSandboxState::SandboxNotready));
    assert_eq!(world.run().await.unwrap(), half);
    world.remove_sandbox(&half).await.unwrap();
}

#[tokio::test]
async fn a_container_lives_and_is_shown_as_docker_has_it() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let mut config = world.container("app", "echo out; echo err >&2; sleep 1000");
    config.stop_signal = v1::Signal::Sigusr1.into();
    let id = world.create(&sandbox, config.clone()).await.unwrap();
    let status = world.status(&id).await.unwrap();
    assert_eq!(status.state(), v1::ContainerState::ContainerCreated);
    assert_eq!((status.started_at, status.finished_at), (0, 0));
    world.start(&id).await.unwrap();
    let status = world.status(&id).await.unwrap();
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    assert_eq!(status.metadata, config.metadata);
    assert_eq!((&status.labels, &status.annotations), (&config.labels, &config.annotations));
    assert_eq!(status.image.unwrap().user_specified_image, "busybox");
    assert!(status.image_id.starts_with("sha256:") && status.image_ref == status.image_id);
    assert_eq!(v1::Signal::try_from(status.stop_signal), Ok(v1::Signal::Sigusr1));
    assert!(status.started_at >= status.created_at && status.created_at > 0);
    assert_eq!(std::path::Path::new(&status.log_path), world.log("app"));
    let shown = world.daemon.inspect(&id);
    assert_eq!(shown["Name"], format!("/k8s_app_{}_shop_{}_0", world.key().name, world.key().uid).as_str());
    assert_eq!(shown["Config"]["Image"], "busybox");
    assert_eq!(shown["Config"]["Labels"]["io.kubernetes.sandbox.id"], sandbox.as_str());
    assert_eq!(shown["HostConfig"]["NetworkMode"], format!("container:{sandbox}").as_str());
    assert_eq!(shown["HostConfig"]["IpcMode"], format!("container:{sandbox}").as_str());
    assert_eq!(shown["NetworkSettings"]["IPAddress"], "", "the address is the pod's");
    assert_eq!(std::fs::read_link(world.log("app")).unwrap().to_str(), shown["LogPath"].as_str());

    let filter = v1::ContainerStatsFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
    let asked = world.docker.list_container_stats(v1::ListContainerStatsRequest { filter: Some(filter) });
    let used = asked.await.unwrap().stats;
    assert_eq!(used.iter().map(|used| &used.attributes.as_ref().unwrap().id).collect::<Vec<_>>(), [&id]);
    assert!(used[0].cpu.as_ref().unwrap().usage_core_nano_seconds.as_ref().unwrap().value > 0, "{used:?}");
    assert!(used[0].memory.as_ref().unwrap().working_set_bytes.as_ref().unwrap().value > 0, "{used:?}");

    let second = world.started(&sandbox, "side", "sleep 1000").await;
    assert_eq!(world.sandbox_status(&sandbox).await.unwrap().containers_statuses.len(), 2);
    let (_, containers) = world.listed().await;
    let mut names: Vec<_> = containers.iter().map(|item| item.metadata.clone().unwrap().name).collect();
    names.sort();
    assert_eq!(names, ["app", "side"]);
    assert!(containers.iter().all(|item| item.pod_sandbox_id == sandbox && item.image_id == status.image_id));
    world.remove(&id).await.unwrap();
    world.remove(&id).await.unwrap();
    assert!(!world.log("app").is_symlink());
    assert_eq!(world.status(&id).await.unwrap_err().code, Code::NotFound);
    world.remove_sandbox(&sandbox).await.unwrap();
    assert_eq!(world.status(&second).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_new_sandbox_may_repeat_an_attempt_of_the_old_ones() {
    let Some(mut world) = World::new() else { return };
    let old = world.run().await.unwrap();
    let first = world.started(&old, "app", "true").await;
    world.stop_sandbox(&old).await.unwrap();
    let error = world.create(&old, world.container("app", "true")).await.unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition, "{error}");
    world.pod.metadata.as_mut().unwrap().attempt = 1;
    let new = world.run().await.unwrap();
    let second = world.create(&new, world.container("app", "true")).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(world.create(&new, world.container("app", "true")).await.unwrap(), second);
    world.remove_sandbox(&old).await.unwrap();
    assert_eq!(world.create(&new, world.container("app", "true")).await.unwrap(), second);
    assert_eq!(world.status(&second).await.unwrap().metadata.unwrap().attempt, 0);
    world.remove_sandbox(&new).await.unwrap();
}

#[tokio::test]
async fn unknown_ids_and_other_peoples_containers() {
    let Some(world) = World::new() else { return };
    let others = run(world.daemon.client().args(["run", "-d", "--name", "others", "busybox", "sleep", "1000"]));
    let sandbox = world.run().await.unwrap();
    let container = world.started(&sandbox, "app", "sleep 1000").await;
    let unknown = "0".repeat(64);
    for id in [unknown.as_str(), others.trim(), "others", "", "../images/json", &sandbox[..12]] {
        assert_eq!(world.sandbox_status(id).await.unwrap_err().code, Code::NotFound, "{id}");
        assert_eq!(world.status(id).await.unwrap_err().code, Code::NotFound, "{id}");
        assert_eq!(world.start(id).await.unwrap_err().code, Code::NotFound, "{id}");
        let error = world.create(id, world.container("x", "true")).await.unwrap_err();
        assert_eq!(error.code, Code::NotFound, "{id}");
        world.stop(id, 0).await.unwrap();
        world.remove(id).await.unwrap();
        world.stop_sandbox(id).await.unwrap();
        world.remove_sandbox(id).await.unwrap();
    }
    // One is not taken for the other.
    assert_eq!(world.status(&sandbox).await.unwrap_err().code, Code::NotFound);
    assert_eq!(world.sandbox_status(&container).await.unwrap_err().code, Code::NotFound);
    world.remove_sandbox(&container).await.unwrap();
    world.remove(&sandbox).await.unwrap();
    assert_eq!(world.exec(&unknown, "true", 0).await.unwrap_err().code, Code::NotFound);
    assert_eq!(world.status(&container).await.unwrap().state(), v1::ContainerState::ContainerRunning);
    assert_eq!(world.daemon.inspect("others")["State"]["Running"], true);
    let all = world.docker.list_containers(v1::ListContainersRequest::default()).await.unwrap().containers;
    assert!(all.iter().all(|item| item.id != others.trim()));
    world.remove_sandbox(&sandbox).await.unwrap();
    run(world.daemon.client().args(["rm", "-f", "others"]));
}

#[tokio::test]
async fn a_daemon_that_is_away_is_no_failure_and_is_found_again() {
    let Some(daemon) = Daemon::own() else { return };
    let world = World::on(daemon);
    let sandbox = world.run().await.unwrap();
    let container = world.started(&sandbox, "app", "sleep 1000").await;
    let (started, pid) = {
        let shown = world.daemon.inspect(&container);
        (shown["State"]["StartedAt"].clone(), shown["State"]["Pid"].clone())
    };
    world.daemon.end(rustix::process::Signal::KILL);
    assert_eq!(world.run().await.unwrap_err().code, Code::Unavailable);
    assert_eq!(world.status(&container).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(world.stop(&container, 1).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(world.docker.status(v1::StatusRequest::default()).await.unwrap_err().code, Code::Unavailable);
    assert!(world.docker.events().await.is_err_and(|error| error.code == Code::Unavailable));
    world.daemon.start();
    assert_eq!(world.run().await.unwrap(), sandbox);
    let shown = world.daemon.inspect(&container);
    assert_eq!((&shown["State"]["StartedAt"], &shown["State"]["Pid"]), (&started, &pid), "it ran on");
    assert_eq!(world.status(&container).await.unwrap().state(), v1::ContainerState::ContainerRunning);
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_leaves_control_groups_to_systemd_is_refused_until_it_is_set_right() {
    let Some(daemon) = Daemon::own() else { return };
    let world = World::on(daemon);
    let version = async || world.docker.version(v1::VersionRequest::default()).await;
    version().await.unwrap();
    let usual = std::fs::read_to_string(world.daemon.dir.join("daemon.json")).unwrap();
    let systemd = r#"{"exec-opts": ["native.cgroupdriver=systemd"]}"#;
    for (settings, refused) in [(systemd, true), (usual.as_str(), false)] {
        world.daemon.end(rustix::process::Signal::TERM);
        assert_eq!(version().await.unwrap_err().code, Code::Unavailable);
        std::fs::write(world.daemon.dir.join("daemon.json"), settings).unwrap();
        world.daemon.start();
        match version().await {
            Ok(_) => assert!(!refused),
            Err(error) => {
                assert_eq!((refused, error.code), (true, Code::FailedPrecondition), "{error}");
                for text in ["has systemd as its cgroup driver", "native.cgroupdriver=cgroupfs", "daemon.json"] {
                    assert!(error.message.contains(text), "{error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_daemon_says_what_it_is() {
    let Some(world) = World::new() else { return };
    let version = world.docker.version(v1::VersionRequest::default()).await.unwrap();
    assert_eq!(version.runtime_name, "docker");
    assert!(!version.runtime_version.is_empty() && version.runtime_api_version.starts_with("1."));
    let conditions = world.docker.status(v1::StatusRequest::default()).await.unwrap().status.unwrap().conditions;
    let met: Vec<_> = conditions.iter().map(|found| (found.r#type.as_str(), found.status)).collect();
    assert_eq!(met, [("RuntimeReady", true), ("NetworkReady", true)]);
    let usage = world.docker.image_fs_info(v1::ImageFsInfoRequest {}).await.unwrap();
    let data = world.daemon.dir.join("data").display().to_string();
    assert_eq!(usage.image_filesystems[0].fs_id.as_ref().unwrap().mountpoint, data);
    assert!(usage.image_filesystems[0].used_bytes.as_ref().unwrap().value > 0);
}
