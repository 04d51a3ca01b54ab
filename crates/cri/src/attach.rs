//! What a session on a container's own streams may ask for.

use crate::{Error, v1};

/// What the request has no field for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// The terminal's size from now on, as (columns, rows).
    pub window: Option<(u16, u16)>,
    /// The container was created with `stdin_once`. A runtime that streams for itself does not tell, and takes the end of
    /// the input for that of the session where it was not.
    pub stdin_once: bool,
}

/// What a container was created with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Has {
    /// An input that can be attached to.
    pub stdin: bool,
    /// A terminal.
    pub tty: bool,
}

/// Whether such a container can be attached to in this way.
///
/// # Errors
/// The request contradicts itself or the container, or wants nothing.
pub fn check(request: &v1::AttachRequest, has: Has) -> Result<(), Error> {
    let v1::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    let invalid = |text: &str| Err(Error::invalid_argument(format!("attach: {text}")));
    match (*tty, has.tty) {
        (true, _) if *stderr => invalid("a terminal has one output: stderr cannot be asked for with tty"),
        (true, false) => invalid(&format!("container {container_id} has no terminal: expected tty not to be set")),
        (false, true) => invalid(&format!("container {container_id} has a terminal: expected tty to be set")),
        _ if !(*stdin || *stdout || *stderr) => invalid("at least one of stdin, stdout and stderr is expected"),
        _ if *stdin && !has.stdin => Err(Error::failed_precondition(format!(
            "attach: container {container_id} has no input: it was created without stdin"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_fit_their_containers() {
        let request = |streams: &str| v1::AttachRequest {
            container_id: "c1".into(),
            stdin: streams.contains('i'),
            stdout: streams.contains('o'),
            stderr: streams.contains('e'),
            tty: streams.contains('t'),
        };
        let plain = Has { stdin: false, tty: false };
        let reads = Has { stdin: true, tty: false };
        let terminal = Has { stdin: true, tty: true };
        for (streams, has, fault) in [
            ("oe", plain, None),
            ("ioe", reads, None),
            ("i", reads, None),
            ("iot", terminal, None),
            ("ot", Has { stdin: false, ..terminal }, None),
            ("oet", terminal, Some("one output")),
            ("ot", plain, Some("c1 has no terminal")),
            ("o", terminal, Some("c1 has a terminal")),
            ("", plain, Some("at least one")),
            ("t", terminal, Some("at least one")),
            ("io", plain, Some("c1 has no input")),
        ] {
            let found = check(&request(streams), has).err().map(|error| error.message);
            match (&found, fault) {
                (None, None) => {}
                (Some(found), Some(fault)) => assert!(found.contains(fault), "{streams}: {found}"),
                _ => panic!("{streams}: {found:?}"),
            }
        }
    }
}
