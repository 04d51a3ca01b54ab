//! Every way in which a container can end, told as it was.

use crate::world::{World, eventually, shell, with_world};
use cri::{Code, Runtime, v1};
use std::fs;
use std::sync::Arc;

/// Containers that run at once.
const LANES: usize = 8;

/// Those that end a process that does nothing about them; the shell ignores SIGQUIT.
fn fatal_signals() -> impl Iterator<Item = i32> {
    [1, 2].into_iter().chain(4..=16).chain([24, 25, 26, 27, 29, 30, 31]).chain(34..=64)
}

/// A pod whose containers are no PID 1, which the kernel protects from its own signals.
async fn shared_sandbox(world: &World, name: &str) -> String {
    let options = v1::NamespaceOption { pid: v1::NamespaceMode::Pod.into(), ..Default::default() };
    let security = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let mut config = world.sandbox_config(name);
    config.linux.as_mut().unwrap().security_context = Some(security);
    let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    world.engine().run_pod_sandbox(request).await.unwrap().pod_sandbox_id
}

#[test]
fn f_b05_every_code_and_every_fatal_signal_is_told_under_churn() {
    with_world(|world| async move {
        let world = Arc::new(world);
        let sandbox = shared_sandbox(&world, "churn").await;
        let codes = (0..=255).map(|code| (format!("exit {code}"), code));
        let signals = fatal_signals().map(|signal| (format!("kill -{signal} $$; sleep 1000"), 128 + signal));
        let mut cases: Vec<(String, i32)> = codes.chain(signals).collect();
        // Neighbours end differently.
        cases.sort_by_key(|(_, code)| (code * 7919) % 311);
        let mut lanes = Vec::new();
        for lane in 0..LANES {
            let (world, sandbox) = (Arc::clone(&world), sandbox.clone());
            let cases: Vec<_> = cases.iter().skip(lane).step_by(LANES).cloned().collect();
            lanes.push(tokio::spawn(async move {
                for (at, (script, code)) in cases.iter().enumerate() {
                    let id = world.run(&sandbox, &format!("c{lane}-{at}"), script).await;
                    let status = world.exited(&id).await;
                    let reason = if *code == 0 { "Completed" } else { "Error" };
                    assert_eq!((status.exit_code, status.reason.as_str()), (*code, reason), "{script}");
                    assert!(status.finished_at >= status.started_at && status.started_at > 0, "{script}");
                    world.remove(&id).await.unwrap();
                }
            }));
        }
        for lane in lanes {
            lane.await.unwrap();
        }
        let quit: i32 = v1::Signal::Sigquit.into();
        let command = vec!["/bin/sleep".into(), "1000".into()];
        let config = v1::ContainerConfig { command, stop_signal: quit, ..shell("quit", "") };
        let id = world.create(&sandbox, config).await.unwrap();
        world.start(&id).await.unwrap();
        world.stop(&id, 30).await.unwrap();
        assert_eq!(world.status(&id).await.exit_code, 131);
        Arc::into_inner(world).unwrap()
    });
}

fn limited(name: &str, script: &str) -> v1::ContainerConfig {
    let resources = v1::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
    let linux = v1::LinuxContainerConfig { resources: Some(resources), ..Default::default() };
    v1::ContainerConfig { linux: Some(linux), ..shell(name, script) }
}

const HOG: &str = "dd if=/dev/zero of=/dev/null bs=64M count=1";

#[test]
fn f_b06_a_kill_that_was_asked_for_is_no_want_of_memory() {
    with_world(|world| async move {
        if matches!(cgroup::Layout::detect().unwrap(), cgroup::Layout::V2 { .. }) {
            println!("skipped: on v2 the kernel ends the whole container for want of memory");
            return world;
        }
        let sandbox = world.sandbox("oom").await;
        // A child of it dies for want of memory, which it survives; later it is killed.
        let config = limited("app", &format!("{HOG}; echo survived; exec sleep 1000"));
        let id = world.create(&sandbox, config).await.unwrap();
        world.start(&id).await.unwrap();
        eventually("the child's end", || async { world.log("oom", "app").contains("survived").then_some(()) }).await;
        world.stop(&id, 0).await.unwrap();
        let status = world.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
        world
    });
}

