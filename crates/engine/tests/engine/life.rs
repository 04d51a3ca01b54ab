//! Containers and sandboxes from beginning to end.

use crate::world::{World, eventually, shell, with_world};
use cri::{Code, Runtime, v1};
use std::fs;

#[test]
fn a_pod_runs_and_nothing_of_it_is_left() {
    with_world(|world| async move {
        let sandbox = world.sandbox("web").await;
        let id = world.run(&sandbox, "app", "echo hello; echo oops >&2; hostname; exec sleep 1000").await;
        let status = world.status(&id).await;
        assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
        assert!(status.started_at >= status.created_at && status.created_at > 0);
        eventually("the log", || async {
            let log = world.log("web", "app");
            (log.contains(" stdout F hello\n") && log.contains(" stderr F oops\n") && log.contains(" F web\n"))
                .then_some(())
        })
        .await;
        let ip = world.sandbox_status(&sandbox).await.network.unwrap().ip;
        let (out, code) = world.exec(&id, "cat /etc/hosts /etc/resolv.conf /etc/hostname; ip -4 addr show eth0").await;
        assert_eq!(code, 0);
        for part in [&format!("{ip}\tweb\n"), "nameserver 10.0.0.10\n", "\nweb\n", &format!("inet {ip}/25")] {
            assert!(out.contains(part), "{part:?} in {out}");
        }
        let [used] = &world.used(&sandbox).await[..] else { panic!("one container runs") };
        assert_eq!(used.attributes.as_ref().unwrap().id, id);
        assert!(used.cpu.as_ref().unwrap().usage_core_nano_seconds.as_ref().unwrap().value > 0, "{used:?}");
        assert!(used.memory.as_ref().unwrap().working_set_bytes.as_ref().unwrap().value > 0, "{used:?}");
        world.stop(&id, 0).await.unwrap();
        assert_eq!(world.used(&sandbox).await, [], "it has ended");
        let status = world.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
        assert!(status.finished_at >= status.started_at);
        world.remove(&id).await.unwrap();
        world.remove_sandbox(&sandbox).await;
        assert!(!world.log("web", "app").is_empty(), "the log outlives the container");
        world
    });
}

#[test]
fn f_b05_exit_codes_and_signals_are_told_as_they_were() {
    with_world(|world| async move {
        let sandbox = world.sandbox("codes").await;
        for (name, script, code, reason) in [
            ("zero", "true", 0, "Completed"),
            ("three", "exit 3", 3, "Error"),
            ("max", "exit 255", 255, "Error"),
            ("segv", "kill -SEGV $$", 139, "Error"),
        ] {
            let id = world.run(&sandbox, name, script).await;
            let status = world.exited(&id).await;
            // Init of a PID namespace is not killed by signals that it sends itself.
            let code = if name == "segv" { 0 } else { code };
            let reason = if name == "segv" { "Completed" } else { reason };
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
        }
        world
    });
}

#[test]
fn f_b06_a_container_out_of_memory_is_told_so() {
    with_world(|world| async move {
        let sandbox = world.sandbox("oom").await;
        let resources = v1::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
        let linux = v1::LinuxContainerConfig { resources: Some(resources), ..Default::default() };
        let script = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";
        let id =
            world.create(&sandbox, v1::ContainerConfig { linux: Some(linux), ..shell("hog", script) }).await.unwrap();
        world.start(&id).await.unwrap();
        let status = world.exited(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        world
    });
}

#[test]
fn f_b02_a_container_has_its_grace_and_no_more() {
    with_world(|world| async move {
        let sandbox = world.sandbox("grace").await;
        let polite = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.01; done";
        let polite = world.run(&sandbox, "polite", polite).await;
        let deaf = world.run(&sandbox, "deaf", "trap '' TERM; echo ready; while true; do sleep 1; done").await;
        // The trap is set once the shell says so.
        for name in ["polite", "deaf"] {
            eventually(name, || async { world.log("grace", name).contains("ready").then_some(()) }).await;
        }
        world.stop(&polite, 30).await.unwrap();
        assert_eq!(world.status(&polite).await.exit_code, 7);
        world.stop(&deaf, 1).await.unwrap();
        assert_eq!(world.status(&deaf).await.exit_code, 137);
        world.stop(&deaf, 1).await.unwrap();
        world
    });
}

#[test]
fn a_later_stop_shortens_the_first_ones_grace() {
    with_world(|world| async move {
        let sandbox = world.sandbox("shorter").await;
        let id = world.run(&sandbox, "deaf", "trap '' TERM; echo ready; while true; do sleep 1; done").await;
        eventually("the container", || async { world.log("shorter", "deaf").contains("ready").then_some(()) }).await;
        let engine = world.engine();
        let first = v1::StopContainerRequest { container_id: id.clone(), timeout: 100_000 };
        let patient = tokio::spawn(async move { engine.stop_container(first).await });
        world.stop(&id, 0).await.unwrap();
        patient.await.unwrap().unwrap();
        assert_eq!(world.status(&id).await.exit_code, 137);
        world
    });
}

#[test]
fn a_program_that_cannot_be_executed_is_a_failed_start() {
    with_world(|world| async move {
        let sandbox = world.sandbox("broken").await;
        let config = v1::ContainerConfig { command: vec!["/no/such/program".into()], ..shell("broken", "") };
        let id = world.create(&sandbox, config).await.unwrap();
        let error = world.start(&id).await.unwrap_err();
        assert!(error.message.contains("/no/such/program"), "{error}");
        let status = world.status(&id).await;
        assert_eq!(status.state(), v1::ContainerState::ContainerExited);
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.contains("/no/such/program"), "{}", status.message);
        assert_eq!(world.start(&id).await.unwrap_err().code, Code::FailedPrecondition);
        world
    });
}

