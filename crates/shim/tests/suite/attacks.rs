//! Images and specs that want more than they are given. Beside the root lies a canary that must stay as it is.

use crate::harness::{Sandbox, sandbox};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use shim::protocol::{FailureKind, Mount, MountSource, Propagation};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A directory of the host that must not change.
struct Canary(PathBuf);

impl Canary {
    fn new(sandbox: &Sandbox) -> Canary {
        let dir = sandbox.path("canary");
        fs::create_dir_all(dir.join("dev")).unwrap();
        fs::write(dir.join("secret"), "secret").unwrap();
        fs::write(dir.join("dev/ptmx"), "kept").unwrap();
        Canary(dir)
    }

    fn check(&self, what: &str) {
        let names = |dir: &str| {
            let mut names: Vec<_> = fs::read_dir(self.0.join(dir)).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["dev", "secret"], "{what}");
        assert_eq!(names("dev"), ["ptmx"], "{what}");
        assert_eq!(fs::read_to_string(self.0.join("secret")).unwrap(), "secret", "{what}");
    }
}

fn bind(path: PathBuf, destination: &str) -> Mount {
    Mount {
        source: MountSource::Bind { path },
        destination: destination.into(),
        read_only: false,
        propagation: Propagation::Private,
    }
}

fn refuses_link_at(name: &str) {
    let Some(mut sandbox) = sandbox() else { return };
    let canary = Canary::new(&sandbox);
    let place = sandbox.layer(name);
    if place.is_dir() {
        fs::rename(&place, sandbox.layer("moved")).unwrap();
    }
    let outside = canary.0.to_str().unwrap().to_owned();
    for target in [outside.as_str(), "../../canary", "/tmp", "none", name] {
        symlink(target, &place).unwrap();
        let spec = sandbox.spec("c", "true");
        let failure = sandbox.failure(&spec);
        assert_eq!(failure.kind, FailureKind::Refused, "{target}: {failure}");
        assert!(failure.step.contains(name), "{failure}");
        fs::remove_file(&place).unwrap();
    }
    fs::write(&place, "a file").unwrap();
    let spec = sandbox.spec("c", "true");
    assert_eq!(sandbox.failure(&spec).kind, FailureKind::Refused);
    fs::remove_file(&place).unwrap();
    canary.check(name);
    // Without the attack it starts; what is missing is made.
    let spec = sandbox.spec("d", "true");
    sandbox.prints(&spec);
}

#[test]
fn s_d05_a_link_in_place_of_proc_is_refused() {
    refuses_link_at("proc");
}

#[test]
fn s_d05_a_link_in_place_of_sys_is_refused() {
    refuses_link_at("sys");
}

#[test]
fn s_d06_a_link_in_place_of_dev_is_refused() {
    refuses_link_at("dev");
}

#[test]
fn s_d12_a_link_in_place_of_etc_is_refused() {
    refuses_link_at("etc");
}

#[test]
fn s_d05_nothing_is_mounted_over_proc() {
    let Some(mut sandbox) = sandbox() else { return };
    let fake = sandbox.path("fake");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    symlink("/proc", sandbox.layer("link")).unwrap();
    for destination in ["/proc", "/proc/self/attr", "/proc/sys", "/link", "/link/sys", "/x/../proc"] {
        let mut spec = sandbox.spec("c", "true");
        spec.mounts = vec![bind(fake.clone(), destination)];
        let failure = sandbox.failure(&spec);
        assert_eq!(failure.kind, FailureKind::Refused, "{destination}: {failure}");
    }
    let mut spec = sandbox.spec("c", "ls /host/proc");
    spec.mounts = vec![bind(fake, "/host/proc")];
    assert_eq!(sandbox.prints(&spec), "self\n");
}

