//! A proxy in front of a registry that counts what is asked and makes answers fail in the ways in which networks and
//! registries fail. One request a connection.

use super::{PASSWORD, Registry, USER};
use crate::PATIENCE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What [`Proxy::demand_token`] gives out; like nothing else that a log could hold.
pub const TOKEN: &str = "tk-4mZb8WcY1nHd";

/// Between two bytes of what trickles.
const TRICKLE_EVERY: Duration = Duration::from_millis(100);

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status with these header lines (each ending in CRLF), and never asked of the registry.
    Status(u16, &'static str),
    /// These bytes and no more, whatever they are, and never asked of the registry.
    Raw(String),
    /// The body comes byte by byte, so slowly that nobody could wait for it.
    Trickle,
    /// The registry's answer, without the header field of this name.
    Without(&'static str),
    /// The connection ends after so many bytes of the body.
    CloseAfter(u64),
    /// Nothing more comes after so many bytes of the body, until [`Proxy::heal`].
    StallAfter(u64),
    /// The whole is answered, whatever part is asked for; and it ends after so many bytes of the body.
    IgnoreRange { then_close_after: u64 },
    /// Refers to the same path elsewhere: `http://127.0.0.1:1234`.
    RedirectTo(String),
    /// One byte of the body is another one.
    Corrupt,
}

/// A request that was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    rules: Vec<(String, Fault, u32)>,
    seen: Vec<Seen>,
    /// Bytes of bodies that were given on.
    passed_bytes: u64,
    /// Where all bodies stop, together.
    limit_bytes: Option<u64>,
    /// How often all bodies were cut off.
    cuts: u64,
    demands_token: bool,
}

struct Shared {
    port: u16,
    upstream: u16,
    state: Mutex<State>,
    changed: Condvar,
}

