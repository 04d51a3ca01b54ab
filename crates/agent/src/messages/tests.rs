use std::fs;

use super::*;
use crate::testing::TempDir;

struct Bed {
    dir: TempDir,
    messages: Messages,
    next: u32,
}

impl Bed {
    fn new() -> Self {
        let dir = TempDir::new();
        Self { messages: Messages::new(dir.path()), dir, next: 0 }
    }

    fn container_dir(&self) -> PathBuf {
        pods_dir(self.dir.path()).join("u").join("containers").join("c")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("0.log")
    }

    /// An ended container, each with its own id.
    fn ended(&mut self, exit_code: i32, policy: &str) -> v1::ContainerStatus {
        self.next += 1;
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        v1::ContainerStatus {
            id: format!("id{}", self.next),
            state: v1::ContainerState::ContainerExited as i32,
            exit_code,
            labels: map(&[(keys::POD_UID, "u"), (keys::CONTAINER_NAME, "c")]),
            annotations: map(&[
                (keys::CONTAINER_RESTART_COUNT, "0"),
                (keys::CONTAINER_TERMINATION_MESSAGE_POLICY, policy),
            ]),
            log_path: self.log().to_str().unwrap().to_owned(),
            ..Default::default()
        }
    }
}

fn line(tag: &str, text: &str) -> String {
    format!("2016-10-06T00:17:09.669794202Z stdout {tag} {text}\n")
}

#[test]
fn the_file_is_read_and_else_the_log_if_it_may_be() {
    let mut bed = Bed::new();
    let path = make(&bed.container_dir(), 0).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    fs::write(bed.log(), [line("F", "one"), line("P", "tw"), line("F", "o")].concat()).unwrap();
    let table = [
        ("", 0, "File", ""),
        ("", 1, "File", ""),
        ("", 0, FALL_BACK_TO_LOGS, ""),
        ("", 1, FALL_BACK_TO_LOGS, "one\ntwo\n"),
        ("DONE", 0, "File", "DONE"),
        ("DONE", 0, FALL_BACK_TO_LOGS, "DONE"),
        ("DONE", 1, FALL_BACK_TO_LOGS, "DONE"),
    ];
    for (text, code, policy, expected) in table {
        fs::write(&path, text).unwrap();
        let status = bed.ended(code, policy);
        assert_eq!(bed.messages.of(&status), expected, "{text:?} {code} {policy}");
    }
}

#[test]
fn the_runtimes_own_words_come_first() {
    let mut bed = Bed::new();
    let path = make(&bed.container_dir(), 0).unwrap();
    let status = v1::ContainerStatus { message: "no such file".into(), ..bed.ended(128, "File") };
    assert_eq!(bed.messages.of(&status), "no such file");
    fs::write(path, "mine").unwrap();
    let status = v1::ContainerStatus { message: "no such file".into(), ..bed.ended(128, "File") };
    assert_eq!(bed.messages.of(&status), "no such file: mine");
    fs::write(bed.log(), line("F", "logged")).unwrap();
    let cannot = v1::ContainerStatus { reason: "ContainerCannotRun".into(), ..bed.ended(128, FALL_BACK_TO_LOGS) };
    fs::remove_file(bed.container_dir().join("00000000")).unwrap();
    assert_eq!(bed.messages.of(&cannot), "");
}

#[test]
fn what_was_said_first_is_kept_and_a_running_container_has_said_nothing() {
    let mut bed = Bed::new();
    let path = make(&bed.container_dir(), 0).unwrap();
    fs::write(&path, "first").unwrap();
    let ended = bed.ended(0, "File");
    let running = v1::ContainerStatus { state: v1::ContainerState::ContainerRunning as i32, ..ended.clone() };
    assert_eq!(bed.messages.of(&running), "");
    assert_eq!(bed.messages.of(&ended), "first");
    fs::write(&path, "second").unwrap();
    assert_eq!(bed.messages.of(&ended), "first");
    for _ in 0..KEPT_MAX {
        let other = bed.ended(0, "File");
        bed.messages.of(&other);
    }
    assert_eq!(bed.messages.kept.lock().unwrap().messages.len(), KEPT_MAX);
    assert_eq!(bed.messages.of(&ended), "second", "dropped, and read again");
}

