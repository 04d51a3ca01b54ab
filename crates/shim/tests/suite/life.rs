//! Start, end, stop.

use crate::harness::{Client, sandbox, wait_for_log};
use cgroup::Limits;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use shim::protocol::{
    ExitRecord, ExitStatus, FailureKind, PidNamespace, Request, Response, ShimRecord, VERSION, records,
};
use std::fs;

fn stop(container: &str, signal: i32, grace_ms: u64) -> Request {
    Request::Stop { container: container.into(), signal, grace_ms }
}

#[test]
fn f_b05_every_end_is_told_and_recorded_as_it_was() {
    let Some(mut sandbox) = sandbox() else { return };
    for (number, (script, expected)) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 1", ExitStatus::Code(1)),
        ("exit 137", ExitStatus::Code(137)),
        ("exit 255", ExitStatus::Code(255)),
        // Init ignores signals it has no handler for, so a child dies of them and init passes the number on.
        ("sh -c 'kill -TERM $$'; exit $?", ExitStatus::Code(143)),
        ("sleep 0", ExitStatus::Code(0)),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("c{number}");
        let spec = sandbox.spec(&id, script);
        let started = sandbox.start(&spec).unwrap();
        let record = sandbox.client.exited(&id);
        assert_eq!(record.exit, expected, "{script}");
        assert!(!record.oom_killed);
        assert!(record.finished_at_ns >= started.started_at_ns && started.start_ticks > 0);
        let on_disk = fs::read(sandbox.container_dir(&id).join(records::EXIT)).unwrap();
        assert_eq!(postcard::from_bytes::<ExitRecord>(&on_disk).unwrap(), record);
        let on_disk = fs::read(sandbox.container_dir(&id).join(records::STARTED)).unwrap();
        assert_eq!(postcard::from_bytes::<shim::protocol::StartedRecord>(&on_disk).unwrap(), started);
        sandbox.forget(&id);
    }
}

#[test]
fn b_03_a_start_that_is_asked_for_once_more_is_one_start() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = sandbox.spec("c", "echo begun; exec sleep 600");
    let started = sandbox.start(&spec).unwrap();
    wait_for_log(&sandbox.path("c.log"), "begun");
    let again = || Request::Start { container: "c".into() };
    assert!(matches!(sandbox.client.ask(again()), Response::Started(record) if record == started));
    sandbox.client.ask(stop("c", 9, 0));
    let ended = sandbox.client.exited("c");
    assert!(matches!(sandbox.client.ask(again()), Response::Started(record) if record == started));
    let Response::Containers(states) = sandbox.client.ask(Request::List) else { panic!("a list") };
    assert_eq!(states.iter().map(|state| state.exit.clone()).collect::<Vec<_>>(), [Some(ended)]);
    assert_eq!(sandbox.output("c"), "begun\n");
}

#[test]
fn a_signal_without_a_pid_namespace_is_reported_as_one() {
    let Some(mut sandbox) = sandbox() else { return };
    for signal in [1, 2, 3, 6, 9, 15, 34] {
        let id = format!("s{signal}");
        let mut spec = sandbox.spec(&id, "");
        spec.process.args = vec!["sleep".into(), "600".into()];
        spec.pid_ns = PidNamespace::Host;
        sandbox.limit(&mut spec, Limits::default());
        sandbox.start(&spec).unwrap();
        sandbox.client.ask(stop(&id, signal, 60_000));
        assert_eq!(sandbox.client.exited(&id).exit, ExitStatus::Signal(signal as u8));
    }
}

#[test]
fn f_b02_a_container_that_ignores_sigterm_is_killed_when_the_grace_ends() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = sandbox.spec("deaf", "trap 'echo heard' TERM; echo ready; while :; do sleep 600 & wait; done");
    sandbox.start(&spec).unwrap();
    wait_for_log(&sandbox.path("deaf.log"), "ready");
    sandbox.client.ask(stop("deaf", 15, 300_000));
    wait_for_log(&sandbox.path("deaf.log"), "heard");
    // Longer does not lengthen; shorter does shorten, and nothing is signalled twice.
    sandbox.client.ask(stop("deaf", 15, 900_000));
    sandbox.client.ask(stop("deaf", 15, 50));
    assert_eq!(sandbox.client.exited("deaf").exit, ExitStatus::Signal(9));
    assert_eq!(sandbox.output("deaf"), "ready\nheard\n");
    assert!(matches!(sandbox.client.ask(stop("deaf", 15, 0)), Response::Done));
}

