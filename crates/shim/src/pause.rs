//! The first process of a pod that another engine runs: it holds the pod's namespaces and does nothing. Where the pod's
//! containers share their processes it is PID 1, and the kernel reaps for it what dies there.

use crate::sys;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

/// What the program is called in its image.
const NAME: &str = "pause";

/// Whether this process was started under the name that means this.
pub(crate) fn is_meant() -> bool {
    std::env::args_os().next().is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new(NAME)))
}

/// Waits to be told to end.
pub(crate) fn run() -> ExitCode {
    // A parent that ignores its children's end has them reaped by the kernel, adopted ones too (wait(2)).
    sys::ignore_signal(libc::SIGCHLD);
    match sys::await_signal(&[libc::SIGTERM, libc::SIGINT]) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