#[test]
fn f_b04_a_repeated_request_gets_what_its_first_made() {
    with_world(|world| async move {
        let (first, second) = tokio::join!(world.sandbox("twice"), world.sandbox("twice"));
        assert_eq!(first, second);
        let one = world.create(&first, shell("app", "sleep 1000")).await.unwrap();
        assert_eq!(world.create(&first, shell("app", "sleep 1000")).await.unwrap(), one);
        world.start(&one).await.unwrap();
        let error = world.create(&first, shell("app", "sleep 1000")).await.unwrap_err();
        assert_eq!(error.code, Code::AlreadyExists);
        let mut next = shell("app", "sleep 1000");
        next.metadata.as_mut().unwrap().attempt = 1;
        assert_ne!(world.create(&first, next).await.unwrap(), one);
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: first.clone() };
        world.engine().stop_pod_sandbox(stop).await.unwrap();
        let again = v1::RunPodSandboxRequest { config: Some(world.sandbox_config("twice")), ..Default::default() };
        assert_eq!(world.engine().run_pod_sandbox(again).await.unwrap_err().code, Code::AlreadyExists);
        world
    });
}

#[test]
fn what_is_unknown_or_done_already_is_ok_to_stop_and_remove() {
    with_world(|world| async move {
        let nobody = "0123456789abcdef0123456789abcdef";
        world.stop(nobody, 0).await.unwrap();
        world.remove(nobody).await.unwrap();
        world.remove_sandbox(nobody).await;
        let sandbox = world.sandbox("done").await;
        let running = world.run(&sandbox, "app", "exec sleep 1000").await;
        world.remove(&running).await.unwrap();
        world.remove(&running).await.unwrap();
        world.remove_sandbox(&sandbox).await;
        world.remove_sandbox(&sandbox).await;
        let error = world.create(&sandbox, shell("late", "true")).await.unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        world
    });
}

