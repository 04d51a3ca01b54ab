//! The supervisor of one pod: makes its containers, keeps their output and their ends, answers the engine. It outlives
//! the kubelet. `shim <sandbox directory>`, with the listening socket as descriptor 3. Under the name of `pause` it is what
//! holds the namespaces of a pod whose containers another engine runs.

mod container;
mod daemon;
mod failure;
mod family;
mod launch;
mod log;
mod pause;
mod pod_init;
mod records;
mod setup;
mod startup;
mod supervisor;
mod sys;
mod time;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    if pause::is_meant() {
        return pause::run();
    }
    let mut arguments = std::env::args_os().skip(1);
    let (Some(dir), None) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        eprintln!("usage: shim SANDBOX-DIRECTORY (started by the kubelet, with a listening socket as descriptor 3)");
        return ExitCode::from(2);
    };
    let started = daemon::become_daemon(&dir).and_then(|listener| supervisor::Supervisor::new(dir, listener));
    match started.and_then(supervisor::Supervisor::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shim: failed to {failure}");
            ExitCode::FAILURE
        }
    }
}