#[test]
fn s_c06_a_working_directory_is_inside_or_refused() {
    let Some(mut sandbox) = sandbox() else { return };
    let numbers: Vec<String> = (3..=40).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    symlink("loop", sandbox.layer("loop")).unwrap();
    let mut attacks: Vec<&str> = numbers.iter().map(String::as_str).collect();
    attacks.extend(["/proc/1/cwd", "/proc/self/root", "/proc/self/cwd", "/dev/fd/7", "/etc/passwd", "/loop", "/a\0b"]);
    for cwd in attacks {
        let mut spec = sandbox.spec("c", "pwd");
        spec.process.cwd = cwd.into();
        let failure = sandbox.failure(&spec);
        assert_eq!(failure.kind, FailureKind::Refused, "{cwd:?}: {failure}");
    }
    for (id, cwd, expected) in [("d", "/../..", "/\n"), ("e", "relative/new", "/relative/new\n"), ("f", "", "/\n")] {
        let mut spec = sandbox.spec(id, "pwd");
        spec.process.cwd = cwd.into();
        assert_eq!(sandbox.prints(&spec), expected);
    }
}

#[test]
fn s_c07_what_is_made_for_a_mount_or_directory_is_made_inside() {
    let Some(mut sandbox) = sandbox() else { return };
    let canary = Canary::new(&sandbox);
    let volume = sandbox.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("mark"), "").unwrap();
    symlink(&canary.0, sandbox.layer("abs")).unwrap();
    symlink("../../../../../../../../..", sandbox.layer("up")).unwrap();
    symlink(canary.0.join("secret"), sandbox.layer("file")).unwrap();
    let through = canary.0.to_str().unwrap().to_owned();
    let mut spec = sandbox.spec("c", &format!("pwd; ls /abs/a/b {through}/a/b /up/v {through}/secret"));
    spec.process.cwd = "/abs/new".into();
    spec.mounts =
        vec![bind(volume.clone(), "/abs/a/b"), bind(volume.clone(), "/up/v"), bind(volume.join("mark"), "/file")];
    let output = sandbox.prints(&spec);
    assert_eq!(output.matches("mark").count(), 3, "{output}");
    assert!(output.starts_with(&format!("{through}/new\n")) && output.contains(&format!("{through}/secret\n")));
    canary.check("mounts through links");
    for destination in ["/", "/up", "/..", "."] {
        let mut spec = sandbox.spec("d", "true");
        spec.mounts = vec![bind(volume.clone(), destination)];
        assert_eq!(sandbox.failure(&spec).kind, FailureKind::Refused, "{destination}");
    }
}

#[test]
fn s_d02_a_volume_that_is_changed_all_the_time_leads_nowhere() {
    let Some(mut sandbox) = sandbox() else { return };
    let canary = Canary::new(&sandbox);
    let (shared, volume) = (sandbox.path("shared"), sandbox.path("volume"));
    fs::create_dir_all(shared.join("dst")).unwrap();
    fs::create_dir(&volume).unwrap();
    symlink(&canary.0, shared.join("other")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, shared.join("dst"), CWD, shared.join("other"), flags).unwrap();
            }
        });
        for round in 0..100 {
            let id = format!("c{round}");
            let mut spec = sandbox.spec(&id, "true");
            spec.mounts = vec![bind(shared.clone(), "/s"), bind(volume.clone(), "/s/dst/sub")];
            // Either way is fine, as long as it is inside.
            if sandbox.start(&spec).is_ok() {
                sandbox.client.exited(&id);
                sandbox.forget(&id);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    canary.check("a race for the destination");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(canary.0.to_str().unwrap()));
}

#[test]
fn s_c01_users_that_cannot_be_are_refused() {
    let Some(mut sandbox) = sandbox() else { return };
    for name in ["2147483648", "4294967295", "4294967296", "-1", "0x0", " 1000", "1000:4294967296", "nobody"] {
        let mut spec = sandbox.spec("c", "id");
        spec.process.user.name = name.into();
        assert_eq!(sandbox.failure(&spec).kind, FailureKind::Refused, "{name}");
    }
    fs::write(sandbox.layer("etc/passwd"), "1234:x:0:0::/:/bin/sh\n").unwrap();
    let mut spec = sandbox.spec("c", "id -u");
    spec.process.user.name = "1234".into();
    assert_eq!(sandbox.prints(&spec), "1234\n");
}

