//! One call of `grpc.health.v1.Health/Check`, unencrypted.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use prost::Message;
use tokio::time::{Instant, timeout_at};

use super::dial::{authority, dial};
use super::http::beside;
use super::{Finding, PROBE_AGENT};

const SERVICE: &str = "grpc.health.v1.Health";
/// Bytes of an answer; the one expected has a handful.
const MAX_ANSWER_BYTES: usize = 10 << 10;
/// Of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// The names of status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// How a call ended that was not answered with `OK`.
#[derive(Debug)]
struct Status {
    code: usize,
    message: String,
}

/// Asks the server at an address for the health of a service; empty for the server as a whole.
pub(super) async fn check((host, port): (&str, u16), service: &str, timeout: Duration) -> Finding {
    let deadline = Instant::now() + timeout;
    let at = authority(host, port);
    let within = timeout.as_secs();
    let unconnected = || {
        Finding::Unhealthy(format!(
            "timeout: failed to connect service {at:?} within {within}s: context deadline exceeded"
        ))
    };
    let stream = match timeout_at(deadline, dial(host, port)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Finding::Unhealthy(format!("error: failed to connect service at {at:?}: {error}")),
        Err(_) => return unconnected(),
    };
    let (sender, connection) = match timeout_at(deadline, client::handshake(stream)).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return Finding::Unhealthy(format!("error: failed to connect service at {at:?}: {error}")),
        Err(_) => return unconnected(),
    };
    let asked = timeout_at(deadline, call(sender, &at, service));
    match beside(asked, connection).await {
        Err(_) => Finding::Unhealthy(format!("timeout: health rpc did not complete within {within}s")),
        Ok(answer) => finding(answer),
    }
}

fn finding(answer: Result<HealthCheckResponse, Status>) -> Finding {
    match answer {
        Ok(answer) => match answer.status() {
            ServingStatus::Serving => Finding::Healthy,
            status => Finding::Unhealthy(format!("service unhealthy (responded with {:?})", name(status))),
        },
        Err(Status { code: 12, message }) => Finding::Unhealthy(format!(
            "error: this server does not implement the grpc health protocol ({SERVICE}): {message}"
        )),
        Err(Status { code, message }) => {
            let code = CODES.get(code).copied().map_or_else(|| format!("Code({code})"), str::to_owned);
            Finding::Unhealthy(format!("error: health rpc probe failed: rpc error: code = {code} desc = {message}"))
        }
    }
}

fn name(status: ServingStatus) -> &'static str {
    match status {
        ServingStatus::Unknown => "UNKNOWN",
        ServingStatus::Serving => "SERVING",
        ServingStatus::NotServing => "NOT_SERVING",
        ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
    }
}

async fn call(sender: client::SendRequest<Bytes>, at: &str, service: &str) -> Result<HealthCheckResponse, Status> {
    let broken = |error: &dyn std::fmt::Display| Status { code: 14, message: error.to_string() };
    let request = Request::post(format!("http://{at}/{SERVICE}/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, PROBE_AGENT)
        .body(())
        .map_err(|error| broken(&error))?;
    let mut sender = sender.ready().await.map_err(|error| broken(&error))?;
    let (answer, mut sending) = sender.send_request(request, false).map_err(|error| broken(&error))?;
    let message = HealthCheckRequest { service: service.to_owned() };
    sending.send_data(framed(&message), true).map_err(|error| broken(&error))?;
    let (head, mut body) = answer.await.map_err(|error| broken(&error))?.into_parts();
    if let Some(status) = status_in(&head.headers) {
        status?;
    }
    if !head.status.is_success() {
        let text = format!("unexpected HTTP status code received from server: {}", head.status);
        return Err(Status { code: 2, message: text });
    }
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| broken(&error))?;
        let _ = body.flow_control().release_capacity(data.len());
        if bytes.len() + data.len() > MAX_ANSWER_BYTES {
            return Err(Status { code: 8, message: format!("the answer has more than {MAX_ANSWER_BYTES} bytes") });
        }
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.map_err(|error| broken(&error))?;
    let missing = || Status { code: 13, message: "the server closed the stream without sending trailers".to_owned() };
    trailers.as_ref().and_then(status_in).ok_or_else(missing)??;
    let unread = |error: &dyn std::fmt::Display| Status { code: 13, message: format!("read the answer: {error}") };
    match bytes.split_at_checked(PREFIX_BYTES) {
        Some(([0, ..], message)) => HealthCheckResponse::decode(message).map_err(|error| unread(&error)),
        _ => Err(unread(&"it is not one uncompressed message")),
    }
}

fn framed(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + encoded.len());
    framed.put_u8(0);
    // A service's name is bounded by the manifest's size.
    framed.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    framed.put_slice(&encoded);
    framed.freeze()
}

/// What headers or trailers say of the call's end; none if nothing.
fn status_in(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().unwrap_or(2);
    let message = || unescaped(text("grpc-message").unwrap_or_default());
    Some(if code == 0 { Ok(()) } else { Err(Status { code, message: message() }) })
}

/// Undoes the percent signs of `grpc-message`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| after.split_at_checked(2)).flatten();
        let value = escaped.and_then(|(digits, _)| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        match (value, escaped) {
            (Some(value), Some((_, after))) => (bytes.push(value), rest = after),
            _ => (bytes.push(first), rest = after),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
