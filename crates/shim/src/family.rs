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
    /// Clock ticks since boot; with it a pid names one process for ever.
    start_ticks: u64,
}

/// Kills a process that leads its session, and its descendants, process group and session. They are stopped first, so
/// that none makes another or loses its parent while they are looked for. One that left its session on purpose and
/// whose parent has ended before cannot be told from the container's own and is left, as every daemon would be.
pub(crate) fn kill(leader: i32, pidfd: &OwnedFd, cgroups: &[PathBuf]) {
    sys::signal_pidfd(pidfd, libc::SIGSTOP).ok();
    let mut found: Vec<Origin> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let all: Vec<Origin> = cgroup::procs(cgroups).into_iter().filter_map(origin).collect();
        let family = members(leader, &all);
        let is_new = |one: &&Origin| family.contains(&one.pid) && !found.iter().any(|known| known.pid == one.pid);
        let new: Vec<Origin> = all.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            break;
        }
        new.iter().for_each(|one| signal(one, libc::SIGSTOP));
        found.extend(new);
    }
    found.iter().for_each(|one| signal(one, libc::SIGKILL));
    sys::signal_pidfd(pidfd, libc::SIGKILL).ok();
    // Where the groups cannot be read. Before its setsid(2) it leads none, and is alone.
    if let Some(group) = Pid::from_raw(leader) {
        kill_process_group(group, Signal::KILL).ok();
    }
}

/// Signals a process if it is still the one that was looked at. Opened before it is looked at again: what is read then is
/// of the process that the descriptor names, or that one is gone.
fn signal(one: &Origin, signal: i32) {
    let fd = Pid::from_raw(one.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let (Some(fd), Some(now)) = (fd, origin(one.pid))
        && now.start_ticks == one.start_ticks
    {
        sys::signal_pidfd(&fd, signal).ok();
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

/// Fields 4 to 6 and 22; the name in field 2 may hold blanks and parentheses, so they count from its end.
fn parse(pid: i32, stat: &str) -> Option<Origin> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    let mut next = || fields.next()?.parse().ok();
    let (parent, group, session) = (next()?, next()?, next()?);
    Some(Origin { pid, parent, group, session, start_ticks: fields.nth(15)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(pid: i32, parent: i32, group: i32, session: i32) -> Origin {
        Origin { pid, parent, group, session, start_ticks: 98765 }
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
        let stat = "7 (a) b (c) S 1 6 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3";
        assert_eq!(parse(7, stat), Some(one(7, 1, 6, 5)));
        assert_eq!(parse(7, "7 (a) S 1"), None);
        let own = std::process::id() as i32;
        let ticks = crate::records::start_ticks(own).unwrap();
        assert!(origin(own).is_some_and(|origin| origin.parent > 0 && origin.start_ticks == ticks));
    }
}
