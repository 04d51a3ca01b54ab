//! Layers that attack, each beside one of the same shape that does not.

mod alone;
mod deletions;
mod entries;
mod escapes;
mod limits;

use super::{Layer, Limits, Unpacked, inherit_root, unpack};
use crate::error::LayerError;
use crate::testing::{Canary, Tar, listing};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// A directory with layers on top of one another, and a canary beside them.
struct Stack {
    dir: tempfile::TempDir,
    canary: Canary,
    layers: Vec<PathBuf>,
}

impl Stack {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let canary = Canary::new(dir.path());
        fs::create_dir(dir.path().join("scratch")).unwrap();
        Self { dir, canary, layers: Vec::new() }
    }

    /// Unpacks one more layer on top.
    fn add(&mut self, tar: Tar) -> Result<Unpacked, LayerError> {
        self.add_limited(&tar.build(), &test_limits())
    }

    fn add_limited(&mut self, bytes: &[u8], limits: &Limits) -> Result<Unpacked, LayerError> {
        let target = self.dir.path().join(format!("layer{}", self.layers.len()));
        let scratch = self.dir.path().join("scratch");
        let open = |path: &PathBuf| crate::fs::open_dir(path).map(Arc::new).expect("it was made before");
        let lowers: Vec<Arc<OwnedFd>> = self.layers.iter().rev().map(open).collect();
        let below = || Ok(lowers.clone());
        let mut result = unpack(Layer { target: &target, below: &below, scratch: &scratch }, &mut &bytes[..], limits);
        if let (Ok(unpacked), Some(lower)) = (&result, lowers.first())
            && !unpacked.own_root
        {
            result = inherit_root(&open(&target), lower).and(result);
        }
        self.layers.push(target);
        assert!(fs::read_dir(&scratch).unwrap().next().is_none(), "something was left in scratch");
        result
    }

    fn top(&self) -> &PathBuf {
        self.layers.last().unwrap()
    }

    fn listing(&self) -> Vec<String> {
        listing(self.top())
    }
}

/// A test must not fail because the machine's disk is nearly full.
fn test_limits() -> Limits {
    Limits { reserve_bytes: 0, reserve_inodes: 0, ..Limits::default() }
}

/// Unpacks one layer and compares what came of it, with `{}` for the canary's directory; the canary must be as it was.
fn check(case: &str, tar: impl FnOnce(&str) -> Tar, expected: &[&str]) {
    let mut stack = Stack::new();
    let tar = tar(stack.canary.path());
    stack.add(tar).unwrap_or_else(|e| panic!("{case}: {e}"));
    let expected: Vec<String> = expected.iter().map(|line| line.replace("{}", stack.canary.path())).collect();
    assert_eq!(stack.listing(), expected, "{case}");
    stack.canary.assert_untouched(case);
}

/// Unpacks one layer that must be refused.
fn refuse(case: &str, tar: impl FnOnce(&str) -> Tar) -> LayerError {
    let mut stack = Stack::new();
    let tar = tar(stack.canary.path());
    let refused = stack.add(tar);
    stack.canary.assert_untouched(case);
    refused.err().unwrap_or_else(|| panic!("{case}: accepted as {:?}", stack.listing()))
}
