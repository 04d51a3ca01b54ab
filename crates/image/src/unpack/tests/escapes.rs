//! Symbolic and hard links that lead out.

use super::{Stack, check, refuse};
use crate::testing::{Tar, is_root};
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
fn s_b01_links_are_followed_within_the_root() {
    if !is_root() {
        return;
    }
    let etc = || Tar::new().dir("etc", 0o770);
    check(
        "absolute link",
        |_| etc().symlink("localetc", "/etc").file("localetc/a", b"x"),
        &["etc/ 770", "etc/a 644 \"x\"", "localetc -> /etc"],
    );
    check(
        "link up and out",
        |_| etc().symlink("localetc", "../../../../etc").file("localetc/a", b"x"),
        &["etc/ 770", "etc/a 644 \"x\"", "localetc -> ../../../../etc"],
    );
    check(
        "several absolute links",
        |_| etc().symlink("one", "/two").symlink("two", "/etc").file("one/a", b"x"),
        &["etc/ 770", "etc/a 644 \"x\"", "one -> /two", "two -> /etc"],
    );
    check(
        "several relative links",
        |_| etc().dir("d", 0o755).symlink("d/one", "../two").symlink("two", "./d/../etc").file("d/one/a", b"x"),
        &["d/ 755", "d/one -> ../two", "etc/ 770", "etc/a 644 \"x\"", "two -> ./d/../etc"],
    );
    check(
        "a file is emptied through a link",
        |_| etc().file("etc/a", b"full").symlink("l", "/etc").file("l/a", b""),
        &["etc/ 770", "etc/a 644 \"\"", "l -> /etc"],
    );
    check(
        "link with a slash at its end",
        |_| etc().symlink("l", "/etc/").file("l/a", b"x"),
        &["etc/ 770", "etc/a 644 \"x\"", "l -> /etc/"],
    );
    check(
        "entry with a slash at its end does not become the link's target",
        |_| etc().symlink("l/", "/etc").file("l/a", b"x"),
        &["etc/ 770", "etc/a 644 \"x\"", "l -> /etc"],
    );
    check(
        "link to nothing: what it leads to is made within the root",
        |_| Tar::new().symlink("l", "/no/such").file("l/a", b"x"),
        &["l -> /no/such", "no/ 755", "no/such/ 755", "no/such/a 644 \"x\""],
    );
    let mut stack = Stack::new();
    let canary = stack.canary.path().to_owned();
    stack.add(Tar::new().symlink("l", &canary).file("l/secret", b"x")).unwrap();
    assert_eq!(fs::read(stack.top().join(&canary[1..]).join("secret")).unwrap(), b"x", "made within the root, too");
    stack.canary.assert_untouched("link to the canary");
}

#[test]
fn s_b01_what_a_link_stands_for_is_replaced_itself() {
    if !is_root() {
        return;
    }
    check(
        "a link replaces an empty directory, and files go where it leads",
        |_| Tar::new().dir("etc", 0o770).dir("d", 0o755).symlink("d", "/etc").file("d/a", b"x"),
        &["d -> /etc", "etc/ 770", "etc/a 644 \"x\""],
    );
    check(
        "a link replaces a full directory",
        |_| Tar::new().dir("etc", 0o770).file("d/e/f", b"old").symlink("d", "etc").file("d/a", b"x"),
        &["d -> etc", "etc/ 770", "etc/a 644 \"x\""],
    );
    check(
        "a file replaces a link and is not written through it",
        |canary| Tar::new().symlink("secret", &format!("{canary}/secret")).file("secret", b"x"),
        &["secret 644 \"x\""],
    );
    check(
        "a directory replaces a link and hides what it hid",
        |canary| Tar::new().symlink("d", canary).dir("d", 0o711).file("d/secret", b"x"),
        &["d/ 711 opaque", "d/secret 644 \"x\""],
    );
    check(
        "a directory replaces a link whose target was hard-linked to",
        |_| {
            let tar = Tar::new().dir("etc", 0o770).file("etc/a", b"x").symlink("d", "/etc").link("b", "d/a");
            tar.dir("d", 0o755).file("d/a", b"y")
        },
        &["b 644 \"x\"", "d/ 755 opaque", "d/a 644 \"y\"", "etc/ 770", "etc/a 644 \"x\""],
    );
    check(
        "paths that name the root are passed over",
        |_| Tar::new().dir("etc", 0o770).file("etc/..", b"x").symlink("..", "/x").file("/", b"").file("a", b"x"),
        &["a 644 \"x\"", "etc/ 770"],
    );
    check(
        "leading and inner dots",
        |_| Tar::new().file("../../a", b"x").file("/b/../c", b"y").file("./d/./e", b"z"),
        &["a 644 \"x\"", "c 644 \"y\"", "d/ 755", "d/e 644 \"z\""],
    );
}

