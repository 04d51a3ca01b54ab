//! Block devices and mounted file systems.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::machine::{DiskInfo, FsInfo};
use crate::source::Tree;

/// File systems reported at most.
const MAX_FILESYSTEMS: usize = 256;

/// Whole block devices by `major:minor`; loop, RAM and optical ones are left out.
pub(crate) fn disks(tree: &Tree) -> BTreeMap<String, DiskInfo> {
    const BLOCK: &str = "sys/block";
    const SECTOR_BYTES: u64 = 512;
    let mut disks = BTreeMap::new();
    for name in tree.names(BLOCK) {
        if ["loop", "ram", "zram", "sr"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let Some(number) = tree.line(&format!("{BLOCK}/{name}/dev")) else { continue };
        let Some((major, minor)) = parse_number(&number) else { continue };
        let sectors: u64 = tree.number(&format!("{BLOCK}/{name}/size")).unwrap_or(0);
        let schedulers = tree.line(&format!("{BLOCK}/{name}/queue/scheduler")).unwrap_or_default();
        let disk = DiskInfo {
            major,
            minor,
            size: sectors.saturating_mul(SECTOR_BYTES),
            scheduler: chosen_scheduler(&schedulers).to_owned(),
            name,
        };
        disks.insert(number, disk);
    }
    disks
}

fn parse_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The one in brackets of `none [mq-deadline] kyber`.
fn chosen_scheduler(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("none", |(chosen, _)| chosen)
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    at: PathBuf,
    kind: String,
    source: String,
}

impl Mount {
    /// Whether asking it anything may wait for another machine or another process.
    fn may_hang(&self) -> bool {
        const REMOTE: [&str; 14] = [
            "9p",
            "afs",
            "autofs",
            "ceph",
            "cifs",
            "coda",
            "gfs2",
            "glusterfs",
            "lustre",
            "nfs",
            "nfs4",
            "ocfs2",
            "smb3",
            "virtiofs",
        ];
        self.kind.starts_with("fuse") || REMOTE.contains(&&*self.kind)
    }
}

/// Lines that make no sense are left out.
fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let at = left.split(' ').nth(4)?;
            let mut right = right.split(' ');
            let (kind, source) = (right.next()?, right.next()?);
            Some(Mount { at: unescape(at).into(), kind: kind.to_owned(), source: unescape(source) })
        })
        .collect()
}

/// Blanks and backslashes stand as three octal digits in mountinfo.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            digits.iter().try_fold(0u16, |value, &digit| {
                (b'0'..=b'7').contains(&digit).then(|| value * 8 + u16::from(digit - b'0'))
            })
        });
        match octal.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The mounts to measure: one of each block device, and the one that `root_dir` is on. None of them lies on or
/// beneath a mount that may hang, for already looking up its path could wait for ever.
fn measurable<'a>(mounts: &'a [Mount], root_dir: &Path) -> Vec<&'a Mount> {
    let hanging: Vec<&Path> = mounts.iter().filter(|mount| mount.may_hang()).map(|mount| &*mount.at).collect();
    let safe = |mount: &&Mount| !hanging.iter().any(|at| mount.at.starts_with(at));
    // Of mounts at one place the last is on top.
    let holds_root = mounts.iter().filter(|mount| root_dir.starts_with(&mount.at)).enumerate();
    let holds_root = holds_root.max_by_key(|(order, mount)| (mount.at.components().count(), *order));
    let devices = mounts.iter().filter(|mount| mount.source.starts_with("/dev/"));
    let mut seen = BTreeSet::new();
    devices
        .chain(holds_root.map(|(_, mount)| mount))
        .filter(safe)
        .filter(|mount| seen.insert(&mount.source))
        .take(MAX_FILESYSTEMS)
        .collect()
}

