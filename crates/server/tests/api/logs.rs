use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use server::logs::{LogError, LogOptions, LogSource, LogStream, Watches, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::host::FakeHost;
use crate::http::{Local, parse};

/// The log of one container in a root of its own.
struct Log {
    root: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("ns_p_uid/c")).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("ns_p_uid/c").join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// As the supervisor does: rename, then begin anew.
    fn rotate(&self, time: &str) {
        fs::rename(self.path("1.log"), self.path(&format!("1.log.{time}"))).unwrap();
        File::create(self.path("1.log")).unwrap();
    }

    fn source(&self, path: &str) -> LogSource {
        LogSource { root: self.root.path().into(), path: path.into(), ended: Box::pin(async {}) }
    }

    async fn read(&self, options: LogOptions) -> String {
        let stream = open(self.source("ns_p_uid/c/1.log"), options, &Watches::default()).await.unwrap();
        collect(stream).await
    }

    async fn refused(&self, path: &str) -> LogError {
        match open(self.source(path), LogOptions::default(), &Watches::default()).await {
            Ok(stream) => panic!("{path} was read: {}", collect(stream).await),
            Err(error) => error,
        }
    }

    async fn follow(&self) -> (LogStream, oneshot::Sender<()>) {
        let (end, ended) = oneshot::channel::<()>();
        let ended = Box::pin(async move { ended.await.unwrap_or(()) });
        let source = LogSource { ended, ..self.source("ns_p_uid/c/1.log") };
        let options = LogOptions { follow: true, ..LogOptions::default() };
        (open(source, options, &Watches::default()).await.unwrap(), end)
    }
}

async fn collect(stream: LogStream) -> String {
    let pieces: Vec<_> = stream.map(|piece| piece.unwrap()).collect().await;
    String::from_utf8(pieces.concat()).unwrap()
}

/// Reads until the text is `expected`.
async fn expect(stream: &mut LogStream, expected: &str) {
    let mut text = String::new();
    while text.len() < expected.len() {
        text += std::str::from_utf8(&stream.next().await.expect("the log goes on").unwrap()).unwrap();
    }
    assert_eq!(text, expected);
}

fn line(second: u32, tag: &str, text: &str) -> String {
    format!("2026-01-01T00:00:{second:02}.000000000Z stdout {tag} {text}\n")
}

fn rotated() -> Log {
    let log = Log::new();
    log.append("1.log.20260101-000003", &(line(1, "F", "one") + &line(2, "P", "tw") + &line(3, "F", "o")));
    log.append("1.log.20260101-000005", &(line(4, "F", "three") + &line(5, "P", "fo")));
    log.append("1.log", &(line(6, "F", "ur") + &line(7, "F", "five")));
    // Others' files.
    log.append("0.log", &line(0, "F", "previous"));
    log.append("11.log", &line(0, "F", "another"));
    log.append("1.log.txt", &line(0, "F", "no log"));
    log.append("1.log.20250101-000000.gz", "junk\n");
    log.append("1.log.20250101-000000.tmp", "junk\n");
    log
}

#[tokio::test]
async fn all_files_in_their_order() {
    let log = rotated();
    assert_eq!(log.read(LogOptions::default()).await, "one\ntwo\nthree\nfour\nfive\n");
    let stamped = log.read(LogOptions { timestamps: true, tail_lines: Some(2), ..LogOptions::default() }).await;
    assert_eq!(stamped, "2026-01-01T00:00:05.000000000Z four\n2026-01-01T00:00:07.000000000Z five\n");
}

#[tokio::test]
async fn the_last_lines() {
    let log = rotated();
    for (lines, expected) in [
        (0, ""),
        (1, "five\n"),
        (2, "four\nfive\n"),
        (3, "three\nfour\nfive\n"),
        (4, "two\nthree\nfour\nfive\n"),
        (5, "one\ntwo\nthree\nfour\nfive\n"),
        (u64::MAX, "one\ntwo\nthree\nfour\nfive\n"),
    ] {
        let text = log.read(LogOptions { tail_lines: Some(lines), ..LogOptions::default() }).await;
        assert_eq!(text, expected, "{lines}");
    }
    // An unfinished line is a line.
    log.append("1.log", &line(8, "P", "si"));
    assert_eq!(log.read(LogOptions { tail_lines: Some(1), ..LogOptions::default() }).await, "si");
    assert_eq!(log.read(LogOptions { tail_lines: Some(2), ..LogOptions::default() }).await, "five\nsi");
}

