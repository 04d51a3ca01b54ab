//! `kubelet logs`: a container's log, streamed.

use super::find;
use crate::cli::LogsArgs;
use crate::client::{Client, percent_encode};
use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::Method;
use std::io::Write;

pub(crate) async fn run(args: LogsArgs) -> Result<u8> {
    let client = Client::new(&args.of.target.run_dir);
    let (pod, container) = find(&client, &args.of).await?;
    let target = format!(
        "/containerLogs/{}/{}/{}?{}",
        percent_encode(&args.of.namespace),
        percent_encode(&pod),
        percent_encode(&container),
        query(&args)
    );
    let mut body = client.send(Method::GET, &target, None).await?.into_body();
    let mut stdout = std::io::stdout().lock();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the kubelet closed the log")?.into_data() {
            let written = stdout.write_all(&data).and_then(|()| stdout.flush());
            match written {
                Ok(()) => {}
                // The reader has seen enough: `kubelet logs … | head`.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(0)
}

fn query(args: &LogsArgs) -> String {
    let mut parts = Vec::new();
    for (name, set) in [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)] {
        if set {
            parts.push(format!("{name}=true"));
        }
    }
    parts.extend(args.tail.map(|lines| format!("tailLines={lines}")));
    parts.extend(args.since.map(|since| format!("sinceSeconds={}", since.as_secs().max(1))));
    parts.join("&")
}
