use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::testing::TempDir;

fn canary(dir: &Path) -> std::path::PathBuf {
    let canary = dir.join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("secret"), "kept").unwrap();
    canary
}

#[test]
fn s_a06_links_are_removed_and_not_followed() {
    let dir = TempDir::new();
    let canary = canary(dir.path());
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    for link in ["l", "a/l", "a/b/l"] {
        symlink(&canary, tree.join(link)).unwrap();
    }
    symlink("nowhere", tree.join("a/dangling")).unwrap();
    fs::hard_link(canary.join("secret"), tree.join("a/hard")).unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read_to_string(canary.join("secret")).unwrap(), "kept");

    let top = dir.path().join("top");
    symlink(&canary, &top).unwrap();
    remove_tree(&top).unwrap();
    assert!(fs::symlink_metadata(&top).is_err());
    assert!(canary.join("secret").exists());
    remove_tree(&top).unwrap();
    remove_tree(&dir.path().join("no/such/dir")).unwrap();
}

#[test]
fn a_tree_deeper_than_any_path_and_wider_than_one_read_goes() {
    let dir = TempDir::new();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..2_000 {
        fs::write(tree.join(format!("f{number}")), "").unwrap();
    }
    let mut at = open_dir(&tree).unwrap();
    let name = "d".repeat(200);
    for _ in 0..300 {
        rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o755)).unwrap();
        rustix::fs::mkdirat(&at, ".removing-1", Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, name.as_str(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}

#[test]
fn s_a06_a_mount_in_the_tree_is_not_crossed() {
    if !crate::testing::is_root("s_a06_a_mount_in_the_tree_is_not_crossed") {
        return;
    }
    let dir = TempDir::new();
    let canary = canary(dir.path());
    let tree = dir.path().join("tree");
    for mounted in [tree.join("m"), tree.join("deep/er/m"), tree.clone()] {
        fs::create_dir_all(&mounted).unwrap();
        rustix::mount::mount_bind(&canary, &mounted).unwrap();
        let error = remove_tree(&tree).unwrap_err();
        assert!(matches!(error, DeletionError::Mounted { .. }), "{error}");
        assert_eq!(fs::read_to_string(canary.join("secret")).unwrap(), "kept");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        for point in points.into_iter().filter(|point| Path::new(point).starts_with(&tree)) {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::NOFOLLOW).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
