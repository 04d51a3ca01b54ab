//! Ending a command that Docker started in a container: Docker itself has no way to.

use std::fs;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Descendants of one command that are looked at; each level is stopped before the next is read.
const MAX_PROCESSES: usize = 4096;

/// Sends a signal to a process of a container and to its descendants there. Whether the process was found.
///
/// Each is held by a descriptor before it is verified to be in the container, so that no other process can be meant. Those
/// that found another parent before are not found: their own parent has ended.
pub(crate) fn signal_tree(pid: i64, container_id: &str, signal: Signal) -> bool {
    let Some(root) = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(|pid| open(pid, container_id)) else {
        return false;
    };
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() && found.len() < MAX_PROCESSES {
        // Nothing that is stopped has children any more than it has now.
        let (pid, held) = &found[next];
        let _ = pidfd_send_signal(held, Signal::STOP);
        let children = children(*pid);
        found.extend(children.into_iter().filter_map(|child| open(child, container_id)));
        next += 1;
    }
    for (_, held) in &found {
        let _ = pidfd_send_signal(held, signal);
    }
    if signal != Signal::KILL {
        for (_, held) in &found {
            let _ = pidfd_send_signal(held, Signal::CONT);
        }
    }
    true
}

/// A handle on a process that is in the container's control group.
fn open(pid: i32, container_id: &str) -> Option<(i32, OwnedFd)> {
    let held = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().any(|line| line.contains(container_id)).then_some((pid, held))
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let text: Vec<String> = threads.map(of_thread).collect();
    text.iter().flat_map(|children| children.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_elsewhere_is_never_meant() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let found = [i64::from(child.id()), 0, -1, i64::MAX].map(|pid| signal_tree(pid, &"0".repeat(64), Signal::KILL));
        let alive = child.try_wait();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [false; 4]);
        assert!(alive.unwrap().is_none());
    }
}
