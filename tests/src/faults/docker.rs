//! A proxy in front of the Docker socket. It knows as much of HTTP as tells one request from the next, and passes all else
//! on as it is.

use cri::testing::{Delivered, Fault, Rule};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 16 << 20;
const CHUNK_BYTES: usize = 16 << 10;

/// Its threads end with their connections, the listening one with the test's process.
pub struct DockerProxy {
    socket: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    asked: BTreeMap<String, u32>,
    delivered: Delivered,
}

/// One request as it came.
struct Request {
    head: String,
    body: Vec<u8>,
    /// Its body has no length, or its connection becomes another protocol's: bytes go both ways until they end.
    endless: bool,
    upgrades: bool,
}

impl DockerProxy {
    pub(super) fn start(socket: &Path, upstream: &Path) -> DockerProxy {
        let shared = Arc::new(Shared { upstream: upstream.to_owned(), state: Mutex::default() });
        let listener = UnixListener::bind(socket).expect("the proxy's socket");
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A peer that went away needs no answer.
                std::thread::spawn(move || _ = connection(stream, &shared));
            }
        });
        DockerProxy { socket: socket.to_owned(), shared }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn inject(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    pub(super) fn heal(&self) {
        self.shared.state().rules.clear();
    }

    pub(super) fn asked(&self) -> BTreeMap<String, u32> {
        self.shared.state().asked.clone()
    }

    pub(super) fn delivered(&self) -> Delivered {
        self.shared.state().delivered.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, call: &str, request: &Request) -> Option<Fault> {
        let mut state = self.state();
        *state.asked.entry(call.to_owned()).or_default() += 1;
        let holds = |text: &str| {
            let bytes = text.as_bytes();
            request.head.contains(text) || request.body.windows(bytes.len().max(1)).any(|window| window == bytes)
        };
        let fits = |rule: &&mut Rule| rule.times > 0 && rule.call == call && holds(&rule.containing);
        let rule = state.rules.iter_mut().find(fits)?;
        rule.times -= 1;
        Some(rule.fault)
    }

    fn deliver(&self, call: &str, fault: Fault) {
        *self.state().delivered.entry((call.to_owned(), fault.name())).or_default() += 1;
    }
}

/// `POST /v1.41/containers/<64 digits>/start?t=1` is `POST /containers/*/start`.
fn call_of(head: &str) -> String {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let version = |part: &str| part.starts_with('v') && part[1..].starts_with(|first: char| first.is_ascii_digit());
    let fixed = ["containers", "images", "exec", "json", "create", "start", "kill", "wait", "resize", "stats", "load"];
    let fixed = |part: &str| fixed.contains(&part) || !part.contains(|c: char| c.is_ascii_digit() || c == ':');
    let parts = path.split('/').filter(|part| !part.is_empty() && !version(part));
    let parts: Vec<&str> = parts.map(|part| if fixed(part) { part } else { "*" }).collect();
    format!("{method} /{}", parts.join("/"))
}

fn connection(mut client: UnixStream, shared: &Shared) -> io::Result<()> {
    while let Some(request) = read_request(&mut client)? {
        let call = call_of(&request.head);
        let fault = shared.fault(&call, &request);
        if let Some(fault @ (Fault::Error | Fault::Hang)) = fault {
            shared.deliver(&call, fault);
            if fault == Fault::Hang {
                // Until the caller gives it up.
                return io::copy(&mut client, &mut io::sink()).map(drop);
            }
            refuse(&mut client)?;
            if request.endless {
                return client.shutdown(Shutdown::Both);
            }
            continue;
        }
        let mut upstream = match UnixStream::connect(&shared.upstream) {
            Ok(upstream) => upstream,
            // The daemon is away: so is its proxy.
            Err(_) => return client.shutdown(Shutdown::Both),
        };
        // The answer ends where the connection does: nothing has to be known of its length.
        let head = match request.upgrades {
            true => request.head.clone(),
            false => request.head.replacen("\r\n", "\r\nConnection: close\r\n", 1),
        };
        upstream.write_all(head.as_bytes())?;
        upstream.write_all(&request.body)?;
        if request.endless {
            let (from, to) = (client.try_clone()?, upstream.try_clone()?);
            std::thread::spawn(move || pump(from, to));
        }
        if let Some(fault) = fault {
            let mut answer = Vec::new();
            match request.upgrades || call == "GET /events" {
                // It has no end of its own, and what was asked for is done.
                true => _ = read_head(&mut upstream, &mut answer)?,
                false => _ = upstream.read_to_end(&mut answer)?,
            }
            shared.deliver(&call, fault);
            let Fault::Late(by) = fault else {
                upstream.shutdown(Shutdown::Both)?;
                return client.shutdown(Shutdown::Both);
            };
            std::thread::sleep(by);
            client.write_all(&answer)?;
        }
        return pump(upstream, client);
    }
    Ok(())
}

fn refuse(client: &mut UnixStream) -> io::Result<()> {
    let body = r#"{"message":"injected failure"}"#;
    let length = body.len();
    write!(client, "HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Up to the empty line that ends it; false where the stream ends before.
fn read_head(from: &mut UnixStream, head: &mut Vec<u8>) -> io::Result<bool> {
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD_BYTES || from.read(&mut byte)? == 0 {
            return Ok(false);
        }
        head.push(byte[0]);
    }
    Ok(true)
}

fn read_request(client: &mut UnixStream) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    if !read_head(client, &mut head)? {
        return Ok(None);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.clone().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let upgrades = header("upgrade").is_some();
    let endless = upgrades || header("transfer-encoding").is_some();
    let mut body = vec![0; length.min(MAX_BODY_BYTES)];
    client.read_exact(&mut body)?;
    Ok(Some(Request { endless, upgrades, body, head }))
}

/// One way, until it ends.
fn pump(mut from: UnixStream, mut to: UnixStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk) {
            Ok(length @ 1..) => to.write_all(&chunk[..length])?,
            _ => return to.shutdown(Shutdown::Write),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_what_they_do() {
        let id = "0123456789abcdef".repeat(4);
        for (line, call) in [
            (format!("POST /v1.41/containers/{id}/start?x=1 HTTP/1.1"), "POST /containers/*/start"),
            (format!("DELETE /v1.41/containers/{id}?force=true HTTP/1.1"), "DELETE /containers/*"),
            ("POST /containers/create?name=k8s_POD_a1 HTTP/1.1".to_owned(), "POST /containers/create"),
            ("GET /v1.41/containers/json?all=true HTTP/1.1".to_owned(), "GET /containers/json"),
            (
                "GET /v1.41/images/docker.io/library/busybox:latest/json X".to_owned(),
                "GET /images/docker.io/library/*/json",
            ),
            ("GET /_ping HTTP/1.1".to_owned(), "GET /_ping"),
        ] {
            assert_eq!(call_of(&line), call);
        }
    }
}
