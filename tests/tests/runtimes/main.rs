//! One suite for every runtime: the same manifests, the same commands, the same statuses. What differs stands in
//! [`differences::DIFFERENCES`] with its reason, and in ARCHITECTURE.md.

mod alone;
mod changes;
mod differences;
mod everything;
mod faces;
mod portraits;
mod streams;
mod together;
mod walk;

use e2e::{Machine, Options, Runtime};
use std::panic::{AssertUnwindSafe, catch_unwind};

type Behaviour = (&'static str, fn(&Machine));

/// Each has pods of its own, so that all can be had at once.
const TOGETHER: [Behaviour; 18] = [
    ("what is used", together::what_is_used_is_told),
    ("a killed container comes back and then waits", together::a_killed_container_comes_back_and_then_waits),
    ("ends are told by their causes", together::ends_are_told_by_their_causes),
    ("a site with everything", together::a_site_with_everything),
    ("sidecars end last and in reverse order", together::sidecars_end_last_and_in_reverse_order),
    ("the grace of the deaf ends", together::the_grace_of_the_deaf_ends),
    ("termination messages", together::termination_messages_come_from_the_file_or_the_log),
    ("logs", together::logs_of_this_attempt_and_the_one_before),
    ("exec", together::exec_passes_codes_streams_and_a_terminal_through),
    ("attach", streams::attach_passes_input_output_and_a_terminal_through),
    ("port-forward", streams::ports_of_ours_lead_to_ports_of_a_pod),
    ("namespaces", together::pods_share_what_they_ask_for),
    ("a pod that asks for everything", everything::a_pod_gets_all_that_it_asks_for),
    ("an update of an image", changes::a_changed_image_restarts_its_container),
    ("an update of a command", changes::a_changed_command_makes_another_pod),
    ("a deadline", changes::a_deadline_ends_its_pod),
    ("statuses", faces::statuses_have_one_form),
    ("portraits", portraits::pods_look_the_same),
];

fn suite(runtime: Runtime) {
    if !runtime.is_available() {
        return;
    }
    let mut machine = Machine::start(Options { images: vec!["busybox", "nginx"], runtime, ..Options::default() });
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let machine = &machine;
        let begin = |(name, behaviour): &Behaviour| {
            let (name, behaviour) = (*name, *behaviour);
            (name, scope.spawn(move || behaviour(machine)))
        };
        let running: Vec<_> = TOGETHER.iter().map(begin).collect();
        running.into_iter().filter_map(|(name, run)| run.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "{runtime:?} failed: {failed:?}");
    let alone = catch_unwind(AssertUnwindSafe(|| alone::a_killed_kubelet_finds_its_pods_again(&mut machine)));
    assert!(alone.is_ok(), "{runtime:?} failed: a killed kubelet finds its pods again");
    walk::the_walk(&machine);
    machine.finish();
}

#[test]
fn embedded() {
    suite(Runtime::Embedded);
}

#[test]
fn docker() {
    suite(Runtime::Docker);
}

#[test]
fn containerd() {
    suite(Runtime::Containerd);
}

#[test]
fn containerd_of_sid() {
    suite(Runtime::ContainerdSid);
}
