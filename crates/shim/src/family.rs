//! A process with all that came from it, found among the processes of its control groups.

use crate::sys;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Each round finds the children made while the one before stopped their parents.
const MAX_ROUNDS: usize = 16;

/// What tells where a process came from, of `/proc/<pid>/stat`, in the host's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

/// Kills a process that leads its session, and its descendants, process group and session. They are stopped first, so
/// that none makes another or loses its parent while they are looked for. One that left its session on purpose and
/// whose parent has ended before cannot be told from the container's own and is left, as every daemon would be.
pub(crate) fn kill(leader: i32, pidfd: &OwnedFd, cgroups: &[PathBuf]) {
    sys::signal_pidfd(pidfd, libc::SIGSTOP).ok();
    let mut found: Vec<(i32, OwnedFd)> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        // Opened before it is looked at: what is read is then that of the process the descriptor names, or it is gone.
        let all: Vec<(Origin, OwnedFd)> = cgroup::procs(cgroups)
            .into_iter()
            .filter_map(|pid| Some((pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?, origin(pid)?)))
            .map(|(fd, origin)| (origin, fd))
            .collect();
        let family = members(leader, &all.iter().map(|(origin, _)| *origin).collect::<Vec<_>>());
        let before = found.len();
        for (origin, fd) in all {
            if family.contains(&origin.pid) && !found.iter().any(|(pid, _)| *pid == origin.pid) {
                sys::signal_pidfd(&fd, libc::SIGSTOP).ok();
                found.push((origin.pid, fd));
            }
        }
        if found.len() == before {
            break;
        }
    }
    for (_, fd) in &found {
        sys::signal_pidfd(fd, libc::SIGKILL).ok();
    }
    sys::signal_pidfd(pidfd, libc::SIGKILL).ok();
    // Where the groups cannot be read. Before its setsid(2) it leads none, and is alone.
    if let Some(group) = Pid::from_raw(leader) {
        kill_process_group(group, Signal::KILL).ok();
    }
}

/// The leader's descendants, and those of its group and session with theirs; without the leader.
fn members(leader: i32, all: &[Origin]) -> Vec<i32> {
    let mut members = vec![leader];
    loop {
        let belongs = |one: &&Origin| {
            let by_kin = one.group == leader || one.session == leader || members.contains(&one.parent);
            by_kin && !members.contains(&one.pid)
        };
        let new: Vec<i32> = all.iter().filter(belongs).map(|one| one.pid).collect();
        if new.is_empty() {
            members.retain(|pid| *pid != leader);
            return members;
        }
        members.extend(new);
    }
}

fn origin(pid: i32) -> Option<Origin> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 4 to 6; the name in field 2 may hold blanks and parentheses, so they count from its end.
fn parse(pid: i32, stat: &str) -> Option<Origin> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1).map(str::parse);
    let mut next = || fields.next()?.ok();
    Some(Origin { pid, parent: next()?, group: next()?, session: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(pid: i32, parent: i32, group: i32, session: i32) -> Origin {
        Origin { pid, parent, group, session }
    }

    #[test]
    fn a_family_is_descent_group_and_session() {
        let init = one(2, 1, 2, 2);
        for (what, all, expected) in [
            ("nobody", vec![init], vec![]),
            ("itself is left out", vec![init, one(10, 1, 10, 10)], vec![]),
            ("a child of a child", vec![one(12, 11, 12, 12), one(11, 10, 10, 10), init], vec![11, 12]),
            ("an orphan of its group", vec![one(13, 2, 10, 10)], vec![13]),
            ("an orphan of its session, and its child", vec![one(15, 14, 15, 15), one(14, 2, 14, 10)], vec![14, 15]),
            ("a daemon", vec![one(16, 2, 16, 16)], vec![]),
        ] {
            assert_eq!(members(10, &all), expected, "{what}");
        }
    }

    #[test]
    fn origins_are_found_behind_any_name() {
        assert_eq!(parse(7, "7 (a) b (c) S 1 6 5 0 -1 4194560"), Some(one(7, 1, 6, 5)));
        assert_eq!(parse(7, "7 (a) S 1"), None);
        let own = std::process::id() as i32;
        assert!(origin(own).is_some_and(|origin| origin.parent > 0));
    }
}
