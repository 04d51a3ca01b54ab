use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cri::ExecSession;
use cri::channel::{self, Outcome, PROTOCOL_V4, PROTOCOL_V5, Resize};
use futures_util::{SinkExt, StreamExt};
use server::{ExecRequest, HostError};
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::host::FakeHost;
use crate::http::Local;

/// The commands that the tests run.
#[derive(Default)]
pub(crate) struct Script {
    /// Given to the command `hang`: told when its session is dropped.
    dropped: Mutex<Option<oneshot::Sender<()>>>,
}

/// The command's side of a session.
struct Command {
    stdin: DuplexStream,
    stdout: DuplexStream,
    stderr: DuplexStream,
    resize: mpsc::Receiver<(u16, u16)>,
    exit: oneshot::Sender<Result<i32, cri::Error>>,
}

impl Script {
    pub(crate) fn start(&self, request: ExecRequest) -> Result<ExecSession, HostError> {
        if request.container.container == "gone" {
            return Err(cri::Error::not_found("container gone not found").into());
        }
        let (stdin, their_stdin) = tokio::io::duplex(4096);
        let (stdout, their_stdout) = tokio::io::duplex(4096);
        let (stderr, their_stderr) = tokio::io::duplex(4096);
        let (resize, their_resize) = mpsc::channel(1);
        let (their_exit, exit) = oneshot::channel();
        let command = Command {
            stdin: their_stdin,
            stdout: their_stdout,
            stderr: their_stderr,
            resize: their_resize,
            exit: their_exit,
        };
        let dropped = self.dropped.lock().unwrap().take();
        tokio::spawn(run(request.command, command, dropped));
        Ok(ExecSession {
            stdin: request.streams.stdin.then(|| Box::new(stdin) as _),
            stdout: request.streams.stdout.then(|| Box::new(stdout) as Box<dyn AsyncRead + Send + Unpin>),
            stderr: request.streams.stderr.then(|| Box::new(stderr) as Box<dyn AsyncRead + Send + Unpin>),
            resize,
            exit,
        })
    }
}

