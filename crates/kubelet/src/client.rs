//! The subcommands' way to the running kubelet: HTTP over its unix socket.

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// An answer that is not streamed may have this many bytes: a thousand pods and then some.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The socket of a kubelet with this run directory.
pub(crate) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("kubelet.sock")
}

#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(run_dir: &Path) -> Client {
        Client { socket: socket_path(run_dir) }
    }

    pub(crate) async fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.socket).await.with_context(|| {
            format!(
                "no kubelet answers at {}; start one with `kubelet --config=DIR`, or name its directory with --run-dir",
                self.socket.display()
            )
        })
    }

    /// Sends a request and gives the answer's head and body; an answer of 400 and above is an error with its message.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        body: Option<serde_json::Value>,
    ) -> Result<Response<Incoming>> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await?;
        // The connection ends with the answer's body; its errors show there.
        tokio::spawn(connection);
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "kubelet")
            .header("content-type", "application/json")
            .body(Full::new(bytes))?;
        let response = sender.send_request(request).await.context("the kubelet closed the connection")?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(failure(status, &collect(response).await?)),
        }
    }

    pub(crate) async fn get_json<T: serde::de::DeserializeOwned>(&self, target: &str) -> Result<T> {
        let bytes = collect(self.send(Method::GET, target, None).await?).await?;
        serde_json::from_slice(&bytes).with_context(|| format!("the kubelet's answer to {target} is not understood"))
    }
}

/// Reads a whole body, up to the limit.
pub(crate) async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => bail!("the kubelet's answer broke off: {error}"),
    }
}

/// The message of an error answer: `{"message": …}` or plain text.
pub(crate) fn failure(status: StatusCode, body: &[u8]) -> anyhow::Error {
    let text = String::from_utf8_lossy(body);
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|value| value.get("message").and_then(|message| message.as_str().map(str::to_owned)))
        .unwrap_or_else(|| text.trim().to_owned());
    match message.is_empty() {
        true => anyhow!("the kubelet answered {status}"),
        false => anyhow!(message),
    }
}

/// A value as part of a path or a query.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_answers_tell_their_message() {
        let json = failure(StatusCode::NOT_FOUND, br#"{"message":"pod \"x\" not found"}"#);
        assert_eq!(json.to_string(), "pod \"x\" not found");
        assert_eq!(failure(StatusCode::BAD_GATEWAY, b"plain\n").to_string(), "plain");
        assert_eq!(failure(StatusCode::BAD_GATEWAY, b"").to_string(), "the kubelet answered 502 Bad Gateway");
    }

    #[test]
    fn values_are_encoded_for_a_query() {
        assert_eq!(percent_encode("/bin/sh -c é&"), "%2Fbin%2Fsh%20-c%20%C3%A9%26");
    }
}