/// The proxy; its threads end with the test's process.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn start(registry: &Registry) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("bound").port();
        let (state, changed) = (Mutex::new(State::default()), Condvar::new());
        let shared = Arc::new(Shared { port, upstream: registry.port(), state, changed });
        let threads = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&threads);
                // A client that goes away is the client's affair.
                std::thread::spawn(move || _ = shared.serve(stream));
            }
        });
        Proxy { shared }
    }

    /// As references name it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.shared.port)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    /// So many requests whose path holds `path` fail so; rules apply in the order in which they were given.
    pub fn inject(&self, path: &str, fault: Fault, times: u32) {
        self.shared.state().rules.push((path.to_owned(), fault, times));
    }

    /// From now on nobody is served without the token, which is given to [`USER`] with [`PASSWORD`].
    pub fn demand_token(&self) {
        self.shared.state().demands_token = true;
    }

    /// All bodies stop when so many bytes in all, from now on, have passed; those that have stopped go on until then.
    pub fn stop_after(&self, bytes: u64) {
        let mut state = self.shared.state();
        state.passed_bytes = 0;
        state.limit_bytes = Some(bytes);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// All bodies that are under way end where they are: who asked for them is gone, and they count no more.
    pub fn cut(&self) {
        self.shared.state().cuts += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until bodies have stopped where [`Proxy::stop_after`] said, or so many bytes have passed.
    #[track_caller]
    pub fn await_passed(&self, bytes: u64) {
        let state = self.shared.state();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.passed_bytes < bytes)
            .expect("not poisoned");
        assert!(!timeout.timed_out(), "{} of {bytes} bytes passed; seen: {:#?}", state.passed_bytes, state.seen);
    }

    /// No rule applies any more, and what has stopped goes on.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.rules.clear();
        state.limit_bytes = None;
        drop(state);
        self.shared.changed.notify_all();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    pub fn forget(&self) {
        self.shared.state().seen.clear();
    }

    /// How often each blob was asked for, by digest.
    pub fn blobs(&self) -> BTreeMap<String, u32> {
        let mut asked = BTreeMap::new();
        for seen in self.seen().iter().filter(|seen| seen.method == "GET") {
            if let Some((_, digest)) = seen.path.split_once("/blobs/") {
                *asked.entry(digest.split('?').next().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        asked
    }
}

struct Head {
    /// Without the empty line.
    lines: Vec<String>,
}

impl Head {
    fn read(stream: &mut impl BufRead) -> std::io::Result<Head> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => return Ok(Head { lines }),
                line => lines.push(line.to_owned()),
            }
        }
    }

    fn field(&self, name: &str) -> Option<String> {
        let fields = self.lines.iter().skip(1).filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }

    fn without(mut self, names: &[&str]) -> Head {
        self.lines.retain(|line| {
            let key = line.split(':').next().unwrap_or_default();
            !names.iter().any(|name| name.eq_ignore_ascii_case(key))
        });
        self
    }

    fn text(&self) -> String {
        format!("{}\r\nConnection: close\r\n\r\n", self.lines.join("\r\n"))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut client = BufReader::new(stream.try_clone()?);
        let head = Head::read(&mut client)?;
        let mut words = head.lines[0].split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let authorization = head.field("Authorization");
        let range = head.field("Range");
        let seen = Seen { method, path: path.clone(), range, authorization: authorization.clone() };
        let (fault, demands_token) = {
            let mut state = self.state();
            state.seen.push(seen);
            (state.fault(&path), state.demands_token)
        };
        if demands_token && let Some(answer) = self.door(&path, authorization.as_deref()) {
            return answer_with(stream, &answer);
        }
        let ignores_range = matches!(fault, Some(Fault::IgnoreRange { .. }));
        match &fault {
            Some(Fault::Status(status, fields)) => {
                return answer_with(stream, &format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: 0\r\n"));
            }
            Some(Fault::Raw(answer)) => {
                let mut stream = stream;
                return stream.write_all(answer.as_bytes());
            }
            Some(Fault::RedirectTo(base)) => {
                let answer = format!("HTTP/1.1 307 X\r\nLocation: {base}{path}\r\nContent-Length: 0\r\n");
                return answer_with(stream, &answer);
            }
            _ => {}
        }
        let mut upstream = TcpStream::connect(("127.0.0.1", self.upstream))?;
        let drop = if ignores_range { &["Connection", "Range", "Authorization"][..] } else { &["Connection"] };
        let drop = if demands_token { &[drop, &["Authorization"]].concat() } else { drop };
        upstream.write_all(head.without(drop).text().as_bytes())?;
        let mut upstream = BufReader::new(upstream);
        let hidden = if let Some(Fault::Without(name)) = &fault { name } else { "Connection" };
        let answer = Head::read(&mut upstream)?.without(&["Connection", hidden]);
        let mut stream = stream;
        stream.write_all(answer.text().as_bytes())?;
        self.body(&mut upstream, &mut stream, fault.as_ref())
    }

    /// What is answered to those without the token, and to those who ask for it.
    fn door(&self, path: &str, authorization: Option<&str>) -> Option<String> {
        if path.starts_with("/token?") || path == "/token" {
            let good = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
            if authorization != Some(good.as_str()) {
                return Some("HTTP/1.1 401 X\r\nContent-Length: 0\r\n".to_owned());
            }
            let body = format!(r#"{{"token":"{TOKEN}","expires_in":300}}"#);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
            return Some(format!("{head}\r\n{body}"));
        }
        let good = format!("Bearer {TOKEN}");
        if authorization == Some(good.as_str()) {
            return None;
        }
        let realm = format!("Bearer realm=\"http://127.0.0.1:{}/token\",service=\"test\"", self.port);
        Some(format!("HTTP/1.1 401 X\r\nWww-Authenticate: {realm}\r\nContent-Length: 0\r\n"))
    }

    fn body(&self, from: &mut impl Read, to: &mut TcpStream, fault: Option<&Fault>) -> std::io::Result<()> {
        let (mut closes, mut stalls) = (u64::MAX, u64::MAX);
        match fault {
            Some(Fault::CloseAfter(bytes) | Fault::IgnoreRange { then_close_after: bytes }) => closes = *bytes,
            Some(Fault::StallAfter(bytes)) => stalls = *bytes,
            _ => {}
        }
        let mut corrupt = fault == Some(&Fault::Corrupt);
        let mut buffer = vec![0; 32 << 10];
        let trickles = fault == Some(&Fault::Trickle);
        let step = if trickles { 1 } else { buffer.len() as u64 };
        let mut given = 0_u64;
        let cuts = self.state().cuts;
        loop {
            if given >= closes {
                return Ok(());
            }
            if given >= stalls {
                self.wait(|state| !state.rules.is_empty());
                stalls = u64::MAX;
            }
            let most = (closes - given).min(stalls - given).min(step);
            let read = from.read(&mut buffer[..most as usize])?;
            if read == 0 {
                return Ok(());
            }
            if std::mem::take(&mut corrupt) {
                buffer[read / 2] ^= 1;
            }
            let mut left = &buffer[..read];
            while !left.is_empty() {
                let Some(allowed) = self.allowance(left.len(), cuts) else { return Ok(()) };
                let (now, later) = left.split_at(allowed);
                to.write_all(now)?;
                self.count(now.len());
                left = later;
            }
            given += read as u64;
            if trickles {
                std::thread::sleep(TRICKLE_EVERY);
            }
        }
    }

    /// How many of these bytes may pass now; waits until it is one at least. None for a body from before a cut.
    fn allowance(&self, wanted: usize, cuts: u64) -> Option<usize> {
        let full = |state: &State| state.limit_bytes.is_some_and(|limit| state.passed_bytes >= limit);
        self.wait(|state| state.cuts == cuts && full(state));
        let state = self.state();
        let left = state.limit_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(state.passed_bytes).max(1));
        (state.cuts == cuts).then_some(usize::try_from(left).unwrap_or(usize::MAX).min(wanted))
    }

    fn count(&self, bytes: usize) {
        self.state().passed_bytes += bytes as u64;
        self.changed.notify_all();
    }

    fn wait(&self, held: impl Fn(&State) -> bool) {
        let state = self.state();
        drop(self.changed.wait_while(state, |state| held(state)).expect("not poisoned"));
    }
}

impl State {
    fn fault(&mut self, path: &str) -> Option<Fault> {
        let (_, fault, times) =
            self.rules.iter_mut().find(|(part, _, times)| *times > 0 && path.contains(part.as_str()))?;
        *times -= 1;
        Some(fault.clone())
    }
}

fn answer_with(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let end = if answer.contains("\r\n\r\n") { "" } else { "Connection: close\r\n\r\n" };
    stream.write_all(format!("{answer}{end}").as_bytes())
}
