//! How pods look in states other than a healthy one: what `/pods`, `kubelet ps`, `kubelet describe` and `kubelet events`
//! say of them is written down once, and holds on every runtime.

use crate::differences::{Difference, differs};
use crate::faces::normalise;
use crate::together::{pod, sh};
use e2e::{Machine, await_some};
use serde_json::{Value, json};

/// On a page, what is another text each time, or the runtime's own words.
const ANYTHING: char = '…';

/// Pods, and the page on which it stands how each looks in the end.
fn portraits() -> [(&'static str, Value, &'static str); 5] {
    let from_log = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let nothing = json!({});
    let unreachable = json!({"image": "127.0.0.1:9/none:1", "imagePullPolicy": "Always"});
    let crashes = json!({"containers": [sh("main", "echo going; exit 7", &from_log)]});
    let no_command = json!({"containers": [sh("main", "", &json!({"command": ["/no/such/program"]}))]});
    let no_image = json!({"containers": [sh("main", "", &unreachable)]});
    let done = json!({
        "restartPolicy": "Never",
        "initContainers": [sh("first", "exit 0", &nothing)],
        "containers": [sh("main", "printf well > /dev/termination-log", &nothing)],
    });
    let failed = json!({
        "restartPolicy": "Never",
        "initContainers": [sh("first", "exit 0", &nothing), sh("second", "exit 3", &nothing)],
        "containers": [sh("main", "exit 0", &nothing)],
    });
    [
        ("crashes", crashes, include_str!("portraits/crashes.txt")),
        ("no-command", no_command, include_str!("portraits/no-command.txt")),
        ("no-image", no_image, include_str!("portraits/no-image.txt")),
        ("done", done, include_str!("portraits/done.txt")),
        ("failed", failed, include_str!("portraits/failed.txt")),
    ]
}

pub(crate) fn pods_look_the_same(machine: &Machine) {
    for (name, spec, _) in portraits() {
        pod(machine, name, &spec);
    }
    for (name, _, expected) in portraits() {
        await_some(&format!("{name} on {:?}", machine.runtime()), || {
            let seen = page(machine, name)?;
            let wrong = unlike(expected, &seen);
            if wrong.is_empty() { Ok(()) } else { Err(format!("{}\nin\n{seen}", wrong.join("\n"))) }
        });
    }
    for (name, ..) in portraits() {
        machine.await_end(name);
    }
}

/// All that is told of a pod, with one space where columns have as many as the widest of them needs.
fn page(machine: &Machine, name: &str) -> Result<String, String> {
    let found = machine.pod(name).ok_or("no such pod")?;
    let mut status = found["status"].clone();
    normalise(machine.runtime(), "", &mut status);
    let status = serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?;
    let same = |text: &str| match differs(machine, Difference::UnreachableIsErrImagePull) {
        true => text.to_owned(),
        false => text.replace("RegistryUnavailable", "ErrImagePull"),
    };
    let full_name = format!("{name}-node-1");
    let listed = machine.cli(&["ps"]);
    let listed = listed.lines().filter(|line| line.split_whitespace().nth(1) == Some(&full_name));
    let described = machine.cli(&["describe", name]);
    let described = described.lines().take_while(|line| *line != "Events:");
    let events = machine.cli(&["events", name]);
    let plain = |line: &str| same(&line.split_whitespace().collect::<Vec<_>>().join(" "));
    // In the order of their texts: that of their times is another one when a container has come back meanwhile.
    let mut events: Vec<String> = events.lines().skip(1).map(plain).collect();
    events.sort_by_key(|line| line.find(" Pod/").map(|at| line[at..].to_owned()));
    let mut page = vec!["== status".to_owned()];
    page.extend(status.lines().map(same));
    page.push("== ps".to_owned());
    page.extend(listed.map(plain));
    page.push("== describe".to_owned());
    page.extend(described.map(plain));
    page.push("== events".to_owned());
    page.extend(events);
    Ok(page.join("\n"))
}

/// The lines that are not as expected.
fn unlike(expected: &str, seen: &str) -> Vec<String> {
    let (expected, seen): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), seen.lines().collect());
    let line = |of: &[&str], number: usize| of.get(number).copied().unwrap_or("<nothing>").to_owned();
    let numbers = 0..expected.len().max(seen.len());
    let pairs = numbers.map(|number| (line(&expected, number), line(&seen, number)));
    pairs.filter(|(expected, seen)| !is_like(expected, seen)).map(|(one, two)| format!("- {one}\n+ {two}")).collect()
}

/// Whether a line is the expected one, with at least a letter wherever anything may stand.
fn is_like(expected: &str, seen: &str) -> bool {
    let Some((start, rest)) = expected.split_once(ANYTHING) else { return expected == seen };
    let Some(seen) = seen.strip_prefix(start) else { return false };
    let ends = seen.char_indices().skip(1).map(|(at, _)| at).chain([seen.len()]);
    !seen.is_empty() && ends.into_iter().any(|end| is_like(rest, &seen[end..]))
}