#[tokio::test]
async fn the_last_lines_of_long_and_many_ones() {
    let log = Log::new();
    let mut expected = Vec::new();
    let mut file = std::io::BufWriter::new(File::create(log.path("1.log")).unwrap());
    // Lengths that put record boundaries everywhere relative to the blocks that are read.
    for number in 0..3000usize {
        let text = format!("{number}{}", "x".repeat(number * 37 % 1900));
        let (first, second) = text.split_at(text.len() / 3);
        file.write_all(line(1, "P", first).as_bytes()).unwrap();
        file.write_all(line(1, "F", second).as_bytes()).unwrap();
        expected.push(text + "\n");
    }
    file.flush().unwrap();
    for lines in [1, 2, 63, 64, 65, 1000, 2999, 3000, 3001] {
        let text = log.read(LogOptions { tail_lines: Some(lines), ..LogOptions::default() }).await;
        let from = expected.len().saturating_sub(usize::try_from(lines).unwrap());
        assert!(text == expected[from..].concat(), "{lines}");
    }
}

#[tokio::test]
async fn since_and_limit() {
    let log = rotated();
    let since = Some("2026-01-01T00:00:04Z".parse().unwrap());
    assert_eq!(log.read(LogOptions { since, ..LogOptions::default() }).await, "three\nfour\nfive\n");
    assert_eq!(
        log.read(LogOptions { since, tail_lines: Some(4), ..LogOptions::default() }).await,
        "three\nfour\nfive\n"
    );
    assert_eq!(log.read(LogOptions { limit_bytes: Some(6), ..LogOptions::default() }).await, "one\ntw");
    let follow = LogOptions { follow: true, limit_bytes: Some(1), ..LogOptions::default() };
    assert_eq!(log.read(follow).await, "o");
}

#[tokio::test]
async fn nothing_there() {
    let log = Log::new();
    assert_eq!(log.read(LogOptions::default()).await, "");
    assert_eq!(log.read(LogOptions { follow: true, tail_lines: Some(3), ..LogOptions::default() }).await, "");
    assert!(matches!(log.refused("ns_p_uid/none/1.log").await, LogError::Missing { .. }));
    log.append("1.log", "2026-01-01T00:00:01Z stdout F torn off");
    assert_eq!(log.read(LogOptions::default()).await, "torn off");
}