#[test]
fn s_a07_a_message_is_cut_to_4096_bytes_and_a_log_to_80_lines_and_2048_bytes() {
    let mut bed = Bed::new();
    let path = make(&bed.container_dir(), 0).unwrap();
    fs::write(&path, [vec![b'x'; 1 << 20], b"the end".to_vec()].concat()).unwrap();
    let status = bed.ended(0, "File");
    let message = bed.messages.of(&status);
    assert_eq!(message.len(), 4_096);
    assert!(message.ends_with("xthe end"));
    fs::write(&path, b"\xff\xfe").unwrap();
    let status = bed.ended(0, "File");
    assert_eq!(bed.messages.of(&status), "\u{fffd}\u{fffd}");

    fs::write(&path, "").unwrap();
    fs::write(bed.log(), (0..100).map(|n| line("F", &n.to_string())).collect::<String>()).unwrap();
    let status = bed.ended(1, FALL_BACK_TO_LOGS);
    let lines: Vec<String> = bed.messages.of(&status).lines().map(str::to_owned).collect();
    assert_eq!((lines.len(), lines[0].as_str(), lines[79].as_str()), (80, "20", "99"));
    fs::write(bed.log(), [line("F", "early"), line("P", &"y".repeat(16 << 10)), line("F", "z")].concat()).unwrap();
    let status = bed.ended(1, FALL_BACK_TO_LOGS);
    let message = bed.messages.of(&status);
    assert_eq!(message.len(), 2_048);
    assert!(message.ends_with("yyz\n") && message.starts_with('y'));
    fs::write(bed.log(), vec![b'\n'; 1 << 20]).unwrap();
    let status = bed.ended(1, FALL_BACK_TO_LOGS);
    assert_eq!(bed.messages.of(&status), "");
}

#[test]
fn no_link_is_followed_and_no_label_leads_elsewhere() {
    let mut bed = Bed::new();
    let secret = bed.dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::create_dir_all(bed.container_dir()).unwrap();
    std::os::unix::fs::symlink(&secret, bed.container_dir().join("00000000")).unwrap();
    let status = bed.ended(0, "File");
    assert!(!bed.messages.of(&status).contains("secret"));
    make(&bed.container_dir(), 0).unwrap_err();
    for (key, value) in [(keys::POD_UID, "../pods/u"), (keys::CONTAINER_NAME, ".."), (keys::CONTAINER_NAME, "a/b")] {
        let mut status = bed.ended(0, "File");
        status.labels.insert(key.into(), value.into());
        assert_eq!(bed.messages.of(&status), "", "{value}");
    }
}

#[test]
fn files_of_attempts_before_the_last_are_removed() {
    let bed = Bed::new();
    for attempt in [0, 1, 9, 10, 11, 11] {
        make(&bed.container_dir(), attempt).unwrap();
    }
    let mut names: Vec<String> = fs::read_dir(bed.container_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["0000000a", "0000000b"]);
}

#[test]
fn s_f01_docker_s_own_log_is_read_through_root_s_link_and_no_other() {
    let mut bed = Bed::new();
    let piece = |text: &str| format!("{}\n", serde_json::json!({"log": text, "stream": "stdout", "time": "x"}));
    let lines: String = (0..100).map(|n| piece(&format!("{n}\n"))).collect();
    for (name, expected) in [("id1/id1-json.log", true), ("id2/x-json.log", false), ("x/id3-json.log", false)] {
        let status = bed.ended(1, FALL_BACK_TO_LOGS);
        let target = bed.dir.path().join(name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(&target, ["cut\"}\n", lines.as_str(), &piece("two "), &piece("pieces")].concat()).unwrap();
        let _absent = fs::remove_file(bed.log());
        std::os::unix::fs::symlink(&target, bed.log()).unwrap();
        // Anybody's link is not followed, where a test can make one that is not root's.
        let is_root = rustix::process::geteuid().is_root();
        let said = bed.messages.of(&status);
        assert_eq!(said.ends_with("99\ntwo pieces\n") && said.starts_with("21\n"), expected && is_root, "{said}");
        assert!(said.is_empty() != (expected && is_root), "{said}");
    }
}
