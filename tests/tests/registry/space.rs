//! What images take, how it is given back, and who may look at it.

use crate::{app, finish, label, machine, pod, random_layer, sleeping};
use e2e::await_some;
use e2e::dice::Dice;
use e2e::layer::{Attributes, Layer};
use e2e::oci::{self, Image, Packed, Packing};
use e2e::registry::{self, Access, Registry, Wire};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of all files beneath a directory, as the disk counts them.
fn used(dir: &Path) -> u64 {
    let output = e2e::daemon::run(Command::new("du").arg("--summarize").arg("--block-size=1").arg(dir));
    output.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
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
    let before = used(&store);
    machine.cli(&["image", "pull", &name("unused")]);
    assert!(used(&store) >= before + (4 << 20), "its own layer was brought");
    let told = machine.cli(&["image", "prune"]);
    assert!(told.contains(&name("unused")) && !told.contains(&name("used")), "{told}");
    let listed = machine.cli(&["image", "list"]);
    assert!(listed.contains(&name("used")) && !listed.contains(&name("unused")), "{listed}");
    await_some("the space comes back", || {
        let now = used(&store);
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

/// A progress that a person sees, in a pipe: each layer, and in the end the image.
#[test]
fn a_pull_tells_what_it_does() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let image = app("told");
    registry.put("shop/app:1", &image);
    let name = format!("{}/shop/app:1", registry.host());
    let machine = machine(&[]);
    let output = machine.try_cli(&["image", "pull", &name]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{name} {}\n", image.id()));
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!progress.contains('\u{1b}'), "a pipe is given no bars: {progress:?}");
    let quiet = machine.try_cli(&["image", "pull", "--quiet", &name]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
    finish(machine);
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
    for (dir, allowed) in [("root/image-store", 0o700), ("root/containers", 0o711), ("root/pods", 0o750)] {
        let mode = std::fs::metadata(machine.dir.join(dir)).expect(dir).permissions().mode() & 0o7777;
        assert_eq!(mode & !allowed, 0, "{dir} is {mode:o}");
    }
    finish(machine);
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
