//! Which layers are the same whatever lies below them.

use super::{Stack, test_limits};
use crate::error::LayerError;
use crate::testing::{Tar, is_root};
use crate::unpack::{Layer, unpack};
use std::cell::Cell;
use std::fs;

#[test]
fn a_layer_asks_for_those_below_only_when_it_must() {
    if !is_root() {
        return;
    }
    let (d, f) = (|tar: Tar| tar.dir("d", 0o755), b"x");
    for (case, tar, looks_below, own_root) in [
        ("nothing", Tar::new(), false, false),
        ("a file", Tar::new().file("f", f), false, false),
        ("a root of its own", Tar::new().dir("./", 0o700).file("f", f), false, true),
        ("a directory and what is in it", d(Tar::new()).file("d/f", f), false, false),
        ("a directory that may be below", Tar::new().file("d/f", f), true, false),
        ("through a link of its own", d(Tar::new()).symlink("l", "d").file("l/f", f), false, false),
        ("through a link of its own to what may be below", Tar::new().symlink("l", "d").file("l/f", f), true, false),
        ("a link to a file of its own", Tar::new().file("f", f).link("g", "f"), false, false),
        ("a link to a file below", Tar::new().link("g", "base"), true, false),
        ("a deletion", Tar::new().whiteout(".wh.base"), true, false),
        (
            "a deletion in a directory that hides all below",
            d(Tar::new()).whiteout("d/.wh..wh..opq").whiteout("d/.wh.f"),
            false,
            false,
        ),
        ("a root that hides all below", Tar::new().whiteout(".wh..wh..opq").file("d/f", f), false, false),
    ] {
        let mut stack = Stack::new();
        stack.add(Tar::new().file("base", b"")).unwrap();
        let asked = Cell::new(0);
        let lower = crate::fs::open_dir(stack.top()).map(std::sync::Arc::new).unwrap();
        let below = || {
            asked.set(asked.get() + 1);
            Ok(vec![lower.clone()])
        };
        let (target, scratch) = (stack.dir.path().join("alone"), stack.dir.path().join("scratch"));
        let layer = Layer { target: &target, below: &below, scratch: &scratch };
        let unpacked = unpack(layer, &mut &tar.build()[..], &test_limits()).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!((unpacked.looked_below, unpacked.own_root), (looks_below, own_root), "{case}");
        assert_eq!(asked.get(), usize::from(looks_below), "{case}");
    }
}

#[test]
fn a_layer_whose_lower_ones_were_given_up_is_given_up() {
    if !is_root() {
        return;
    }
    let stack = Stack::new();
    let (target, scratch) = (stack.dir.path().join("alone"), stack.dir.path().join("scratch"));
    let layer = Layer { target: &target, below: &|| Err(LayerError::Abandoned), scratch: &scratch };
    let refused = unpack(layer, &mut &Tar::new().whiteout(".wh.a").build()[..], &test_limits());
    assert!(matches!(refused, Err(LayerError::Abandoned)), "{refused:?}");
    assert!(fs::read_dir(&target).unwrap().next().is_none());
}
