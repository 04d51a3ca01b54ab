//! What is too large, too much, or not a tar archive.

use super::{Stack, check, refuse, test_limits};
use crate::error::LayerError;
use crate::fs::{open_dir, remove_tree};
use crate::testing::{Header, Tar, is_root};
use crate::unpack::{CHECK_BYTES, Limits};
use proptest::prelude::*;
use std::fs;
use std::io::Read;

fn refuse_limited(case: &str, tar: Tar, limits: &Limits) {
    let mut stack = Stack::new();
    match stack.add_limited(&tar.build(), limits) {
        Err(LayerError::Limit { .. }) => {}
        other => panic!("{case}: {other:?}"),
    }
    stack.canary.assert_untouched(case);
}

#[test]
fn s_b08_claims_are_refused_before_they_cost_anything() {
    if !is_root() {
        return;
    }
    let header = |typeflag| Header { path: "a", typeflag, mode: 0o644, ..Header::default() };
    let limited = |case: &str, error: LayerError| {
        assert!(matches!(error, LayerError::Limit { .. }), "{case}: {error}");
    };
    for (case, typeflag) in [("PAX record", b'x'), ("global record", b'g'), ("long name", b'L'), ("long link", b'K')] {
        limited(case, refuse(case, |_| Tar::new().claim(header(typeflag), 1 << 30)));
    }
    limited("a file of 1 TiB", refuse("a file of 1 TiB", |_| Tar::new().claim(header(b'0'), 1 << 40)));
    let size = format!("{:011o}\0", 7u64 << 30).into_bytes();
    let small = Limits { bytes: 1 << 30, ..test_limits() };
    let sparse = Header { patches: vec![(483, size)], ..header(b'S') };
    refuse_limited("7 GiB of holes", Tar::new().member(sparse.clone(), b""), &small);
    let realsize = format!("{}", 1u64 << 40);
    let pax = Tar::new().pax("GNU.sparse.size", realsize.as_bytes()).pax("GNU.sparse.map", b"0,0").file("a", b"");
    limited("1 TiB of holes", refuse("1 TiB of holes", |_| pax));
    let globals = (0..1_001).fold(Tar::new(), |tar, _| tar.member(header(b'g'), b"13 comment=x\n"));
    limited("global headers", refuse("global headers", |_| globals));
    refuse("extension headers", |_| {
        (0..20).fold(Tar::new(), |tar, _| tar.member(header(b'L'), b"name\0")).file("a", b"")
    });
    refuse("an extension header and nothing more", |_| Tar::new().member(header(b'L'), b"name\0"));
}

#[test]
fn s_b08_what_follows_the_end_is_limited() {
    if !is_root() {
        return;
    }
    let limits = Limits { padding_bytes: 10 << 10, ..test_limits() };
    let mut padded = Tar::new().file("a", b"x").build();
    // The end mark is two blocks, the first of which was read to notice it.
    padded.resize(padded.len() - 512 + (10 << 10), 0);
    Stack::new().add_limited(&padded, &limits).unwrap();
    padded.push(0);
    assert!(Stack::new().add_limited(&padded, &limits).is_err());
}

#[test]
fn s_b09_uncompressed_bytes_are_counted() {
    if !is_root() {
        return;
    }
    let limits = Limits { bytes: 1 << 20, ..test_limits() };
    let mut endless = Tar::new().file("a", b"x").build();
    endless.truncate(1024);
    let mut endless = endless.chain(std::io::repeat(b'\0')).take(1 << 40);
    let mut bytes = Vec::new();
    endless.by_ref().take(2 << 20).read_to_end(&mut bytes).unwrap();
    assert!(matches!(Stack::new().add_limited(&bytes, &limits), Err(LayerError::Limit { .. })));

    let defaults = Limits::default();
    assert_eq!(defaults.for_blob(10 << 20).bytes, 200 * (10 << 20), "200 for one");
    assert_eq!(defaults.for_blob(100).bytes, 1 << 30, "small blobs may be what they like");
    assert_eq!(defaults.for_blob(u64::MAX).bytes, defaults.bytes);
}

