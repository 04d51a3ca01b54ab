//! `kubelet exec`: a command in a container.

use super::find;
use super::session::{self, Ours};
use crate::cli::ExecArgs;
use crate::client::{Client, percent_encode};
use anyhow::{Result, bail};
use rustix::termios::isatty;

pub(crate) async fn run(args: ExecArgs) -> Result<u8> {
    let client = Client::new(&args.of.target.run_dir);
    let (pod, container) = find(&client, &args.of).await?;
    if args.tty && !isatty(std::io::stdin()) {
        bail!("-t needs a terminal as standard input; leave it out in a pipe or script");
    }
    let ours = Ours { stdin: args.stdin, tty: args.tty };
    let mut query: Vec<String> = args.command.iter().map(|part| format!("command={}", percent_encode(part))).collect();
    query.extend(ours.query());
    let path = format!(
        "/exec/{}/{}/{}?{}",
        percent_encode(&args.of.namespace),
        percent_encode(&pod),
        percent_encode(&container),
        query.join("&")
    );
    session::run(session::open(&client, &path).await?, ours).await
}
