//! The log file: opened so that nothing but a plain new file is written, rotated by size, never in the container's way.

use crate::failure::{Result, Step, refused};
use crate::time;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use shim::protocol::Log;
use std::os::fd::OwnedFd;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);
/// Rotations within one second get a number; after so many the file grows until the next second.
const MAX_SAME_SECOND: u32 = 999;

/// The current log file of one container.
pub(crate) struct LogFile {
    /// The directory, held open: whatever a pod does to the path above it, the files stay where they began.
    dir: OwnedFd,
    name: String,
    file: Option<OwnedFd>,
    size_bytes: u64,
    max_bytes: u64,
    max_files: usize,
    dropped_bytes: u64,
    why_dropped: Errno,
    /// The second of the last rotation and the next number in it: a name that was pruned must not come again, or the
    /// names would no longer sort by age.
    last_rotation: (String, u32),
}

impl LogFile {
    /// Opens or goes on with the file that `log` names.
    ///
    /// # Errors
    /// The file is a link, has other names or is no regular file, or the kernel refuses it.
    pub(crate) fn open(log: &Log) -> Result<LogFile> {
        let step = || format!("open the log file {}", log.path.display());
        let (Some(parent), Some(name)) = (log.path.parent(), log.path.file_name()) else {
            return Err(refused(step(), "it names no file"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent, flags, Mode::empty()).step(step)?;
        let mut file = LogFile {
            dir,
            name: name.to_string_lossy().into_owned(),
            file: None,
            size_bytes: 0,
            max_bytes: log.max_bytes,
            max_files: log.max_files.max(1) as usize,
            dropped_bytes: 0,
            why_dropped: Errno::IO,
            last_rotation: (String::new(), 0),
        };
        file.reopen().step(step)?;
        Ok(file)
    }

    fn reopen(&mut self) -> rustix::io::Result<()> {
        // Without O_NONBLOCK a FIFO in the file's place would hold the shim until somebody reads it.
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, &self.name, flags, FILE_MODE)?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
            return Err(Errno::LOOP);
        }
        self.size_bytes = stat.st_size as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Appends whole records. What cannot be written is counted and dropped: a full disk stops no container.
    pub(crate) fn write(&mut self, records: &[u8]) {
        let result = self.announce_resumption().and_then(|()| self.append(records));
        if let Err(errno) = result {
            self.dropped_bytes += records.len() as u64;
            self.why_dropped = errno;
        }
        if self.max_bytes > 0 && self.size_bytes > self.max_bytes {
            // If it cannot be rotated it grows: more log is better than none.
            self.rotate().ok();
        }
    }

    fn announce_resumption(&mut self) -> rustix::io::Result<()> {
        if self.dropped_bytes == 0 {
            return Ok(());
        }
        let now = time::rfc3339(time::now_ns());
        let why = std::io::Error::from(self.why_dropped);
        let note = format!(
            "{} stderr F [{} bytes of log were lost before this line: {why}]\n",
            String::from_utf8_lossy(&now),
            self.dropped_bytes
        );
        self.append(note.as_bytes())?;
        self.dropped_bytes = 0;
        Ok(())
    }

    /// All or nothing, so that a file never holds half a record.
    fn append(&mut self, bytes: &[u8]) -> rustix::io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &self.file else { return Err(Errno::BADF) };
        let mut left = bytes;
        while !left.is_empty() {
            match rustix::io::write(file, left) {
                Ok(written) => left = &left[written..],
                Err(Errno::INTR) => {}
                Err(errno) => {
                    rustix::fs::ftruncate(file, self.size_bytes).ok();
                    return Err(errno);
                }
            }
        }
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> rustix::io::Result<()> {
        let stamp = time::compact(time::now_ns());
        if self.last_rotation.0 != stamp {
            self.last_rotation = (stamp, 0);
        }
        while self.last_rotation.1 <= MAX_SAME_SECOND {
            let target = match &self.last_rotation {
                (stamp, 0) => format!("{}.{stamp}", self.name),
                (stamp, number) => format!("{}.{stamp}-{number:03}", self.name),
            };
            self.last_rotation.1 += 1;
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.dir, &self.name, &self.dir, &target, flags) {
                Err(Errno::EXIST) => {}
                // Somebody took the file away: begin a new one.
                Ok(()) | Err(Errno::NOENT) => {
                    self.file = None;
                    self.reopen()?;
                    return self.prune();
                }
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }

    /// Removes the oldest rotated files; their names sort by age.
    fn prune(&self) -> rustix::io::Result<()> {
        let dir =
            rustix::fs::openat(&self.dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut rotated: Vec<_> = rustix::fs::Dir::new(dir)?
            .flatten()
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| is_rotated(name.to_bytes(), self.name.as_bytes()))
            .collect();
        rotated.sort_unstable();
        let surplus = (rotated.len() + 1).saturating_sub(self.max_files);
        for name in rotated.iter().take(surplus) {
            rustix::fs::unlinkat(&self.dir, name.as_c_str(), AtFlags::empty())?;
        }
        Ok(())
    }
}

fn is_rotated(name: &[u8], log: &[u8]) -> bool {
    let stamp = name.strip_prefix(log).and_then(|rest| rest.strip_prefix(b"."));
    stamp.is_some_and(|stamp| stamp.len() >= 15 && stamp.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn open(path: &Path, max_bytes: u64, max_files: u32) -> Result<LogFile> {
        LogFile::open(&Log { path: path.into(), max_bytes, max_files })
    }

    #[test]
    fn f_log_rotation_keeps_every_record_in_order_and_the_number_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(dir.path().join("0.log.txt"), "not ours").unwrap();
        let mut log = open(&path, 100, 4).unwrap();
        for number in 0..100 {
            log.write(format!("record {number:03}\n").as_bytes());
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.pop().unwrap(), "0.log.txt");
        assert_eq!(names.len(), 4, "{names:?}");
        names.rotate_left(1);
        let all: String = names.iter().map(|name| fs::read_to_string(dir.path().join(name)).unwrap()).collect();
        let expected: String = (0..100).map(|number| format!("record {number:03}\n")).collect();
        assert!(!all.is_empty() && expected.ends_with(&all), "{all}");
    }

    #[test]
    fn s_f01_only_a_plain_file_with_one_name_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let canary = dir.path().join("canary");
        fs::write(&canary, "secret").unwrap();
        let path = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink(&canary, path("link")).unwrap();
        fs::hard_link(&canary, path("hard")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), FileType::Fifo, FILE_MODE, 0).unwrap();
        fs::create_dir(path("dir")).unwrap();
        for name in ["link", "hard", "fifo", "dir"] {
            assert!(open(&path(name), 0, 1).is_err(), "{name}");
        }
        std::os::unix::fs::symlink(dir.path(), path("linked-dir")).unwrap();
        assert!(open(&path("linked-dir").join("new"), 0, 1).is_err());
        assert_eq!(fs::read_to_string(&canary).unwrap(), "secret");
        open(&path("plain"), 0, 1).unwrap().write(b"x\n");
        assert_eq!(fs::read_to_string(path("plain")).unwrap(), "x\n");
    }

    #[test]
    fn f_f02_a_refused_write_is_dropped_whole_and_noted_when_writing_resumes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = open(&path, 0, 1).unwrap();
        log.write(b"before\n");
        // A descriptor that cannot be written stands for a full disk.
        let good = log.file.replace(rustix::fs::open(&path, OFlags::RDONLY, Mode::empty()).unwrap());
        log.write(b"lost\n");
        log.write(b"lost too\n");
        log.file = good;
        log.write(b"after\n");
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[2], lines.len()), ("before", "after", 3));
        assert!(lines[1].contains(" stderr F [14 bytes of log were lost"), "{text}");
    }
}
