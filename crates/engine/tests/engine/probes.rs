//! Many short commands, as probes are, and commands that are cut off.

use crate::faults::{init_pid, shim_pid};
use crate::world::{World, eventually, with_world, words};
use cri::{Code, Runtime, v1};
use std::fs;
use std::time::{Duration, Instant};

fn probe(id: &str, script: &str, timeout: i64) -> v1::ExecSyncRequest {
    v1::ExecSyncRequest { container_id: id.into(), cmd: words(script), timeout }
}

fn procs(world: &World, pod: &str, container: &str) -> Vec<i32> {
    let layout = cgroup::Layout::detect().unwrap();
    layout.group(&format!("/{}/pod-{pod}/{container}", world.mark)).procs()
}

fn count(path: &str) -> usize {
    fs::read_dir(path).unwrap().count()
}

/// Descriptors, threads and KiB of private memory of a process.
fn holdings(pid: i32) -> (usize, usize, u64) {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_Dirty"));
    let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum();
    (count(&format!("/proc/{pid}/fd")), count(&format!("/proc/{pid}/task")), kib)
}

#[test]
fn f_e02_a_thousand_probes_leave_nothing() {
    with_world(|world| async move {
        let sandbox = world.sandbox("probed").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let engine = world.engine();
        let shim = shim_pid(&world, &sandbox).as_raw_nonzero().get();
        let once = || async {
            let response = engine.exec_sync(probe(&id, "echo fine", 60)).await.unwrap();
            assert_eq!((&response.stdout[..], response.exit_code), (&b"fine\n"[..], 0));
        };
        for _ in 0..10 {
            once().await;
        }
        let before = holdings(shim);
        let began = Instant::now();
        for _ in 0..1000 {
            once().await;
        }
        println!("one probe: {} us", began.elapsed().as_micros() / 1000);
        let after = holdings(shim);
        assert_eq!((after.0, after.1), (before.0, before.1), "descriptors and threads");
        assert!(after.2 <= before.2 + 32, "{} KiB became {} KiB", before.2, after.2);
        assert_eq!(procs(&world, "probed", &id), [init_pid(&world, &sandbox, &id)]);
        // Descriptors of this process belong to other tests too; the engine's own are the links and pipes of this one.
        let zombies = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
        assert_eq!(zombies.split_whitespace().count(), 1, "{zombies}");
        world
    });
}

/// Each kind of descendant but a daemon, which nothing ties to the command.
const FAMILY: &str = "sleep 1000 & busybox setsid sleep 1000 & (sleep 1000 & sleep 1000 &); busybox setsid sh -c 'sleep 1000 & wait' & wait";

#[test]
fn f_e02_a_command_whose_time_is_over_leaves_nothing() {
    with_world(|world| async move {
        let sandbox = world.sandbox("late").await;
        let id = world.run(&sandbox, "app", "while true; do sleep 0.02; done").await;
        let error = world.engine().exec_sync(probe(&id, FAMILY, 1)).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
        // The container's own are the loop and at times its sleep.
        eventually("the family's end", || async { (procs(&world, "late", &id).len() <= 2).then_some(()) }).await;
        world
    });
}

#[test]
fn f_e02_a_command_that_nobody_waits_for_leaves_nothing() {
    with_world(|world| async move {
        let sandbox = world.sandbox("dropped").await;
        let id = world.run(&sandbox, "app", "while true; do sleep 0.02; done").await;
        for timeout in [0, 100] {
            let engine = world.engine();
            let request = probe(&id, FAMILY, timeout);
            let asked = tokio::spawn(async move { engine.exec_sync(request).await });
            let grown = || async { (procs(&world, "dropped", &id).len() >= 7).then_some(()) };
            eventually("the family", grown).await;
            asked.abort();
            eventually("the family's end", || async { (procs(&world, "dropped", &id).len() <= 2).then_some(()) }).await;
            // At whatever moment it is dropped.
            for micros in [0, 50, 200, 500, 1000, 2000] {
                let engine = world.engine();
                let wait = engine.exec_sync(probe(&id, "sleep 1000", timeout));
                let _ = tokio::time::timeout(Duration::from_micros(micros), wait).await;
            }
            eventually("the end of all", || async { (procs(&world, "dropped", &id).len() <= 2).then_some(()) }).await;
        }
        let shim = shim_pid(&world, &sandbox).as_raw_nonzero().get();
        let children = || fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
        eventually("no zombie", || async { (children().split_whitespace().count() == 1).then_some(()) }).await;
        world
    });
}