#[test]
fn the_stop_signal_is_the_pods_then_the_images_then_sigterm() {
    with_world(|world| async move {
        let sandbox = world.sandbox("signals").await;
        let script =
            "trap 'exit 1' TERM; trap 'exit 2' USR1; trap 'exit 3' QUIT; echo ready; while true; do sleep 0.01; done";
        for (name, signal, code) in [
            // The image says SIGTERM.
            ("image", v1::Signal::RuntimeDefault, 1),
            ("usr1", v1::Signal::Sigusr1, 2),
            ("quit", v1::Signal::Sigquit, 3),
        ] {
            let config = v1::ContainerConfig { stop_signal: signal.into(), ..shell(name, script) };
            let id = world.create(&sandbox, config).await.unwrap();
            world.start(&id).await.unwrap();
            eventually("the traps", || async { world.log("signals", name).contains("ready").then_some(()) }).await;
            world.stop(&id, 30).await.unwrap();
            assert_eq!(world.status(&id).await.exit_code, code, "{name}");
        }
        world
    });
}

#[test]
fn f_b08_what_cannot_be_killed_is_never_declared_gone() {
    with_world(|world| async move {
        let cgroup::Layout::V1 { hierarchies } = cgroup::Layout::detect().unwrap() else {
            println!("skipped: on v2 a frozen process can be killed");
            return world;
        };
        let Some(freezer) = hierarchies.iter().find(|one| one.controllers.contains(&cgroup::Controller::Freezer))
        else {
            println!("skipped: there is no freezer to make a process unkillable with");
            return world;
        };
        let sandbox = world.sandbox("frozen").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let state = freezer.mount.join(&world.mark).join("pod-frozen").join(&id).join("freezer.state");
        fs::write(&state, "FROZEN").unwrap();
        let error = world.stop(&id, 0).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
        assert_eq!(world.status(&id).await.state(), v1::ContainerState::ContainerRunning);
        fs::write(&state, "THAWED").unwrap();
        let status = world.exited(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
        world
    });
}

#[test]
fn a_start_that_fails_is_an_end_with_a_reason() {
    with_world(|world| async move {
        let sandbox = world.sandbox("starts").await;
        for (name, command) in [("absent", "/no/such/program"), ("denied", "/etc"), ("unknown", "nonesuch")] {
            let config = v1::ContainerConfig { command: vec![command.into()], ..shell(name, "") };
            let id = world.create(&sandbox, config).await.unwrap();
            world.start(&id).await.unwrap_err();
            let status = world.exited(&id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{name}");
            assert!(status.message.contains(command), "{}", status.message);
            assert!(status.finished_at > 0 && status.started_at == 0);
        }
        world
    });
}

fn with_message_file(name: &str, script: &str, (path, file): (&str, &std::path::Path)) -> v1::ContainerConfig {
    let mount = v1::Mount { container_path: path.into(), host_path: file.display().to_string(), ..Default::default() };
    let security = v1::LinuxContainerSecurityContext {
        readonly_rootfs: true,
        run_as_user: Some(v1::Int64Value { value: 1001 }),
        ..Default::default()
    };
    let linux = v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
    v1::ContainerConfig { mounts: vec![mount], linux: Some(linux), ..shell(name, script) }
}

#[test]
fn a_termination_message_can_be_written_wherever_it_lies() {
    with_world(|world| async move {
        let sandbox = world.sandbox("message").await;
        let paths = ["/dev/termination-log", "/no/such/parents/message", "/dev/deep/er/log", "/etc/message", "/tmp/m"];
        for (at, path) in paths.iter().enumerate() {
            let name = format!("app{at}");
            let file = world.root_dir().join(&name);
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
            let script = format!("id -u > {path} && echo > /x 2>/dev/null && echo writable > {path}; exit 3");
            let id = world.create(&sandbox, with_message_file(&name, &script, (path, &file))).await.unwrap();
            world.start(&id).await.unwrap();
            assert_eq!(world.exited(&id).await.exit_code, 3, "{path}");
            assert_eq!(fs::read_to_string(&file).unwrap(), "1001\n", "{path}");
        }
        world
    });
}