async fn run(argv: Vec<String>, mut command: Command, dropped: Option<oneshot::Sender<()>>) {
    match &*argv[0] {
        // Standard input to standard output, and the number of bytes to standard error.
        "cat" => {
            let length = tokio::io::copy(&mut command.stdin, &mut command.stdout).await.unwrap();
            command.stderr.write_all(length.to_string().as_bytes()).await.unwrap();
            let _ = command.exit.send(Ok(0));
        }
        "exit" => {
            let _ = command.exit.send(Ok(argv[1].parse().unwrap()));
        }
        // Exits first, and only then is its output read from the pipe.
        "flood" => {
            let _ = command.exit.send(Ok(0));
            let length: usize = argv[1].parse().unwrap();
            command.stdout.write_all(&pattern(length)).await.unwrap();
        }
        // Leaves something behind that holds its output open.
        "daemon" => {
            command.stdout.write_all(b"ok").await.unwrap();
            let _ = command.exit.send(Ok(0));
            std::future::pending::<()>().await;
        }
        "sizes" => {
            while let Some((columns, rows)) = command.resize.recv().await {
                command.stdout.write_all(format!("{columns}x{rows}\n").as_bytes()).await.unwrap();
            }
        }
        // The pod is removed under it.
        "lost" => drop(command.exit),
        "killed" => {
            let _ = command.exit.send(Err(cri::Error::internal("the pod was removed")));
        }
        // Reads nothing and never ends by itself.
        "hang" => {
            command.stdout.write_all(b"up").await.unwrap();
            command.exit.closed().await;
            let _ = dropped.unwrap().send(());
        }
        other => panic!("no command {other}"),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

pub(crate) struct Client {
    socket: WebSocketStream<UnixStream>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Client {
    async fn try_open(server: &Local, query: &str, protocol: &str) -> Result<Self, Error> {
        let container = if query.contains("gone") { "gone" } else { "c" };
        Self::try_ask(server, &format!("/exec/ns/p/{container}?{query}"), protocol).await
    }

    pub(crate) async fn try_ask(server: &Local, path: &str, protocol: &str) -> Result<Self, Error> {
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
        let (socket, _) = tokio_tungstenite::client_async(request, server.connect().await).await?;
        Ok(Self { socket, stdout: Vec::new(), stderr: Vec::new() })
    }

    pub(crate) async fn open(server: &Local, query: &str) -> Self {
        Self::try_open(server, query, PROTOCOL_V5).await.unwrap()
    }

    pub(crate) async fn send(&mut self, frame: Bytes) {
        self.socket.send(Message::Binary(frame)).await.unwrap();
    }

    pub(crate) async fn frame(&mut self) -> Option<(u8, Bytes)> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Binary(message)) => return channel::split(message),
                Ok(Message::Close(_)) => return None,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads to the end of the session.
    async fn finish(mut self) -> (Vec<u8>, Vec<u8>, Outcome) {
        let mut outcome = None;
        while let Some((number, bytes)) = self.frame().await {
            assert!(outcome.is_none(), "a message after the outcome");
            match number {
                channel::STDOUT => self.stdout.extend_from_slice(&bytes),
                channel::STDERR => self.stderr.extend_from_slice(&bytes),
                channel::ERROR if bytes.is_empty() => {}
                channel::ERROR => outcome = Some(Outcome::parse(&bytes)),
                other => panic!("channel {other}"),
            }
        }
        (self.stdout, self.stderr, outcome.expect("an outcome"))
    }
}

pub(crate) fn server() -> Local {
    Local::start(Arc::new(FakeHost::default()))
}

#[tokio::test]
async fn s_f10_input_is_half_closed_and_everything_comes_back() {
    let server = server();
    let mut client = Client::open(&server, "command=cat&input=1&output=1&error=1").await;
    assert_eq!(client.frame().await, Some((channel::STDOUT, Bytes::new())));
    let sent = pattern(1 << 20);
    let (mut sink, stream) = client.socket.split();
    let reading = async {
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        let mut outcome = None;
        let mut stream = stream;
        while let Some(Ok(Message::Binary(message))) = stream.next().await {
            let (number, bytes) = channel::split(message).unwrap();
            match number {
                channel::STDOUT => stdout.extend_from_slice(&bytes),
                channel::STDERR => stderr.extend_from_slice(&bytes),
                _ => outcome = Some(Outcome::parse(&bytes)),
            }
        }
        (stdout, stderr, outcome)
    };
    let writing = async {
        for piece in sent.chunks(32 * 1024) {
            sink.send(Message::Binary(channel::frame(channel::STDIN, piece))).await.unwrap();
        }
        sink.send(Message::Binary(channel::frame(channel::CLOSE, &[channel::STDIN]))).await.unwrap();
    };
    let ((stdout, stderr, outcome), ()) = tokio::join!(reading, writing);
    assert!(stdout == sent);
    assert_eq!(stderr, b"1048576");
    assert_eq!(outcome, Some(Outcome::Success));
}

#[tokio::test]
async fn s_f10_exit_codes() {
    let server = server();
    for (query, expected) in [
        ("command=exit&command=0&output=1", Outcome::Success),
        ("command=exit&command=3&output=1&error=1", Outcome::ExitCode { code: 3 }),
        ("command=exit&command=137&error=1", Outcome::ExitCode { code: 137 }),
        ("command=exit&command=255&input=1", Outcome::ExitCode { code: 255 }),
    ] {
        for protocol in [PROTOCOL_V4, PROTOCOL_V5] {
            let client = Client::try_open(&server, query, protocol).await.unwrap();
            assert_eq!(client.finish().await.2, expected, "{query}");
        }
    }
}

#[tokio::test]
async fn f_e04_output_written_at_exit_is_not_lost() {
    let server = server();
    for length in [0, 1, 4095, 4096, 65537, 10 << 20] {
        let client = Client::open(&server, &format!("command=flood&command={length}&output=1")).await;
        let (stdout, _, outcome) = client.finish().await;
        assert!(stdout == pattern(length), "{length}: {}", stdout.len());
        assert_eq!(outcome, Outcome::Success);
    }
}

#[tokio::test]
async fn f_e01_what_a_command_leaves_behind_does_not_hold_the_session() {
    let server = server();
    let (stdout, _, outcome) = Client::open(&server, "command=daemon&output=1").await.finish().await;
    assert_eq!((&*stdout, outcome), (&b"ok"[..], Outcome::Success));
}

#[tokio::test]
async fn f_e03_a_session_whose_pod_goes_ends_with_an_error() {
    let server = server();
    let (_, _, outcome) = Client::open(&server, "command=lost&output=1&input=1").await.finish().await;
    assert!(matches!(outcome, Outcome::Failure { message } if message.contains("was not seen")));
    let (_, _, outcome) = Client::open(&server, "command=killed&output=1&input=1").await.finish().await;
    assert!(matches!(outcome, Outcome::Failure { message } if message.contains("the pod was removed")));
}

#[tokio::test]
async fn s_f04_resizes_reach_the_terminal_and_a_thousand_end_at_the_last() {
    let server = server();
    let mut client = Client::open(&server, "command=sizes&output=1&input=1&tty=1").await;
    client.send(Resize { width: 80, height: 24 }.to_frame()).await;
    let mut seen = String::new();
    while !seen.contains("80x24\n") {
        seen += std::str::from_utf8(&client.frame().await.unwrap().1).unwrap();
    }
    client.send(channel::frame(channel::RESIZE, b"{nonsense")).await;
    for width in 1..=1000 {
        client.send(Resize { width, height: 50 }.to_frame()).await;
    }
    while !seen.ends_with("1000x50\n") {
        seen += std::str::from_utf8(&client.frame().await.unwrap().1).unwrap();
    }
}

#[tokio::test]
async fn f_e02_a_client_that_goes_away_drops_the_session() {
    for polite in [false, true] {
        let (dropped, told) = oneshot::channel();
        let script = Script { dropped: Mutex::new(Some(dropped)) };
        let server = Local::start(Arc::new(FakeHost { exec: script, ..FakeHost::default() }));
        let mut client = Client::open(&server, "command=hang&output=1&input=1").await;
        client.frame().await.unwrap();
        assert_eq!(client.frame().await, Some((channel::STDOUT, Bytes::from_static(b"up"))));
        if polite {
            client.socket.send(Message::Close(None)).await.unwrap();
        }
        drop(client);
        told.await.unwrap();
    }
}

#[tokio::test]
async fn s_f04_hanging_up_at_once_leaves_nothing() {
    let server = server();
    for _ in 0..300 {
        let client = Client::open(&server, "command=sizes&output=1&input=1&tty=1").await;
        drop(client);
    }
    // More than the connections allowed: the permits of the dropped ones came back.
    let (_, _, outcome) = Client::open(&server, "command=exit&command=4&output=1").await.finish().await;
    assert_eq!(outcome, Outcome::ExitCode { code: 4 });
}

#[tokio::test]
async fn s_f04_a_message_over_the_limit_ends_the_session() {
    let (dropped, told) = oneshot::channel();
    let script = Script { dropped: Mutex::new(Some(dropped)) };
    let server = Local::start(Arc::new(FakeHost { exec: script, ..FakeHost::default() }));
    let mut client = Client::open(&server, "command=hang&output=1&input=1").await;
    let _ = client.socket.send(Message::Binary(vec![channel::STDIN; 2 << 20].into())).await;
    told.await.unwrap();
}

#[tokio::test]
async fn stopping_the_server_ends_sessions() {
    let server = server();
    let mut client = Client::open(&server, "command=sizes&output=1&tty=1").await;
    client.frame().await.unwrap();
    drop(server.stop);
    assert_eq!(client.frame().await, None);
    server.served.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_before_the_upgrade() {
    let server = server();
    for (query, protocol, status, part) in [
        ("command=gone&output=1", PROTOCOL_V5, 404, "container gone not found"),
        ("output=1", PROTOCOL_V5, 400, "command must be given"),
        ("command=cat", PROTOCOL_V5, 400, "at least one"),
        ("command=cat&output=1", "channel.k8s.io", 400, "v5.channel.k8s.io"),
    ] {
        let Err(Error::Http(answer)) = Client::try_open(&server, query, protocol).await else { panic!("{query}") };
        assert_eq!(answer.status(), status, "{query}");
        let body = String::from_utf8(answer.into_body().unwrap_or_default()).unwrap();
        assert!(body.contains(part), "{query}: {body}");
    }
    let plain = server.get("/exec/ns/p/c?command=cat&output=1").await;
    assert_eq!(plain.status, 400);
    assert!(plain.message().contains("WebSocket"), "{}", plain.message());
}

#[tokio::test]
async fn version_4_cannot_close_its_input() {
    let server = server();
    let mut client = Client::try_open(&server, "command=cat&input=1&output=1", PROTOCOL_V4).await.unwrap();
    client.send(channel::frame(channel::CLOSE, &[channel::STDIN])).await;
    client.send(channel::frame(channel::STDIN, b"still open")).await;
    client.frame().await.unwrap();
    assert_eq!(client.frame().await, Some((channel::STDOUT, Bytes::from_static(b"still open"))));
}

#[tokio::test]
async fn a_container_is_attached_to_as_a_command_is() {
    let server = server();
    let attach = async |path: &str| Client::try_ask(&server, path, PROTOCOL_V5).await;
    let mut client = attach("/attach/ns/p/cat?input=1&output=1&error=1").await.unwrap();
    client.send(channel::frame(channel::STDIN, b"typed")).await;
    client.send(channel::frame(channel::CLOSE, &[channel::STDIN])).await;
    assert_eq!(client.finish().await, (b"typed".to_vec(), b"5".to_vec(), Outcome::Success));
    let client = attach("/attach/ns/p/killed?output=1").await.unwrap();
    let message = "Internal error occurred: error attaching to container: the pod was removed".into();
    assert_eq!(client.finish().await.2, Outcome::Failure { message });
    for (path, status, part) in [
        ("/attach/ns/p/gone?output=1", 404, "container gone not found"),
        ("/attach/ns/p/cat", 400, "at least one of input, output and error"),
        ("/attach/ns/p/cat?output=1&command=ls", 400, "unknown parameter"),
    ] {
        let Err(Error::Http(answer)) = attach(path).await else { panic!("{path}") };
        assert_eq!(answer.status(), status, "{path}");
        let body = String::from_utf8(answer.into_body().unwrap_or_default()).unwrap();
        assert!(body.contains(part), "{path}: {body}");
    }
}
