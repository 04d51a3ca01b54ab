//! Who may begin: whoever is alone with its full name, and finds room on the machine.

use std::collections::BTreeSet;

use lifecycle::admission::{self, Demand};
use lifecycle::{Input, Now};
use tracing::warn;

use super::entry::{self, Entry};
use super::{Agent, Outbox};
use crate::events::whole_warning;

impl Agent {
    /// Lets begin whoever is alone with its full name (rule 9), and refuses those for whom the machine has no room.
    pub(super) fn admit(&mut self, now: Now, outbox: &mut Outbox) {
        let mut taken: BTreeSet<String> = self.unclaimed.values().map(|u| entry::full_name_of(&u.pod.key)).collect();
        taken.extend(self.entries.values().filter(|e| e.holds_name()).map(|e| e.full_name.clone()));
        let waiting = self.entries.iter().filter(|(_, entry)| entry.waits());
        let free: Vec<String> =
            waiting.filter(|(_, e)| taken.insert(e.full_name.clone())).map(|(uid, _)| uid.clone()).collect();
        if free.is_empty() {
            return;
        }
        // Those that ran before the kubelet was restarted come first: they have their place already.
        let (running, fresh): (Vec<String>, Vec<String>) =
            free.into_iter().partition(|uid| self.entries.get(uid).is_some_and(|entry| entry.has_run));
        for uid in running {
            self.grant(now, &uid, outbox);
        }
        if fresh.is_empty() {
            return;
        }
        let mut others: Vec<Demand> =
            self.entries.values().filter(|e| e.takes_room()).filter_map(Entry::demand).collect();
        for uid in fresh {
            let Some(pod) = self.entries.get(&uid).and_then(|entry| entry.pod.clone()) else { continue };
            match admission::check(&pod, &others, &self.node.offer) {
                Ok(()) => {
                    others.push(Demand::of(&pod));
                    self.grant(now, &uid, outbox);
                }
                Err(rejection) => self.reject(now, &uid, rejection, outbox),
            }
        }
    }

    fn grant(&mut self, now: Now, uid: &str, outbox: &mut Outbox) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.admitted = true;
        }
        self.feed(now, uid, Input::Admit, outbox);
    }

    fn reject(&mut self, now: Now, uid: &str, rejection: admission::Rejection, outbox: &mut Outbox) {
        let admission::Rejection { reason, message } = rejection;
        if let Some(entry) = self.entries.get_mut(uid) {
            warn!(pod = %entry.full_name, uid, %reason, "the pod cannot run here: {message}");
            entry.admitted = true;
            entry.rejected = true;
        }
        self.tell(now, uid, whole_warning(reason, message.clone()));
        let message = format!("Pod was rejected: {message}");
        self.feed(now, uid, Input::Reject { reason: reason.to_owned(), message }, outbox);
    }
}
