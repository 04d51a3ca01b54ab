//! What a played script tells: without times, identities and the order of what is not ordered.

use super::Script;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What happened, one line each, in the order in which it was noticed: `NAME started`, `NAME stopping` (it was told to
/// stop), `NAME ended CODE`, `NAME postStart` and `NAME preStop` (the hook began).
pub type Log = Vec<String>;

/// What two plays of one script must have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// What happened to one container after the other; its hooks by themselves.
    pub lanes: BTreeMap<String, Vec<String>>,
    /// What the script orders, and whether it was so.
    pub orders: Vec<(String, bool)>,
    /// The pod's status whenever the script looked.
    pub sights: Vec<Vec<String>>,
}

impl Trace {
    pub fn new(script: &Script, log: &[String], sights: Vec<Vec<String>>) -> Trace {
        let mut lanes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in log {
            let (name, what) = line.split_once(' ').unwrap_or((line, ""));
            let hook = ["postStart", "preStop"].contains(&what);
            let lane = if hook { format!("{name}'s hooks") } else { name.to_owned() };
            lanes.entry(lane).or_default().push(what.to_owned());
        }
        let place = |wanted: &str| {
            let (line, nth) = wanted.split_once('#').unwrap_or((wanted, "1"));
            let nth: usize = nth.parse().ok()?;
            let mut places = (0..log.len()).filter(|index| is(&log[*index], line));
            places.nth(nth.checked_sub(1)?)
        };
        let orders = script.orders.iter().map(|(first, second)| {
            let holds = matches!((place(first), place(second)), (Some(first), Some(second)) if first < second);
            (format!("{first} before {second}"), holds)
        });
        Trace { lanes, orders: orders.collect(), sights }
    }

    /// What differs, for a person to read; nothing where both are the same.
    pub fn difference(&self, other: &Trace) -> Option<String> {
        let mut text = String::new();
        let lanes: std::collections::BTreeSet<&String> = self.lanes.keys().chain(other.lanes.keys()).collect();
        for lane in lanes {
            compare(&mut text, lane, (self.lanes.get(lane), other.lanes.get(lane)));
        }
        let orders = |trace: &Trace| -> Vec<String> {
            trace.orders.iter().map(|(order, holds)| format!("{order}: {holds}")).collect()
        };
        compare(&mut text, "order", (Some(&orders(self)), Some(&orders(other))));
        for number in 0..self.sights.len().max(other.sights.len()) {
            compare(&mut text, &format!("status {}", number + 1), (self.sights.get(number), other.sights.get(number)));
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Whether a line of a log is the one that is meant: the code of an end may be left out.
pub(crate) fn is(line: &str, wanted: &str) -> bool {
    line == wanted || line.strip_prefix(wanted).is_some_and(|rest| wanted.ends_with(" ended") && rest.starts_with(' '))
}

/// How often a line stands in a log.
pub fn count(log: &[String], wanted: &str) -> usize {
    log.iter().filter(|line| is(line, wanted)).count()
}

type Sides<'a> = (Option<&'a Vec<String>>, Option<&'a Vec<String>>);

/// Each line that only one of both has, and those around it.
fn compare(text: &mut String, what: &str, (one, other): Sides<'_>) {
    let nothing = Vec::new();
    let (one, other) = (one.unwrap_or(&nothing), other.unwrap_or(&nothing));
    if one == other {
        return;
    }
    // Writing into a string cannot fail.
    let _always = writeln!(text, "{what}:");
    for number in 0..one.len().max(other.len()) {
        let _always = match (one.get(number), other.get(number)) {
            (Some(one), Some(other)) if one == other => writeln!(text, "      {one}"),
            (one, other) => {
                one.into_iter().for_each(|line| text.push_str(&format!("    - {line}\n")));
                other.into_iter().for_each(|line| text.push_str(&format!("    + {line}\n")));
                Ok(())
            }
        };
    }
}

/// A pod's status without what differs from one play to the next: times, identities, addresses, images.
pub fn sight(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![
        joined(&[text(&status["phase"]), text(&status["reason"]), text(&status["message"])]),
        format!("has an address: {}", !text(&status["podIP"]).is_empty()),
        format!("has a start: {}", !status["startTime"].is_null()),
    ];
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let is = format!("{}={}", text(&condition["type"]), text(&condition["status"]));
        lines.push(joined(&[is, text(&condition["reason"]), text(&condition["message"])]));
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in status[list].as_array().into_iter().flatten() {
            let marks =
                ["started", "ready"].map(|mark| if container[mark] == true { mark.to_owned() } else { String::new() });
            let [started, ready] = marks;
            lines.push(joined(&[
                format!("{}:", text(&container["name"])),
                state(&container["state"]),
                started,
                ready,
                format!("restarts {}", container["restartCount"]),
                format!("last {}", state(&container["lastState"])),
            ]));
        }
    }
    lines
}

fn joined(words: &[String]) -> String {
    words.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(" ")
}

/// The messages of a container that waits name the pod's identity.
fn state(state: &Value) -> String {
    let kinds = state.as_object().into_iter().flatten();
    let kind = |(kind, state): (&String, &Value)| {
        let reason = state["reason"].as_str().unwrap_or_default();
        let code = if state["exitCode"].is_null() { String::new() } else { state["exitCode"].to_string() };
        joined(&[kind.clone(), reason.to_owned(), code])
    };
    let words: Vec<String> = kinds.map(kind).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}
