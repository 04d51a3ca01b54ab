//! Against the machine's own control groups, as root; every test has a group of its own and removes it.

use cgroup::{DevicePolicy, DeviceRule, Group, Layout, Limits, Usage};
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

struct Temporary(Group);

impl Drop for Temporary {
    fn drop(&mut self) {
        self.0.kill().expect("kill the test's group");
        self.0.remove().expect("remove the test's group");
        assert!(!self.0.exists());
    }
}

/// Right below the root: a parent shared by tests would be taken away by one while another makes its group in it.
fn path(test: &str) -> String {
    format!("/kubelet-cgroup-test-{}-{test}", std::process::id())
}

/// `None` with a printed reason where the test cannot run; in CI that is a failure.
fn group(name: &str) -> Option<(Layout, Temporary)> {
    let ready = if rustix::process::geteuid().is_root() {
        Layout::detect().map_err(|e| e.to_string())
    } else {
        Err("not root".to_owned())
    };
    match ready {
        Ok(layout) => {
            let group = layout.group(&path(name));
            Some((layout, Temporary(group)))
        }
        Err(reason) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: {reason}");
            None
        }
        Err(reason) => panic!("{reason}"),
    }
}

/// The shell waits for a line before it runs the script, so that it can be moved into the group first.
fn shell_in(group: &Group, script: &str) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().expect("spawn a shell");
    cgroup::attach(&group.dirs(), child.id() as i32).expect("attach the shell");
    child.stdin.take().expect("its stdin").write_all(b"go\n").expect("start the script");
    child
}

fn output(child: Child) -> String {
    String::from_utf8(child.wait_with_output().expect("wait").stdout).expect("text")
}

#[test]
fn limits_are_set_and_read_back() {
    let Some((layout, temporary)) = group("limits") else { return };
    let group = &temporary.0;
    let limits = |memory| Limits {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_bytes: Some(memory),
        pids: Some(77),
        ..Limits::default()
    };
    for memory in [64 << 20, 128 << 20, 32 << 20] {
        group.create(&limits(memory)).unwrap();
        let file = if matches!(layout, Layout::V2 { .. }) { "memory.max" } else { "memory.limit_in_bytes" };
        let dir = group.memory_dir().unwrap();
        assert_eq!(fs::read_to_string(dir.join(file)).unwrap().trim(), memory.to_string());
        let swap = fs::read_to_string(dir.join("memory.memsw.limit_in_bytes"));
        assert!(swap.is_err() || swap.unwrap().trim() == memory.to_string());
    }
    group.update(&Limits { memory_bytes: Some(-1), cpu_quota_us: Some(-1), ..Limits::default() }).unwrap();
    let pids = group.dirs().into_iter().find_map(|dir| fs::read_to_string(dir.join("pids.max")).ok());
    assert_eq!(pids.unwrap().trim(), "77");
}

