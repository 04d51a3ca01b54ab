//! One group in all hierarchies.

use crate::layout::{Controller, Layout};
use crate::limits::{self, Limits};
use crate::usage::Usage;
use crate::{Error, Result, file, kill};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Killing and removing wait for the kernel to let go of dying processes; after this many rounds they give up.
const ROUNDS: u32 = 120;
const ROUND_MS: u64 = 25;

/// The controllers that v2 hands down to a group.
const V2_CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// One group: a directory in every hierarchy. It need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    V1(Vec<(PathBuf, Vec<Controller>)>),
    V2 { root: PathBuf, dir: PathBuf },
}

impl Group {
    pub(crate) fn new(layout: &Layout, path: &str) -> Group {
        let normal = |c| matches!(c, Component::Normal(_)).then_some(c);
        let path: PathBuf = Path::new(path).components().filter_map(normal).collect();
        let place = match layout {
            Layout::V1 { hierarchies } => {
                Place::V1(hierarchies.iter().map(|h| (h.mount.join(&path), h.controllers.clone())).collect())
            }
            Layout::V2 { root } => Place::V2 { root: root.clone(), dir: root.join(&path) },
        };
        Group { path, place }
    }

    /// The group's directory in each hierarchy; a process joins them all.
    pub fn dirs(&self) -> Vec<PathBuf> {
        match &self.place {
            Place::V1(dirs) => dirs.iter().map(|(dir, _)| dir.clone()).collect(),
            Place::V2 { dir, .. } => vec![dir.clone()],
        }
    }

    /// The directory in the hierarchy that counts memory.
    pub fn memory_dir(&self) -> Option<PathBuf> {
        match &self.place {
            Place::V1(dirs) => dirs.iter().find(|(_, c)| c.contains(&Controller::Memory)).map(|(dir, _)| dir.clone()),
            Place::V2 { dir, .. } => Some(dir.clone()),
        }
    }

    /// Makes the group with all groups above it and sets its limits. One that exists only gets the limits.
    ///
    /// # Errors
    /// The first directory or file that the kernel refuses; what was made stays.
    pub fn create(&self, limits: &Limits) -> Result<()> {
        self.refuse_root()?;
        match &self.place {
            Place::V1(dirs) => dirs.iter().try_for_each(|(dir, _)| make_dirs(dir))?,
            Place::V2 { root, .. } => self.create_v2(root)?,
        }
        self.update(limits)
    }

    /// On v2 a controller works in a group when all groups above hand it down.
    fn create_v2(&self, root: &Path) -> Result<()> {
        let mut dir = root.to_owned();
        for component in self.path.components() {
            let offered = file::read(&dir.join("cgroup.controllers"))?;
            let handed_down = file::read(&dir.join("cgroup.subtree_control"))?;
            let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
            for name in V2_CONTROLLERS.iter().filter(|name| has(&offered, name) && !has(&handed_down, name)) {
                file::write(&dir.join("cgroup.subtree_control"), &format!("+{name}"))?;
            }
            dir.push(component);
            make_dirs(&dir)?;
        }
        Ok(())
    }

    /// Sets limits of an existing group.
    ///
    /// # Errors
    /// The first file that the kernel refuses; limits set before it stay.
    pub fn update(&self, limits: &Limits) -> Result<()> {
        self.refuse_root()?;
        match &self.place {
            Place::V1(dirs) => {
                dirs.iter().try_for_each(|(dir, controllers)| limits::apply_v1(dir, controllers, limits))
            }
            Place::V2 { dir, .. } => limits::apply_v2(dir, limits),
        }
    }

    /// Whether the group is there in any hierarchy.
    pub fn exists(&self) -> bool {
        self.dirs().iter().any(|dir| dir.exists())
    }

    /// Pids in the group and in all groups beneath, ascending; empty when it does not exist.
    pub fn procs(&self) -> Vec<i32> {
        kill::procs(&self.dirs())
    }

