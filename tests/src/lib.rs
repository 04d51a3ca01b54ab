//! What the end-to-end suites share: a kubelet of their own on this machine, and the census after it.

pub mod census;
pub mod daemon;
pub mod dice;
pub mod disk;
pub mod end;
pub mod faults;
pub mod generate;
pub mod http;
pub mod layer;
pub mod machine;
pub mod manifests;
pub mod oci;
pub mod power;
pub mod registry;
pub mod runtime;
pub mod story;
pub mod tree;

pub use census::Census;
pub use daemon::Daemon;
pub use machine::{Machine, Options};
pub use runtime::Runtime;
pub use story::{Part, Play, Story, Term, Then};

use std::time::{Duration, Instant};

/// Nothing that is awaited takes longer than this, on the slowest machine the suites run on.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is looked at that cannot notify us: another process's state.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until `look` gives a value; panics with `what` and the last thing seen when patience ends.
#[track_caller]
pub fn await_some<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => panic!("{what}: not within {PATIENCE:?}; last seen: {seen}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Looks until `look` is true.
#[track_caller]
pub fn await_true(what: &str, mut look: impl FnMut() -> bool) {
    await_some(what, || look().then_some(()).ok_or_else(|| "not yet".to_owned()));
}

/// Says that a test is left out for want of something; in CI that is a failure.
#[track_caller]
pub(crate) fn skip(missing: &str) {
    assert!(std::env::var_os("CI").is_none(), "{missing}, and must not be skipped here");
    println!("skipped: {missing}");
}
