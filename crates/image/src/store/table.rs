//! Which layers are wanted, and who brings them.
//!
//! Who waits waits for a lower layer of the same stack, for what is being unpacked, or for what a plan made before will
//! bring, so nobody waits in a circle: all that a plan wants is entered at once, and what was given up is nobody's until
//! somebody asks for it, who then brings it without waiting for a twin.

use super::State;
use super::layer_dir::LayerDir;
use super::{Dirs, chain_ids};
use crate::digest::Digest;
use crate::error::Result;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Names a plan in the table.
pub(super) type PlanId = u64;

/// The table, and how those who wait for a change in it are woken.
#[derive(Default)]
pub(super) struct Slots {
    table: Mutex<Table>,
    /// Wakes threads.
    threads: Condvar,
    /// Wakes tasks.
    pub(super) tasks: Notify,
}

impl Slots {
    /// Changes are made whole, so the table is sound even if a thread died with the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(&self, table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        self.threads.wait(table).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.threads.notify_all();
        self.tasks.notify_waiters();
    }
}

#[derive(Default)]
pub(super) struct Table {
    /// By chain id.
    entries: HashMap<Digest, Entry>,
    last_plan: PlanId,
}

struct Entry {
    /// Chain id of the stack right below.
    parent: Option<Digest>,
    diff_id: Digest,
    /// Plans that want the layer.
    holders: usize,
    /// Layers of other stacks that may become this one.
    sharers: usize,
    /// Nobody wants it now, but somebody may before this.
    kept_until: Option<Instant>,
    phase: Phase,
}

enum Phase {
    /// It was given up. Who next asks for it brings it.
    Absent,
    /// The plan will bring it.
    Reserved(PlanId),
    /// The plan will see whether another stack's layer, which has the same content, can be taken.
    Sharing(PlanId, Digest),
    /// It is being unpacked.
    Filling,
    Complete(Arc<LayerDir>),
}

/// What became of a layer that was asked for.
pub(super) enum Claimed {
    Present,
    /// Who asked has to bring it.
    Ours,
    /// Somebody else brings it.
    Wait,
}

/// What became of the question whether another stack's layer can be taken.
enum Twin {
    Wait,
    Same(Arc<LayerDir>),
    Differs,
}

impl Table {
    /// Enters all layers of a stack as wanted. Gives the plan's name and the other layers that it holds.
    pub(super) fn enter(&mut self, diff_ids: &[Digest], (state, dirs): (&State, &Arc<Dirs>)) -> (PlanId, Vec<Digest>) {
        self.last_plan += 1;
        let plan = self.last_plan;
        let mut twins = Vec::new();
        let mut parent = None;
        for (chain_id, diff_id) in chain_ids(diff_ids).into_iter().zip(diff_ids) {
            if !self.entries.contains_key(&chain_id) {
                let phase = if let Some(record) = state.layers.get(&chain_id) {
                    Phase::Complete(Arc::new(LayerDir::stored(dirs, record)))
                } else if let Some(twin) = self.twin(diff_id, state) {
                    self.share(&twin, (state, dirs));
                    twins.push(twin.clone());
                    Phase::Sharing(plan, twin)
                } else {
                    Phase::Reserved(plan)
                };
                self.entries.insert(chain_id.clone(), Entry::new(parent, diff_id, phase));
            }
            if let Some(entry) = self.entries.get_mut(&chain_id) {
                entry.holders += 1;
                entry.kept_until = None;
            }
            parent = Some(chain_id);
        }
        (plan, twins)
    }

    /// A layer with the same content that is there, or will be, in another stack.
    fn twin(&self, diff_id: &Digest, state: &State) -> Option<Digest> {
        let may_be_shared = |entry: &Entry| match &entry.phase {
            Phase::Absent | Phase::Sharing(..) => false,
            Phase::Reserved(_) | Phase::Filling => true,
            Phase::Complete(dir) => !dir.unpacked.looked_below,
        };
        let stored = state.layers.values().find(|record| record.anywhere && record.diff_id == *diff_id);
        stored.map(|record| record.chain_id.clone()).or_else(|| {
            let mut entries = self.entries.iter();
            let found = entries.find(|(_, entry)| entry.diff_id == *diff_id && may_be_shared(entry));
            found.map(|(chain_id, _)| chain_id.clone())
        })
    }