#[test]
fn s_b16_files_and_names_are_counted() {
    if !is_root() {
        return;
    }
    let limits = Limits { entries: 10, ..test_limits() };
    let files = |count: usize| (0..count).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), b""));
    Stack::new().add_limited(&files(9).build(), &limits).unwrap();
    refuse_limited("files", files(11), &limits);
    refuse_limited("directories without entries", Tar::new().file("1/2/3/4/5/6/7/8/9/10/f", b""), &limits);
    let limits = Limits { directory_names_bytes: 100, ..test_limits() };
    let name = "d".repeat(60);
    refuse_limited("names", Tar::new().dir(&name, 0o755).dir(&name, 0o755), &limits);
    let full = Limits { reserve_bytes: u64::MAX, ..test_limits() };
    let refused = Stack::new().add_limited(&files(1).build(), &full);
    assert!(matches!(refused, Err(LayerError::DiskFull { what: "space" })), "{refused:?}");
}

#[test]
fn s_b16_deep_trees_are_made_and_removed() {
    if !is_root() {
        return;
    }
    refuse("50,000 deep", |_| Tar::new().pax("path", "d/".repeat(50_000).as_bytes()).dir("d", 0o755));
    // The deepest that a path can name, and from its end, by a link, as far again.
    let deep = vec!["d"; 2_000].join("/");
    let mut stack = Stack::new();
    let tar = Tar::new().pax("path", deep.as_bytes()).dir("d", 0o755).pax("linkpath", deep.as_bytes()).symlink("l", "");
    stack.add(tar.pax("path", format!("l/{}", "e/".repeat(40)).as_bytes()).dir("l", 0o755)).unwrap();
    let top = open_dir(stack.dir.path()).unwrap();
    remove_tree(&top, "layer0").unwrap();
    assert!(!stack.top().exists());
}

#[test]
fn streams_that_are_no_tar_archives_are_refused() {
    if !is_root() {
        return;
    }
    let good = Tar::new().dir("d", 0o755).file("d/f", &[b'x'; 1000]).build();
    let header_end = 512;
    for (case, bytes) in [
        ("cut in a header", good[..700].to_vec()),
        ("cut in a file", good[..1_500].to_vec()),
        ("cut in padding", good[..2_030].to_vec()),
        ("text", b"hello, world\n".repeat(100)),
        ("a wrong checksum", [&b"x"[..], &good[1..]].concat()),
    ] {
        assert!(Stack::new().add_limited(&bytes, &test_limits()).is_err(), "{case}");
    }
    for (case, bytes) in
        [("nothing", &b""[..]), ("an empty archive", &[0; 1024]), ("one directory", &good[..header_end])]
    {
        Stack::new().add_limited(bytes, &test_limits()).unwrap_or_else(|e| panic!("twin: {case}: {e}"));
    }
    check("twin", |_| Tar::new().dir("d", 0o755), &["d/ 755"]);
}

#[test]
fn f_f02_layers_under_way_count_what_they_write_together() {
    let dir = tempfile::tempdir().unwrap();
    let fd = open_dir(dir.path()).unwrap();
    let full = Limits { reserve_bytes: u64::MAX, ..Limits::default() };
    let (one, other) = (full.for_blob(1), full.for_blob(2));
    one.charge_bytes(CHECK_BYTES - 2, &fd).unwrap();
    other.charge_bytes(1, &fd).unwrap();
    one.charge_inode(&fd).unwrap();
    assert!(matches!(one.charge_bytes(1, &fd), Err(LayerError::DiskFull { .. })), "the disk is asked");
    other.charge_bytes(CHECK_BYTES - 1, &fd).unwrap();
    assert!(other.charge_bytes(CHECK_BYTES, &fd).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damage_never_escapes(at in 0usize..4_096, byte: u8, cut in 0usize..6_000) {
        if is_root() {
            let mut stack = Stack::new();
            let canary = stack.canary.path().to_owned();
            let tar = Tar::new().dir("d", 0o755).symlink("out", &canary).file("d/f", b"content").link("g", "d/f");
            let mut bytes = tar.pax("SCHILY.xattr.user.a", b"1").file("out/secret", b"x").build();
            let len = bytes.len();
            bytes[at % len] = byte;
            bytes.truncate(cut.max(512).min(len));
            let _ = stack.add_limited(&bytes, &test_limits());
            stack.canary.assert_untouched("damage");
            let names: Vec<_> = fs::read_dir(stack.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            prop_assert_eq!(names.len(), 3, "{:?}", names);
        }
    }
}
