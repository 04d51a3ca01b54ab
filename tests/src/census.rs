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
        let others = neighbours(mark);
        lines.retain(|line| !others.own(line));
        Census { lines }
    }

    /// What is there now that was not there before, one a line.
    pub fn left_behind(&self, before: &Census) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }
}

/// What other kubelets, and other suites, that run at this moment say is theirs. A kubelet says so with its flags, or
/// by leaving them out; a suite names everything `k…<its pid>x<number>…`.
struct Neighbours {
    names: BTreeSet<String>,
    default_group: bool,
}

fn neighbours(mark: &str) -> Neighbours {
    let mut names = BTreeSet::new();
    let mut default_group = false;
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if command.contains(mark) {
            continue;
        }
        let flags = ["--pod-bridge=", "--cgroup-root=/"];
        let claims = command.split('\0').filter_map(|word| flags.iter().find_map(|flag| word.strip_prefix(flag)));
        names.extend(claims.filter(|name| !name.is_empty()).map(str::to_owned));
        let kubelet = command.split('\0').next().is_some_and(|program| program.ends_with("kubelet"));
        if kubelet && command.contains("--config=") {
            default_group |= !command.contains("--cgroup-root=");
            if !command.contains("--pod-bridge=") {
                names.insert("kubelet0".to_owned());
            }
        }
    }
    Neighbours { names, default_group }
}

impl Neighbours {
    fn own(&self, line: &str) -> bool {
        let others = |word: &str| {
            self.names.contains(word)
                || suite_of(word)
                    .is_some_and(|pid| pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists())
        };
        let group = line.strip_prefix("cgroup /sys/fs/cgroup/").unwrap_or_default();
        let in_default_group = group.split('/').take(2).any(|part| part == "kubepods");
        line.split([' ', '/', '@', '-', ':']).any(others) || self.default_group && in_default_group
    }
}

/// The pid in a name such as `ke4711x0`.
fn suite_of(word: &str) -> Option<u32> {
    let digits = word.strip_prefix('k')?.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
    let (pid, number) = digits.split_once('x')?;
    number.starts_with(|digit: char| digit.is_ascii_digit()).then(|| pid.parse().ok()).flatten()
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

/// `7: kv1@if2: <…> state UP` without what changes by itself.
fn link_name(line: &str) -> String {
    line.split(": ").take(2).last().map(|name| format!("link {name}")).unwrap_or_default()
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
