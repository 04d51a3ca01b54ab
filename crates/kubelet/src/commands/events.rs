//! `kubelet events`: what happened to pods lately.

use super::{Columns, printable};
use crate::cli::EventsArgs;
use crate::client::{Client, percent_encode};
use crate::duration::human_age;
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

const HEAD: [&str; 6] = ["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
/// Between two looks of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Of the columns of `--watch`, so that what comes later stands beneath what came first.
const WATCH_WIDTHS: [usize; 2] = [0, 18];

/// A v1 `EventList`.
#[derive(Debug, serde::Deserialize)]
struct EventItems {
    #[serde(default)]
    items: Vec<Event>,
}

pub(crate) async fn run(args: EventsArgs) -> Result<u8> {
    let client = Client::new(&args.target.run_dir);
    let namespace = args.namespace.as_deref().or(args.pod.is_some().then_some("default"));
    let query = namespace.map_or_else(String::new, |name| format!("?namespace={}", percent_encode(name)));
    let widths = if args.watch { WATCH_WIDTHS.to_vec() } else { Vec::new() };
    let mut columns = Columns { widths };
    let mut seen = BTreeMap::new();
    let mut out = String::new();
    let mut first = true;
    loop {
        let mut events = fetch(&client, &query).await?;
        events.retain(|event| args.pod.as_deref().is_none_or(|pod| is_about(event, pod)));
        let news: Vec<&Event> =
            events.iter().filter(|event| seen.get(&name(event)) != Some(&occurrence(event))).collect();
        match (first, args.watch) {
            (true, false) if news.is_empty() => out.push_str("no events\n"),
            (true, _) => out.push_str(&columns.table(&[vec![HEAD.map(String::from).to_vec()], rows(&news)].concat())),
            (false, _) => out.push_str(&columns.table(&rows(&news))),
        }
        // Whoever reads may have seen enough: `kubelet events -w | head`.
        if std::io::stdout().lock().write_all(out.as_bytes()).is_err() || !args.watch {
            return Ok(0);
        }
        // Only what the kubelet still tells is remembered.
        seen = events.iter().map(|event| (name(event), occurrence(event))).collect();
        out.clear();
        first = false;
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// The events of a query on `/events`, the latest last.
pub(super) async fn fetch(client: &Client, query: &str) -> Result<Vec<Event>> {
    let mut events = client.get_json::<EventItems>(&format!("/events{query}")).await?.items;
    events.sort_by_key(last);
    Ok(events)
}

/// By the pod's name with or without the node's at its end.
fn is_about(event: &Event, pod: &str) -> bool {
    let name = event.involved_object.name.as_deref().unwrap_or_default();
    let node = event.source.as_ref().and_then(|source| source.host.as_deref()).unwrap_or_default();
    let short = name.strip_suffix(node).and_then(|short| short.strip_suffix('-'));
    name == pod || short == Some(pod)
}

fn name(event: &Event) -> (Option<String>, Option<String>) {
    (event.metadata.namespace.clone(), event.metadata.name.clone())
}

/// What differs when the same event happens again.
fn occurrence(event: &Event) -> (Option<i32>, Option<Timestamp>) {
    (event.count, last(event))
}

fn last(event: &Event) -> Option<Timestamp> {
    let seen = event.last_timestamp.as_ref().or(event.first_timestamp.as_ref()).map(|time| time.0);
    seen.or(event.event_time.as_ref().map(|time| time.0))
}

/// How long ago, and if it happened several times how often and over how long: `5s (x3 over 40s)`.
pub(super) fn age(event: &Event, now: Timestamp) -> String {
    let since = |time: Timestamp| human_age(now.as_second() - time.as_second());
    let Some(last) = last(event) else { return "<unknown>".to_owned() };
    match (event.count, &event.first_timestamp) {
        (Some(count @ 2..), Some(first)) => format!("{} (x{count} over {})", since(last), since(first.0)),
        _ => since(last),
    }
}

fn rows(events: &[&Event]) -> Vec<Vec<String>> {
    let now = Timestamp::now();
    events.iter().map(|event| row(event, now)).collect()
}

fn row(event: &Event, now: Timestamp) -> Vec<String> {
    let object = &event.involved_object;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let cells = [
        text(&object.namespace),
        age(event, now),
        text(&event.type_),
        text(&event.reason),
        format!("{}/{}", object.kind.as_deref().unwrap_or("Pod"), text(&object.name)),
        text(&event.message).trim().to_owned(),
    ];
    cells.map(|cell| printable(&cell)).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(count: i32, message: &str) -> Event {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"name": "web-n1.1", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web-n1", "uid": "u"},
            "type": "Warning", "reason": "BackOff", "message": message, "count": count,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:01:00Z",
            "source": {"component": "kubelet", "host": "n1"}}))
        .unwrap()
    }

    #[test]
    fn rows_say_when_what_and_to_whom() {
        let now = "2026-01-01T00:01:05Z".parse().unwrap();
        let cells = ["default", "5s (x3 over 65s)", "Warning", "BackOff", "Pod/web-n1", "restarting"];
        assert_eq!(row(&event(3, "restarting\n"), now), cells);
        assert_eq!(age(&event(1, ""), now), "5s");
        assert_eq!(age(&Event::default(), now), "<unknown>");
    }

    #[test]
    fn s_c11_messages_do_not_command_the_terminal() {
        assert_eq!(row(&event(1, "a\x1b[2J\nb"), Timestamp::UNIX_EPOCH)[5], "a\u{fffd}[2J\u{fffd}b");
    }

    #[test]
    fn pods_are_meant_with_and_without_the_nodes_name() {
        for (pod, about) in [("web", true), ("web-n1", true), ("we", false), ("web-", false)] {
            assert_eq!(is_about(&event(1, ""), pod), about, "{pod}");
        }
    }

    #[test]
    fn an_event_that_happens_again_is_news() {
        assert_eq!(name(&event(1, "")), name(&event(2, "")));
        assert_ne!(occurrence(&event(1, "")), occurrence(&event(2, "")));
    }
}