/// Size and inodes of the mounted block devices and of the file system that `root_dir` is on.
pub(crate) fn filesystems(tree: &Tree, root_dir: &Path) -> Vec<FsInfo> {
    let mountinfo = tree.text("proc/self/mountinfo").unwrap_or_default();
    let mounts = parse_mounts(&mountinfo);
    let measure = |mount: &Mount| {
        let found = rustix::fs::statvfs(&mount.at).ok()?;
        Some(FsInfo {
            device: mount.source.clone(),
            capacity: found.f_blocks.saturating_mul(found.f_frsize),
            kind: "vfs".into(),
            inodes: found.f_files,
            has_inodes: true,
        })
    };
    measurable(&mounts, root_dir).into_iter().filter_map(measure).collect()
}

/// Bytes of the file system that holds `path`; `None` if it does not say. Only for a path that is in use anyway: of a
/// network's file system the answer may not come.
pub fn capacity_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_blocks.saturating_mul(found.f_frsize)).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn block_devices() {
        let dir = tempfile::tempdir().unwrap();
        for (name, number, sectors, scheduler) in [
            ("vda", "254:0\n", "2097152\n", "none [mq-deadline] kyber\n"),
            ("nvme0n1", "259:0\n", "8\n", "none\n"),
            ("loop0", "7:0\n", "8\n", "none\n"),
            ("odd", "x\n", "8\n", ""),
        ] {
            let at = dir.path().join("sys/block").join(name);
            fs::create_dir_all(at.join("queue")).unwrap();
            fs::write(at.join("dev"), number).unwrap();
            fs::write(at.join("size"), sectors).unwrap();
            fs::write(at.join("queue/scheduler"), scheduler).unwrap();
        }
        let disks = disks(&Tree::at(dir.path()));
        let found: Vec<_> = disks.iter().map(|(key, d)| (&**key, &*d.name, d.size, &*d.scheduler)).collect();
        assert_eq!(found, [("254:0", "vda", 1 << 30, "mq-deadline"), ("259:0", "nvme0n1", 4096, "none")]);
    }

    #[test]
    fn mountinfo_lines() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/a\\134b rw,errors=continue\n\
                    short\n37 35 0:5 / /x rw - tmpfs tmpfs rw\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].at.to_str().unwrap(), &*mounts[0].source), ("/mnt 2", "/dev/a\\b"));
        for (text, plain) in [("\\9", "\\9"), ("\\777", "\\777"), ("a\\", "a\\"), ("\\0401", " 1")] {
            assert_eq!(unescape(text), plain, "{text}");
        }
    }

    #[test]
    fn network_and_fuse_mounts_are_never_asked() {
        let mounts = parse_mounts(
            "1 0 254:0 / / rw - ext4 /dev/vda rw\n\
             2 1 254:1 / /data rw - xfs /dev/vdb rw\n\
             3 1 254:1 /sub /bind rw - xfs /dev/vdb rw\n\
             4 1 0:40 / /net rw - nfs4 server:/x rw\n\
             5 4 254:2 / /net/disk rw - ext4 /dev/vdc rw\n\
             6 1 8:1 / /ntfs rw - fuseblk /dev/sda1 rw\n\
             7 1 254:3 / /covered rw - ext4 /dev/vdd rw\n\
             8 7 0:41 / /covered rw - fuse.sshfs host:/ rw\n\
             9 1 0:42 / /var/lib rw - zfs pool/lib rw\n\
             10 1 0:43 / /tmp rw - tmpfs tmpfs rw\n",
        );
        let sources = |root_dir: &str| -> Vec<String> {
            measurable(&mounts, Path::new(root_dir)).iter().map(|mount| mount.source.clone()).collect()
        };
        assert_eq!(sources("/var/lib/kubelet"), ["/dev/vda", "/dev/vdb", "pool/lib"]);
        assert_eq!(sources("/opt"), ["/dev/vda", "/dev/vdb"]);
        assert_eq!(sources("/net/kubelet"), ["/dev/vda", "/dev/vdb"]);
    }
}
