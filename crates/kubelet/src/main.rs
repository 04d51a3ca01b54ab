//! The kubelet: command line, configuration, wiring.

mod cli;
mod client;
mod commands;
mod config;
mod duration;
mod host;
mod images;
mod log;
mod readiness;
mod run;
mod runtime;
mod stats;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse_from(cli::normalized_args(std::env::args()));
    let outcome = match cli.command {
        None => run::daemon(cli.run).map(|()| 0),
        Some(Command::Check(args)) => commands::check::run(args),
        Some(command) => subcommand(command),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("kubelet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a subcommand that talks to the daemon.
fn subcommand(command: Command) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Ps(args) => commands::ps::run(args).await,
            Command::Events(args) => commands::events::run(args).await,
            Command::Describe(args) => commands::describe::run(args).await,
            Command::Top(args) => commands::top::run(args).await,
            Command::Logs(args) => commands::logs::run(args).await,
            Command::Exec(args) => commands::exec::run(args).await,
            Command::Attach(args) => commands::attach::run(args).await,
            Command::PortForward(args) => commands::port_forward::run(args).await,
            Command::Image(command) => commands::image::run(command).await,
            Command::Check(args) => commands::check::run(args),
        }
    })
}
