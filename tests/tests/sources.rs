//! Where pods come from: the directory, its mistakes, a single file, a URL, a configuration file.

use e2e::http::OnePage;
use e2e::{Machine, Options, await_some, await_true, manifests};

fn sleeper(name: &str) -> String {
    manifests::shell(name, "Always", "exec sleep 1000")
}

#[test]
fn rule_13_a_manifest_that_turns_bad_keeps_its_last_good_pod_running() {
    let mut machine = Machine::start(Options::default());
    machine.drop_manifest("a.yaml", &sleeper("a"));
    let before = machine.await_running("a", "main");
    let pids = machine.container_pids();
    // Off the start path, the good version is stored a second later at most; from then on it outlives a crash.
    await_true("the good version is stored", || machine.has_record("sources"));
    machine.drop_manifest("a.yaml", &sleeper("a").replace("image:", "imgae:"));
    let ps = await_some("the error is seen", || {
        let ps = machine.cli(&["ps"]);
        if ps.contains("imgae") { Ok(ps) } else { Err(ps) }
    });
    assert!(ps.contains("last good version keeps running"), "{ps}");
    assert!(ps.contains("a.yaml") && ps.contains("spec.containers[0]"), "names file and field: {ps}");
    let pod = machine.pod("a").expect("the pod");
    let told = pod["metadata"]["annotations"].to_string() + &pod["status"]["conditions"].to_string();
    assert!(told.contains("imgae"), "the error shows in /pods: {told}");
    assert_eq!(machine.container_pids(), pids);
    // A restart with the bad file still there changes nothing either.
    machine.kill_kubelet();
    machine.start_kubelet();
    assert_eq!(machine.await_running("a", "main")["containerID"], before["containerID"]);
    assert_eq!(machine.container_pids(), pids);
    await_true("the error is logged once for each kubelet", || machine.log().matches("manifest refused").count() == 2);
    machine.drop_manifest("a.yaml", &sleeper("a"));
    await_true("the error is gone", || !machine.cli(&["ps"]).contains("imgae"));
    assert_eq!(machine.container_pids(), pids, "the same manifest is the same pod");
    machine.finish();
}

#[test]
fn other_names_are_ignored_and_links_are_followed() {
    let machine = Machine::start(Options::default());
    machine.drop_manifest("notes.txt", "not a manifest");
    machine.drop_manifest(".hidden.yaml", &sleeper("hidden"));
    std::fs::write(machine.dir.join("real.yaml"), sleeper("linked")).expect("written");
    std::os::unix::fs::symlink(machine.dir.join("real.yaml"), machine.manifests.join("link.yaml")).expect("linked");
    machine.await_running("linked", "main");
    assert_eq!(machine.pods().len(), 1);
    machine.finish();
}

#[test]
fn two_files_with_one_pod_name_are_reported_and_the_first_runs() {
    let machine = Machine::start(Options::default());
    machine.drop_manifest("a.yaml", &sleeper("same"));
    let before = machine.await_running("same", "main");
    machine.drop_manifest("b.yaml", &sleeper("same").replace("1000", "2000"));
    let ps = await_some("the duplicate is reported", || {
        let ps = machine.cli(&["ps"]);
        if ps.contains("b.yaml") { Ok(ps) } else { Err(ps) }
    });
    assert!(ps.contains("a.yaml"), "names both files: {ps}");
    assert_eq!(machine.await_running("same", "main")["containerID"], before["containerID"]);
    assert_eq!(machine.pods().len(), 1);
    machine.finish();
}

#[test]
fn a_thousand_manifests_in_one_burst_are_all_seen() {
    let machine = Machine::start(Options { images: vec![], ..Options::default() });
    for number in 0..1000 {
        // An image that is not there: the pod is known and costs nothing.
        let text =
            sleeper(&format!("p{number}")).replace("image: busybox", "image: absent").replace("IfNotPresent", "Never");
        machine.drop_manifest(&format!("p{number}.yaml"), &text);
    }
    await_some("a thousand pods are known", || {
        let count = machine.pods().len();
        if count == 1000 { Ok(()) } else { Err(format!("{count}")) }
    });
    machine.finish();
}

#[test]
fn the_directory_may_vanish_and_return() {
    let machine = Machine::start(Options::default());
    machine.drop_manifest("a.yaml", &sleeper("a"));
    machine.await_running("a", "main");
    std::fs::remove_file(machine.manifests.join("a.yaml")).expect("removed");
    std::fs::remove_dir(&machine.manifests).expect("removed");
    machine.await_no_pods();
    std::fs::create_dir(&machine.manifests).expect("made");
    machine.drop_manifest("b.yaml", &sleeper("b"));
    machine.await_running("b", "main");
    machine.finish();
}