    /// Holds a layer that another stack's may become.
    fn share(&mut self, twin: &Digest, (state, dirs): (&State, &Arc<Dirs>)) {
        if let (None, Some(record)) = (self.entries.get(twin), state.layers.get(twin)) {
            let phase = Phase::Complete(Arc::new(LayerDir::stored(dirs, record)));
            self.entries.insert(twin.clone(), Entry::new(None, &record.diff_id, phase));
        }
        if let Some(entry) = self.entries.get_mut(twin) {
            entry.sharers += 1;
        }
    }

    pub(super) fn is_complete(&self, chain_id: &Digest) -> bool {
        self.complete(chain_id).is_some()
    }

    pub(super) fn complete(&self, chain_id: &Digest) -> Option<&Arc<LayerDir>> {
        match &self.entries.get(chain_id)?.phase {
            Phase::Complete(dir) => Some(dir),
            _ => None,
        }
    }

    /// Asks for a layer on behalf of a plan that holds it.
    pub(super) fn claim(&mut self, plan: PlanId, chain_id: &Digest) -> Claimed {
        let Some(entry) = self.entries.get(chain_id) else { return Claimed::Wait };
        let phase = match &entry.phase {
            Phase::Complete(_) => return Claimed::Present,
            Phase::Absent => Phase::Filling,
            Phase::Reserved(owner) if *owner == plan => Phase::Filling,
            Phase::Sharing(owner, twin) if *owner == plan => match self.compare(entry, twin) {
                Twin::Wait => return Claimed::Wait,
                Twin::Same(dir) => Phase::Complete(dir),
                Twin::Differs => Phase::Filling,
            },
            Phase::Reserved(_) | Phase::Sharing(..) | Phase::Filling => return Claimed::Wait,
        };
        let claimed = if matches!(phase, Phase::Filling) { Claimed::Ours } else { Claimed::Present };
        self.set(chain_id, phase);
        claimed
    }

    /// Whether the layer `twin` is what unpacking `entry` would give.
    fn compare(&self, entry: &Entry, twin_id: &Digest) -> Twin {
        let Some(twin) = self.entries.get(twin_id) else { return Twin::Differs };
        let dir = match &twin.phase {
            Phase::Absent | Phase::Sharing(..) => return Twin::Differs,
            Phase::Reserved(_) | Phase::Filling => return Twin::Wait,
            Phase::Complete(dir) if dir.unpacked.looked_below => return Twin::Differs,
            Phase::Complete(dir) => dir,
        };
        self.compare_roots(entry, (twin_id, twin, dir)).unwrap_or_else(|error| {
            // Never waited for: nobody may ever try again what failed.
            tracing::debug!(%error, "failed to compare layers; it is brought anew");
            Twin::Differs
        })
    }

    /// The same of a twin that is complete, once both stacks are so far that their roots can be seen.
    fn compare_roots(&self, entry: &Entry, (twin_id, twin, dir): (&Digest, &Entry, &Arc<LayerDir>)) -> Result<Twin> {
        if !self.settle(twin_id)? {
            // Those below it come with the plans that want it; not if one of them has still to be asked for.
            let comes = twin.holders > 0 && self.is_under_way(twin.parent.as_ref());
            return Ok(if comes { Twin::Wait } else { Twin::Differs });
        }
        let below = match &entry.parent {
            Some(parent) if !dir.unpacked.own_root => {
                if !self.settle(parent)? {
                    return Ok(Twin::Wait);
                }
                self.complete(parent)
            }
            _ => None,
        };
        Ok(if dir.fits_on(below.map(|below| &**below))? { Twin::Same(dir.clone()) } else { Twin::Differs })
    }

