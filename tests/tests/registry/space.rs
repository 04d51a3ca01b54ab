//! What images take, how it is given back, and who may look at it.

use crate::{app, finish, label, machine, pod, random_layer, sleeping};
use e2e::dice::Dice;
use e2e::layer::{Attributes, Layer};
use e2e::oci::{self, Image, Packed, Packing};
use e2e::registry::{self, Access, Proxy, Registry, Wire};
use e2e::{Machine, await_some};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Of the small disk; nothing of it is real but what is written.
const DISK_BYTES: u64 = 2 << 30;

/// Bytes of all files beneath a directory, as the disk counts them; an error when one went while they were counted.
fn used(dir: &Path) -> Result<u64, String> {
    let output = Command::new("du").arg("--summarize").arg("--block-size=1").arg(dir).output().expect("du");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number"))
}

/// F-F01: unused images go and their space comes back; used ones stay with all their layers, and so do pinned ones.
#[test]
fn f_f01_prune_gives_back_what_nobody_uses() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let shared = random_layer(&mut dice, "shared", 1 << 20);
    let own = random_layer(&mut dice, "own", 4 << 20);
    registry.put("shop/used:1", &Image::new(vec![oci::busybox(Packing::Gzip), shared.clone()]));
    registry.put("shop/unused:1", &Image::new(vec![oci::busybox(Packing::Gzip), shared, own]));
    registry.put("shop/app:1", &app("kept"));
    let name = |image: &str| format!("{}/shop/{image}:1", registry.host());
    let machine = machine(&[]);
    pod(&machine, "used", &name("used"), &sleeping());
    machine.await_running("used", "main");
    let store = machine.dir.join("root/image-store");
    let before = await_some("what is used", || used(&store));
    machine.cli(&["image", "pull", &name("unused")]);
    let brought = await_some("what is used now", || used(&store));
    assert!(brought >= before + (4 << 20), "its own layer was brought: {before} bytes, and now {brought}");
    let told = machine.cli(&["image", "prune"]);
    assert!(told.contains(&name("unused")) && !told.contains(&name("used")), "{told}");
    let listed = machine.cli(&["image", "list"]);
    assert!(listed.contains(&name("used")) && !listed.contains(&name("unused")), "{listed}");
    await_some("the space comes back", || {
        let now = used(&store)?;
        // Directories that have grown stay a little larger.
        if now <= before + (64 << 10) { Ok(()) } else { Err(format!("{before} bytes, and now {now}")) }
    });
    let sums = ["exec", "used", "--", "/bin/sh", "-c", "cd / && cat sums/* | sha256sum -c -s"];
    machine.cli(&sums);
    machine.remove_manifest("used.yaml");
    machine.await_no_pods();
    await_some("the other one goes once nobody uses it", || {
        machine.cli(&["image", "prune"]);
        let listed = machine.cli(&["image", "list"]);
        if listed.contains("shop/used") { Err(listed) } else { Ok(()) }
    });
    // Pulled again it is whole again.
    pod(&machine, "app", &name("app"), &sleeping());
    assert_eq!(label(&machine, "app"), "kept");
    finish(machine);
}

/// What is under way is seen, and ends when nobody waits for it any more: nothing of it stays.
#[test]
fn a_pull_is_seen_and_ends_with_the_last_who_wants_it() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let proxy = Proxy::start(&registry);
    let own = (0..4).map(|number| random_layer(&mut dice, &number.to_string(), 1 << 20));
    let image = Image::new([oci::busybox(Packing::Gzip)].into_iter().chain(own).collect());
    registry.put("shop/app:1", &image);
    let name = format!("{}/shop/app:1", proxy.host());
    let half = image.blobs().map(|blob| blob.bytes.len() as u64).sum::<u64>() / 2;
    let machine = machine(&[]);
    let ingest = machine.dir.join("root/image-store/ingest");
    let nothing_stays = || {
        await_some("nothing of the pull stays", || {
            let left = std::fs::read_dir(&ingest).into_iter().flatten().flatten().count();
            if left == 0 { Ok(()) } else { Err(format!("{left} in {}", ingest.display())) }
        });
        assert!(!machine.cli(&["image", "list"]).contains("shop/app"));
    };
    proxy.stop_after(half);
    pod(&machine, "wants", &name, &sleeping());
    proxy.await_passed(half);
    await_some("a percentage in ps", || {
        let told = machine.cli(&["ps"]);
        if told.contains("pulling ") && told.contains(" %") { Ok(()) } else { Err(told) }
    });
    machine.remove_manifest("wants.yaml");
    machine.await_no_pods();
    nothing_stays();
    proxy.heal();

    proxy.stop_after(half);
    let mut command = Command::new(e2e::machine::kubelet_binary());
    command.args(["image", "pull", &format!("--run-dir={}", machine.run_dir.display()), &name]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    proxy.await_passed(half);
    // SIGINT would be ignored where whoever started the tests ignores it, as a shell does for what runs in the background.
    kill_process(Pid::from_child(&child), Signal::TERM).expect("signalled");
    assert!(!child.wait().expect("waited").success());
    nothing_stays();
    proxy.heal();
    pod(&machine, "wants", &name, &sleeping());
    machine.await_running("wants", "main");
    finish(machine);
}

