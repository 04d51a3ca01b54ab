//! Bringing what there is in line with what is wanted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use lifecycle::{Input, Memory, Now, ObservedPod, PodMachine};
use pod::reasons;
use tracing::info;

use super::entry::{self, Entry, Life};
use super::{Agent, Outbox, Request, SourceReport, Unclaimed};
use crate::events::{Subject, whole_warning};
use crate::plan;
use crate::status::Deletion;

impl Agent {
    pub(super) fn take_report(&mut self, now: Now, report: SourceReport, outbox: &mut Outbox) {
        let (entries, unclaimed) = (&self.entries, &self.unclaimed);
        let conflicts = self.mux.update(report, &|uid| entries.contains_key(uid) || unclaimed.contains_key(uid));
        for conflict in conflicts {
            tracing::error!("manifest refused: {}", conflict.message);
            if let Some((pod, event)) = conflict.event {
                let subject = Subject::Pod { key: &entry::key_of(&pod), field_path: "" };
                self.events.tell(now.wall_ns, subject, whole_warning(reasons::FAILED_VALIDATION, event));
            }
        }
        self.wanted = self.mux.wanted();
        let other_secrets = self.take_secrets();
        self.reconcile(now, outbox);
        if other_secrets {
            self.images_changed(now, outbox);
        }
    }

    /// Brings the entries in line with what is wanted.
    pub(super) fn reconcile(&mut self, now: Now, outbox: &mut Outbox) {
        if !self.started {
            return;
        }
        let unwanted: Vec<String> = self
            .entries
            .iter()
            .filter(|(uid, e)| !e.deleted && !self.wanted.contains_key(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in unwanted {
            self.delete(now, &uid, outbox);
        }
        let wanted: Vec<Arc<Pod>> = self.wanted.values().map(|wanted| wanted.pod.clone()).collect();
        for pod in wanted {
            if !self.entries.contains_key(pod::uid(&pod)) && self.is_obscured(&pod) {
                continue;
            }
            match self.entries.get_mut(pod::uid(&pod)) {
                None => self.begin(now, pod, outbox),
                Some(entry) => {
                    if let Some(plan) = entry.update(&pod, &self.node) {
                        if entry.set_up {
                            outbox.push(Request::SavePod(pod.clone()));
                        }
                        self.feed(now, pod::uid(&pod), Input::Desired(plan), outbox);
                    }
                }
            }
        }
        if self.mux.all_reported() {
            self.take_orphans(now, outbox);
        }
        self.admit(now, outbox);
    }

    fn begin(&mut self, now: Now, pod: Arc<Pod>, outbox: &mut Outbox) {
        let uid = pod::uid(&pod).to_owned();
        let known = self.unclaimed.remove(&uid);
        let stored = self.stored.remove(&uid);
        if known.is_none()
            && let Some(status) = self.finished.get(&uid).cloned()
        {
            info!(pod = %pod::full_name(&pod), %uid, "the pod has run to its end already");
            let entry = Entry::new(self.generation(), Some(pod), Life::Done(Box::new(status)), now);
            self.entries.insert(uid, entry);
            return;
        }
        info!(pod = %pod::full_name(&pod), %uid, "pod added");
        self.take_over(now, pod, (known, stored.and_then(|stored| stored.memory)), outbox);
        let kill_at_ns = self.entries.get(&uid).and_then(|entry| entry.saved.kill_at_ns);
        if kill_at_ns.is_some() {
            // It was being ended when the last kubelet stopped: that goes on, and then the pod begins anew.
            self.delete(now, &uid, outbox);
        }
    }

    /// Makes the machine of a pod of which the spec is known, and tells it what there is.
    pub(super) fn take_over(
        &mut self,
        now: Now,
        pod: Arc<Pod>,
        (known, memory): (Option<Unclaimed>, Option<Memory>),
        outbox: &mut Outbox,
    ) {
        let uid = pod::uid(&pod).to_owned();
        let plan = self.node.plan_of(&pod);
        let set_up = known.is_some() || memory.is_some();
        let saved = memory.unwrap_or_default();
        let machine = PodMachine::resume(plan, &saved, now);
        let mut entry = Entry::new(self.generation(), Some(pod), Life::Machine(Box::new(machine)), now);
        entry.has_run = known.is_some() || saved.admitted;
        entry.set_up = set_up;
        entry.saved = saved;
        self.entries.insert(uid.clone(), entry);
        self.tell_known(now, &uid, known, outbox);
    }

    /// Ends a pod, within what is left of its grace where its end began in an earlier life of the kubelet.
    pub(super) fn delete(&mut self, now: Now, uid: &str, outbox: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.deleted = true;
        if matches!(entry.life, Life::Done(_)) {
            let machine = PodMachine::orphan(uid.to_owned(), entry.full_name.clone(), 0, now);
            entry.life = Life::Machine(Box::new(machine));
            self.observe(now, uid, (now.mono_ms, ObservedPod::default()), outbox);
            return;
        }
        info!(pod = %entry.full_name, %uid, "pod is not wanted any more");
        let whole_ms = entry.pod.as_deref().map_or(0, plan::grace_ms);
        let grace_ms = entry.saved.remaining_grace_ms(whole_ms, now.wall_ns);
        let left_ns = i64::try_from(grace_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        entry.deletion = Some(Deletion {
            at_ns: now.wall_ns.saturating_add(left_ns),
            grace_s: i64::try_from(whole_ms / 1_000).unwrap_or(i64::MAX),
        });
        self.feed(now, uid, Input::Delete { grace_ms }, outbox);
    }
}
