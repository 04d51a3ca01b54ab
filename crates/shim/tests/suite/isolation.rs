//! What a container is given, and what it is not.

use crate::harness::{DEFAULT_CAPABILITIES, Sandbox, sandbox};
use cgroup::Limits;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};
use shim::protocol::{Capabilities, Device, ExitStatus, Mount, MountSource, PidNamespace, Propagation, Rlimit, User};
use std::fs;
use std::path::{Path, PathBuf};

fn bind(path: &Path, destination: &str) -> Mount {
    Mount {
        source: MountSource::Bind { path: path.into() },
        destination: destination.into(),
        read_only: false,
        propagation: Propagation::Private,
    }
}

#[test]
fn s_c06_init_sees_no_descriptor_and_no_variable_of_the_shim() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = sandbox.spec("c", "ls /proc/self/fd; exec cat /proc/self/environ");
    // The fourth descriptor is that of the directory ls itself reads.
    let output = sandbox.prints(&spec);
    assert!(output.starts_with("0\n1\n2\n3\n") && output.contains("PATH=/bin\0"), "{output:?}");
    assert!(output.contains("HOME=/root\0") && !output.contains("CANARY") && !output.contains("SHIM"), "{output:?}");
}

#[test]
fn s_d14_capabilities_are_exactly_those_of_the_spec() {
    let Some(mut sandbox) = sandbox() else { return };
    let ours = fs::read_to_string("/proc/self/status").unwrap();
    let ours = ours.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
    let ours = u64::from_str_radix(ours, 16).unwrap();
    let default = DEFAULT_CAPABILITIES & ours;
    let caps = |bounding, effective, ambient: u64| Capabilities {
        bounding,
        effective,
        permitted: effective,
        inheritable: ambient,
        ambient,
    };
    let net_bind = 1 << 10;
    // Inheritable, permitted, effective, bounding, ambient.
    for (round, (user, capabilities, no_new_privs, expected)) in [
        ("", caps(DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES, 0), false, [0, default, default, default, 0]),
        ("", caps(0, 0, 0), false, [0; 5]),
        ("", caps(u64::MAX, u64::MAX, 0), false, [0, ours, ours, ours, 0]),
        ("app", caps(DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES, 0), false, [0, 0, 0, default, 0]),
        ("app", caps(net_bind, net_bind, net_bind), true, [net_bind; 5]),
        ("", caps(DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES, 0), true, [0, default, default, default, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = sandbox.spec(&format!("c{round}"), "grep -E '^(Cap|NoNew)' /proc/self/status");
        spec.process.capabilities = capabilities;
        spec.process.no_new_privs = no_new_privs;
        spec.process.user.name = user.into();
        let [inheritable, permitted, effective, bounding, ambient] = expected.map(|bits: u64| format!("{bits:016x}"));
        let expected = format!(
            "CapInh:\t{inheritable}\nCapPrm:\t{permitted}\nCapEff:\t{effective}\nCapBnd:\t{bounding}\n\
             CapAmb:\t{ambient}\nNoNewPrivs:\t{}\n",
            u8::from(no_new_privs)
        );
        assert_eq!(sandbox.prints(&spec), expected, "round {round}");
    }
}

#[test]
fn s_e02_user_and_groups() {
    let Some(mut sandbox) = sandbox() else { return };
    for (round, (name, uid, gid, additional, expected)) in [
        ("", None, None, vec![], "uid=0(root) gid=0(root) groups=0(root)\n"),
        ("app", None, None, vec![], "uid=1000(app) gid=1001(app) groups=29(audio),1001(app)\n"),
        ("app:root", None, None, vec![7], "uid=1000(app) gid=0(root) groups=0(root),7,29(audio)\n"),
        ("app", Some(5000), None, vec![], "uid=5000 gid=0(root) groups=0(root)\n"),
        ("", Some(1000), Some(6), vec![9], "uid=1000(app) gid=6 groups=6,9,29(audio)\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = sandbox.spec(&format!("c{round}"), "id; echo x > /dev/stdout");
        spec.process.user = User { name: name.into(), uid, gid, additional_gids: additional, must_not_be_root: false };
        assert_eq!(sandbox.prints(&spec), format!("{expected}x\n"));
    }
}

#[test]
fn s_d07_masked_paths_read_as_empty_and_read_only_ones_are() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec(
        "c",
        "exec 2>&1; cat /proc/cpuinfo | wc -c; ls -A /proc/tty /sys/kernel | grep -v : | wc -w; cat /secret | wc -c; \
         cat /link | wc -c; echo 1 > /proc/sys/kernel/panic; touch /sys/kernel/x; touch /proc/tty/x; \
         echo x > /proc/cpuinfo; cat /proc/sys/kernel/panic > /dev/null && echo readable",
    );
    fs::write(sandbox.layer("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("/secret2", sandbox.layer("link")).unwrap();
    fs::write(sandbox.layer("secret2"), "secret").unwrap();
    let strings = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
    spec.masked_paths =
        strings(&["/proc/cpuinfo", "/proc/tty", "/proc/none", "/sys/kernel", "/secret", "/link", "/none/deep"]);
    spec.readonly_paths = strings(&["/proc/sys", "/proc/none"]);
    let output = sandbox.prints(&spec);
    let refusals = output.matches("Read-only file system").count();
    assert_eq!(output.lines().filter(|line| *line == "0").count(), 4, "{output}");
    assert!(output.contains("readable\n") && refusals == 3, "{output}");
}

#[test]
fn the_root_can_be_read_only() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec("c", "exec 2>&1; touch /x; touch /tmp/x && echo tmp; touch /dev/shm/x && echo shm");
    spec.root.read_only = true;
    spec.process.cwd = "/made/for/it".into();
    spec.mounts = vec![Mount {
        source: MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o1777 },
        destination: "/tmp".into(),
        read_only: false,
        propagation: Propagation::Private,
    }];
    let output = sandbox.prints(&spec);
    assert!(output.contains("/x: Read-only file system") && output.ends_with("tmp\nshm\n"), "{output}");
}

#[test]
fn binds_show_files_and_directories_and_hold_what_they_are_asked() {
    let Some(mut sandbox) = sandbox() else { return };
    let (dir, file) = (sandbox.path("volume"), sandbox.path("hosts"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a"), "in the volume\n").unwrap();
    fs::write(&file, "a file\n").unwrap();
    std::os::unix::fs::symlink("../run/resolve/stub.conf", sandbox.layer("etc/resolv.conf")).unwrap();
    let mut spec = sandbox.spec(
        "c",
        "exec 2>&1; cat /v/a /etc/hosts /etc/resolv.conf; echo written > /v/b; touch /ro/c; cat /ro/b; stat -c %a /t",
    );
    spec.mounts = vec![
        bind(&dir, "/v"),
        Mount { read_only: true, ..bind(&dir, "/ro") },
        bind(&file, "/etc/hosts"),
        bind(&file, "/etc/resolv.conf"),
        Mount { source: MountSource::Tmpfs { size_bytes: None, mode: 0o750 }, ..bind(&dir, "/t") },
    ];
    let output = sandbox.prints(&spec);
    let expected = "in the volume\na file\na file\ntouch: /ro/c: Read-only file system\nwritten\n750\n";
    assert_eq!(output, expected);
    assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "written\n");
}

#[test]
fn a_shared_memory_of_the_pod_replaces_the_containers_own() {
    let Some(mut sandbox) = sandbox() else { return };
    let shm = sandbox.path("shm");
    fs::create_dir(&shm).unwrap();
    fs::write(shm.join("of-the-pod"), "").unwrap();
    let mut spec = sandbox.spec("c", "ls /dev/shm; grep -c ' /dev/shm ' /proc/mounts");
    spec.mounts = vec![bind(&shm, "/dev/shm")];
    assert_eq!(sandbox.prints(&spec), "of-the-pod\n1\n");
}

/// A directory that is a mount of its own, shared or private, whatever the machine's root is.
struct Volume(PathBuf);

impl Volume {
    fn new(path: PathBuf, propagation: MountPropagationFlags) -> Volume {
        fs::create_dir_all(path.join("sub")).unwrap();
        mount_bind(&path, &path).unwrap();
        let volume = Volume(path);
        mount_change(&volume.0, propagation).unwrap();
        volume
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        unmount(self.0.join("sub"), UnmountFlags::DETACH).ok();
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

#[test]
fn a_bidirectional_mount_reaches_the_host_and_needs_a_shared_source() {
    let Some(mut sandbox) = sandbox() else { return };
    let volume = Volume::new(sandbox.path("volume"), MountPropagationFlags::PRIVATE);
    let mut spec = sandbox.spec("c", "mount -t tmpfs x /v/sub && echo made > /v/sub/file");
    let all = u64::MAX;
    spec.process.capabilities =
        Capabilities { bounding: all, effective: all, permitted: all, inheritable: 0, ambient: 0 };
    spec.mounts = vec![Mount { propagation: Propagation::Bidirectional, ..bind(&volume.0, "/v") }];
    let failure = sandbox.failure(&spec);
    assert!(failure.detail.contains("mount --make-rshared"), "{failure}");

    mount_change(&volume.0, MountPropagationFlags::SHARED).unwrap();
    sandbox.prints(&spec);
    assert_eq!(fs::read_to_string(volume.0.join("sub/file")).unwrap(), "made\n");
    unmount(volume.0.join("sub"), UnmountFlags::empty()).unwrap();

    for propagation in [Propagation::Private, Propagation::HostToContainer] {
        sandbox.forget("c");
        fs::remove_file(sandbox.path("c.log")).unwrap();
        spec.mounts[0].propagation = propagation;
        sandbox.prints(&spec);
        assert!(!volume.0.join("sub/file").exists(), "{propagation:?}");
    }
}

#[test]
fn a_mount_of_the_host_reaches_a_container_that_asked_for_it() {
    let Some(mut sandbox) = sandbox() else { return };
    let volume = Volume::new(sandbox.path("volume"), MountPropagationFlags::SHARED);
    let fifo = volume.0.join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for (id, propagation, expected) in
        [("p", Propagation::Private, ""), ("h", Propagation::HostToContainer, "from the host\n")]
    {
        let mut spec = sandbox.spec(id, "cat /v/fifo; cat /v/sub/file 2>/dev/null; true");
        spec.mounts = vec![Mount { propagation, ..bind(&volume.0, "/v") }];
        sandbox.start(&spec).unwrap();
        mount("tmpfs", volume.0.join("sub"), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(volume.0.join("sub/file"), "from the host\n").unwrap();
        // It waits for this.
        fs::write(&fifo, "").unwrap();
        assert_eq!(sandbox.client.exited(id).exit, ExitStatus::Code(0));
        assert_eq!(sandbox.output(id), expected, "{propagation:?}");
        unmount(volume.0.join("sub"), UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn namespaces_are_its_own() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec =
        sandbox.spec("c", "echo $$; for n in mnt pid cgroup net ipc uts; do readlink /proc/self/ns/$n; done");
    sandbox.limit(&mut spec, Limits::default());
    let output = sandbox.prints(&spec);
    let host = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "1");
    for (at, name) in ["mnt", "pid", "cgroup"].into_iter().enumerate() {
        assert_ne!(lines[1 + at], host(name));
    }
    for (at, name) in ["net", "ipc", "uts"].into_iter().enumerate() {
        assert_eq!(lines[4 + at], host(name));
    }
}

#[test]
fn namespaces_of_the_pod_are_joined() {
    let Some(mut sandbox) = sandbox() else { return };
    // A first container's namespaces stand for those that the engine pins.
    let mut holder = std::process::Command::new("unshare")
        .args(["--net", "--ipc", "--uts", "sh", "-c", "hostname of-the-pod; echo; read end"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut byte).unwrap();
    let file = |name: &str| format!("/proc/{}/ns/{name}", holder.id());
    let mut spec = sandbox.spec(
        "c",
        "for n in net ipc uts; do readlink /proc/self/ns/$n; done; cat /proc/sys/kernel/hostname; ls /sys/class/net",
    );
    spec.net_ns = Some(file("net").into());
    spec.ipc_ns = Some(file("ipc").into());
    spec.uts_ns = Some(file("uts").into());
    let output = sandbox.prints(&spec);
    let expected: String =
        ["net", "ipc", "uts"].map(|name| format!("{}\n", fs::read_link(file(name)).unwrap().display())).concat();
    assert!(output.starts_with(&format!("{expected}of-the-pod\n")), "{output}");
    assert!(output.contains("lo\n") && !output.contains("eth"), "{output}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    spec.id = "d".into();
    sandbox.failure(&spec);
    let wrong = sandbox.path("wrong");
    fs::write(&wrong, "").unwrap();
    spec.net_ns = Some(wrong);
    sandbox.failure(&spec);
}

#[test]
fn s_d10_control_groups_cannot_be_written() {
    let Some(mut sandbox) = sandbox() else { return };
    let script = "cd /sys/fs/cgroup; ls; for d in . *; do mkdir $d/x 2>/dev/null && echo made in $d; done; \
                  for f in */memory.limit_in_bytes */release_agent */notify_on_release memory.max cgroup.procs; do \
                  test -e $f && echo 999 2>/dev/null > $f && echo wrote $f; done; cat */memory.limit_in_bytes memory.max 2>/dev/null";
    let mut spec = sandbox.spec("c", &format!("({script}) 2>/dev/null; true"));
    sandbox.limit(&mut spec, Limits { memory_bytes: Some(64 << 20), ..Limits::default() });
    let output = sandbox.prints(&spec);
    assert!(!output.contains("made in") && !output.contains("wrote"), "{output}");
    assert!(output.ends_with("67108864\n"), "{output}");
}

#[test]
fn s_d15_devices_are_the_harmless_ones() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec(
        "c",
        "exec 2>&1; echo $(ls /dev); mknod /mem c 1 1; cat /mem; head -c 2 /dev/zero | wc -c; ls -l /dev/extra/dev | head -c 10; \
         cat /dev/null; echo x > /dev/full; readlink /dev/ptmx; readlink /dev/fd",
    );
    sandbox.limit(&mut spec, Limits::default());
    spec.devices = vec![Device { path: "/dev/extra/dev".into(), major: 1, minor: 5, block: false, mode: 0o600 }];
    let output = sandbox.prints(&spec);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "extra fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero");
    for expected in ["Operation not permitted", "\n2\n", "crw-------", "No space left", "pts/ptmx\n/proc/self/fd\n"] {
        assert!(output.contains(expected), "{expected:?} in {output}");
    }
    for path in ["/etc/x", "/dev/..", "/dev/", "dev/x"] {
        let mut spec = sandbox.spec("bad", "true");
        spec.devices = vec![Device { path: path.into(), major: 1, minor: 5, block: false, mode: 0o600 }];
        sandbox.failure(&spec);
    }
}

#[test]
fn limits_and_the_working_directory_reach_the_program() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec("c", "pwd; ulimit -n; umask; cat /proc/self/oom_score_adj");
    spec.process.cwd = "/made/./for/../here".into();
    spec.process.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 77, hard: 99 }];
    spec.process.oom_score_adj = Some(500);
    assert_eq!(sandbox.prints(&spec), "/made/here\n77\n0022\n500\n");
    // The shim's own adjustment is not passed on.
    let spec = sandbox.spec("d", "cat /proc/self/oom_score_adj");
    assert_eq!(sandbox.prints(&spec), "0\n");
}

#[test]
fn a_privileged_container_may_write_proc_and_sys() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec =
        sandbox.spec("c", "grep -E ' /(sys|proc/sys) ' /proc/mounts | grep -c ' ro,'; cat /proc/cmdline | wc -l");
    spec.privileged = true;
    spec.masked_paths = vec!["/proc/cmdline".into()];
    spec.readonly_paths = vec!["/proc/sys".into()];
    let (_, output) = sandbox.run(&spec);
    assert_eq!(output, "0\n1\n");
}

#[test]
fn s_d08_the_shim_cannot_be_looked_into() {
    let Some(mut sandbox) = sandbox() else { return };
    // In the host's pid namespace the container sees the shim, and has no right to look at its descriptors.
    let mut spec = sandbox.spec("c", "");
    spec.pid_ns = PidNamespace::Host;
    let pid = sandbox.shim_pid();
    let script =
        format!("cd /proc/{pid}; for f in exe cwd root fd/4 fd/5; do readlink $f; done; cat environ maps; true");
    spec.process = crate::harness::shell(&format!("readlink /proc/self/exe; ({script}) 2>/dev/null"));
    assert_eq!(sandbox.prints(&spec), "/bin/busybox\n");
}

#[test]
fn f_f05_a_shim_is_small_and_has_one_thread() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = sandbox.spec("c", "echo ready; sleep 600");
    sandbox.start(&spec).unwrap();
    threads_and_memory(&sandbox);
}

fn threads_and_memory(sandbox: &Sandbox) {
    let pid = sandbox.shim_pid();
    assert_eq!(fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(), 1);
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    // Pages of the file itself are shared by all shims.
    let own = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line of that name");
    let own: u64 = own.trim().trim_end_matches(" kB").parse().unwrap();
    eprintln!("memory of the shim's own: {own} kB");
    assert!(own < 512, "{rollup}");
}
