//! `kubelet image pull`: the kubelet pulls, this tells how far it is. Whoever ends this ends the pull.

use super::progress::Progress;
use crate::client::Client;
use crate::commands::printable;
use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use server::PullLine;

/// A line of the answer: some hundred bytes for each layer.
const MAX_LINE_BYTES: usize = 1024 * 1024;

pub(super) async fn run(client: &Client, reference: &str, quiet: bool) -> Result<()> {
    let body = serde_json::json!({"reference": reference});
    let answer = client.send(Method::POST, "/images/pull", Some(body)).await?;
    let mut lines = Lines { body: answer.into_body(), read: BytesMut::new() };
    let mut progress = if quiet { Progress::Quiet } else { Progress::on_stderr() };
    loop {
        match lines.next().await? {
            PullLine::Progress(pull) => progress.show(&pull),
            PullLine::Pulled(image) => {
                progress.finish();
                println!("{} {}", printable(&image.reference), printable(&image.id));
                return Ok(());
            }
            PullLine::Failed(error) => {
                progress.clear();
                // A registry may have had its say in it.
                let lines: Vec<String> = error.message.lines().map(printable).collect();
                bail!(lines.join("\n"));
            }
        }
    }
}

/// The answer, line by line.
struct Lines {
    body: Incoming,
    read: BytesMut,
}

impl Lines {
    async fn next(&mut self) -> Result<PullLine> {
        loop {
            if let Some(line) = take_line(&mut self.read) {
                return serde_json::from_slice(&line).context("the kubelet's answer is not understood");
            }
            if self.read.len() > MAX_LINE_BYTES {
                bail!("the kubelet's answer has a line of more than {MAX_LINE_BYTES} bytes");
            }
            let frame = self.body.frame().await;
            let frame = frame.context("the kubelet ended before the image was there")?;
            if let Ok(data) = frame.context("the kubelet ended before the image was there")?.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

fn take_line(read: &mut BytesMut) -> Option<BytesMut> {
    let end = read.iter().position(|byte| *byte == b'\n')?;
    Some(read.split_to(end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut read = BytesMut::from(&b"{}"[..]);
        assert_eq!(take_line(&mut read), None);
        read.extend_from_slice(b"\n{\"a\"");
        assert_eq!(take_line(&mut read).unwrap(), &b"{}\n"[..]);
        assert_eq!((take_line(&mut read), &read[..]), (None, &b"{\"a\""[..]));
    }
}