    /// Names of the groups directly beneath, in any hierarchy, ascending.
    pub fn children(&self) -> Vec<String> {
        let dirs = self.dirs();
        let children = dirs.iter().flat_map(|dir| kill::child_dirs(dir));
        let mut names: Vec<String> =
            children.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What the group used so far.
    ///
    /// # Errors
    /// The group does not exist.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        match &self.place {
            Place::V1(dirs) => {
                for (dir, controllers) in dirs {
                    for controller in controllers {
                        match controller {
                            Controller::Cpuacct => usage.add_v1_cpu(dir),
                            Controller::Memory => usage.add_v1_memory(dir)?,
                            Controller::Pids => usage.add_pids(dir),
                            Controller::Cpu | Controller::Devices | Controller::Freezer => {}
                        }
                    }
                }
            }
            Place::V2 { dir, .. } => {
                usage.add_v2(dir)?;
                usage.add_pids(dir);
            }
        }
        Ok(usage)
    }

    /// Kills every process in the group and beneath, and waits until they are gone: at most about three seconds.
    ///
    /// # Errors
    /// [`Error::StillAlive`]: some are in uninterruptible sleep; ask again later.
    pub fn kill(&self) -> Result<()> {
        self.refuse_root()?;
        let dirs: Vec<PathBuf> = self.dirs().into_iter().filter(|dir| dir.exists()).collect();
        let mut left = 0;
        for round in 0..ROUNDS {
            left = kill::kill_dirs(&dirs)?;
            if left == 0 {
                return Ok(());
            }
            pause(round);
        }
        Err(Error::StillAlive { path: self.path.clone(), left })
    }

    /// Removes the group and all beneath it. A group whose last process just died is busy for a moment, which is
    /// waited for: at most about three seconds. One that does not exist is removed already.
    ///
    /// # Errors
    /// A directory that stays busy: there are processes in it.
    pub fn remove(&self) -> Result<()> {
        self.refuse_root()?;
        self.dirs().iter().try_for_each(|dir| remove_tree(dir))
    }

    /// Removes the group from every hierarchy, also from those that this crate leaves alone: runtimes make it in all that
    /// there are. Those come first: as long as one of them is busy the group exists, and whoever asks again finds it.
    ///
    /// # Errors
    /// As for [`Group::remove`], or the mount table cannot be read.
    pub fn remove_everywhere(&self) -> Result<()> {
        self.refuse_root()?;
        let own: Vec<u64> = self.dirs().iter().filter_map(|dir| device(self.mount_of(dir)?)).collect();
        // By device, since a hierarchy of ours may be mounted once more, perhaps read-only.
        let others = Layout::all_mounts()?.into_iter().filter(|mount| device(mount).is_some_and(|d| !own.contains(&d)));
        let dirs = others.map(|mount| mount.join(&self.path));
        dirs.filter(|dir| dir.exists()).try_for_each(|dir| remove_tree(&dir))?;
        self.remove()
    }

    /// Where the hierarchy is mounted that holds this directory of the group's.
    fn mount_of<'a>(&self, dir: &'a Path) -> Option<&'a Path> {
        dir.ancestors().nth(self.path.components().count())
    }

    fn refuse_root(&self) -> Result<()> {
        if self.path.as_os_str().is_empty() { Err(Error::Root) } else { Ok(()) }
    }
}

/// The first rounds are short, because most processes are gone within a millisecond.
fn pause(round: u32) {
    std::thread::sleep(Duration::from_millis(u64::from(round + 1).min(ROUND_MS)));
}

/// Names the file system, which for control groups is the hierarchy.
fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.dev())
}

fn make_dirs(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Create { path: dir.into(), source })
}

fn remove_tree(dir: &Path) -> Result<()> {
    let mut failure = None;
    for round in 0..ROUNDS {
        failure = None;
        kill::walk(dir, 0, &mut |dir| match std::fs::remove_dir(dir) {
            Err(source) if source.kind() != ErrorKind::NotFound => failure = Some((dir.to_owned(), source)),
            _ => {}
        });
        match &failure {
            None => return Ok(()),
            Some((_, source)) if source.raw_os_error() != Some(libc::EBUSY) => break,
            Some(_) => pause(round),
        }
    }
    failure.map_or(Ok(()), |(path, source)| Err(Error::Remove { path, source }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_a14_a_group_is_beneath_its_hierarchy_whatever_its_path() {
        let layout = Layout::V2 { root: "/r".into() };
        for (path, dir) in
            [("/kubepods/pod1/c", "/r/kubepods/pod1/c"), ("/../../etc", "/r/etc"), ("a//./b/..", "/r/a/b")]
        {
            assert_eq!(layout.group(path).dirs(), [PathBuf::from(dir)], "{path}");
        }
    }

    #[test]
    fn the_root_is_no_group() {
        let group = Layout::V2 { root: "/nowhere".into() }.group("/..");
        assert!(matches!(group.create(&Limits::default()), Err(Error::Root)));
        assert!(matches!(group.update(&Limits::default()), Err(Error::Root)));
        assert!(matches!(group.kill(), Err(Error::Root)));
        assert!(matches!(group.remove(), Err(Error::Root)));
    }
}