#[test]
fn a_forking_group_is_killed_with_all_beneath_it() {
    let Some((layout, temporary)) = group("kill") else { return };
    let group = &temporary.0;
    group.create(&Limits { pids: Some(200), ..Limits::default() }).unwrap();
    let inner = layout.group(&format!("{}/inner", path("kill")));
    let mut outer = None;
    if matches!(layout, Layout::V1 { .. }) {
        // v2 allows no processes beside groups with controllers.
        outer = Some(shell_in(group, "echo; sleep 600"));
    }
    inner.create(&Limits::default()).unwrap();
    let script = "echo ready; while :; do (sleep 600 & sleep 600 & exec true); done";
    let mut forking = shell_in(&inner, script);
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(forking.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert_eq!(group.children(), ["inner"]);
    assert!(group.procs().contains(&(forking.id() as i32)));
    // A zombie stays in its group until it is reaped, so its parent must wait for it meanwhile.
    let waiting = std::thread::spawn(move || forking.wait().unwrap().signal());
    let outer = outer.map(|mut child| std::thread::spawn(move || child.wait().unwrap().signal()));
    group.kill().unwrap();
    assert_eq!(waiting.join().unwrap(), Some(9));
    assert_eq!(outer.map_or(Some(9), |outer| outer.join().unwrap()), Some(9));
    assert!(group.procs().is_empty());
    group.remove().unwrap();
    group.remove().unwrap();
    assert!(!inner.exists());
}

#[test]
fn usage_and_oom_kills_are_counted() {
    let Some((_, temporary)) = group("usage") else { return };
    let group = &temporary.0;
    group.create(&Limits { memory_bytes: Some(32 << 20), ..Limits::default() }).unwrap();
    let memory = group.memory_dir().unwrap();
    assert_eq!(cgroup::oom_kills(&memory).unwrap(), 0);
    assert_ne!(group.usage().unwrap(), Usage { pids: 1, ..Usage::default() });
    let mut greedy = shell_in(group, "x=0123456789abcdef; while :; do x=$x$x; done");
    greedy.wait().unwrap();
    assert!(cgroup::oom_kills(&memory).unwrap() >= 1);
    assert!(group.usage().unwrap().cpu_ns > 0);
}

#[test]
fn s_d15_only_the_default_devices_open() {
    let Some((_, temporary)) = group("devices") else { return };
    let group = &temporary.0;
    let nodes = std::env::temp_dir().join(format!("kubelet-cgroup-nodes-{}", std::process::id()));
    fs::create_dir_all(&nodes).unwrap();
    // 1:1 is physical memory, which nobody may open; 1:5 is the zero device; 1:11 is the kernel's log.
    let script = format!(
        "cd {}; for n in 1 5 11; do rm -f d$n; mknod d$n c 1 $n && (head -c0 d$n) && echo opens $n; done",
        nodes.display()
    );
    let kmsg =
        DeviceRule { kind: cgroup::DeviceKind::Char, major: Some(1), minor: Some(11), access: cgroup::Access::Full };
    for (policy, expected) in [
        (DevicePolicy::Default(vec![]), "opens 5\n"),
        (DevicePolicy::Default(vec![kmsg]), "opens 5\nopens 11\n"),
        (DevicePolicy::Default(vec![]), "opens 5\n"),
    ] {
        group.create(&Limits { devices: policy.clone(), ..Limits::default() }).unwrap();
        assert_eq!(output(shell_in(group, &script)), expected, "{policy:?}");
    }
    group.create(&Limits { devices: DevicePolicy::AllowAll, ..Limits::default() }).unwrap();
    assert!(output(shell_in(group, &script)).contains("opens 11"));
    fs::remove_dir_all(&nodes).unwrap();
}

#[test]
fn a_group_exists_until_it_is_gone_from_hierarchies_of_others_too() {
    let Some((layout, temporary)) = group("strays") else { return };
    let group = &temporary.0;
    group.create(&Limits::default()).unwrap();
    let Some(stray) = stray_dir(&layout) else { return };
    fs::create_dir(&stray).unwrap();
    let mut sleeper = Command::new("/bin/sleep").arg("600").spawn().unwrap();
    cgroup::attach(std::slice::from_ref(&stray), sleeper.id() as i32).unwrap();
    assert!(group.remove_everywhere().is_err());
    assert!(group.exists());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    group.remove_everywhere().unwrap();
    assert!(!group.exists() && !stray.exists());
}

#[test]
fn a_hierarchy_that_is_mounted_again_is_no_other() {
    const INSIDE: &str = "KUBELET_CGROUP_TEST_INSIDE";
    let Some((layout, temporary)) = group("again") else { return };
    let group = &temporary.0;
    if std::env::var_os(INSIDE).is_none() {
        // The second mount is read-only and in a mount namespace that ends with the test: nobody else sees it.
        let script = r#"mount --bind "$0" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@""#;
        let at = std::env::temp_dir().join(format!("kubelet-cgroup-again-{}", std::process::id()));
        fs::create_dir(&at).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "/bin/sh", "-c", script]).arg(&layout.group("/").dirs()[0]).arg(&at);
        command
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "a_hierarchy_that_is_mounted_again_is_no_other"]);
        let output = command.env(INSIDE, &at).output().unwrap();
        fs::remove_dir(&at).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
        return;
    }
    let again = PathBuf::from(std::env::var_os(INSIDE).unwrap()).join(path("again").trim_start_matches('/'));
    group.create(&Limits::default()).unwrap();
    assert_eq!(fs::remove_dir(&again).unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    group.remove_everywhere().unwrap();
    assert!(!group.exists() && !again.exists());
}

/// Where a runtime would make the group in a hierarchy without a controller of ours; v2 has none.
fn stray_dir(layout: &Layout) -> Option<PathBuf> {
    let Layout::V1 { .. } = layout else { return None };
    let unified = Path::new("/sys/fs/cgroup/unified");
    unified.join("cgroup.procs").exists().then(|| unified.join(path("strays").trim_start_matches('/')))
}