#[test]
fn no_grace_means_sigkill_at_once() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = sandbox.spec("c", "trap 'echo heard' TERM; echo ready; sleep 600 & wait");
    sandbox.start(&spec).unwrap();
    wait_for_log(&sandbox.path("c.log"), "ready");
    sandbox.client.ask(stop("c", 15, 0));
    assert_eq!(sandbox.client.exited("c").exit, ExitStatus::Signal(9));
    assert_eq!(sandbox.output("c"), "ready\n");
}

#[test]
fn f_b06_only_an_oom_kill_of_init_is_one_of_the_container() {
    let Some(mut sandbox) = sandbox() else { return };
    let grow = "x=0123456789abcdef; while :; do x=$x$x; done";
    for (id, script, exit, oom) in [
        ("init", grow.to_owned(), ExitStatus::Signal(9), true),
        ("child", format!("(sh -c '{grow}'); exit 3"), ExitStatus::Code(3), false),
    ] {
        let mut spec = sandbox.spec(id, &script);
        sandbox.limit(&mut spec, Limits { memory_bytes: Some(32 << 20), ..Limits::default() });
        sandbox.start(&spec).unwrap();
        let record = sandbox.client.exited(id);
        assert_eq!((record.exit, record.oom_killed), (exit, oom), "{id}");
    }
}

#[test]
fn f_e01_a_background_process_that_keeps_the_output_open_delays_nothing() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec("c", "sleep 600 & echo $!");
    spec.pid_ns = PidNamespace::Host;
    // Without a control group nobody kills the rest, so it holds the pipe.
    spec.cgroups = vec![];
    sandbox.start(&spec).unwrap();
    assert_eq!(sandbox.client.exited("c").exit, ExitStatus::Code(0));
    let pid = sandbox.output("c").trim().parse().unwrap();
    // The test ends what the missing control group did not.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn f_g02_the_engine_may_go_and_come_back() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = sandbox.spec("c", "echo ready; sleep 600");
    let started = sandbox.start(&spec).unwrap();
    sandbox.client = Client::connect(sandbox.dir.path());
    let Response::Containers(list) = sandbox.client.ask(Request::List) else { panic!("no list") };
    assert_eq!((list.len(), list[0].started.as_ref(), list[0].exit.is_some()), (1, Some(&started), false));
    let mut second = Client::connect(sandbox.dir.path());
    sandbox.client.ask(stop("c", 9, 0));
    assert_eq!(second.exited("c"), sandbox.client.exited("c"));
    let Response::Containers(list) = second.ask(Request::List) else { panic!("no list") };
    assert_eq!(list[0].exit.as_ref().unwrap().exit, ExitStatus::Signal(9));
}

#[test]
fn f_g07_signals_do_not_end_the_shim_and_containers_do_not_inherit_that() {
    let Some(mut sandbox) = sandbox() else { return };
    let record: ShimRecord = postcard::from_bytes(&fs::read(sandbox.path(records::SHIM)).unwrap_or_default())
        .unwrap_or_else(|_| {
            // The record is written before the first answer.
            sandbox.client.ask(Request::List);
            postcard::from_bytes(&fs::read(sandbox.path(records::SHIM)).unwrap()).unwrap()
        });
    assert_eq!((record.version, record.pid), (VERSION, sandbox.shim_pid()));
    sandbox.client.ask(Request::List);
    let shim = Pid::from_raw(sandbox.shim_pid()).unwrap();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::PIPE] {
        kill_process(shim, signal).unwrap();
    }
    let mut spec = sandbox.spec("c", "");
    spec.process.args = ["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"].map(str::to_owned).to_vec();
    let zeros = "0000000000000000";
    assert_eq!(sandbox.prints(&spec), format!("SigBlk:\t{zeros}\nSigIgn:\t{zeros}\n"));
    test_kill_process(shim).unwrap();
}

#[test]
fn malformed_messages_close_the_connection_and_nothing_else() {
    let Some(mut sandbox) = sandbox() else { return };
    for bytes in [vec![0xff; 10], vec![0; 60_000], vec![1]] {
        let client = Client::connect(sandbox.dir.path());
        client.send_raw(&bytes, &[]);
        assert!(client.receive().is_none());
    }
    let null = fs::File::open("/dev/null").unwrap();
    use std::os::fd::AsFd;
    let many = [null.as_fd(); 8];
    let (response, _) = sandbox.client.ask_with(Request::List, &many);
    assert!(matches!(response, Response::Containers(list) if list.is_empty()));
}