    /// Whether all of a stack is complete or being unpacked: nothing of it waits to be asked for.
    fn is_under_way<'a>(&'a self, mut at: Option<&'a Digest>) -> bool {
        while let Some(entry) = at.and_then(|chain_id| self.entries.get(chain_id)) {
            if !matches!(entry.phase, Phase::Filling | Phase::Complete(_)) {
                return false;
            }
            at = entry.parent.as_ref();
        }
        at.is_none()
    }

    /// A layer was unpacked.
    pub(super) fn fill(&mut self, chain_id: &Digest, dir: Arc<LayerDir>) {
        self.set(chain_id, Phase::Complete(dir));
    }

    /// A layer was not unpacked.
    pub(super) fn give_up(&mut self, chain_id: &Digest) {
        if let Some(entry) = self.entries.get_mut(chain_id) {
            entry.phase = Phase::Absent;
            if !entry.is_held() {
                self.entries.remove(chain_id);
            }
        }
    }

    fn set(&mut self, chain_id: &Digest, phase: Phase) {
        if let Some(entry) = self.entries.get_mut(chain_id) {
            entry.phase = phase;
        }
        // Those above may have been waiting for it.
        let mut queue = vec![chain_id];
        while let Some(chain_id) = queue.pop() {
            match self.settle(chain_id) {
                Ok(true) => {
                    let above = self.entries.iter().filter(|(_, entry)| entry.parent.as_ref() == Some(chain_id));
                    queue.extend(above.map(|(above, _)| above));
                }
                Ok(false) => {}
                // Tried again by whoever needs it so; the commit fails with it.
                Err(error) => tracing::debug!(%error, "failed to set the root of a layer"),
            }
        }
    }

    /// Makes the root of a layer as it stays, and those below it, if all of them are complete; says whether it is. Those
    /// below too: what failed for one of them earlier may succeed now. At most as deep as an image has layers.
    pub(super) fn settle(&self, chain_id: &Digest) -> Result<bool> {
        let (Some(entry), Some(dir)) = (self.entries.get(chain_id), self.complete(chain_id)) else { return Ok(false) };
        if !dir.is_settled() {
            let below = match &entry.parent {
                None => None,
                Some(parent) if self.settle(parent)? => self.complete(parent).map(|below| &**below),
                Some(_) => return Ok(false),
            };
            dir.settle(below)?;
        }
        Ok(true)
    }

    /// Ends a plan. What is complete and not stored is kept until `keep_until`; what nobody needs any more is given back.
    pub(super) fn release(
        &mut self,
        plan: PlanId,
        (layers, twins): (&[Digest], &[Digest]),
        keep_until: Option<Instant>,
    ) -> Vec<(Digest, Arc<LayerDir>)> {
        for chain_id in layers {
            let Some(entry) = self.entries.get_mut(chain_id) else { continue };
            entry.holders -= 1;
            if matches!(&entry.phase, Phase::Reserved(owner) | Phase::Sharing(owner, _) if *owner == plan) {
                entry.phase = Phase::Absent;
            }
            if entry.holders == 0 && matches!(&entry.phase, Phase::Complete(dir) if dir.number().is_none()) {
                entry.kept_until = keep_until;
            }
        }
        for chain_id in twins {
            if let Some(entry) = self.entries.get_mut(chain_id) {
                entry.sharers -= 1;
            }
        }
        let mut released = Vec::new();
        for chain_id in layers.iter().chain(twins) {
            let is_over = |entry: &Entry| !entry.is_held() && !matches!(entry.phase, Phase::Filling);
            if self.entries.get(chain_id).is_some_and(is_over)
                && let Some(Entry { phase: Phase::Complete(dir), .. }) = self.entries.remove(chain_id)
            {
                released.push((chain_id.clone(), dir));
            }
        }
        released
    }

    /// Gives back what was kept for long enough.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<(Digest, Arc<LayerDir>)> {
        for entry in self.entries.values_mut() {
            entry.kept_until = entry.kept_until.filter(|until| *until > now);
        }
        let is_over = |_: &Digest, entry: &mut Entry| !entry.is_held() && matches!(entry.phase, Phase::Complete(_));
        let expired = self.entries.extract_if(is_over);
        expired
            .filter_map(|(chain_id, entry)| match entry.phase {
                Phase::Complete(dir) => Some((chain_id, dir)),
                _ => None,
            })
            .collect()
    }

    pub(super) fn holds(&self, chain_id: &Digest) -> bool {
        self.entries.contains_key(chain_id)
    }

    /// Whether any layer lies in this directory below `layers/`.
    pub(super) fn holds_directory(&self, number: u32) -> bool {
        self.entries.values().any(|entry| match &entry.phase {
            Phase::Complete(dir) => dir.number() == Some(number),
            _ => false,
        })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    fn new(parent: Option<Digest>, diff_id: &Digest, phase: Phase) -> Self {
        Self { parent, diff_id: diff_id.clone(), holders: 0, sharers: 0, kept_until: None, phase }
    }

    fn is_held(&self) -> bool {
        self.holders > 0 || self.sharers > 0 || self.kept_until.is_some()
    }
}
