use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;
use crate::testing::TempDir;

const KINDS: [&str; 7] = ["Directory", "File", "Socket", "CharDevice", "BlockDevice", "link", "dangling"];

fn make(dir: &Path, kind: &str) -> PathBuf {
    let path = dir.join(kind);
    let device = |kind, major| {
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o600), rustix::fs::makedev(major, 3))
            .unwrap();
    };
    match kind {
        "Directory" => fs::create_dir(&path).unwrap(),
        "File" => fs::write(&path, "").unwrap(),
        "Socket" => drop(UnixListener::bind(&path).unwrap()),
        "CharDevice" => device(FileType::CharacterDevice, 1),
        "BlockDevice" => device(FileType::BlockDevice, 7),
        "link" => {
            fs::create_dir(dir.join("target")).unwrap();
            symlink("target", &path).unwrap();
        }
        "dangling" => symlink(dir.join("created-through-link"), &path).unwrap(),
        _ => {}
    }
    path
}

#[test]
fn a_10_host_path_types_against_every_kind() {
    if !crate::testing::is_root("a_10_host_path_types_against_every_kind") {
        return;
    }
    // A link passes for what it leads to, here a directory; a file is everything but a directory.
    let accepted: [(&str, &[&str]); 8] = [
        ("", &["Directory", "File", "Socket", "CharDevice", "BlockDevice", "link", "missing"]),
        ("DirectoryOrCreate", &["Directory", "link", "missing"]),
        ("Directory", &["Directory", "link"]),
        ("FileOrCreate", &["File", "Socket", "CharDevice", "BlockDevice", "missing"]),
        ("File", &["File", "Socket", "CharDevice", "BlockDevice"]),
        ("Socket", &["Socket"]),
        ("CharDevice", &["CharDevice"]),
        ("BlockDevice", &["BlockDevice"]),
    ];
    for (kind, accepts) in accepted {
        for found in KINDS.into_iter().chain(["missing"]) {
            let dir = TempDir::new();
            let path = make(dir.path(), found);
            let result = resolve(&path, kind);
            assert_eq!(result.is_ok(), accepts.contains(&found), "{kind:?} against {found}: {result:?}");
            assert!(!dir.path().join("created-through-link").exists(), "{kind:?} created through a dangling link");
            if let ("link", Ok(real)) = (found, result) {
                assert_eq!(real, dir.path().join("target"), "the runtime meets no link");
            }
        }
    }
}

#[test]
fn what_is_missing_is_made_as_the_type_says() {
    let dir = TempDir::new();
    let deep = dir.path().join("a/b/c");
    assert_eq!(resolve(&deep, "DirectoryOrCreate").unwrap(), deep);
    assert!(deep.is_dir());
    let file = deep.join("f");
    assert_eq!(resolve(&file, "FileOrCreate").unwrap(), file);
    assert!(file.is_file());
    let orphan = dir.path().join("no/f");
    assert!(matches!(resolve(&orphan, "FileOrCreate"), Err(HostPathError::Io { .. })), "its directory is not made");
    symlink(dir.path().join("elsewhere"), dir.path().join("l")).unwrap();
    resolve(&dir.path().join("l/x"), "DirectoryOrCreate").unwrap_err();
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn odd_paths_and_types_are_refused() {
    for path in ["relative", "/a/../b", ""] {
        assert!(matches!(resolve(Path::new(path), ""), Err(HostPathError::NotAbsolute { .. })), "{path:?}");
    }
    assert!(matches!(resolve(Path::new("/"), "Pipe"), Err(HostPathError::UnknownType { .. })));
    assert_eq!(resolve(Path::new("/"), "Directory").unwrap(), Path::new("/"));
    assert!(resolve(Path::new("/proc/self/root/etc"), "Directory").is_err(), "magic links are not followed");
}