#[test]
fn only_so_many_connections_are_kept() {
    let Some(mut sandbox) = sandbox() else { return };
    sandbox.client.ask(Request::List);
    let mut others: Vec<Client> = (0..7).map(|_| Client::connect(sandbox.dir.path())).collect();
    for client in &mut others {
        client.ask(Request::List);
    }
    assert!(Client::connect(sandbox.dir.path()).receive().is_none());
    sandbox.client.ask(Request::List);
}

#[test]
fn requests_that_cannot_be_met_are_answered_with_the_reason() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = sandbox.spec("c", "echo ready; sleep 600");
    sandbox.start(&spec).unwrap();
    for (request, kind) in [
        (Request::Start { container: "none".into() }, FailureKind::NotFound),
        (Request::Start { container: "../c".into() }, FailureKind::Refused),
        (stop("none", 15, 0), FailureKind::NotFound),
        (stop("c", 0, 0), FailureKind::Refused),
        (stop("c", 65, 10), FailureKind::Refused),
        (Request::KillExec { exec: "none".into() }, FailureKind::NotFound),
        (Request::Forget { container: "c".into() }, FailureKind::NotFound),
        (Request::Shutdown, FailureKind::Refused),
    ] {
        let text = format!("{request:?}");
        let Response::Failed(failure) = sandbox.client.ask(request) else { panic!("{text}") };
        assert_eq!(failure.kind, kind, "{text}: {failure}");
    }
    assert!(matches!(sandbox.client.ask(Request::Forget { container: "none".into() }), Response::Done));
}

#[test]
fn a_spec_that_cannot_be_read_is_refused() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = sandbox.spec("c", "true");
    sandbox.write_spec(&spec);
    let path = sandbox.container_dir("c").join(records::SPEC);
    let good = fs::read(&path).unwrap();
    let other_version = [&[99], &good[1..]].concat();
    let other_id = postcard::to_stdvec(&sandbox.spec("d", "true")).unwrap();
    for bytes in [&b""[..], &good[..good.len() / 2], &other_version, &other_id, &vec![1; 5 << 20]] {
        fs::write(&path, bytes).unwrap();
        let Response::Failed(failure) = sandbox.client.ask(Request::Start { container: "c".into() }) else {
            panic!("{} bytes", bytes.len())
        };
        assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
    }
}

#[test]
fn an_entrypoint_that_cannot_run_is_told_and_its_name_is_free_again() {
    let Some(mut sandbox) = sandbox() else { return };
    fs::write(sandbox.layer("plain"), "text").unwrap();
    for (args, errno) in [
        (&["/none"][..], libc::ENOENT),
        (&["none"], 0),
        (&["/plain"], libc::EACCES),
        (&["/etc"], libc::EACCES),
        (&[], 0),
        (&[""], 0),
    ] {
        let mut spec = sandbox.spec("c", "");
        spec.process.args = args.iter().map(|&arg| arg.to_owned()).collect();
        let failure = sandbox.failure(&spec);
        assert_eq!((failure.kind, failure.errno), (FailureKind::Entrypoint, errno), "{args:?}: {failure}");
    }
    let mut spec = sandbox.spec("c", "");
    spec.process.args = vec!["echo".into(), "x".repeat(2 << 20)];
    assert_eq!(sandbox.failure(&spec).errno, libc::E2BIG);
    let spec = sandbox.spec("c", "echo fine");
    assert_eq!(sandbox.prints(&spec), "fine\n");
}

#[test]
fn s_d16_a_killed_shim_leaves_no_mounts_on_the_host() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec("c", "echo ready; sleep 600");
    sandbox.limit(&mut spec, Limits::default());
    let started = sandbox.start(&spec).unwrap();
    wait_for_log(&sandbox.path("c.log"), "ready");
    sandbox.kill_shim();
    // The container lives on until somebody kills its control group: here the sandbox does.
    test_kill_process(Pid::from_raw(started.pid).unwrap()).unwrap();
    assert!(sandbox.client.receive().is_none());
}

#[test]
fn many_short_containers_leave_nothing_behind() {
    let Some(mut sandbox) = sandbox() else { return };
    let fds = |pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    sandbox.client.ask(Request::List);
    let before = fds(sandbox.shim_pid());
    for round in 0..50 {
        let id = format!("c{round}");
        let spec = sandbox.spec(&id, &format!("echo {round}; exit {round}"));
        let (exit, output) = sandbox.run(&spec);
        assert_eq!((exit, output), (ExitStatus::Code(round), format!("{round}\n")));
        sandbox.forget(&id);
    }
    assert_eq!(fds(sandbox.shim_pid()), before);
}
