//! Whiteouts, opaque directories, and what a layer takes from those below it. What containers will see is asked of
//! overlayfs itself.

use super::{Stack, refuse};
use crate::testing::{Tar, is_root, listing};
use rustix::fs::{CWD, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The layers as a container would see them: mounted, but in no mount namespace.
fn merged(stack: &Stack, opaque_root: bool) -> Vec<String> {
    let empty = stack.dir.path().join("empty");
    let _ = fs::create_dir(&empty);
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let visible = if opaque_root { 1 } else { stack.layers.len() };
    let mut lowers: Vec<String> =
        stack.layers.iter().rev().take(visible).map(|path| path.display().to_string()).collect();
    // Overlayfs without an upper directory wants two layers.
    lowers.push(empty.display().to_string());
    rustix::mount::fsconfig_set_string(&context, "lowerdir", lowers.join(":")).unwrap();
    rustix::mount::fsconfig_create(&context).unwrap();
    let mount =
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap();
    listing(&PathBuf::from(format!("/proc/self/fd/{}/", mount.as_raw_fd())))
}

/// Unpacks `lower` and `upper` and compares the upper layer's directory and what both show together.
fn check(case: &str, lower: Tar, upper: Tar, (layer, together): (&[&str], &[&str])) {
    let mut stack = Stack::new();
    stack.add(lower).unwrap_or_else(|e| panic!("{case}: {e}"));
    let unpacked = stack.add(upper).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(stack.listing(), layer, "{case}: the layer");
    assert_eq!(merged(&stack, unpacked.opaque_root), together, "{case}: together");
    stack.canary.assert_untouched(case);
}

fn lower() -> Tar {
    Tar::new().dir("d", 0o750).file("d/a", b"1").file("d/b", b"2").file("f", b"3")
}

#[test]
fn s_b05_whiteouts_delete_below_and_only_there() {
    if !is_root() {
        return;
    }
    check(
        "a file",
        lower(),
        Tar::new().whiteout("d/.wh.a"),
        (&["d/ 750", "d/a whiteout"], &["d/ 750", "d/b 644 \"2\"", "f 644 \"3\""]),
    );
    check("a directory", lower(), Tar::new().whiteout(".wh.d"), (&["d whiteout"], &["f 644 \"3\""]));
    check(
        "what is not there: no mark is left that would show",
        lower(),
        Tar::new().whiteout("d/.wh.x").whiteout("no/.wh.x").file("n/f", b"").whiteout("n/.wh.x"),
        (
            &["d/ 750", "n/ 755", "n/f 644 \"\""],
            &["d/ 750", "d/a 644 \"1\"", "d/b 644 \"2\"", "f 644 \"3\"", "n/ 755", "n/f 644 \"\""],
        ),
    );
    check(
        "a file of the same layer stays, marked before",
        lower(),
        Tar::new().whiteout(".wh.f").file("f", b"new"),
        (&["f 644 \"new\""], &["d/ 750", "d/a 644 \"1\"", "d/b 644 \"2\"", "f 644 \"new\""]),
    );
    check(
        "a file of the same layer stays, marked after",
        lower(),
        Tar::new().file("f", b"new").whiteout(".wh.f"),
        (&["f 644 \"new\""], &["d/ 750", "d/a 644 \"1\"", "d/b 644 \"2\"", "f 644 \"new\""]),
    );
    check(
        "a directory of the same layer stays without what is below, marked before",
        lower(),
        Tar::new().whiteout(".wh.d").dir("d", 0o755).file("d/c", b"c"),
        (&["d/ 755 opaque", "d/c 644 \"c\""], &["d/ 755", "d/c 644 \"c\"", "f 644 \"3\""]),
    );
    check(
        "the same without an entry for the directory",
        lower(),
        Tar::new().whiteout(".wh.d").file("d/c", b"c"),
        (&["d/ 755 opaque", "d/c 644 \"c\""], &["d/ 755", "d/c 644 \"c\"", "f 644 \"3\""]),
    );
    check(
        "a directory of the same layer stays without what is below, marked after",
        lower(),
        Tar::new().dir("d", 0o755).file("d/c", b"c").whiteout(".wh.d"),
        (&["d/ 755 opaque", "d/c 644 \"c\""], &["d/ 755", "d/c 644 \"c\"", "f 644 \"3\""]),
    );
    check(
        "a mark below a mark",
        lower(),
        Tar::new().whiteout(".wh.d").whiteout("d/.wh.a"),
        (&["d whiteout"], &["f 644 \"3\""]),
    );
    check(
        "a file instead of a directory, and then a directory again",
        lower(),
        Tar::new().file("d", b"x").dir("d", 0o755),
        (&["d/ 755 opaque"], &["d/ 755", "f 644 \"3\""]),
    );
}

#[test]
fn s_b05_opaque_directories_hide_what_is_below_and_keep_their_own() {
    if !is_root() {
        return;
    }
    let together: &[&str] = &["d/ 755", "d/c 644 \"c\"", "f 644 \"3\""];
    let layer: &[&str] = &["d/ 755 opaque", "d/c 644 \"c\""];
    let directory = || Tar::new().dir("d", 0o755);
    check("mark first", lower(), directory().whiteout("d/.wh..wh..opq").file("d/c", b"c"), (layer, together));
    check("mark last", lower(), directory().file("d/c", b"c").whiteout("d/.wh..wh..opq"), (layer, together));
    check(
        "deletions in it leave no marks, before and after",
        lower(),
        directory().whiteout("d/.wh.a").file("d/c", b"c").whiteout("d/.wh..wh..opq").whiteout("d/.wh.b"),
        (layer, together),
    );
    let nested = || Tar::new().file("d/e/x", b"1").file("d/e/y", b"2");
    check(
        "deletions further down leave none either",
        nested(),
        Tar::new().whiteout("d/e/.wh.x").whiteout("d/.wh..wh..opq").file("d/e/z", b"3").whiteout("d/e/.wh.y"),
        (&["d/ 755 opaque", "d/e/ 755", "d/e/z 644 \"3\""], &["d/ 755", "d/e/ 755", "d/e/z 644 \"3\""]),
    );
    check(
        "the root",
        lower(),
        Tar::new().file("n", b"x").whiteout(".wh..wh..opq").whiteout(".wh.f"),
        (&["n 644 \"x\""], &["n 644 \"x\""]),
    );
    check(
        "the root by way of a link",
        lower(),
        Tar::new().symlink("l", "/d/..").whiteout("l/.wh..wh..opq"),
        (&["d/ 750", "l -> /d/.."], &["d/ 750", "l -> /d/.."]),
    );
    check(
        "a directory that is nowhere",
        lower(),
        Tar::new().whiteout("no/.wh..wh..opq"),
        (&[], &["d/ 750", "d/a 644 \"1\"", "d/b 644 \"2\"", "f 644 \"3\""]),
    );
}

#[test]
fn s_b05_names_that_only_look_like_deletions() {
    if !is_root() {
        return;
    }
    let unchanged: &[&str] = &["d/ 750", "d/a 644 \"1\"", "d/b 644 \"2\"", "f 644 \"3\""];
    for path in [".wh..wh.plnk", ".wh..wh.aufs", "d/.wh..wh.orph/1", ".wh..wh..opq/x", ".wh..wh.plnk/1.2"] {
        let mut stack = Stack::new();
        stack.add(lower()).unwrap();
        stack.add(Tar::new().file(path, b"x")).unwrap();
        assert!(stack.listing().is_empty(), "{path}: {:?}", stack.listing());
        assert_eq!(merged(&stack, false), unchanged, "{path}");
    }
    for path in [".wh.", "d/.wh.", "d/.wh..", "d/.wh...", ".wh...", ".wh..wh.", ".wh..wh./", ".wh..wh.x/../.wh."] {
        refuse(path, |_| lower().whiteout(path));
    }
    refuse("a device that is overlayfs's own mark", |_| Tar::new().node("f", b'3', (0, 0)));
    refuse("a hard link to a mark", |_| Tar::new().whiteout(".wh.f").link("g", "f"));
    let mut stack = Stack::new();
    stack.add(lower()).unwrap();
    assert!(stack.add(Tar::new().whiteout(".wh.f").link("g", "f")).is_err(), "a hard link to what was deleted");
}

#[test]
fn s_b01_whiteouts_follow_links_within_the_root() {
    if !is_root() {
        return;
    }
    let mut stack = Stack::new();
    let canary = stack.canary.path().to_owned();
    stack.add(lower().symlink("l", "/d").symlink("out", &canary).symlink("dead", "/no/such")).unwrap();
    let upper = Tar::new().whiteout("l/.wh.a").whiteout("out/.wh.secret").whiteout("dead/.wh.x").whiteout("../d/.wh.b");
    stack.add(upper).unwrap();
    assert_eq!(stack.listing(), ["d/ 750", "d/a whiteout", "d/b whiteout"]);
    stack.canary.assert_untouched("whiteouts through links");
}

#[test]
fn directories_without_an_entry_look_like_those_below() {
    if !is_root() {
        return;
    }
    let mut stack = Stack::new();
    let lower = Tar::new().mtime(1_000).owner(7, 8).dir(".", 0o711).pax("SCHILY.xattr.user.k", b"v").dir("a", 0o2750);
    stack.add(lower.dir("a/b", 0o1777).symlink("l", "a/b")).unwrap();
    stack.add(Tar::new().whiteout("x/.wh.y").file("z", b"")).unwrap();
    stack.add(Tar::new().file("a/b/c", b"x").file("l/d", b"y")).unwrap();
    assert_eq!(
        stack.listing(),
        ["a/ 2750", "a/b/ 1777", "a/b/c 644 \"x\"", "a/b/d 644 \"y\""],
        "the link below is followed"
    );
    for path in ["", "a", "a/b"] {
        let m = fs::metadata(stack.top().join(path)).unwrap();
        assert_eq!((m.uid(), m.gid(), m.mtime()), (7, 8, 1_000), "{path:?}");
    }
    assert_eq!(fs::metadata(stack.top()).unwrap().mode() & 0o7777, 0o711, "the root, too");
    assert_eq!(crate::testing::xattr(&stack.top().join("a"), "user.k").unwrap(), b"v");

    let mut hidden = Stack::new();
    hidden.add(Tar::new().dir("a", 0o700).dir("a/b", 0o700)).unwrap();
    hidden.add(Tar::new().whiteout(".wh.a")).unwrap();
    hidden.add(Tar::new().file("a/b/c", b"x")).unwrap();
    assert_eq!(hidden.listing(), ["a/ 755", "a/b/ 755", "a/b/c 644 \"x\""], "a deleted directory is no model");

    let mut opaque = Stack::new();
    opaque.add(Tar::new().dir("a", 0o700).dir("a/b", 0o700)).unwrap();
    opaque.add(Tar::new().dir("a", 0o711).whiteout("a/.wh..wh..opq")).unwrap();
    opaque.add(Tar::new().file("a/b/c", b"x").whiteout("a/.wh.d")).unwrap();
    assert_eq!(opaque.listing(), ["a/ 711", "a/b/ 755", "a/b/c 644 \"x\""], "nor is a hidden one");
}

#[test]
fn hard_links_to_files_below_bring_them_up() {
    if !is_root() {
        return;
    }
    let mut stack = Stack::new();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let lower = Tar::new().mtime(1_000).owner(7, 8).dir("d", 0o750).pax("SCHILY.xattr.security.capability", capability);
    stack.add(lower.file_mode("d/a", 0o4755, b"x").symlink("d/l", "a").node("d/n", b'6', (0, 0))).unwrap();
    stack.add(Tar::new().link("b", "d/a").link("m", "/d/l")).unwrap();
    assert_eq!(stack.listing(), ["b 4755 \"x\"", "d/ 750", "d/a 4755 \"x\"", "d/l -> a", "m -> a"]);
    let (a, b) = (fs::metadata(stack.top().join("d/a")).unwrap(), fs::metadata(stack.top().join("b")).unwrap());
    assert_eq!((a.ino(), a.uid(), a.gid(), a.mtime()), (b.ino(), 7, 8, 1_000));
    let kept = crate::testing::xattr(&stack.top().join("b"), "security.capability");
    assert_eq!(kept.as_deref(), Some(&capability[..]), "copied with its capability");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    assert!(rustix::fs::openat(CWD, stack.top().join("d/n"), flags, rustix::fs::Mode::empty()).is_err());
    assert!(stack.add(Tar::new().link("p", "d/n")).is_err(), "neither a file nor a link");
}
