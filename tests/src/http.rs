//! Just enough of an HTTP client and server for the suites: one request a connection, loopback and pod addresses only.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Status and body of a GET; an error in words when nothing answers.
pub fn get(ip: IpAddr, port: u16, path: &str) -> Result<(u16, String), String> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::new(ip, port), TIMEOUT).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(|e| e.to_string())?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| format!("read: {e}"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("no status: {head:?}"))?;
    Ok((status, body.to_owned()))
}

/// Serves one body on a loopback port until dropped; the body can be changed, also to an error status.
pub struct OnePage {
    pub port: u16,
    answer: Arc<Mutex<(u16, String)>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl OnePage {
    pub fn serve(body: &str) -> OnePage {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("bound").port();
        let answer = Arc::new(Mutex::new((200, body.to_owned())));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answers, seen) = (Arc::clone(&answer), Arc::clone(&requests));
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = one(stream, &answers, &seen);
            }
        });
        OnePage { port, answer, requests }
    }

    pub fn set(&self, status: u16, body: &str) {
        *self.answer.lock().expect("not poisoned") = (status, body.to_owned());
    }

    /// Heads of the requests seen so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

fn one(mut stream: TcpStream, answer: &Mutex<(u16, String)>, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    seen.lock().expect("not poisoned").push(String::from_utf8_lossy(&head).into_owned());
    let (status, body) = answer.lock().expect("not poisoned").clone();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
