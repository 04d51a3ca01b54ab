//! The subcommands against a running kubelet.

use e2e::{Machine, Options, await_some, await_true, machine, manifests};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

#[test]
fn exec_passes_codes_streams_and_a_terminal_through() {
    let machine = Machine::start(Options::default());
    machine.drop_manifest("a.yaml", &manifests::shell("a", "Always", "exec sleep 1000"));
    machine.await_running("a", "main");
    for code in [0, 1, 42, 255] {
        let output =
            machine.try_cli(&["exec", "a", "--", "/bin/sh", "-c", &format!("echo out; echo err >&2; exit {code}")]);
        assert_eq!(output.status.code(), Some(code));
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    }
    let missing = machine.try_cli(&["exec", "a", "--", "/no/such/program"]);
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"));

    // Standard input, a megabyte of it, ends where ours ends.
    let mut child = Command::new(machine::kubelet_binary())
        .args(["exec", &format!("--run-dir={}", machine.run_dir.display()), "-i", "a", "--", "md5sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("exec -i");
    child.stdin.take().expect("stdin").write_all(&vec![b'x'; 1 << 20]).expect("written");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    let expected =
        Command::new("sh").args(["-c", "head -c 1048576 /dev/zero | tr '\\0' x | md5sum"]).output().expect("md5sum");
    assert_eq!(output.stdout, expected.stdout);

    // A background process that keeps the output open does not hold the session (F-E01).
    assert_eq!(machine.cli(&["exec", "a", "--", "/bin/sh", "-c", "sleep 900 & echo done"]), "done\n");

    // `script` gives us a terminal: the command has one too, of the size we have, and its code comes back.
    let inner = format!(
        "stty rows 33 cols 77; {} exec --run-dir={} -it a -- /bin/sh -c 'tty; stty size; exit 7'",
        machine::kubelet_binary().display(),
        machine.run_dir.display()
    );
    let output =
        Command::new("script").args(["-qec", &inner, "/dev/null"]).stdin(Stdio::null()).output().expect("script");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(seen.contains("/dev/pts/"), "{seen}");
    assert!(seen.contains("33 77"), "{seen}");
    assert_eq!(output.status.code(), Some(7), "{seen}");
    machine.finish();
}

#[test]
fn a_terminal_that_gives_no_input_stays_ours_and_ctrl_c_leaves() {
    let machine = Machine::start(Options::default());
    let script = "while :; do echo here; sleep 0.1; done";
    machine.drop_manifest("a.yaml", &(manifests::shell("a", "Always", script) + "    tty: true\n"));
    machine.await_running("a", "main");
    for rest in ["attach -t {} a".to_owned(), format!("exec -t {{}} a -- /bin/sh -c '{script}'")] {
        let run_dir = format!("--run-dir={}", machine.run_dir.display());
        // SIGINT may be ignored by whoever started the tests, as a shell does for what runs in the background.
        let kubelet = format!("env --default-signal=INT {}", machine::kubelet_binary().display());
        let inner = format!("{kubelet} {}", rest.replace("{}", &run_dir));
        let mut command = Command::new("script");
        command.args(["-qec", &inner, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("script");
        let mut told = BufReader::new(child.stdout.take().expect("stdout"));
        // Whoever attaches may come in the middle of a line.
        let mut lines = told.by_ref().lines().map(|line| line.expect("what the container says"));
        assert!(lines.any(|line| line.trim_end() == "here"), "{inner}");
        // What it goes on to say is read, or nobody could end it.
        std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
        // ETX: Ctrl-C of whoever sits at the terminal.
        child.stdin.as_mut().expect("stdin").write_all(b"\x03").expect("written");
        await_true("Ctrl-C leaves", || child.try_wait().expect("asked").is_some());
    }
    machine.finish();
}

#[test]
fn logs_show_this_attempt_and_the_one_before() {
    let machine = Machine::start(Options::default());
    let script = "n=$(cat /v/n 2>/dev/null || echo 0); echo $((n + 1)) > /v/n; echo attempt $n; [ $n = 0 ] && exit 5; exec sleep 1000";
    let text = manifests::shell("a", "Always", script)
        + "    volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, emptyDir: {}}]\n";
    machine.drop_manifest("a.yaml", &text);
    let status = machine.await_container("a", "main", |s| s["restartCount"] == 1 && !s["state"]["running"].is_null());
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 5);
    await_true("the second attempt speaks", || machine.cli(&["logs", "a"]) == "attempt 1\n");
    assert_eq!(machine.cli(&["logs", "-p", "a"]), "attempt 0\n");
    let stamped = machine.cli(&["logs", "--timestamps", "a"]);
    assert!(stamped.ends_with("Z attempt 1\n"), "{stamped}");
    machine.finish();
}

#[test]
fn check_validates_without_a_kubelet() {
    let dir = std::env::temp_dir().join(format!("kubelet-e2e-check-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("made");
    let check = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).expect("written");
        let output = Command::new(machine::kubelet_binary()).arg("check").arg(dir.join(name)).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let good = manifests::shell("a", "Always", "true");
    assert_eq!(check("good.yaml", &good).0, Some(0));
    for (bad, expected) in [
        (good.replace("restartPolicy: Always", "restartPolicy: Sometimes"), "spec.restartPolicy"),
        (good.replace("imagePullPolicy", "imagePullPolice"), "imagePullPolice"),
        (good.replace("name: main", "name: Main"), "spec.containers[0].name"),
        (good.clone() + "    livenessProbe: {periodSeconds: 5}\n", "livenessProbe"),
        (
            good.clone() + "    readinessProbe: {exec: {command: [x]}, terminationGracePeriodSeconds: 1}\n",
            "readinessProbe",
        ),
        (good.clone() + "  initContainers: [{name: main, image: busybox}]\n", "another container has this name"),
        (good.clone() + "  runtimeClassName: other\n", "not supported yet"),
        (good.clone() + "    volumeMounts: [{name: v, mountPath: /v}]\n", "volumeMounts"),
    ] {
        let (code, told) = check("bad.yaml", &bad);
        assert_eq!(code, Some(1), "{bad}");
        assert!(told.contains(expected) && told.contains("bad.yaml"), "{told}");
    }
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn images_are_imported_listed_used_and_removed() {
    let machine = Machine::start(Options { images: vec![], ..Options::default() });
    machine.drop_manifest("a.yaml", &manifests::shell("a", "Always", "exec sleep 1000"));
    let status = machine.await_container("a", "main", |status| {
        ["ErrImagePull", "ImagePullBackOff"].iter().any(|reason| status["state"]["waiting"]["reason"] == *reason)
    });
    assert!(
        status["state"]["waiting"]["message"].as_str().is_some_and(|message| message.contains("busybox")),
        "{status}"
    );
    let archive = machine::image_archive("busybox").display().to_string();
    assert!(machine.cli(&["image", "import", &archive]).contains("docker.io/library/busybox:latest"));
    machine.await_running("a", "main");
    assert!(machine.cli(&["image", "list"]).contains("docker.io/library/busybox:latest"));
    let refused = machine.try_cli(&["image", "remove", "busybox"]);
    assert!(!refused.status.success(), "an image in use is not removed");
    machine.remove_manifest("a.yaml");
    machine.await_no_pods();
    await_some("it is removed once unused", || {
        let output = machine.try_cli(&["image", "remove", "busybox"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    assert!(!machine.cli(&["image", "list"]).contains("busybox"));
    machine.finish();
}
