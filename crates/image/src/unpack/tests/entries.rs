//! Kinds of entries, their attributes, and the forms in which archives write them.

use super::{Stack, check, refuse};
use crate::testing::{Header, Tar, is_root, xattr};
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
fn entries_have_the_attributes_that_the_archive_gives() {
    if !is_root() {
        return;
    }
    let mut stack = Stack::new();
    let tar = Tar::new().owner(1_000, 4_000_000_000).mtime(1_234_567_890).dir(".", 0o711).dir("d", 0o1777);
    let tar = tar.file_mode("d/f", 0o6755, b"x").symlink("d/l", "f").node("d/p", b'6', (0, 0)).dir("d", 0o2700);
    stack.add(tar).unwrap();
    assert_eq!(stack.listing(), ["d/ 2700", "d/f 6755 \"x\"", "d/l -> f", "d/p p 620 0:0"]);
    for path in [".", "d", "d/f", "d/l", "d/p"] {
        let m = fs::symlink_metadata(stack.top().join(path)).unwrap();
        assert_eq!((m.uid(), m.gid(), m.mtime()), (1_000, 4_000_000_000, 1_234_567_890), "{path}");
    }
    assert_eq!(fs::metadata(stack.top()).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn s_b06_attributes_that_steer_the_kernel_are_dropped() {
    if !is_root() {
        return;
    }
    // A newline in the middle: binary values must not be cut.
    let capability = b"\x01\0\0\x02\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let dropped = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "trusted.mine",
        "user.overlay.opaque",
        "security.selinux",
    ];
    let with = |mut tar: Tar| {
        for name in dropped {
            tar = tar.pax(&format!("SCHILY.xattr.{name}"), b"y");
        }
        tar.pax("SCHILY.xattr.user.kept", b"yes\nno").pax("SCHILY.xattr.plain", b"x")
    };
    let mut stack = Stack::new();
    let tar = with(Tar::new()).dir("d", 0o755);
    let tar = with(tar).pax("SCHILY.xattr.security.capability", capability).file("d/f", b"x");
    stack.add(with(tar).symlink("d/l", "f")).unwrap();
    for path in ["d", "d/f", "d/l"] {
        let path = stack.top().join(path);
        for name in dropped {
            assert_eq!(xattr(&path, name), None, "{path:?} {name}");
        }
    }
    assert_eq!(xattr(&stack.top().join("d"), "user.kept").unwrap(), b"yes\nno");
    assert_eq!(xattr(&stack.top().join("d/f"), "user.kept").unwrap(), b"yes\nno");
    assert_eq!(xattr(&stack.top().join("d/f"), "security.capability").unwrap(), capability);

    let long = vec![b'x'; (64 << 10) + 1];
    refuse("a value of more than 64 KiB", |_| Tar::new().pax("SCHILY.xattr.user.a", &long).file("f", b""));
    refuse("a malformed capability", |_| Tar::new().pax("SCHILY.xattr.security.capability", b"x").file("f", b""));
    check(
        "twin: dropped whatever its value",
        |_| Tar::new().pax("SCHILY.xattr.trusted.a", &long).file("f", b""),
        &["f 644 \"\""],
    );
}

#[test]
fn s_b07_special_entries() {
    if !is_root() {
        return;
    }
    check(
        "devices and modes",
        |_| {
            let tar = Tar::new().node("b", b'4', (8, 0)).node("c", b'3', (1, 1)).node("p", b'6', (5, 5));
            tar.dir("d", 0o4755).file_mode("f", 0o7777, b"").node("z", b'4', (0, 0))
        },
        &["b b 620 8:0", "c c 620 1:1", "d/ 4755", "f 7777 \"\"", "p p 620 0:0", "z b 620 0:0"],
    );
    refuse("owner 2^32 - 1", |_| Tar::new().owner(u32::MAX, 0).file("a", b""));
    refuse("group 2^32 - 1", |_| Tar::new().owner(0, u32::MAX).file("a", b""));
    for value in [&b"4294967295"[..], b"4294967296", b"-1", b"x", b"1e3", b"18446744073709551616"] {
        refuse("owner in PAX", |_| Tar::new().pax("uid", value).file("a", b""));
        refuse("group in PAX", |_| Tar::new().pax("gid", value).file("a", b""));
    }
    for value in [&b"NaN"[..], b"9223372036854775808", b"inf", b"1.x"] {
        refuse("time in PAX", |_| Tar::new().pax("mtime", value).file("a", b""));
    }
    for value in [&b"-1"[..], b"0", b"1700000000.123456789", b"9223372036854775807", b"-9223372036854775807"] {
        check("twin: a strange time", |_| Tar::new().pax("mtime", value).file("a", b"x"), &["a 644 \"x\""]);
    }
    let binary = |at: usize, bytes: [u8; 8]| Header {
        path: "a",
        typeflag: b'0',
        mode: 0o644,
        patches: vec![(at, bytes.to_vec())],
        ..Header::default()
    };
    refuse("a negative owner", |_| Tar::new().member(binary(108, [0xff; 8]), b""));
    refuse("an owner of 2^32", |_| Tar::new().member(binary(108, [0x80, 0, 0, 1, 0, 0, 0, 0]), b""));
    refuse("a number that is none", |_| Tar::new().member(binary(108, *b"00x0000\0"), b""));
    for typeflag in [b'9', b'A', b'V', b'M', b'D', b'N', 0xff] {
        let header = Header { path: "a", typeflag, mode: 0o644, ..Header::default() };
        refuse("an unknown type", |_| Tar::new().member(header, b""));
    }
}

#[test]
fn archives_of_every_form_are_read() {
    if !is_root() {
        return;
    }
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let listed = [format!("{}/ 755", "d".repeat(120)), format!("{long} 644 \"x\"")];
    let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
    let extension = |typeflag| Header { path: "././@LongLink", typeflag, mode: 0o644, ..Header::default() };
    let gnu = |name: &str| Tar::new().member(extension(b'L'), format!("{name}\0").as_bytes());
    check("GNU long name", |_| gnu(&long).file("short", b"x"), &listed);
    check("PAX path", |_| Tar::new().pax("path", long.as_bytes()).file("short", b"x"), &listed);
    check("PAX path before GNU's", |_| gnu("other").pax("path", long.as_bytes()).file("short", b"x"), &listed);
    check(
        "GNU long link",
        |_| Tar::new().member(extension(b'K'), format!("{long}\0").as_bytes()).symlink("l", "short"),
        &[&format!("l -> {long}")],
    );
    let prefixed = Header {
        path: "f",
        typeflag: b'0',
        mode: 0o644,
        patches: vec![(345, b"some/dir".to_vec())],
        ..Header::default()
    };
    check(
        "ustar prefix",
        |_| Tar::new().member(prefixed, b"x"),
        &["some/ 755", "some/dir/ 755", "some/dir/f 644 \"x\""],
    );
    let old = Header { path: "d/", typeflag: 0, mode: 0o711, patches: vec![(257, vec![0; 8])], ..Header::default() };
    check("an old archive's directory", |_| Tar::new().member(old, b""), &["d/ 711"]);
    let global = Header { path: "pax_global_header", typeflag: b'g', mode: 0o644, ..Header::default() };
    check("a global header", |_| Tar::new().member(global, b"13 comment=x\n").file("a", b"x"), &["a 644 \"x\""]);
    let claims = Header { path: "l", link: "a", typeflag: b'2', mode: 0o777, ..Header::default() };
    check("a link that claims content", |_| Tar::new().claim(claims, 512).file("a", b"x"), &["a 644 \"x\"", "l -> a"]);
    check("PAX size", |_| Tar::new().pax("size", b"3").file("a", b"abcdef"), &["a 644 \"abc\""]);

    let mut stack = Stack::new();
    let without_end = Tar::new().file("a", b"x").build();
    stack.add_limited(&without_end[..without_end.len() - 1024], &super::test_limits()).unwrap();
    assert_eq!(stack.listing(), ["a 644 \"x\""], "the end mark may be missing");
}

#[test]
fn sparse_files_have_their_holes() {
    if !is_root() {
        return;
    }
    let field = |value: u64| format!("{value:011o}\0").into_bytes();
    let pair = |offset, len| [field(offset), field(len)].concat();
    let old = |more: u8, real: u64, map: Vec<u8>| Header {
        path: "f",
        typeflag: b'S',
        mode: 0o644,
        patches: vec![(386, map), (482, vec![more]), (483, field(real))],
        ..Header::default()
    };
    let expected = &["f 644 \"\\0\\0\\0\\0abc\\0\\0de\\0\""];
    check("GNU", |_| Tar::new().member(old(0, 12, [pair(4, 3), pair(9, 2)].concat()), b"abcde"), expected);
    let mut more = pair(9, 2);
    more.resize(512, 0);
    let content = [&more[..], b"abcde"].concat();
    // The size counts the content alone, without the blocks of the map.
    let continued = Tar::new().claim(old(1, 12, pair(4, 3)), 5).raw(&content).raw(&[0; 507]);
    check("GNU, continued", |_| continued, expected);
    check(
        "PAX 0.1",
        |_| Tar::new().pax("GNU.sparse.size", b"12").pax("GNU.sparse.map", b"4,3,9,2").file("f", b"abcde"),
        expected,
    );
    let mut map = b"2\n4\n3\n9\n2\n".to_vec();
    map.resize(512, 0);
    let one = |map: &[u8]| {
        let tar = Tar::new().pax("GNU.sparse.major", b"1").pax("GNU.sparse.minor", b"0").pax("GNU.sparse.name", b"f");
        tar.pax("GNU.sparse.realsize", b"12").file("GNUSparseFile.0/f", &[map, b"abcde"].concat())
    };
    check("PAX 1.0", |_| one(&map), expected);

    let mut regions = b"1000000000\n".to_vec();
    regions.resize(512, b'1');
    refuse("s_b08: 10^9 parts", |_| one(&regions));
    refuse("a map without end", |_| one(&[b'1'; 512]));
    refuse("more than is stored", |_| Tar::new().member(old(0, 12, pair(4, 8)), b"abcde"));
    refuse("beyond the file's end", |_| Tar::new().member(old(0, 8, pair(4, 5)), b"abcde"));
    refuse("overlapping", |_| Tar::new().member(old(0, 12, [pair(4, 3), pair(5, 2)].concat()), b"abcde"));
    refuse("without a size", |_| Tar::new().pax("GNU.sparse.map", b"4,3").file("f", b"abc"));
    refuse("of an unknown form", |_| {
        Tar::new().pax("GNU.sparse.major", b"2").pax("GNU.sparse.size", b"1").file("f", b"")
    });
}
