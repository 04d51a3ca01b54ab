//! Simulated worlds in which the kubelet's own loop runs, without a machine and without time: one seed makes the pods,
//! what their containers do and everything that goes wrong, and checkers watch that the rules of a pod's life hold.

pub mod exhaustive;
mod facts;
mod kubelet;
mod many;
pub mod marks;
mod options;
mod pods;
mod rng;
mod rules;
pub mod script;
mod trace;
mod truth;
mod world;

pub use kubelet::Mutant;
pub use many::{Tally, run_many};
pub use trace::Keep;
pub use world::{Verdict, play, run};