#[test]
fn pods_from_a_url_outlive_the_url() {
    let two = format!("{}---\n{}", sleeper("one"), sleeper("two"));
    let page = OnePage::serve(&two);
    let options = Options {
        manifests: false,
        flags: vec![
            format!("--manifest-url=http://127.0.0.1:{}/pods.yaml", page.port),
            "--manifest-url-header=x-node:n1,x-other:2".into(),
            "--http-check-frequency=1s".into(),
        ],
        ..Options::default()
    };
    let mut machine = Machine::start(options);
    machine.await_running("one", "main");
    let two = machine.await_running("two", "main");
    assert_eq!(machine.pod("one").expect("the pod")["metadata"]["annotations"]["kubernetes.io/config.source"], "http");
    let head = page.requests().remove(0).to_lowercase();
    assert!(head.contains("x-node: n1") && head.contains("x-other: 2"), "{head}");
    // A list in JSON; pod one is dropped from it, the other stays what it is.
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", sleeper("two").trim_end().replace('\n', "\n  "));
    page.set(200, &list);
    await_true("pod one is gone", || machine.pod("one").is_none());
    assert_eq!(machine.await_running("two", "main")["containerID"], two["containerID"]);
    for (status, body) in [(500, "down"), (200, ""), (200, "kind: Nonsense")] {
        let seen = page.requests().len();
        page.set(status, body);
        await_true("it was asked again", || page.requests().len() > seen + 1);
        assert_eq!(machine.pods().len(), 1, "{status} {body:?} keeps the last good set");
    }
    // With the URL down, also over a restart.
    page.set(500, "down");
    let pids = machine.container_pids();
    machine.kill_kubelet();
    machine.start_kubelet();
    assert_eq!(machine.await_running("two", "main")["containerID"], two["containerID"]);
    assert_eq!(machine.container_pids(), pids);
    page.set(200, "apiVersion: v1\nkind: PodList\nitems: []\n");
    machine.await_no_pods();
    machine.finish();
}

#[test]
fn config_may_be_one_manifest_or_a_configuration_file() {
    let scratch = std::env::temp_dir().join(format!("kubelet-e2e-config-{}", std::process::id()));
    std::fs::create_dir_all(scratch.join("pods")).expect("made");
    let manifest = scratch.join("one.yaml");
    std::fs::write(&manifest, sleeper("single")).expect("written");
    let start = |config: &std::path::Path| {
        Machine::start(Options {
            manifests: false,
            flags: vec![format!("--config={}", config.display())],
            ..Options::default()
        })
    };
    let machine = start(&manifest);
    machine.await_running("single", "main");
    std::fs::remove_file(&manifest).expect("removed");
    machine.finish();

    let config = scratch.join("kubelet.yaml");
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    std::fs::write(&config, format!("{head}staticPodPath: pods\nfileCheckFrequency: 5s\n")).expect("written");
    std::fs::write(scratch.join("pods/a.yaml"), sleeper("configured")).expect("written");
    let machine = start(&config);
    machine.await_running("configured", "main");
    std::fs::remove_file(scratch.join("pods/a.yaml")).expect("removed");
    machine.finish();

    for (field, expected) in
        [("evictionHard: {}", "evictionHard: not supported yet"), ("statcPodPath: x", "statcPodPath: unknown field")]
    {
        std::fs::write(&config, format!("{head}{field}\n")).expect("written");
        let output = std::process::Command::new(e2e::machine::kubelet_binary())
            .arg(format!("--config={}", config.display()))
            .output()
            .expect("runs");
        assert!(!output.status.success());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(expected), "{told}");
    }
    std::fs::remove_dir_all(scratch).expect("removed");
}

#[test]
fn s_h03_a_port_that_is_taken_ends_the_kubelet_with_nothing_touched() {
    let machine = Machine::start(Options::default());
    let dir = machine.dir.join("second");
    std::fs::create_dir_all(dir.join("manifests")).expect("made");
    std::fs::write(dir.join("manifests/a.yaml"), sleeper("never")).expect("written");
    let output = std::process::Command::new(e2e::machine::kubelet_binary())
        .arg(format!("--config={}", dir.join("manifests").display()))
        .arg(format!("--root-dir={}", dir.join("root").display()))
        .arg(format!("--run-dir={}", dir.join("run").display()))
        .arg(format!("--pod-logs-dir={}", dir.join("logs").display()))
        .args([format!("--healthz-port={}", machine.healthz_port), "--read-only-port=0".into()])
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("--healthz-port") && told.contains(&machine.healthz_port.to_string()), "{told}");
    assert!(!dir.join("root/pods").exists() && !dir.join("run/sandboxes").exists(), "nothing was begun");
    machine.finish();
}
