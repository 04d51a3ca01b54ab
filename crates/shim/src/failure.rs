//! Making a [`Failure`] of what went wrong.

use shim::protocol::FailureKind;

pub(crate) use shim::protocol::Failure;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Texts come from specs and images; what is said of them fits a message.
const MAX_TEXT_BYTES: usize = 2000;

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A failure without the kernel: what was being done, and why not.
pub(crate) fn failure(kind: FailureKind, step: impl Into<String>, detail: impl Into<String>) -> Failure {
    Failure { kind, step: shortened(step.into()), detail: shortened(detail.into()), errno: 0 }
}

pub(crate) fn refused(step: impl Into<String>, detail: impl Into<String>) -> Failure {
    failure(FailureKind::Refused, step, detail)
}

pub(crate) fn not_found(step: impl Into<String>, detail: impl Into<String>) -> Failure {
    failure(FailureKind::NotFound, step, detail)
}

/// A failure that the kernel answered.
pub(crate) fn system(kind: FailureKind, step: impl Into<String>, errno: i32) -> Failure {
    let detail = std::io::Error::from_raw_os_error(errno).to_string();
    Failure { errno, ..failure(kind, step, detail) }
}

/// Says what was being done when an operation failed.
pub(crate) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Step<T> for rustix::io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| system(FailureKind::System, step(), errno.raw_os_error()))
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => system(FailureKind::System, step(), errno),
            None => failure(FailureKind::System, step(), error.to_string()),
        })
    }
}

impl<T> Step<T> for cgroup::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure {
            errno: error.errno().unwrap_or(0),
            ..failure(FailureKind::System, step(), error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let failure = refused("ü".repeat(5000), "x");
        assert!(failure.step.len() <= MAX_TEXT_BYTES + 3);
        assert!(failure.step.ends_with("ü…"));
    }
}
