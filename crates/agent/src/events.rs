//! What happened to pods, for people: a bounded history, kept in memory, in which what repeats is counted.

use std::collections::{BTreeMap, VecDeque};

use cri::keys::PodKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as V1Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use lifecycle::{Event, Severity};

/// Events kept in all, and of one pod; the oldest goes first.
const EVENTS_MAX: usize = 1_000;
const POD_EVENTS_MAX: usize = 100;
/// As many different messages of one reason within this time are told apart; those that follow share one event.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WITHIN_NS: i64 = 600 * 1_000_000_000;
const COMBINED: &str = "(combined from similar events): ";
/// The API accepts no longer message.
const MESSAGE_MAX_BYTES: usize = 1_024;

/// What an event is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    Pod {
        key: &'a PodKey,
        /// `spec.containers{c}`; empty for the pod itself.
        field_path: &'a str,
    },
    /// The node of this name.
    Node(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Node,
}

/// An event, and how often and when it happened. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    kind: Kind,
    /// A node has its name for a UID, and its events are kept in the namespace `default`.
    key: PodKey,
    field_path: String,
    severity: Severity,
    reason: &'static str,
    message: String,
    /// Stands for many of different messages.
    combined: bool,
    count: i32,
    first_ns: i64,
    last_ns: i64,
    /// Its place in history, whatever the wall clock does.
    order: u64,
}

/// The history.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// By the UID of what they are about; of each the one that happened last is the last.
    of: BTreeMap<String, VecDeque<Record>>,
    kept: usize,
    next_order: u64,
}

impl Events {
    pub(crate) fn tell(&mut self, now_ns: i64, subject: Subject<'_>, event: Event) {
        self.next_order += 1;
        let (kind, key, field_path) = match subject {
            Subject::Pod { key, field_path } => (Kind::Pod, key.clone(), field_path.to_owned()),
            Subject::Node(name) => (Kind::Node, node_key(name), String::new()),
        };
        let uid = key.uid.clone();
        let fresh = Record {
            kind,
            key,
            field_path,
            severity: event.severity,
            reason: event.reason,
            message: cut(event.message),
            combined: false,
            count: 1,
            first_ns: now_ns,
            last_ns: now_ns,
            order: self.next_order,
        };
        let history = self.of.entry(uid).or_default();
        let before = history.len();
        add(history, fresh);
        if history.len() > POD_EVENTS_MAX {
            history.pop_front();
        }
        self.kept += history.len() - before;
        if self.kept > EVENTS_MAX {
            self.drop_oldest();
        }
    }

    /// Every event kept, the one that happened last at the end.
    pub(crate) fn all(&self) -> Vec<Record> {
        let mut all: Vec<Record> = self.of.values().flatten().cloned().collect();
        all.sort_by_key(|record| record.order);
        all
    }

    fn drop_oldest(&mut self) {
        let oldest = self.of.iter().min_by_key(|(_, history)| history.front().map(|record| record.order));
        let Some(uid) = oldest.map(|(uid, _)| uid.clone()) else { return };
        if let Some(history) = self.of.get_mut(&uid) {
            self.kept -= usize::from(history.pop_front().is_some());
            if history.is_empty() {
                self.of.remove(&uid);
            }
        }
    }
}

/// Counts what happened before, joins what is too much alike, and keeps the rest as it is.
fn add(history: &mut VecDeque<Record>, fresh: Record) {
    if let Some(known) = history.iter().position(|known| !known.combined && known.is_same(&fresh)) {
        return again(history, known, fresh);
    }
    let since = fresh.first_ns.saturating_sub(SIMILAR_WITHIN_NS);
    let similar = |known: &Record| known.is_similar(&fresh) && known.last_ns >= since;
    if history.iter().filter(|known| similar(known)).count() < SIMILAR_MAX {
        history.push_back(fresh);
        return;
    }
    let combined = history.iter().position(|known| known.combined && similar(known));
    let fresh = Record { message: cut(format!("{COMBINED}{}", fresh.message)), combined: true, ..fresh };
    match combined {
        Some(known) => again(history, known, fresh),
        None => history.push_back(fresh),
    }
}

fn again(history: &mut VecDeque<Record>, known: usize, fresh: Record) {
    let Some(old) = history.remove(known) else { return };
    history.push_back(Record { count: old.count.saturating_add(1), first_ns: old.first_ns, ..fresh });
}

/// The longest beginning that the API accepts.
fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_MAX_BYTES));
    message
}

impl Record {
    fn is_similar(&self, other: &Self) -> bool {
        (self.reason, self.severity) == (other.reason, other.severity) && self.field_path == other.field_path
    }

    fn is_same(&self, other: &Self) -> bool {
        self.is_similar(other) && self.message == other.message
    }

    /// Of the pod with this name, with or without the node's suffix.
    pub(crate) fn is_of(&self, namespace: &str, name: &str, suffixed: &str) -> bool {
        let named = self.key.name == name || self.key.name == suffixed;
        self.kind == Kind::Pod && self.key.namespace == namespace && named
    }

    /// As the API has it.
    pub(crate) fn to_v1(&self, node_name: &str) -> V1Event {
        let time = |ns: i64| Time(Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH));
        let whole = |ns: i64| pod::status::time(time(ns).0);
        V1Event {
            metadata: ObjectMeta {
                // The moment it first happened; its place in history where the clock stood still.
                name: Some(format!("{}.{:x}", self.key.name, self.first_ns.wrapping_add(self.order.cast_signed()))),
                namespace: Some(self.key.namespace.clone()),
                creation_timestamp: Some(whole(self.first_ns)),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some(format!("{:?}", self.kind)),
                // A node is in no namespace.
                namespace: (self.kind == Kind::Pod).then(|| self.key.namespace.clone()),
                name: Some(self.key.name.clone()),
                uid: Some(self.key.uid.clone()),
                field_path: (!self.field_path.is_empty()).then(|| self.field_path.clone()),
                ..ObjectReference::default()
            },
            type_: Some(
                match self.severity {
                    Severity::Normal => "Normal",
                    Severity::Warning => "Warning",
                }
                .to_owned(),
            ),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message.clone()),
            count: Some(self.count),
            first_timestamp: Some(whole(self.first_ns)),
            last_timestamp: Some(whole(self.last_ns)),
            source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node_name.to_owned()) }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(node_name.to_owned()),
            ..V1Event::default()
        }
    }
}

fn node_key(name: &str) -> PodKey {
    PodKey { namespace: "default".to_owned(), name: name.to_owned(), uid: name.to_owned() }
}

/// A Normal event about a container.
pub(crate) fn normal(reason: &'static str, message: impl Into<String>, container: &str) -> Event {
    Event { severity: Severity::Normal, reason, message: message.into(), container: Some(container.to_owned()) }
}

/// A Warning event about a container.
pub(crate) fn warning(reason: &'static str, message: impl Into<String>, container: &str) -> Event {
    Event { severity: Severity::Warning, reason, message: message.into(), container: Some(container.to_owned()) }
}

/// A Warning event about a pod as a whole, or the node.
pub(crate) fn whole_warning(reason: &'static str, message: impl Into<String>) -> Event {
    Event { severity: Severity::Warning, reason, message: message.into(), container: None }
}

#[cfg(test)]
mod tests;
