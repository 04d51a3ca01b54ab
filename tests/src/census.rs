//! The census: what is on the machine before a test and after it. The difference must be empty.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// One line for each thing that could be left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    lines: BTreeSet<String>,
}

impl Census {
    /// Counts mounts, links, addresses, nft tables, control groups and pinned namespaces of the machine, and the
    /// processes whose command line or control group holds `mark`.
    pub fn take(mark: &str) -> Census {
        let mut lines = BTreeSet::new();
        lines.extend(processes(mark));
        lines.extend(mounts());
        lines.extend(output("link", "ip", &["-o", "link"]).into_iter().map(|line| link_name(&line)));
        lines.extend(output("address", "ip", &["-o", "-4", "addr"]));
        lines.extend(output("nft", "nft", &["list", "tables"]));
        cgroups(Path::new("/sys/fs/cgroup"), &mut lines);
        // On a machine that others use at the same time (`SHARED_MACHINE`) only what bears our name counts.
        if std::env::var_os("SHARED_MACHINE").is_some() {
            let bridge = mark.replace("kt", "k");
            lines.retain(|line| line.contains(mark) || line.contains(&bridge));
        }
        Census { lines }
    }

    /// What is there now that was not there before, one a line.
    pub fn left_behind(&self, before: &Census) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }
}

fn processes(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let (command, groups, stat) = (read("cmdline").replace('\0', " "), read("cgroup"), read("stat"));
        let zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        // A zombie has no command line; its name in stat is all that is left of it.
        let ours = command.contains(mark) || groups.contains(mark) || (zombie && stat.contains("(kubelet-shim)"));
        if ours {
            found.push(format!("process {name} {} {}", stat.split(' ').nth(1).unwrap_or_default(), command.trim()));
        }
    }
    found
}

fn mounts() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        format!("mount {} {}", fields[4], line.split(" - ").nth(1).unwrap_or_default())
    };
    text.lines().map(line).collect()
}

/// `7: kv1@if2: <…> master k0 state UP` without what changes by itself.
fn link_name(line: &str) -> String {
    let name = line.split(": ").nth(1).unwrap_or_default();
    let master = line.split(" master ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("none");
    format!("link {name} of bridge {master}")
}

fn output(kind: &str, program: &str, args: &[&str]) -> Vec<String> {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program} is needed for the census: {e}"));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| format!("{kind} {line}")).collect()
}

fn cgroups(dir: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            lines.insert(format!("cgroup {}", entry.path().display()));
            cgroups(&entry.path(), lines);
        }
    }
}