#[test]
fn s_b15_a_user_table_that_is_none_is_refused_at_once() {
    let Some(mut sandbox) = sandbox() else { return };
    let canary = Canary::new(&sandbox);
    let passwd = sandbox.layer("etc/passwd");
    let outside = canary.0.join("secret");
    let fifo = |path: &PathBuf| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let sparse = |path: &PathBuf| fs::File::create(path).unwrap().set_len(10 << 30).unwrap();
    let zero = |path: &PathBuf| {
        let device = rustix::fs::makedev(1, 5);
        mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o644), device).unwrap();
    };
    let magic = |path: &PathBuf| symlink("/proc/self/fd/3", path).unwrap();
    type Make<'a> = &'a dyn Fn(&PathBuf);
    for (what, make) in [("fifo", &fifo as Make<'_>), ("sparse", &sparse), ("zero", &zero), ("magic", &magic)] {
        fs::remove_file(&passwd).unwrap();
        make(&passwd);
        let spec = sandbox.spec("c", "id");
        assert_eq!(sandbox.failure(&spec).kind, FailureKind::Refused, "{what}");
    }
    // A link to a file that only the host has finds nothing; one inside the root is followed.
    fs::remove_file(&passwd).unwrap();
    symlink(&outside, &passwd).unwrap();
    let mut spec = sandbox.spec("c", "id -u");
    spec.process.user.name = "app".into();
    assert_eq!(sandbox.failure(&spec).kind, FailureKind::Refused);
    fs::remove_file(&passwd).unwrap();
    symlink("/store/passwd", &passwd).unwrap();
    fs::create_dir(sandbox.layer("store")).unwrap();
    fs::write(sandbox.layer("store/passwd"), "app:x:1000:1001::/:\n").unwrap();
    assert_eq!(sandbox.prints(&spec), "1000\n");
    canary.check("user tables");
}

#[test]
fn s_c05_arguments_and_variables_are_passed_as_they_are_or_refused() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec("c", "cat /proc/self/environ");
    spec.process.env.extend(["FOO".into(), "=x".into(), String::new(), "HOME=/x\nroot2::0:0:::".into()]);
    spec.process.args = vec!["cat".into(), "/proc/self/environ".into()];
    let output = sandbox.prints(&spec);
    assert_eq!(output, "PATH=/bin\0HOME=/x\nroot2::0:0:::\0\n");
    let mut spec = sandbox.spec("d", "true");
    spec.process.env.push("A=\0".into());
    assert_eq!(sandbox.failure(&spec).kind, FailureKind::Refused);
}

#[test]
fn s_d09_names_too_long_are_errors() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec("c", "true");
    spec.net_ns = Some("/x".repeat(35_000).into());
    sandbox.failure(&spec);
    let mut spec = sandbox.spec("c", "true");
    spec.mounts = vec![bind("/tmp".into(), &"/x".repeat(5_000))];
    sandbox.failure(&spec);
    let mut spec = sandbox.spec("c", "true");
    spec.root.lower = vec!["0".into(); 3000];
    assert_eq!(sandbox.failure(&spec).kind, FailureKind::Refused);
    let spec = sandbox.spec("c", "true");
    sandbox.prints(&spec);
}

#[test]
fn s_d01_the_shims_file_is_not_written_through_proc() {
    let Some(mut sandbox) = sandbox() else { return };
    let before = fs::read(env!("CARGO_BIN_EXE_shim")).unwrap();
    fs::write(sandbox.layer("evil"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(sandbox.layer("evil"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut spec = sandbox.spec("c", "");
    spec.process.args = vec!["/evil".into()];
    // Whatever runs there, it is not the shim: it fails as the shim's own command line would not.
    if sandbox.start(&spec).is_ok() {
        sandbox.client.exited("c");
    }
    assert!(fs::read(env!("CARGO_BIN_EXE_shim")).unwrap() == before);
}
