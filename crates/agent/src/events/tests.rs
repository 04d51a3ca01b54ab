use super::*;

fn key(uid: &str) -> PodKey {
    PodKey { namespace: "default".into(), name: format!("p-{uid}"), uid: uid.into() }
}

fn tell(events: &mut Events, at_s: i64, uid: &str, message: &str) {
    let key = key(uid);
    let subject = Subject::Pod { key: &key, field_path: "spec.containers{c}" };
    events.tell(at_s * 1_000_000_000, subject, warning("Unhealthy", message, "c"));
}

fn told(events: &Events) -> Vec<(String, i32)> {
    events.all().into_iter().map(|record| (record.message, record.count)).collect()
}

#[test]
fn what_repeats_is_counted_and_moves_to_the_end() {
    let mut events = Events::default();
    tell(&mut events, 1, "u", "one");
    tell(&mut events, 2, "u", "two");
    tell(&mut events, 9, "u", "one");
    assert_eq!(told(&events), [("two".to_owned(), 1), ("one".to_owned(), 2)]);
    let event = events.all().pop().unwrap().to_v1("n");
    assert_eq!(event.first_timestamp.unwrap().0.as_second(), 1);
    assert_eq!(event.last_timestamp.unwrap().0.as_second(), 9);
    let object = event.involved_object;
    assert_eq!(object.field_path.as_deref(), Some("spec.containers{c}"));
    assert_eq!((object.kind.as_deref(), object.name.as_deref()), (Some("Pod"), Some("p-u")));
    let source = event.source.unwrap();
    assert_eq!((source.component.as_deref(), source.host.as_deref()), (Some("kubelet"), Some("n")));
    assert!(event.metadata.name.unwrap().starts_with("p-u."));
}

#[test]
fn the_same_of_another_pod_or_container_is_another() {
    let mut events = Events::default();
    tell(&mut events, 1, "u", "one");
    tell(&mut events, 1, "v", "one");
    let key = key("u");
    events.tell(1, Subject::Pod { key: &key, field_path: "spec.initContainers{i}" }, warning("Unhealthy", "one", "i"));
    events.tell(1, Subject::Pod { key: &key, field_path: "spec.containers{c}" }, normal("Unhealthy", "one", "c"));
    assert_eq!(told(&events).len(), 4);
}

#[test]
fn the_eleventh_similar_one_within_ten_minutes_is_combined() {
    let mut events = Events::default();
    for number in 0..13 {
        tell(&mut events, number, "u", &format!("message {number}"));
    }
    let all = told(&events);
    assert_eq!(all.len(), 11);
    assert_eq!(all[10], ("(combined from similar events): message 12".to_owned(), 3));
    tell(&mut events, 700, "u", "much later");
    assert_eq!(told(&events).last().unwrap(), &("much later".to_owned(), 1));
}

#[test]
fn a_pod_keeps_a_hundred_and_all_keep_a_thousand() {
    let mut events = Events::default();
    for number in 0..150 {
        tell(&mut events, number * 1_000, "loud", &number.to_string());
    }
    assert_eq!(told(&events).len(), 100);
    assert_eq!(told(&events)[0].0, "50", "the oldest goes first");
    for pod in 0..1_500 {
        tell(&mut events, 1_000_000 + pod, &format!("pod{pod}"), "m");
    }
    assert_eq!(told(&events).len(), 1_000);
    assert_eq!(events.of.len(), 1_000, "nothing is left of pods without events");
    let names: std::collections::BTreeSet<String> =
        events.all().iter().map(|record| record.to_v1("n").metadata.name.unwrap()).collect();
    assert_eq!(names.len(), 1_000);
}

#[test]
fn a_message_is_cut_between_characters() {
    let mut events = Events::default();
    tell(&mut events, 1, "u", &"ä".repeat(600));
    assert_eq!(told(&events)[0].0.len(), 1_024);
    tell(&mut events, 1, "v", &format!("x{}", "ä".repeat(600)));
    assert_eq!(told(&events)[1].0.len(), 1_023);
}

#[test]
fn an_event_of_the_node_is_no_pods() {
    let mut events = Events::default();
    let event = || whole_warning("ImageGCFailed", "it failed");
    events.tell(1_000_000_000, Subject::Node("n"), event());
    events.tell(2_000_000_000, Subject::Node("n"), event());
    let key = PodKey { namespace: "default".into(), name: "n".into(), uid: "u".into() };
    events.tell(3_000_000_000, Subject::Pod { key: &key, field_path: "" }, event());
    let all = events.all();
    assert_eq!(told(&events), [("it failed".to_owned(), 2), ("it failed".to_owned(), 1)]);
    assert_eq!(all.iter().map(|record| record.is_of("default", "n", "n")).collect::<Vec<_>>(), [false, true]);
    let event = all[0].to_v1("n");
    let object = event.involved_object;
    assert_eq!((object.kind.as_deref(), object.name.as_deref(), object.namespace), (Some("Node"), Some("n"), None));
    assert_eq!(object.uid.as_deref(), Some("n"));
    assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
}
