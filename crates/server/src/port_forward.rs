//! `/portForward`: connections to a pod's ports over one WebSocket, one for each port that the query names.

use std::sync::Arc;

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use cri::ByteStream;
use cri::channel::{self, PORT_DATA, PORT_ERROR};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::SplitStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, mpsc};

use crate::listen::Connection;
use crate::websocket::{self, HalfClose, Sender, accept, close, drain, ping, send};
use crate::{Host, HostError, PodRef};

/// In one session, which has two channels for each, below [`channel::CLOSE`].
const MAX_PORTS: usize = 64;
/// Messages that wait for a port's server; more stop the client.
const MESSAGES: usize = 4;
/// Read at once.
const OUTPUT_BYTES: usize = 32 * 1024;

/// `GET /portForward/{namespace}/{pod}?port=80`
pub(crate) async fn port_forward(
    State(host): State<Arc<dyn Host>>,
    Path((namespace, pod)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    connection: Option<Extension<Connection>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, HostError> {
    let ports = ports(&query).map_err(HostError::invalid)?;
    let (upgrade, half_close) = accept(upgrade, "portForward")?;
    let sandbox = host.sandbox(&PodRef { namespace, pod }).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        let stop = connection.as_ref().map(|connection| connection.stop.clone()).unwrap_or_default();
        let (sender, mut receiver) = socket.split();
        let session = Session { host: &*host, sandbox: &sandbox, sender: Mutex::new(sender), half_close };
        tokio::select! {
            () = session.serve(&mut receiver, &ports) => {}
            () = stop.cancelled() => close(&session.sender, close_code::AWAY, "the kubelet is shutting down").await,
        }
    }))
}

/// The ports, with the texts that every kubelet has for what is wrong.
fn ports(query: &[(String, String)]) -> Result<Vec<u16>, String> {
    if let Some((key, _)) = query.iter().find(|(key, _)| key != "port") {
        return Err(format!("unknown parameter {key:?}: expected port"));
    }
    if query.is_empty() {
        return Err("query parameter \"port\" is required".into());
    }
    let mut ports = Vec::new();
    for (_, value) in query {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".into());
        }
        for text in value.split(',') {
            // Digits alone: a sign would be taken for part of a number.
            let port = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let port = port.and_then(|text| text.parse::<u16>().ok());
            match port {
                None => return Err(format!("unable to parse {value:?} as a port: expected a number from 1 to 65535")),
                Some(0) => return Err(format!("port {value:?} must be > 0")),
                Some(port) => ports.push(port),
            }
        }
    }
    match ports.len() {
        ..=MAX_PORTS => Ok(ports),
        more => Err(format!("{more} ports: at most {MAX_PORTS} can be had in one session")),
    }
}

struct Session<'a> {
    host: &'a dyn Host,
    sandbox: &'a str,
    sender: Sender,
    half_close: HalfClose,
}

impl Session<'_> {
    /// Runs until every connection has ended, or the client has gone.
    async fn serve(&self, receiver: &mut SplitStream<WebSocket>, ports: &[u16]) {
        let (inputs, queued): (Vec<_>, Vec<_>) = ports.iter().map(|_| mpsc::channel(MESSAGES)).unzip();
        let connections = ports.iter().zip(queued).enumerate();
        let connections = connections.map(|(index, (port, input))| self.forward(Channels::of(index), *port, input));
        let finished = tokio::select! {
            ended = join_all(connections) => ended.iter().all(Result::is_ok),
            () = self.receive(receiver, inputs) => false,
            () = ping(&self.sender) => false,
        };
        if finished {
            close(&self.sender, close_code::NORMAL, "").await;
            drain(receiver).await;
        }
    }

    /// One connection, until its server has nothing more to say.
    async fn forward(&self, channels: Channels, port: u16, input: mpsc::Receiver<Bytes>) -> Result<(), axum::Error> {
        for channel in [channels.data, channels.error] {
            send(&self.sender, channel::frame(channel, &port.to_le_bytes())).await?;
        }
        let outcome = match self.host.port_forward(self.sandbox, port).await {
            Ok(stream) => self.copy(channels.data, stream, input).await?,
            Err(error) => Err(error.message),
        };
        if let Err(text) = outcome {
            let text = told(&text, port, self.sandbox);
            send(&self.sender, channel::frame(channels.error, text.as_bytes())).await?;
        }
        if self.half_close == HalfClose::Known {
            for channel in [channels.data, channels.error] {
                send(&self.sender, channel::frame(channel::CLOSE, &[channel])).await?;
            }
        }
        Ok(())
    }

    /// The text says how the connection broke.
    async fn copy(
        &self,
        channel: u8,
        stream: Box<dyn ByteStream>,
        input: mpsc::Receiver<Bytes>,
    ) -> Result<Result<(), String>, axum::Error> {
        let (from_pod, to_pod) = tokio::io::split(stream);
        tokio::select! {
            ended = self.copy_out(channel, from_pod) => ended,
            never = copy_in(input, to_pod) => match never {},
        }
    }

    async fn copy_out(
        &self,
        channel: u8,
        mut from_pod: ReadHalf<Box<dyn ByteStream>>,
    ) -> Result<Result<(), String>, axum::Error> {
        loop {
            let mut frame = BytesMut::with_capacity(1 + OUTPUT_BYTES);
            frame.put_u8(channel);
            match from_pod.read_buf(&mut frame).await {
                Ok(0) => return Ok(Ok(())),
                Ok(_) => send(&self.sender, frame.freeze()).await?,
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
    }

    /// Takes the client's messages until it goes away or closes.
    async fn receive(&self, receiver: &mut SplitStream<WebSocket>, inputs: Vec<mpsc::Sender<Bytes>>) {
        let mut inputs: Vec<_> = inputs.into_iter().map(Some).collect();
        while let Some(message) = websocket::next(receiver).await {
            let Some((channel, bytes)) = channel::split(message) else { continue };
            let closed = channel == channel::CLOSE && self.half_close == HalfClose::Known;
            let channel = if closed { bytes.first().copied() } else { Some(channel) };
            let input = channel.and_then(|channel| inputs.get_mut(Channels::data_index(channel)?));
            match input {
                Some(input) if closed => *input = None,
                // Refused once the connection is over, which the client is told of.
                Some(Some(input)) => drop(input.send(bytes).await),
                _ => {}
            }
        }
    }
}

/// The channels of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Channels {
    data: u8,
    error: u8,
}

