//! How far a pull is: written by those who fetch, read by those who ask, without a lock.

use super::{LayerProgress, LayerState, PullProgress};
use crate::manifest::Descriptor;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Each figure stands for itself, so none of the accesses orders any other.
const ORDER: Ordering = Ordering::Relaxed;

pub(super) struct Progress {
    reference: String,
    /// Set when the manifest is known.
    layers: OnceLock<Vec<Layer>>,
}

struct Layer {
    digest: String,
    total_bytes: u64,
    done_bytes: AtomicU64,
    state: AtomicU8,
}

const WAITING: u8 = 0;
const FETCHING: u8 = 1;
const PRESENT: u8 = 2;
const DONE: u8 = 3;

impl Progress {
    pub(super) fn new(reference: String) -> Self {
        Self { reference, layers: OnceLock::new() }
    }

    /// From now on the total is known. `is_present` says which layers (0 is the lowest) need not be fetched.
    pub(super) fn begin(&self, layers: &[Descriptor], is_present: impl Fn(usize) -> bool) {
        let layer = |(at, layer): (usize, &Descriptor)| Layer {
            digest: layer.digest.to_string(),
            total_bytes: layer.size,
            done_bytes: AtomicU64::new(0),
            state: AtomicU8::new(if is_present(at) { PRESENT } else { WAITING }),
        };
        self.layers.get_or_init(|| layers.iter().enumerate().map(layer).collect());
    }

    fn with(&self, at: usize, change: impl FnOnce(&Layer)) {
        if let Some(layer) = self.layers.get().and_then(|layers| layers.get(at)) {
            change(layer);
        }
    }

    pub(super) fn fetching(&self, at: usize) {
        self.with(at, |layer| layer.state.store(FETCHING, ORDER));
    }

    pub(super) fn fetched(&self, at: usize, bytes: usize) {
        self.with(at, |layer| {
            layer.done_bytes.fetch_add(bytes as u64, ORDER);
        });
    }

    /// The layer is complete, whoever brought it.
    pub(super) fn done(&self, at: usize) {
        self.with(at, |layer| {
            if layer.state.load(ORDER) != PRESENT {
                layer.done_bytes.store(layer.total_bytes, ORDER);
                layer.state.store(DONE, ORDER);
            }
        });
    }

    pub(super) fn snapshot(&self) -> PullProgress {
        let layers: Option<Vec<LayerProgress>> =
            self.layers.get().map(|layers| layers.iter().map(Layer::snapshot).collect());
        let to_come = || layers.iter().flatten().filter(|layer| layer.state != LayerState::Present);
        PullProgress {
            reference: self.reference.clone(),
            done_bytes: to_come().map(|layer| layer.done_bytes).sum(),
            total_bytes: layers.is_some().then(|| to_come().map(|layer| layer.total_bytes).sum()),
            layers: layers.clone().unwrap_or_default(),
        }
    }
}

impl Layer {
    fn snapshot(&self) -> LayerProgress {
        LayerProgress {
            digest: self.digest.clone(),
            done_bytes: self.done_bytes.load(ORDER),
            total_bytes: self.total_bytes,
            state: match self.state.load(ORDER) {
                FETCHING => LayerState::Fetching,
                PRESENT => LayerState::Present,
                DONE => LayerState::Done,
                _ => LayerState::Waiting,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn layer(content: &[u8]) -> Descriptor {
        let (digest, size) = (Digest::of(content), content.len() as u64);
        Descriptor { media_type: None, digest, size, platform: None, annotations: None }
    }

    #[test]
    fn what_was_there_already_is_not_counted() {
        let progress = Progress::new("a:1".into());
        assert_eq!((progress.snapshot().total_bytes, progress.snapshot().layers.len()), (None, 0));
        progress.fetched(0, 5);
        progress.begin(&[layer(b"four"), layer(b"a longer one"), layer(b"last")], |at| at == 0);
        let told = progress.snapshot();
        assert_eq!((told.done_bytes, told.total_bytes), (0, Some(16)));
        progress.fetching(1);
        progress.fetched(1, 7);
        progress.done(0);
        // Another pull brought it.
        progress.done(2);
        let told = progress.snapshot();
        assert_eq!((told.done_bytes, told.total_bytes), (11, Some(16)));
        let states: Vec<_> = told.layers.iter().map(|layer| (layer.state, layer.done_bytes)).collect();
        assert_eq!(states, [(LayerState::Present, 0), (LayerState::Fetching, 7), (LayerState::Done, 4)]);
    }
}
