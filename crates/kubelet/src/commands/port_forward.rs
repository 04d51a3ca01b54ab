//! `kubelet port-forward`: ports of ours that lead to ports of a pod.

use super::session;
use super::{choose_pod, pod_name, pods, printable};
use crate::cli::PortForwardArgs;
use crate::client::{Client, percent_encode};
use anyhow::{Context, Result, anyhow, bail};
use cri::channel::{self, PORT_DATA, PORT_ERROR};
use futures_util::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// Connections at once; more wait in the kernel's queue. The kubelet's socket has room for other commands beside them.
const MAX_CONNECTIONS: usize = 100;
const CHUNK_BYTES: usize = 32 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port of ours, 0 for any, and one of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

pub(crate) async fn run(args: PortForwardArgs) -> Result<u8> {
    let client = Arc::new(Client::new(&args.target.run_dir));
    let pods = pods(&client).await?;
    let pod = choose_pod(&pods, &args.namespace, &args.pod)?;
    let pairs = args.ports.iter().map(|text| pair(text, pod)).collect::<Result<Vec<Pair>>>()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    if phase != "Running" {
        bail!("unable to forward port because pod is not running. Current status={phase}");
    }
    let path =
        Arc::<str>::from(format!("/portForward/{}/{}", percent_encode(&args.namespace), percent_encode(pod_name(pod))));
    let mut listeners = Vec::new();
    for Pair { local, remote } in pairs {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local)).await;
        let listener = listener.with_context(|| format!("unable to listen on port {local}"))?;
        let local = listener.local_addr()?.port();
        say(&format!("Forwarding from 127.0.0.1:{local} -> {remote}"));
        listeners.push((listener, Pair { local, remote }));
    }
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for (listener, pair) in listeners {
        tokio::spawn(listen(listener, pair, (Arc::clone(&client), Arc::clone(&path)), Arc::clone(&room)));
    }
    tokio::signal::ctrl_c().await.context("wait for Ctrl-C")?;
    Ok(0)
}

/// Whoever reads our output may go before we do.
fn say(line: &str) {
    let _gone = writeln!(std::io::stdout(), "{line}");
}

/// `80`, `8080:80`, `:80` for any port of ours; the pod's may be named.
fn pair(text: &str, pod: &Pod) -> Result<Pair> {
    let (local, remote) = match text.split(':').collect::<Vec<_>>()[..] {
        [remote] => (None, remote),
        [local, remote] => (Some(local), remote),
        _ => bail!("invalid port format {text:?}: expected REMOTE, LOCAL:REMOTE or :REMOTE"),
    };
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let remote = match number(remote) {
        Some(0) => bail!("port {text:?}: the remote port must be > 0"),
        Some(port) => port,
        None => named_port(pod, remote).with_context(|| {
            let pod = pod_name(pod);
            format!("port {text:?}: {remote:?} is no number from 1 to 65535, and pod {pod:?} has no port of this name")
        })?,
    };
    let local = match local {
        None => remote,
        Some("") => 0,
        Some(local) => number(local).with_context(|| format!("port {text:?}: {local:?} is no number up to 65535"))?,
    };
    Ok(Pair { local, remote })
}

fn named_port(pod: &Pod, name: &str) -> Option<u16> {
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let found = ports.find(|port| port.name.as_deref() == Some(name))?;
    u16::try_from(found.container_port).ok()
}

/// Where the pod is: the kubelet, and the path there.
type Place = (Arc<Client>, Arc<str>);

async fn listen(listener: TcpListener, pair: Pair, place: Place, room: Arc<Semaphore>) {
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("an error occurred accepting a connection on port {}: {error}", pair.local);
                // Without descriptors the next try would fail as fast.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        say(&format!("Handling connection for {}", pair.local));
        let place = place.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, pair, place).await {
                let text = printable(&format!("{error:#}"));
                eprintln!("an error occurred forwarding {} -> {}: {text}", pair.local, pair.remote);
            }
            drop(permit);
        });
    }
}

/// Carries one connection until the pod has nothing more to say, or either end has gone.
async fn connection(stream: TcpStream, pair: Pair, (client, path): Place) -> Result<()> {
    let socket = session::open(&client, &format!("{path}?port={}", pair.remote)).await?;
    let (from_user, to_user) = stream.into_split();
    let (mut to_pod, from_pod) = socket.split();
    let mut sending = std::pin::pin!(async {
        let sent = send(from_user, &mut to_pod).await;
        // What the pod still says is wanted, also where it hears us no more.
        match sent {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    });
    let receiving = receive(from_pod, to_user);
    tokio::select! {
        biased;
        received = receiving => received,
        error = &mut sending => Err(error),
    }
}

type Sink = futures_util::stream::SplitSink<WebSocketStream<UnixStream>, Message>;
type Stream = futures_util::stream::SplitStream<WebSocketStream<UnixStream>>;

async fn send(mut from_user: OwnedReadHalf, to_pod: &mut Sink) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    // One that was reset has no more to say.
    while let Ok(length @ 1..) = from_user.read(&mut chunk).await {
        let frame = channel::frame(PORT_DATA, &chunk[..length]);
        to_pod.send(Message::Binary(frame)).await.context("lost connection to pod")?;
    }
    let end = channel::frame(channel::CLOSE, &[PORT_DATA]);
    to_pod.send(Message::Binary(end)).await.context("lost connection to pod")
}

async fn receive(mut from_pod: Stream, mut to_user: OwnedWriteHalf) -> Result<()> {
    // The first message in each channel is the port.
    let mut greeted = [false; 2];
    while let Some(message) = from_pod.next().await {
        let Message::Binary(bytes) = message.context("lost connection to pod")? else { continue };
        let Some((channel, bytes)) = channel::split(bytes) else { continue };
        match greeted.get_mut(usize::from(channel)) {
            Some(greeted) if !*greeted => *greeted = true,
            _ if !pass(channel, &bytes, &mut to_user).await? => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}

/// False where nobody listens to us any more.
async fn pass(channel: u8, bytes: &Bytes, to_user: &mut OwnedWriteHalf) -> Result<bool> {
    match channel {
        PORT_DATA => Ok(to_user.write_all(bytes).await.is_ok()),
        PORT_ERROR if !bytes.is_empty() => Err(anyhow!("{}", String::from_utf8_lossy(bytes))),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_f07_pairs_of_ports() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web"}, "spec": {"containers": [
                {"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}]}}))
        .unwrap();
        for (text, local, remote) in [
            ("80", 80, 80),
            ("8080:80", 8080, 80),
            (":80", 0, 80),
            ("0:80", 0, 80),
            ("http", 8080, 8080),
            (":http", 0, 8080),
        ] {
            assert_eq!(pair(text, &pod).unwrap(), Pair { local, remote }, "{text}");
        }
        for (text, part) in [
            ("0", "must be > 0"),
            ("80:0", "must be > 0"),
            ("65536", "is no number"),
            ("1:2:3", "invalid port format"),
            ("x:80", "\"x\" is no number"),
            ("80:https", "has no port of this name"),
            ("", "has no port of this name"),
            ("22;x", "is no number"),
        ] {
            let error = format!("{:#}", pair(text, &pod).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
