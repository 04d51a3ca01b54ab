//! What a container prints.

use crate::harness::{contents, sandbox};
use shim::protocol::{ExitStatus, Log};
use std::fs;

#[test]
fn f_e04_every_byte_is_in_the_log_before_the_end_is_told() {
    let Some(mut sandbox) = sandbox() else { return };
    for (round, length) in [0, 1, 4095, 4096, 16_384, 65_537, 1 << 20].into_iter().enumerate() {
        let data: Vec<u8> = (0..length).map(|at| if at % 97 == 96 { b'\n' } else { b'a' + (at % 23) as u8 }).collect();
        fs::write(sandbox.layer("data"), &data).unwrap();
        for (stream, script) in [("out", "cat /data"), ("err", "cat /data >&2")] {
            let id = format!("c{round}{stream}");
            let spec = sandbox.spec(&id, script);
            let (exit, _) = sandbox.run(&spec);
            assert_eq!(exit, ExitStatus::Code(0));
            let log = fs::read(sandbox.path(&format!("{id}.log"))).unwrap();
            let mut expected = data.clone();
            if !data.is_empty() && !data.ends_with(b"\n") {
                expected.push(b'\n');
            }
            assert!(contents(&log) == expected, "{length} bytes on std{stream}");
            assert!(log.is_empty() || String::from_utf8_lossy(&log).contains(&format!(" std{stream} F ")));
            sandbox.forget(&id);
        }
    }
}

#[test]
fn f_log_rotation_loses_no_line() {
    let Some(mut sandbox) = sandbox() else { return };
    let logs = sandbox.path("logs");
    fs::create_dir(&logs).unwrap();
    let mut spec = sandbox.spec("c", "seq 1 20000");
    spec.log = Some(Log { path: logs.join("0.log"), max_bytes: 64 * 1024, max_files: 1000 });
    sandbox.start(&spec).unwrap();
    sandbox.client.exited("c");
    let mut files: Vec<_> = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    files.rotate_left(1);
    let text: Vec<u8> = files.iter().flat_map(|file| contents(&fs::read(file).unwrap())).collect();
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(text == expected.as_bytes());
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 64 * 1024 + 32 * 1024);
    }
}

#[test]
fn only_the_newest_files_are_kept() {
    let Some(mut sandbox) = sandbox() else { return };
    let logs = sandbox.path("logs");
    fs::create_dir(&logs).unwrap();
    let mut spec = sandbox.spec("c", "seq 1 20000");
    spec.log = Some(Log { path: logs.join("0.log"), max_bytes: 32 * 1024, max_files: 3 });
    sandbox.start(&spec).unwrap();
    sandbox.client.exited("c");
    let mut files: Vec<_> = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.rotate_left(1);
    assert_eq!(files.len(), 3);
    let text: Vec<u8> = files.iter().flat_map(|file| contents(&fs::read(file).unwrap())).collect();
    assert!(text.ends_with(b"\n20000\n"));
}

#[test]
fn s_f03_a_container_that_floods_its_log_starves_nobody() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut flood = sandbox.spec("flood", "yes | head -c 200000000 | cat; exec yes");
    flood.log = Some(Log { path: sandbox.path("flood.log"), max_bytes: 1 << 20, max_files: 2 });
    sandbox.start(&flood).unwrap();
    let rss = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    for round in 0..20 {
        let id = format!("c{round}");
        let spec = sandbox.spec(&id, "echo here");
        assert_eq!(sandbox.prints(&spec), "here\n");
        sandbox.forget(&id);
    }
    assert!(rss(sandbox.shim_pid()) < 4096, "the shim has {} kB", rss(sandbox.shim_pid()));
}

#[test]
fn s_f01_a_log_that_is_a_link_is_not_written() {
    let Some(mut sandbox) = sandbox() else { return };
    let canary = sandbox.path("canary");
    fs::write(&canary, "secret").unwrap();
    std::os::unix::fs::symlink(&canary, sandbox.path("c.log")).unwrap();
    let spec = sandbox.spec("c", "echo attack");
    sandbox.failure(&spec);
    assert_eq!(fs::read_to_string(&canary).unwrap(), "secret");
    fs::remove_file(sandbox.path("c.log")).unwrap();
    assert_eq!(sandbox.prints(&spec), "attack\n");
}
