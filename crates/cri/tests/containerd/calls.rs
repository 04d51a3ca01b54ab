use std::time::{Duration, Instant};

use cri::{Code, LogRotation, Runtime, v1};

use crate::world::{BUSYBOX, PATIENCE, with_each};

#[test]
fn a_pod_lives_and_ends_by_the_calls_of_the_protocol() {
    with_each(|world| async move {
        let client = &world.client;
        let version = client.version(v1::VersionRequest::default()).await.unwrap();
        assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("containerd", "v1"));
        let conditions = client.status(v1::StatusRequest::default()).await.unwrap().status.unwrap().conditions;
        assert!(conditions.iter().all(|condition| condition.status), "{conditions:?}");

        let (sandbox, id) =
            world.container("life", "echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 0.1; done").await;
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
        let status = client.pod_sandbox_status(request).await.unwrap().status.unwrap();
        assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
        assert!(status.network.is_some_and(|network| network.ip.starts_with("10.2")));

        let asked = |timeout: i64, script: &str| v1::ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            timeout,
        };
        let answer = client.exec_sync(asked(20, "echo o; echo e >&2; exit 3")).await.unwrap();
        assert_eq!(
            (answer.stdout.as_slice(), answer.stderr.as_slice(), answer.exit_code),
            (&b"o\n"[..], &b"e\n"[..], 3)
        );
        let filter = v1::ContainerStatsFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
        let used = client.list_container_stats(v1::ListContainerStatsRequest { filter: Some(filter) }).await.unwrap();
        let [used] = &used.stats[..] else { panic!("{used:?}") };
        assert_eq!(used.attributes.as_ref().unwrap().id, id);
        assert!(used.cpu.as_ref().unwrap().usage_core_nano_seconds.as_ref().unwrap().value > 0, "{used:?}");
        assert!(used.memory.as_ref().unwrap().working_set_bytes.as_ref().unwrap().value > 0, "{used:?}");
        let late = client.exec_sync(asked(1, "sleep 60")).await.unwrap_err();
        assert_eq!(late.code, Code::DeadlineExceeded, "{late}");

        client.stop_container(v1::StopContainerRequest { container_id: id.clone(), timeout: 20 }).await.unwrap();
        let status = world.exited(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
        let log = std::fs::read_to_string(&status.log_path).unwrap();
        assert!(log.contains(" stdout F out") && log.contains(" stderr F err"), "{log}");
        client.remove_container(v1::RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
        let filter = v1::ContainerFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
        let listed = client.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await.unwrap();
        assert_eq!(listed.containers, []);
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn a_runtime_that_leaves_control_groups_to_systemd_is_refused_until_it_is_set_right() {
    with_each(|world| async move {
        let version = async || world.client.version(v1::VersionRequest::default()).await;
        version().await.unwrap();
        let (path, runc) =
            (world.dir.join("config.toml"), r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc"#);
        let usual = std::fs::read_to_string(&path).unwrap();
        let systemd = format!(
            "{usual}{runc}]\nruntime_type = \"io.containerd.runc.v2\"\n{runc}.options]\nSystemdCgroup = true\n"
        );
        for (config, refused) in [(systemd, true), (usual, false)] {
            world.kill();
            std::fs::write(&path, config).unwrap();
            world.restart().await;
            match version().await {
                Ok(_) => assert!(!refused),
                Err(error) => {
                    assert_eq!((refused, error.code), (true, Code::FailedPrecondition), "{error}");
                    assert!(error.message.contains("containerd: SystemdCgroup = false"), "{error}");
                }
            }
        }
        world
    });
}

#[test]
fn f_b06_why_a_container_under_a_memory_limit_was_killed_is_waited_for() {
    with_each(|world| async move {
        let cases = [("greedy", "exec tail /dev/zero", "OOMKilled"), ("shot", "sh -c 'kill -9 $$'; exit $?", "Error")];
        for (name, script, reason) in cases {
            let sandbox = world.sandbox(name).await;
            let mut request = world.container_request((name, &sandbox), script);
            let resources = v1::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
            request.config.as_mut().unwrap().linux.as_mut().unwrap().resources = Some(resources);
            let id = world.client.create_container(request).await.unwrap().container_id;
            world.client.start_container(v1::StartContainerRequest { container_id: id.clone() }).await.unwrap();
            let started = Instant::now();
            let status = world.exited(&id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (137, reason), "{name}");
            // Until then it may yet have been for want of memory.
            assert!(
                reason == "OOMKilled" || started.elapsed() >= Duration::from_millis(500),
                "{:?}",
                started.elapsed()
            );
            world.remove(&sandbox).await;
        }
        world
    });
}

#[test]
fn a_second_object_of_the_same_attempt_exists_already() {
    with_each(|world| async move {
        let (sandbox, _) = world.container("twice", "sleep 1000").await;
        let config = Some(world.sandbox_config("twice"));
        let again = world.client.run_pod_sandbox(v1::RunPodSandboxRequest { config, ..Default::default() }).await;
        assert_eq!(again.unwrap_err().code, Code::AlreadyExists);
        let again = world.client.create_container(world.container_request(("twice", &sandbox), "sleep 1000")).await;
        assert_eq!(again.unwrap_err().code, Code::AlreadyExists);
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn what_is_not_there_has_ended_and_is_not_found() {
    with_each(|world| async move {
        let (client, id) = (&world.client, || "f00d".repeat(16));
        client.stop_container(v1::StopContainerRequest { container_id: id(), timeout: 1 }).await.unwrap();
        client.remove_container(v1::RemoveContainerRequest { container_id: id() }).await.unwrap();
        client.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id() }).await.unwrap();
        client.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id() }).await.unwrap();
        let image = Some(v1::ImageSpec { image: "no.such/image:1".into(), ..Default::default() });
        client.remove_image(v1::RemoveImageRequest { image }).await.unwrap();
        let request = v1::ContainerStatusRequest { container_id: id(), verbose: false };
        assert_eq!(client.container_status(request).await.unwrap_err().code, Code::NotFound);
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id(), verbose: false };
        assert_eq!(client.pod_sandbox_status(request).await.unwrap_err().code, Code::NotFound);
        let request = v1::ExecSyncRequest { container_id: id(), cmd: vec!["true".into()], timeout: 1 };
        assert_eq!(client.exec_sync(request).await.unwrap_err().code, Code::NotFound);
        world
    });
}

#[test]
fn images_are_listed_told_and_removed() {
    with_each(|world| async move {
        let client = &world.client;
        let spec = |name: &str| Some(v1::ImageSpec { image: name.into(), ..Default::default() });
        let status = async |name: &str| {
            client.image_status(v1::ImageStatusRequest { image: spec(name), verbose: false }).await.unwrap().image
        };
        let busybox = status(BUSYBOX).await.unwrap();
        assert!(busybox.size > 0 && busybox.repo_tags.contains(&BUSYBOX.to_owned()), "{busybox:?}");
        assert_eq!(status("no.such/image:1").await, None);
        let listed = client.list_images(v1::ListImagesRequest::default()).await.unwrap().images;
        assert!(listed.iter().any(|image| image.id == busybox.id));
        let info = client.image_fs_info(v1::ImageFsInfoRequest::default()).await.unwrap();
        assert!(!info.image_filesystems.is_empty());
        client.remove_image(v1::RemoveImageRequest { image: spec("docker.io/library/nginx:latest") }).await.unwrap();
        assert_eq!(status("docker.io/library/nginx:latest").await, None);
        // No name of a host is looked up for this one.
        let pulled =
            client.pull_image(v1::PullImageRequest { image: spec("127.0.0.1:9/none:1"), ..Default::default() });
        assert!(pulled.await.is_err());
        world
    });
}

#[test]
fn a_log_that_was_renamed_is_reopened_and_no_line_of_it_lost() {
    with_each(|world| async move {
        assert_eq!(world.client.log_rotation(), LogRotation::Kubelet);
        let (sandbox, id) = world.container("log", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done").await;
        let log = std::path::PathBuf::from(world.status(&id).await.log_path);
        let rotated = log.with_extension("log.20060102-150405");
        let grown = async || {
            let growing = async {
                while !std::fs::read(&log).is_ok_and(|text| !text.is_empty()) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(PATIENCE, growing).await.expect("the log grows");
        };
        grown().await;
        std::fs::rename(&log, &rotated).unwrap();
        let reopen = || v1::ReopenContainerLogRequest { container_id: id.clone() };
        world.client.reopen_container_log(reopen()).await.unwrap();
        grown().await;
        world.client.stop_container(v1::StopContainerRequest { container_id: id.clone(), timeout: 0 }).await.unwrap();
        world.exited(&id).await;
        assert!(world.client.reopen_container_log(reopen()).await.is_err(), "nothing writes any more");
        let text = std::fs::read_to_string(&rotated).unwrap() + &std::fs::read_to_string(&log).unwrap();
        for (number, line) in text.lines().enumerate() {
            assert!(line.ends_with(&format!(" stdout F line {}", number + 1)), "{line}");
        }
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn events_tell_an_exit_or_are_refused_at_once() {
    with_each(|world| async move {
        let events = world.client.events().await;
        if !world.has_events {
            assert_eq!(events.unwrap_err().code, Code::Unimplemented);
            return world;
        }
        let mut events = events.unwrap();
        let (sandbox, id) = world.container("told", "exit 5").await;
        loop {
            let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("it comes").unwrap();
            let seen = event.containers_statuses.iter().find(|status| status.id == id);
            if seen.is_some_and(|status| status.exit_code == 5) {
                assert_eq!(event.pod_sandbox_status.unwrap().id, sandbox);
                break;
            }
        }
        world.remove(&sandbox).await;
        world
    });
}