#[tokio::test]
async fn f_log_following_goes_through_rotation() {
    let log = Log::new();
    let (mut stream, end) = log.follow().await;
    log.append("1.log", &line(1, "F", "first"));
    expect(&mut stream, "first\n").await;
    log.append("1.log", &line(2, "P", "sec"));
    log.rotate("1");
    log.append("1.log", &line(3, "F", "ond"));
    expect(&mut stream, "second\n").await;
    // Two rotations at once, and the file that is being read is removed.
    log.append("1.log", &line(4, "F", "third"));
    expect(&mut stream, "third\n").await;
    log.rotate("2");
    log.append("1.log", &line(5, "F", "fourth"));
    log.rotate("3");
    fs::remove_file(log.path("1.log.1")).unwrap();
    fs::remove_file(log.path("1.log.2")).unwrap();
    log.append("1.log", &line(6, "F", "fifth"));
    expect(&mut stream, "fourth\nfifth\n").await;
    // Cut instead of renamed.
    File::options().write(true).open(log.path("1.log")).unwrap().set_len(0).unwrap();
    log.append("1.log", &line(7, "F", "6"));
    expect(&mut stream, "6\n").await;
    // What is written before the end is read, and the end ends it.
    log.append("1.log", &line(8, "F", "last"));
    end.send(()).unwrap();
    assert_eq!(collect(stream).await, "last\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_log_every_line_once_and_in_order_while_files_rotate() {
    const LINES: usize = 100_000;
    let log = Arc::new(Log::new());
    File::create(log.path("1.log")).unwrap();
    let (stream, end) = log.follow().await;
    let writer = {
        let log = Arc::clone(&log);
        tokio::task::spawn_blocking(move || {
            let mut file = File::options().append(true).open(log.path("1.log")).unwrap();
            let mut files = 0;
            for number in 0..LINES {
                file.write_all(line(1, "F", &number.to_string()).as_bytes()).unwrap();
                if number % 1000 == 999 {
                    log.rotate(&format!("{files:04}"));
                    files += 1;
                    file = File::options().append(true).open(log.path("1.log")).unwrap();
                }
            }
            end.send(()).unwrap();
        })
    };
    let text = collect(stream).await;
    writer.await.unwrap();
    assert!(text.lines().enumerate().all(|(at, line)| line == at.to_string()), "a line out of its place");
    assert_eq!(text.lines().count(), LINES);
    // Read again while nothing changes, the set of files is complete.
    assert_eq!(log.read(LogOptions::default()).await, text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_log_a_read_in_the_middle_of_rotation_has_no_gap() {
    let log = Arc::new(Log::new());
    File::create(log.path("1.log")).unwrap();
    let writer = {
        let log = Arc::clone(&log);
        tokio::task::spawn_blocking(move || {
            for number in 0..200 {
                log.append("1.log", &line(1, "F", &number.to_string()));
                log.rotate(&format!("{number:04}"));
            }
        })
    };
    while !writer.is_finished() {
        let text = log.read(LogOptions::default()).await;
        assert!(text.lines().enumerate().all(|(at, line)| line == at.to_string()), "{text}");
    }
    writer.await.unwrap();
    assert_eq!(log.read(LogOptions::default()).await.lines().count(), 200);
}

/// A log that Docker writes, and the link to it.
struct DockersLog {
    log: Log,
    file: PathBuf,
}

impl DockersLog {
    fn new() -> Self {
        let log = Log::new();
        let id = "0123456789abcdef".repeat(4);
        let directory = log.root.path().join("containers").join(&id);
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join(format!("{id}-json.log"));
        symlink(&file, log.path("1.log")).unwrap();
        Self { log, file }
    }

    fn append(&self, second: u32, text: &str) {
        let time = format!("2026-01-01T00:00:{second:02}.5Z");
        let record = serde_json::json!({ "log": text, "stream": "stderr", "time": time });
        let mut file = OpenOptions::new().append(true).create(true).open(&self.file).unwrap();
        file.write_all(format!("{record}\n").as_bytes()).unwrap();
    }

    /// As Docker does: every file gets the next number.
    fn rotate(&self, upto: u32) {
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.file.display()));
        for number in (1..upto).rev() {
            fs::rename(numbered(number), numbered(number + 1)).unwrap();
        }
        fs::rename(&self.file, numbered(1)).unwrap();
        File::create(&self.file).unwrap();
    }
}

/// Links of root's are what it is about.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "needs root, and must not be skipped here");
    if !root {
        println!("skipped: needs root");
    }
    root
}

#[tokio::test]
async fn docker_s_log_through_its_link_with_what_was_rotated() {
    if !is_root() {
        return;
    }
    let docker = DockersLog::new();
    assert_eq!(docker.log.read(LogOptions::default()).await, "", "not begun yet");
    docker.append(1, "one\n");
    docker.append(2, "tw");
    docker.rotate(1);
    docker.append(3, "o \u{e4} <b>\n");
    docker.rotate(2);
    for second in 4..=12 {
        docker.append(second, &format!("{second}\n"));
    }
    // Ten rotated ones sort by number, not by text.
    let all = docker.log.read(LogOptions::default()).await;
    assert_eq!(all, format!("one\ntwo \u{e4} <b>\n{}", (4..=12).map(|n| format!("{n}\n")).collect::<String>()));
    let tail = |lines| LogOptions { tail_lines: Some(lines), timestamps: true, ..LogOptions::default() };
    assert_eq!(docker.log.read(tail(1)).await, "2026-01-01T00:00:12.5Z 12\n");
    assert!(docker.log.read(tail(10)).await.starts_with("2026-01-01T00:00:02.5Z two \u{e4} <b>\n"));
    assert_eq!(docker.log.read(tail(0)).await, "");
    let since = Some("2026-01-01T00:00:11Z".parse().unwrap());
    assert_eq!(docker.log.read(LogOptions { since, ..LogOptions::default() }).await, "11\n12\n");
    for number in 3..=12 {
        docker.rotate(number);
        docker.append(20 + number, &format!("r{number}\n"));
    }
    let last: Vec<String> = docker.log.read(LogOptions::default()).await.lines().map(str::to_owned).collect();
    assert_eq!(last[last.len() - 3..], ["r10", "r11", "r12"]);
}