#[test]
fn s_b01_impossible_paths_are_refused() {
    if !is_root() {
        return;
    }
    refuse("a file in the place of a directory", |_| Tar::new().file("a", b"x").file("a/b", b"y"));
    refuse("links in a circle", |_| Tar::new().symlink("a", "b").symlink("b", "a").file("a/c", b"x"));
    refuse("link to itself", |_| Tar::new().symlink("a", "a").file("a/b", b"x"));
    refuse("empty link", |_| Tar::new().symlink("a", ""));
    refuse("a name with a zero byte", |_| Tar::new().pax("path", b"a\0b").file("a", b"x"));
    refuse("a name of 256 bytes", |_| Tar::new().pax("path", &[b'a'; 256]).file("a", b"x"));
    refuse("a path of 5,000 bytes", |_| Tar::new().pax("path", &b"abcd/".repeat(1000)).file("a", b"x"));
    check(
        "twin: names of 255 bytes",
        |_| Tar::new().pax("path", &[b'a'; 255]).file("a", b"x"),
        &[&format!("{} 644 \"x\"", "a".repeat(255))],
    );
}

#[test]
fn s_b01_hard_links_stay_within_the_root() {
    if !is_root() {
        return;
    }
    let etc = || Tar::new().dir("etc", 0o770).file("etc/a", b"x");
    let linked = &["b 644 \"x\"", "etc/ 770", "etc/a 644 \"x\""];
    for target in ["etc/a", "/etc/a", "./etc/../etc/a", "../../../etc/a", "etc/../../../etc/a"] {
        check(target, |_| etc().link("b", target), linked);
    }
    check(
        "through a link",
        |_| etc().symlink("l", "/etc").link("b", "l/a"),
        &["b 644 \"x\"", "etc/ 770", "etc/a 644 \"x\"", "l -> /etc"],
    );
    check(
        "to a link, which gets a second name and is not followed",
        |canary| etc().symlink("l", canary).symlink("m", "etc").link("n", "m"),
        &["etc/ 770", "etc/a 644 \"x\"", "l -> {}", "m -> etc", "n -> etc"],
    );
    check(
        "to a link that leads nowhere yet",
        |_| Tar::new().symlink("l", "later").link("n", "l").file("later", b"x"),
        &["l -> later", "later 644 \"x\"", "n -> later"],
    );
    check("to itself", |_| etc().link("etc/a", "/etc/a"), &["etc/ 770", "etc/a 644 \"x\""]);
    for (case, target) in [("canary", "{}/secret"), ("nothing", "no/such"), ("directory", "etc"), ("root", "/")] {
        refuse(case, |canary| etc().link("b", &target.replace("{}", canary)));
    }
    refuse("through a link to the canary", |canary| Tar::new().symlink("l", canary).link("b", "l/secret"));
    refuse("what it would link to is replaced by it", |_| etc().link("etc", "etc/a"));
}

#[test]
fn s_b02_modes_do_not_reach_through_hard_links() {
    if !is_root() {
        return;
    }
    check(
        "a hard link to a link is replaced, not followed",
        |canary| {
            let tar = Tar::new().symlink("a", &format!("{canary}/secret")).link("b", "a");
            tar.file_mode("b", 0o777, b"x").dir("c", 0o755)
        },
        &["a -> {}/secret", "b 777 \"x\"", "c/ 755"],
    );
    check(
        "the mode of a hard link's entry is not applied to what it links to",
        |canary| {
            let tar = Tar::new().symlink("a", &format!("{canary}/secret")).pax("x", b"y");
            tar.link("b", "a")
        },
        &["a -> {}/secret", "b -> {}/secret"],
    );
    let mut stack = Stack::new();
    stack.add(Tar::new().file_mode("a", 0o755, b"x").link("b", "a")).unwrap();
    let (a, b) = (fs::metadata(stack.top().join("a")).unwrap(), fs::metadata(stack.top().join("b")).unwrap());
    assert_eq!((a.ino(), a.mode() & 0o777), (b.ino(), 0o755), "twin: two names of one file");
}
