//! What earlier lives left behind and nobody wants.

use cri::keys::PodKey;
use lifecycle::{Now, PodMachine};
use tracing::info;

use super::entry::{self, Entry};
use super::{Agent, Outbox, Request, Stored, Unclaimed};

impl Agent {
    /// Ends what runs and nobody wants (rule 7).
    pub(super) fn take_orphans(&mut self, now: Now, outbox: &mut Outbox) {
        for (uid, unclaimed) in std::mem::take(&mut self.unclaimed) {
            self.adopt_orphan(now, Some(unclaimed), &uid, outbox);
        }
        if self.cleaned {
            return;
        }
        self.cleaned = true;
        outbox.push(Request::FindLeftovers);
        let unwanted: Vec<String> =
            self.finished.keys().filter(|uid| !self.wanted.contains_key(*uid)).cloned().collect();
        for uid in unwanted {
            self.finished.remove(&uid);
            outbox.push(Request::ForgetFinished(uid));
        }
    }

    fn adopt_orphan(&mut self, now: Now, known: Option<Unclaimed>, uid: &str, outbox: &mut Outbox) {
        if let Some(Stored { pod: Some(pod), memory }) = self.stored.remove(uid) {
            info!(pod = %pod::full_name(&pod), uid, "ending a pod whose manifest is gone");
            self.take_over(now, pod, (known, memory), outbox);
            return self.delete(now, uid, outbox);
        }
        let key = match &known {
            Some(known) => known.pod.key.clone(),
            None => PodKey { namespace: String::new(), name: String::new(), uid: uid.to_owned() },
        };
        let grace_ms = known.as_ref().and_then(|known| known.pod.grace_ms).unwrap_or(entry::DEFAULT_GRACE_MS);
        let full_name = entry::full_name_of(&key);
        info!(pod = %full_name, uid, "ending a pod that nobody wants");
        let machine = PodMachine::orphan(uid.to_owned(), full_name, grace_ms, now);
        let entry = Entry::orphan(self.generation(), key, machine, now);
        self.entries.insert(uid.to_owned(), entry);
        self.tell_known(now, uid, known, outbox);
    }

    pub(super) fn adopt_leftovers(&mut self, now: Now, uids: Vec<String>, outbox: &mut Outbox) {
        for uid in uids {
            let known = self.entries.contains_key(&uid) || self.unclaimed.contains_key(&uid);
            if !known && !self.wanted.contains_key(&uid) && !self.unseen.contains_key(&uid) {
                self.adopt_orphan(now, None, &uid, outbox);
            }
        }
    }
}