#[test]
fn bad_requests_leave_nothing() {
    with_world(|world| async move {
        let sandbox = world.sandbox("bad").await;
        let absent = v1::ImageSpec { image: "docker.io/library/absent:1".into(), ..Default::default() };
        let mount = v1::Mount { container_path: "/proc/x".into(), host_path: "/tmp".into(), ..Default::default() };
        for (config, code) in [
            (v1::ContainerConfig { image: Some(absent), ..shell("a", "true") }, Code::NotFound),
            (v1::ContainerConfig { mounts: vec![mount], ..shell("a", "true") }, Code::InvalidArgument),
            (v1::ContainerConfig { log_path: "../../x".into(), ..shell("a", "true") }, Code::InvalidArgument),
            (v1::ContainerConfig { image: None, ..shell("a", "true") }, Code::InvalidArgument),
        ] {
            assert_eq!(world.create(&sandbox, config).await.unwrap_err().code, code);
        }
        assert_eq!(fs::read_dir(world.root_dir().join("containers")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(world.sandbox_dir(&sandbox).join("containers")).unwrap().count(), 0);
        world
    });
}

#[test]
fn s_e01_users_and_hidden_paths_are_as_asked() {
    with_world(|world| async move {
        let sandbox = world.sandbox("user").await;
        let security = v1::LinuxContainerSecurityContext {
            run_as_user: Some(v1::Int64Value { value: 1001 }),
            supplemental_groups: vec![2000],
            readonly_rootfs: true,
            ..Default::default()
        };
        let linux = v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
        let config = v1::ContainerConfig { linux: Some(linux), ..shell("app", "exec sleep 1000") };
        let id = world.create(&sandbox, config).await.unwrap();
        world.start(&id).await.unwrap();
        let (out, _) =
            world.exec(&id, "id -u; id -g; id -G; echo x > /x; cat /proc/kcore | dd bs=1 count=1 2>&1").await;
        assert!(out.starts_with("1001\n1001\n1001 2000\n"), "{out}");
        let (_, code) = world.exec(&id, "echo x > /x").await;
        assert_ne!(code, 0, "the root is read-only");
        let (out, _) = world.exec(&id, "ls -l /proc/self/fd | dd bs=64k 2>/dev/null; cat /proc/1/environ").await;
        assert!(!out.contains("sandboxes") && !out.contains("shim"), "{out}");
        world
    });
}

#[test]
fn events_carry_the_pod_after_each_change() {
    with_world(|world| async move {
        let mut events = world.engine().events().await.unwrap();
        let sandbox = world.sandbox("events").await;
        let id = world.run(&sandbox, "app", "exit 4").await;
        world.exited(&id).await;
        world.remove(&id).await.unwrap();
        world.remove_sandbox(&sandbox).await;
        let mut seen = Vec::new();
        while seen.len() < 8 {
            let event = events.recv().await.unwrap();
            let pod = event.pod_sandbox_status.clone().unwrap();
            assert_eq!(pod.id, sandbox);
            let state = event.containers_statuses.first().map(|status| (status.state(), status.exit_code));
            seen.push((event.container_id == id, event.container_event_type(), state));
        }
        use v1::ContainerEventType as Kind;
        use v1::ContainerState as State;
        let expected = [
            (false, Kind::ContainerCreatedEvent, None),
            (false, Kind::ContainerStartedEvent, None),
            (true, Kind::ContainerCreatedEvent, Some((State::ContainerCreated, 0))),
            (true, Kind::ContainerStartedEvent, Some((State::ContainerRunning, 0))),
            (true, Kind::ContainerStoppedEvent, Some((State::ContainerExited, 4))),
            (true, Kind::ContainerDeletedEvent, None),
            (false, Kind::ContainerStoppedEvent, None),
            (false, Kind::ContainerDeletedEvent, None),
        ];
        assert_eq!(seen, expected);
        world
    });
}

#[test]
fn images_in_use_are_not_removed() {
    with_world(|world| async move {
        let sandbox = world.sandbox("image").await;
        let id = world.create(&sandbox, shell("app", "true")).await.unwrap();
        let spec = |name: &str| Some(v1::ImageSpec { image: name.into(), ..Default::default() });
        let remove = || v1::RemoveImageRequest { image: spec(crate::busybox::NAME) };
        assert_eq!(world.engine().remove_image(remove()).await.unwrap_err().code, Code::FailedPrecondition);
        world.remove(&id).await.unwrap();
        world.engine().remove_image(remove()).await.unwrap();
        assert!(world.engine().list_images(v1::ListImagesRequest::default()).await.unwrap().images.is_empty());
        world
    });
}

#[test]
fn containers_of_a_pod_share_network_hostname_and_memory_but_not_processes() {
    with_world(|world: World| async move {
        let sandbox = world.sandbox("shared").await;
        let one = world.run(&sandbox, "one", "echo from-one > /dev/shm/x; exec sleep 1000").await;
        let two = world.run(&sandbox, "two", "exec sleep 1000").await;
        let (out, _) = eventually("the shared file", || async {
            let result = world.exec(&two, "cat /dev/shm/x; hostname; echo $IMAGE").await;
            result.0.starts_with("from-one").then_some(result)
        })
        .await;
        assert_eq!(out, "from-one\nshared\nbusybox\n");
        let links = |id: String| {
            let world = &world;
            async move { world.exec(&id, "for n in net ipc uts pid mnt; do ls -l /proc/self/ns/$n; done").await.0 }
        };
        let (a, b) = (links(one).await, links(two).await);
        let inodes = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.split("-> ").nth(1)).map(str::to_owned).collect()
        };
        let (a, b) = (inodes(&a), inodes(&b));
        assert_eq!(a[..3], b[..3]);
        assert!(a[3] != b[3] && a[4] != b[4]);
        world
    });
}
