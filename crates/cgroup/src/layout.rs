//! Which hierarchies this machine has, and where.

use crate::{Error, Group, Result, file};
use std::path::{Path, PathBuf};

const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// A controller this crate uses. Others (`cpuset`, `blkio`, `name=systemd` …) are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Memory,
    Pids,
    Devices,
    Freezer,
}

impl Controller {
    fn parse(name: &str) -> Option<Controller> {
        Some(match name {
            "cpu" => Controller::Cpu,
            "cpuacct" => Controller::Cpuacct,
            "memory" => Controller::Memory,
            "pids" => Controller::Pids,
            "devices" => Controller::Devices,
            "freezer" => Controller::Freezer,
            _ => return None,
        })
    }
}

/// One mounted v1 hierarchy and those of its controllers that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    pub controllers: Vec<Controller>,
}

/// How control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Also a hybrid machine: its controllers are v1's, whatever `unified` holds.
    V1 {
        hierarchies: Vec<Hierarchy>,
    },
    V2 {
        root: PathBuf,
    },
}

impl Layout {
    /// Looks at what is mounted. Every mount is verified by statfs(2), so a directory that only looks like a
    /// hierarchy, or one over which something else was mounted, is not taken for one.
    ///
    /// # Errors
    /// [`Error::NotMounted`], or the mount table cannot be read.
    pub fn detect() -> Result<Layout> {
        let table = file::read(Path::new("/proc/self/mountinfo"))?;
        Layout::from_mounts(&parse_mountinfo(&table), &|path| rustix::fs::statfs(path).ok().map(|s| s.f_type))
    }

    /// Where every hierarchy of the machine is mounted, also those that are left alone here.
    pub(crate) fn all_mounts() -> Result<Vec<PathBuf>> {
        let table = file::read(Path::new("/proc/self/mountinfo"))?;
        let genuine = |mount: &CgroupMount| {
            let magic = rustix::fs::statfs(&mount.point).ok().map(|s| s.f_type);
            magic == Some(if mount.v2 { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC })
        };
        Ok(parse_mountinfo(&table).into_iter().filter(genuine).map(|mount| mount.point).collect())
    }

    fn from_mounts(mounts: &[CgroupMount], magic: &dyn Fn(&Path) -> Option<i64>) -> Result<Layout> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        for mount in mounts {
            match (mount.v2, magic(&mount.point)) {
                (true, Some(CGROUP2_SUPER_MAGIC)) => unified = unified.or(Some(mount.point.clone())),
                (false, Some(CGROUP_SUPER_MAGIC)) => {
                    // The same hierarchy can be mounted twice; each controller counts where it is seen first.
                    let seen = |c: &Controller| hierarchies.iter().any(|h| h.controllers.contains(c));
                    let controllers: Vec<_> = mount.controllers.iter().copied().filter(|c| !seen(c)).collect();
                    if !controllers.is_empty() {
                        hierarchies.push(Hierarchy { mount: mount.point.clone(), controllers });
                    }
                }
                _ => {}
            }
        }
        match unified {
            _ if !hierarchies.is_empty() => Ok(Layout::V1 { hierarchies }),
            Some(root) => Ok(Layout::V2 { root }),
            None => Err(Error::NotMounted),
        }
    }

    /// The group at `path`, which need not exist. The path is taken from the root of each hierarchy; empty components,
    /// `.` and `..` in it are dropped, so a group is always beneath its hierarchy.
    pub fn group(&self, path: &str) -> Group {
        Group::new(self, path)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct CgroupMount {
    point: PathBuf,
    v2: bool,
    controllers: Vec<Controller>,
}

/// proc_pid_mountinfo(5): `id parent dev root point options [optional]… - type source super-options`.
fn parse_mountinfo(table: &str) -> Vec<CgroupMount> {
    table.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<CgroupMount> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let v2 = match right.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let controllers = right.nth(1)?.split(',').filter_map(Controller::parse).collect();
    Some(CgroupMount { point: unescape(left.split(' ').nth(4)?).into(), v2, controllers })
}

/// Space, tab, newline and backslash stand as three octal digits in the mount table.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /mnt/again rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
";
    const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn layout(table: &str) -> Result<Layout> {
        Layout::from_mounts(&parse_mountinfo(table), &|path| {
            Some(if path.ends_with("unified") { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC })
        })
    }

    fn v1() -> Layout {
        Layout::V1 {
            hierarchies: vec![
                Hierarchy {
                    mount: "/sys/fs/cgroup/cpu,cpuacct".into(),
                    controllers: vec![Controller::Cpu, Controller::Cpuacct],
                },
                Hierarchy { mount: "/sys/fs/cgroup/memory".into(), controllers: vec![Controller::Memory] },
            ],
        }
    }

    #[test]
    fn f_g04_hybrid_is_v1_and_unified_alone_is_v2() {
        assert_eq!(layout(V1).unwrap(), v1());
        assert_eq!(layout(&format!("{UNIFIED}{V1}")).unwrap(), v1());
        assert_eq!(layout(UNIFIED).unwrap(), Layout::V2 { root: "/sys/fs/cgroup/unified".into() });
        let only_systemd = V1.lines().last().unwrap();
        assert_eq!(
            layout(&format!("{only_systemd}\n{UNIFIED}")).unwrap(),
            Layout::V2 { root: "/sys/fs/cgroup/unified".into() }
        );
        assert!(matches!(layout(only_systemd), Err(Error::NotMounted)));
        assert!(matches!(layout(""), Err(Error::NotMounted)));
    }

    #[test]
    fn f_g04_a_mount_hidden_by_another_file_system_does_not_count() {
        let hidden = Layout::from_mounts(&parse_mountinfo(V1), &|_| Some(0x0102_1994));
        assert!(matches!(hidden, Err(Error::NotMounted)));
    }

    #[test]
    fn mount_points_are_unescaped() {
        let line = "41 31 0:38 / /a\\040b\\134c rw - cgroup2 cgroup2 rw";
        assert_eq!(parse_mount(line).unwrap().point, PathBuf::from("/a b\\c"));
    }
}
