//! The framing of an exec session over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Every binary message begins with one byte that names its channel. Both ends of a session use this module.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Subprotocol with half-close of a channel.
pub const PROTOCOL_V5: &str = "v5.channel.k8s.io";
/// Subprotocol without it.
pub const PROTOCOL_V4: &str = "v4.channel.k8s.io";

/// Client to server: the command's standard input.
pub const STDIN: u8 = 0;
/// Server to client: standard output, with a terminal standard error too.
pub const STDOUT: u8 = 1;
/// Server to client: standard error.
pub const STDERR: u8 = 2;
/// Server to client: one [`Outcome`] as a `metav1.Status`, the last message of a session.
pub const ERROR: u8 = 3;
/// Client to server: a [`Resize`].
pub const RESIZE: u8 = 4;
/// Version 5 only: the payload is the number of a channel whose sender sends no more.
pub const CLOSE: u8 = 255;

/// Of a forwarded port's session, both ways: the connection's bytes. A session for several ports has the channels of the
/// first one, those of the second after them, and so on. The first message in each channel is the port's number, in two
/// bytes, the lower one first.
pub const PORT_DATA: u8 = 0;
/// Of a forwarded port's session, server to client: why the connection failed.
pub const PORT_ERROR: u8 = 1;

/// A message for `channel`.
pub fn frame(channel: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + payload.len());
    frame.put_u8(channel);
    frame.put_slice(payload);
    frame.freeze()
}

/// Splits a message into channel and payload; `None` for an empty one.
pub fn split(mut message: Bytes) -> Option<(u8, Bytes)> {
    let channel = *message.first()?;
    Some((channel, message.split_off(1)))
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height")]
    pub height: u16,
}

impl Resize {
    /// The message for the [`RESIZE`] channel.
    pub fn to_frame(self) -> Bytes {
        frame(RESIZE, format!(r#"{{"Width":{},"Height":{}}}"#, self.width, self.height).as_bytes())
    }

    /// Reads a payload of the [`RESIZE`] channel.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Success,
    /// Another exit code; 128 + n for a death by signal n.
    ExitCode { code: i32 },
    /// It could not be run, or its end was not seen.
    Failure { message: String },
}

const EXIT_REASON: &str = "NonZeroExitCode";
const EXIT_CAUSE: &str = "ExitCode";

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Status {
    metadata: Empty,
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize, Deserialize, Default)]
struct Empty {}

#[derive(Serialize, Deserialize, Default)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Cause {
    reason: String,
    message: String,
}

impl Outcome {
    /// The message for the [`ERROR`] channel. `act` is what failed, where something did: "executing command in container".
    pub fn to_frame(&self, act: &str) -> Bytes {
        let status = match self {
            Self::Success => Status { status: "Success".into(), ..Status::default() },
            Self::ExitCode { code } => Status {
                status: "Failure".into(),
                message: format!("command terminated with non-zero exit code: exit status {code}"),
                reason: EXIT_REASON.into(),
                details: Some(Details { causes: vec![Cause { reason: EXIT_CAUSE.into(), message: code.to_string() }] }),
                ..Status::default()
            },
            Self::Failure { message } => Status {
                status: "Failure".into(),
                message: format!("Internal error occurred: error {act}: {message}"),
                reason: "InternalError".into(),
                code: Some(500),
                ..Status::default()
            },
        };
        let json = serde_json::to_vec(&status).unwrap_or_default();
        frame(ERROR, &json)
    }

    /// Reads a payload of the [`ERROR`] channel; what is not a Status is a failure with that text.
    pub fn parse(payload: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Status>(payload) else {
            return Self::Failure { message: String::from_utf8_lossy(payload).into_owned() };
        };
        if status.status == "Success" {
            return Self::Success;
        }
        let code = status
            .details
            .iter()
            .flat_map(|details| &details.causes)
            .find(|cause| cause.reason == EXIT_CAUSE)
            .and_then(|cause| cause.message.parse().ok());
        match code {
            Some(code) if status.reason == EXIT_REASON => Self::ExitCode { code },
            _ => Self::Failure { message: status.message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_the_status_objects_of_the_reference() {
        let cases = [
            (Outcome::Success, r#"{"metadata":{},"status":"Success"}"#),
            (
                Outcome::ExitCode { code: 3 },
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
            ),
            (
                Outcome::Failure { message: "no such file".into() },
                r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: error executing command in container: no such file","reason":"InternalError","code":500}"#,
            ),
        ];
        for (outcome, json) in cases {
            let (channel, payload) = split(outcome.to_frame("executing command in container")).unwrap();
            assert_eq!(channel, ERROR);
            assert_eq!(std::str::from_utf8(&payload).unwrap(), json);
        }
    }

    #[test]
    fn outcomes_are_read_back() {
        for outcome in [Outcome::Success, Outcome::ExitCode { code: 137 }] {
            let (_, payload) = split(outcome.to_frame("executing command in container")).unwrap();
            assert_eq!(Outcome::parse(&payload), outcome);
        }
        let cases: [(&[u8], &str); 3] = [
            (b"plain text", "plain text"),
            (br#"{"status":"Failure","message":"gone","reason":"InternalError"}"#, "gone"),
            (br#"{"status":"Failure","message":"odd","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"x"}]}}"#, "odd"),
        ];
        for (payload, message) in cases {
            assert_eq!(Outcome::parse(payload), Outcome::Failure { message: message.into() });
        }
    }

    #[test]
    fn frames_and_sizes() {
        assert_eq!(&frame(STDOUT, b"x")[..], b"\x01x");
        assert_eq!(split(Bytes::new()), None);
        assert_eq!(split(Bytes::from_static(b"\xff\x00")), Some((CLOSE, Bytes::from_static(b"\x00"))));
        let size = Resize { width: 80, height: 24 };
        let (channel, payload) = split(size.to_frame()).unwrap();
        assert_eq!((channel, Resize::parse(&payload)), (RESIZE, Some(size)));
        assert_eq!(Resize::parse(b"{\"Width\":70000,\"Height\":1}"), None);
        assert_eq!(Resize::parse(b"{"), None);
    }
}