/// F-F01: on a disk that is nearly full unused images go by themselves, used ones stay whole.
#[test]
fn f_f01_a_full_disk_costs_what_nobody_uses() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let shared = random_layer(&mut dice, "shared", 2 << 20);
    let own = random_layer(&mut dice, "own", 20 << 20);
    registry.put("shop/used:1", &Image::new(vec![oci::busybox(Packing::Gzip), shared.clone()]));
    registry.put("shop/unused:1", &Image::new(vec![oci::busybox(Packing::Gzip), shared, own]));
    let flags = ["--image-gc-high-threshold=70", "--image-gc-low-threshold=60", "--minimum-image-ttl-duration=1s"];
    let mut machine = machine(&flags.map(str::to_owned));
    let store = machine.dir.join("root/image-store");
    machine.stop_kubelet();
    let file = machine.dir.join("disk");
    let Some(disk) = Disk::mount(&file, &store) else {
        println!("skipped: no file system of a file can be mounted here");
        machine.start_kubelet();
        return finish(machine);
    };
    machine.start_kubelet();
    pod(&machine, "used", &format!("{}/shop/used:1", registry.host()), &sleeping());
    machine.await_running("used", "main");
    let unused = format!("{}/shop/unused:1", registry.host());
    machine.cli(&["image", "pull", &unused]);
    // Now it is too full, and will not be without the unused image.
    let ballast = std::fs::File::create(store.join("ballast")).expect("a file");
    fallocate(&ballast, FallocateFlags::empty(), 0, DISK_BYTES * 7 / 10).expect("the disk has room");
    let full = await_some("what is used", || used(&store));
    // Disks are looked at shortly after the start.
    machine.stop_kubelet();
    machine.start_kubelet();
    await_some("the unused image goes", || {
        let listed = machine.cli(&["image", "list"]);
        if listed.contains("shop/unused") { Err(format!("{listed}; log:\n{}", machine.log())) } else { Ok(()) }
    });
    assert!(machine.cli(&["image", "list"]).contains("shop/used"));
    // It is not listed any more before its files are deleted.
    await_some("its space comes back", || {
        let now = used(&store)?;
        if now <= full - (20 << 20) { Ok(()) } else { Err(format!("{full} bytes, and now {now}")) }
    });
    machine.cli(&["exec", "used", "--", "/bin/sh", "-c", "cd / && cat sums/* | sha256sum -c -s"]);
    machine.remove_manifest("used.yaml");
    machine.await_no_pods();
    machine.stop_kubelet();
    drop(disk);
    machine.start_kubelet();
    finish(machine);
}

/// A small ext4 in a file, mounted until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(file: &Path, at: &Path) -> Option<Disk> {
        std::fs::File::create(file).and_then(|file| file.set_len(DISK_BYTES)).expect("a file");
        e2e::daemon::run(Command::new("mkfs.ext4").arg("-q").arg(file));
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(file).arg(at).status().expect("mount");
        mounted.success().then(|| Disk(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device goes with it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// S-B20: nobody but root looks into the store, reaches a socket, or runs what an image brings with set-user-id.
#[test]
fn s_b20_an_unprivileged_user_reaches_nothing() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let mut layer = Layer::default();
    let busybox = oci::busybox(Packing::Gzip);
    // A shell would give its privileges up; what only tells who it is does not.
    layer.file("setuid", &Attributes::mode(0o6755), &std::fs::read("/bin/true").expect("a program"));
    let image = Image::new(vec![busybox, Packed::new(&layer.finish(), Packing::Gzip)]);
    registry.put("shop/setuid:1", &image);
    let machine = machine(&[]);
    pod(&machine, "setuid", &format!("{}/shop/setuid:1", registry.host()), &sleeping());
    machine.await_running("setuid", "main");
    let mut programs = Vec::new();
    find(&machine.dir.join("root/image-store"), "setuid", &mut programs);
    assert_eq!(programs.len(), 1, "{programs:?}");
    let as_nobody = |args: &[&str]| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
        // setpriv itself keeps its capabilities until it executes something.
        let command = Command::new("setpriv").args(nobody).arg("env").args(args).output();
        command.expect("setpriv").status.success()
    };
    assert!(as_nobody(&["true"]), "the user can run something");
    let program = programs[0].display().to_string();
    assert!(!as_nobody(&["stat", &program]) && !as_nobody(&[&program]), "{program}");
    let socket = machine.run_dir.join("kubelet.sock").display().to_string();
    assert!(!as_nobody(&["test", "-w", &socket]), "{socket}");
    others_are_kept_out(&machine);
    finish(machine);
}

/// The modes of all that the kubelet keeps.
pub(crate) fn others_are_kept_out(machine: &Machine) {
    let root = machine.dir.join("root");
    let places = [
        (root.join("image-store"), 0o700),
        (root.join("image-store/layers"), 0o700),
        (root.join("containers"), 0o711),
        (root.join("pods"), 0o750),
        (machine.run_dir.clone(), 0o711),
        (machine.run_dir.join("sandboxes"), 0o711),
        (machine.run_dir.join("kubelet.sock"), 0o660),
        (machine.dir.join("logs"), 0o755),
    ];
    for (path, allowed) in places {
        let found = std::fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mode = found.permissions().mode() & 0o7777;
        assert_eq!((mode & !allowed, found.uid(), found.gid()), (0, 0, 0), "{} is {mode:o}", path.display());
    }
}

fn find(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), name, found);
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
}