#[tokio::test]
async fn the_last_lines_of_docker_s_long_ones() {
    if !is_root() {
        return;
    }
    let docker = DockersLog::new();
    let long = "x".repeat(16_384);
    for line in 0..10 {
        for _ in 0..20 {
            docker.append(line, &long);
        }
        docker.append(line, &format!("{line}\n"));
    }
    for lines in [1u64, 3, 10, 11] {
        let text = docker.log.read(LogOptions { tail_lines: Some(lines), ..LogOptions::default() }).await;
        let expected = usize::try_from(lines.min(10)).unwrap();
        assert_eq!(text.lines().count(), expected);
        assert!(text.lines().all(|line| line.len() == 20 * long.len() + 1));
        assert!(text.starts_with('x') && text.ends_with("9\n"));
    }
}

#[tokio::test]
async fn f_log_following_docker_s_goes_through_rotation() {
    if !is_root() {
        return;
    }
    let docker = DockersLog::new();
    docker.append(1, "one\n");
    let (mut stream, end) = docker.log.follow().await;
    expect(&mut stream, "one\n").await;
    docker.append(2, "two\n");
    expect(&mut stream, "two\n").await;
    docker.rotate(1);
    docker.append(3, "three\n");
    expect(&mut stream, "three\n").await;
    docker.append(4, "four\n");
    docker.rotate(2);
    docker.append(5, "five\n");
    expect(&mut stream, "four\nfive\n").await;
    drop(end);
    assert_eq!(collect(stream).await, "");
}

#[tokio::test]
async fn s_f01_only_root_s_link_to_a_plain_file_of_docker_s_is_followed() {
    if !is_root() {
        return;
    }
    let docker = DockersLog::new();
    docker.append(1, "one\n");
    let link = docker.log.path("1.log");
    rustix::fs::chownat(
        rustix::fs::CWD,
        &link,
        Some(rustix::fs::Uid::from_raw(1000)),
        None,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    assert!(matches!(docker.log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }), "somebody's");

    let docker = DockersLog::new();
    let secret = docker.log.root.path().join("secret");
    fs::write(&secret, "secret\n").unwrap();
    symlink(&secret, &docker.file).unwrap();
    assert!(matches!(docker.log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }), "a second link");
    fs::remove_file(&docker.file).unwrap();
    fs::hard_link(&secret, &docker.file).unwrap();
    assert!(matches!(docker.log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }), "a hard link");

    let docker = DockersLog::new();
    docker.append(1, "one\n");
    let (directory, moved) = (docker.file.parent().unwrap(), docker.log.root.path().join("moved"));
    fs::rename(directory, &moved).unwrap();
    symlink(&moved, directory).unwrap();
    assert!(matches!(docker.log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }), "a link on the way");
}

#[tokio::test]
async fn s_f01_links_and_what_is_no_file_are_not_read() {
    let log = Log::new();
    let secret = log.root.path().join("secret");
    fs::write(&secret, line(1, "F", "secret")).unwrap();
    let directory = log.root.path().join("ns_p_uid");

    symlink(&secret, log.path("1.log")).unwrap();
    assert!(matches!(log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }));
    fs::remove_file(log.path("1.log")).unwrap();

    fs::hard_link(&secret, log.path("1.log")).unwrap();
    assert!(matches!(log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }));
    fs::remove_file(log.path("1.log")).unwrap();

    rustix::fs::mknodat(
        rustix::fs::CWD,
        log.path("1.log"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(matches!(log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }));
    fs::remove_file(log.path("1.log")).unwrap();

    fs::create_dir(log.path("1.log")).unwrap();
    assert!(matches!(log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }));
    fs::remove_dir(log.path("1.log")).unwrap();

    // A rotated one counts as much.
    log.append("1.log", &line(2, "F", "harmless"));
    symlink(&secret, log.path("1.log.1")).unwrap();
    assert!(matches!(log.refused("ns_p_uid/c/1.log").await, LogError::NotPlain { .. }));
    fs::remove_file(log.path("1.log.1")).unwrap();
    assert_eq!(log.read(LogOptions::default()).await, "harmless\n");

    // Directories on the way, and paths that lead out.
    fs::create_dir(log.root.path().join("outside")).unwrap();
    fs::write(log.root.path().join("outside/1.log"), line(1, "F", "secret")).unwrap();
    symlink(log.root.path().join("outside"), directory.join("link")).unwrap();
    symlink("../outside", directory.join("relative")).unwrap();
    let absolute = log.path("1.log");
    for path in ["ns_p_uid/link/1.log", "ns_p_uid/relative/1.log", "../x/1.log", absolute.to_str().unwrap()] {
        assert!(matches!(log.refused(path).await, LogError::NotPlain { .. }), "{path}");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), line(1, "F", "secret"));
}

