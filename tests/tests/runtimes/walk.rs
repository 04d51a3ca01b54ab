//! The walk, and on Docker what its own commands show of it.

use e2e::daemon::Docker;
use e2e::{Machine, await_some, await_true, http, manifests};

/// The images of the suites are in no registry; and the truncator does not hear its signal, for which nobody waits here.
pub(crate) fn with_local_images(manifest: &str) -> String {
    let line = |line: &str| match line.find("image: ") {
        Some(at) => format!("{line}\n{}imagePullPolicy: IfNotPresent\n", " ".repeat(at)),
        None => format!("{line}\n"),
    };
    let text: String = manifest.lines().map(line).collect();
    text.replacen("\nspec:\n", "\nspec:\n  terminationGracePeriodSeconds: 4\n", 1)
}

pub(crate) fn the_walk(machine: &Machine) {
    await_true("no container of the others", || machine.container_pids().is_empty());
    machine.drop_manifest("nginx.yaml", &with_local_images(manifests::NGINX));
    machine.await_running("nginx", "nginx");
    let first = machine.pod("nginx").expect("the pod");
    answers(machine, "/");
    machine.drop_manifest("nginx.yaml", &with_local_images(manifests::NGINX_WITH_TRUNCATOR));
    machine.await_running("nginx", "log-truncator");
    machine.await_running("nginx", "nginx");
    let second = machine.pod("nginx").expect("the pod");
    answers(machine, "/");
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"], "an edited manifest is another pod");
    let ps = machine.cli(&["ps"]);
    for part in ["default", "nginx-node-1", "log-truncator", "Running", &machine.pod_ip("nginx").to_string()] {
        assert!(ps.contains(part), "{part} in:\n{ps}");
    }
    let in_truncator =
        |script: &str| machine.cli(&["exec", "nginx", "-c", "log-truncator", "--", "/bin/sh", "-c", script]);
    assert_eq!(in_truncator("hostname"), "nginx-node-1\n");
    assert!(in_truncator("ip -4 addr show eth0").contains(&machine.pod_ip("nginx").to_string()));
    assert!(in_truncator("wget -q -O - http://127.0.0.1/").contains("nginx"), "over the shared loopback");
    match machine.docker() {
        Some(docker) => commands(machine, docker),
        None => truncated(machine, || in_truncator("cat /logdir/access.log")),
    }
    machine.remove_manifest("nginx.yaml");
    machine.await_no_pods();
    await_true("nothing runs", || machine.container_pids().is_empty());
    if let Some(docker) = machine.docker() {
        assert_eq!(docker.run(&["ps", "--all", "--quiet"]), "");
    }
}

fn answers(machine: &Machine, path: &str) {
    let ip = machine.pod_ip("nginx");
    await_some("nginx answers", || http::get(ip, 80, path).map(drop));
}

/// A request appears in the access log, which is emptied every ten seconds.
fn truncated(machine: &Machine, log: impl Fn() -> String) {
    await_some("a request appears in the access log", || {
        answers(machine, "/seen-in-the-log");
        let seen = log();
        if seen.contains("/seen-in-the-log") { Ok(()) } else { Err(seen) }
    });
    await_true("the log is emptied", || log().is_empty());
}

/// What the two-container pod is to Docker's own client.
fn commands(machine: &Machine, docker: &Docker) {
    let listed = docker.run(&["ps", "--format", "{{.Names}}"]);
    let mut names: Vec<&str> = listed.lines().map(|name| name.split('_').nth(1).unwrap_or(name)).collect();
    names.sort_unstable();
    assert_eq!(names, ["POD", "log-truncator", "nginx"], "{listed}");
    let named = |part: &str| listed.lines().find(|name| name.starts_with(&format!("k8s_{part}_"))).expect("listed");
    let infrastructure = docker.inspect(named("POD"));
    let ip = machine.pod_ip("nginx").to_string();
    assert_eq!(infrastructure["NetworkSettings"]["IPAddress"], ip.as_str());
    for name in ["nginx", "log-truncator"] {
        let container = docker.inspect(named(name));
        assert_eq!(container["NetworkSettings"]["IPAddress"], "", "the address is the infrastructure container's");
        let mode = format!("container:{}", infrastructure["Id"].as_str().expect("an id"));
        assert_eq!(container["HostConfig"]["NetworkMode"], mode.as_str());
        assert_eq!(container["HostConfig"]["IpcMode"], mode.as_str());
        assert_eq!(container["HostConfig"]["RestartPolicy"]["Name"], "no", "restarts are ours");
        assert_eq!(container["Config"]["Labels"]["io.kubernetes.pod.name"], "nginx-node-1");
    }
    truncated(machine, || docker.run(&["exec", named("nginx"), "cat", "/var/log/nginx/access.log"]));
    // nginx keeps its standard error to itself: in its own log.
    for (name, out, err) in [("nginx", "served\n", ""), ("log-truncator", "truncated\n", "nothing there\n")] {
        let script = format!("printf '{out}' > /proc/1/fd/1; printf '{err}' > /proc/1/fd/2");
        docker.run(&["exec", named(name), "/bin/sh", "-c", &script]);
        logged(machine, docker, (name, named(name), out, err));
    }
}

/// What a container told on its outputs is shown by both clients, by Docker's each in its stream.
fn logged(machine: &Machine, docker: &Docker, (name, container, out, err): (&str, &str, &str, &str)) {
    await_some(&format!("what {name} said, in docker logs as in kubelet logs"), || {
        let ours = machine.cli(&["logs", "nginx", "-c", name]);
        let theirs = docker.client().args(["logs", container]).output().expect("docker logs");
        // Docker reads the two streams side by side: which comes first is nobody's to say.
        let both = ours == format!("{out}{err}") || ours == format!("{err}{out}");
        let apart = theirs.stdout == out.as_bytes() && theirs.stderr == err.as_bytes();
        if both && apart { Ok(()) } else { Err(format!("{theirs:?}; ours {ours:?}")) }
    });
}