impl Channels {
    fn of(index: usize) -> Self {
        // There are at most MAX_PORTS.
        let first = u8::try_from(2 * index).unwrap_or(channel::CLOSE);
        Self { data: first + PORT_DATA, error: first + PORT_ERROR }
    }

    /// Whose data comes in this channel; none for one that only we write to.
    fn data_index(channel: u8) -> Option<usize> {
        (channel % 2 == PORT_DATA).then_some(usize::from(channel / 2))
    }
}

enum Never {}

/// Never ends: what the port's server makes of its input is for itself to say.
async fn copy_in(mut input: mpsc::Receiver<Bytes>, mut to_pod: WriteHalf<Box<dyn ByteStream>>) -> Never {
    while let Some(bytes) = input.recv().await {
        if to_pod.write_all(&bytes).await.is_err() {
            // Nobody waits for room in the queue for nothing.
            input.close();
            return std::future::pending().await;
        }
    }
    let _closed_already = to_pod.shutdown().await;
    std::future::pending().await
}

/// As every kubelet says it; runtimes that stream for themselves have said it so already.
fn told(text: &str, port: u16, sandbox: &str) -> String {
    match text.starts_with("error forwarding port ") {
        true => text.to_owned(),
        false => format!("error forwarding port {port} to pod {sandbox}, uid : {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_f07_ports_are_numbers_that_ports_have() {
        let parsed = |values: &[&str]| {
            let query: Vec<_> = values.iter().map(|value| ("port".to_owned(), (*value).to_owned())).collect();
            ports(&query)
        };
        assert_eq!(parsed(&["80"]), Ok(vec![80]));
        assert_eq!(parsed(&["80,443", "65535"]), Ok(vec![80, 443, 65535]));
        assert_eq!(parsed(&["7"; MAX_PORTS]).map(|ports| ports.len()), Ok(MAX_PORTS));
        for (values, part) in [
            (&[][..], "query parameter \"port\" is required"),
            (&[""], "query parameter \"port\" cannot be empty"),
            (&["0"], "port \"0\" must be > 0"),
            (&["65536"], "unable to parse \"65536\" as a port"),
            (&["22;x"], "unable to parse \"22;x\" as a port"),
            (&["+22"], "unable to parse \"+22\" as a port"),
            (&["80,"], "unable to parse \"80,\" as a port"),
            (&["7"; MAX_PORTS + 1], "65 ports: at most 64"),
        ] {
            let error = parsed(values).unwrap_err();
            assert!(error.contains(part), "{values:?}: {error}");
        }
        let other = [("prot".to_owned(), "80".to_owned())];
        assert!(ports(&other).unwrap_err().contains("unknown parameter \"prot\""));
    }

    #[test]
    fn each_port_has_its_channels() {
        assert_eq!(Channels::of(0), Channels { data: 0, error: 1 });
        assert_eq!(Channels::of(MAX_PORTS - 1), Channels { data: 126, error: 127 });
        assert_eq!((Channels::data_index(126), Channels::data_index(127)), (Some(63), None));
    }

    #[test]
    fn failures_are_told_once() {
        let said = "error forwarding port 81 to pod s, uid : refused";
        assert_eq!(told("refused", 81, "s"), said);
        assert_eq!(told(said, 81, "s"), said);
    }
}