#[tokio::test]
async fn s_f01_a_link_put_in_while_following_ends_the_log() {
    let log = Log::new();
    fs::write(log.root.path().join("secret"), line(1, "F", "secret")).unwrap();
    log.append("1.log", &line(1, "F", "mine"));
    let (mut stream, _end) = log.follow().await;
    expect(&mut stream, "mine\n").await;
    fs::rename(log.path("1.log"), log.path("1.log.1")).unwrap();
    symlink("../../secret", log.path("1.log")).unwrap();
    assert!(stream.next().await.unwrap().is_err());
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn s_f03_a_line_of_many_mebibytes_is_passed_on_in_pieces() {
    const PIECES: usize = 4096;
    let log = Log::new();
    let mut file = File::create(log.path("1.log")).unwrap();
    let piece = line(1, "P", &"y".repeat(16 * 1024));
    for _ in 0..PIECES {
        file.write_all(piece.as_bytes()).unwrap();
    }
    for tail_lines in [None, Some(1)] {
        let options = LogOptions { tail_lines, ..LogOptions::default() };
        let mut stream = open(log.source("ns_p_uid/c/1.log"), options, &Watches::default()).await.unwrap();
        let mut length = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= 64 * 1024);
            length += piece.len();
        }
        assert_eq!(length, PIECES * 16 * 1024);
    }
}

#[tokio::test]
async fn logs_over_the_local_socket() {
    let log = rotated();
    let (end, ended) = oneshot::channel();
    let host = FakeHost { log_root: log.root.path().into(), log_end: Mutex::new(Some(ended)), ..FakeHost::default() };
    let server = Local::start(Arc::new(host));
    let mut following = server.connect().await;
    let request = b"GET /containerLogs/ns/p/c?follow=true&tailLines=1 HTTP/1.0\r\n\r\n";
    following.write_all(request).await.unwrap();
    end.send(()).unwrap();
    let answer = parse(&mut following).await;
    assert_eq!((answer.status, &*answer.body), (200, "five\n"));
    assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);

    assert_eq!(server.get("/containerLogs/ns/p/c?previous=true").await.body, "previous\n");
    for (path, status, part) in [
        ("/containerLogs/ns/other/c", 404, "pod \"other\" not found"),
        ("/containerLogs/ns/p/none", 404, "1.log is not there"),
        ("/containerLogs/ns/p/c?tailLines=x", 400, "tailLines is \"x\""),
        ("/containerLogs/ns/p/..%2f..?x=1", 400, "unknown parameter"),
        ("/containerLogs/ns/p/..%2f..%2f..", 500, "refused to read"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.message().contains(part), "{path}: {}", answer.message());
    }
}

#[tokio::test]
async fn s_f04_a_follower_that_goes_away_is_forgotten() {
    let log = rotated();
    let (mut end, ended) = oneshot::channel();
    let host = FakeHost { log_root: log.root.path().into(), log_end: Mutex::new(Some(ended)), ..FakeHost::default() };
    let server = Local::start(Arc::new(host));
    let mut following = server.connect().await;
    let request = b"GET /containerLogs/ns/p/c?follow=true HTTP/1.1\r\nHost: x\r\n\r\n";
    following.write_all(request).await.unwrap();
    assert!(following.read(&mut [0; 4096]).await.unwrap() > 0);
    drop(following);
    // The host's future for the container's end goes with the follower.
    end.closed().await;
}
