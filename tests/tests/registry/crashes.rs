//! `kill -9` at any moment of a pull: an image that is listed is whole, and the pod gets up.

use crate::{finish, machine, pod, random_layer, verifying};
use e2e::dice::{Dice, number_from_env};
use e2e::oci::{self, Image, Packing};
use e2e::registry::{self, Access, Proxy, Registry, Wire};
use e2e::{Machine, await_some};
use serde_json::json;
use std::time::{Duration, Instant};

const LAYERS: usize = 5;

/// `KILLS` says how often; 20 times in CI, else 50.
#[test]
fn a_kubelet_killed_in_a_pull_lists_only_what_is_whole() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let kills = number_from_env("KILLS", if std::env::var_os("CI").is_some() { 20 } else { 50 });
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let proxy = Proxy::start(&registry);
    let mut layers = vec![oci::busybox(Packing::Gzip)];
    layers.extend((0..LAYERS).map(|number| random_layer(&mut dice, &number.to_string(), 200 << 10)));
    let image = Image::new(layers);
    registry.put("crash/app:1", &image);
    let name = format!("{}/crash/app:1", proxy.host());
    let total: u64 = image.blobs().map(|blob| blob.bytes.len() as u64).sum();
    let mut machine = machine(&[]);
    let tail = after_the_last_byte(&machine, &proxy, (&name, total));
    let mut listed = 0;
    for round in 0..kills {
        let mut container = verifying(LAYERS);
        container["imagePullPolicy"] = json!("IfNotPresent");
        container["spec"] = json!({"restartPolicy": "Never"});
        // At a byte of the download, held there; or any moment from the last of its bytes on.
        let held = dice.chance(60);
        let bytes = if held { dice.below(total) } else { total };
        proxy.stop_after(bytes);
        pod(&machine, "crash", &name, &container);
        proxy.await_passed(bytes);
        let moments = if held { Duration::from_millis(3) } else { tail * 3 / 2 };
        let until = Instant::now() + Duration::from_micros(dice.below(moments.as_micros() as u64 + 1));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        machine.kill_kubelet();
        proxy.heal();
        // As the disk was left: what is listed now must be whole without the registry.
        machine.remove_manifest("crash.yaml");
        proxy.forget();
        machine.start_kubelet();
        let there = machine.cli(&["image", "list"]).contains("crash/app");
        listed += usize::from(there);
        machine.await_no_pods();
        pod(&machine, "crash", &name, &container);
        machine.await_phase("crash", "Succeeded");
        if there {
            assert!(
                proxy.blobs().is_empty(),
                "round {round}: an image that was listed was fetched: {:#?}",
                proxy.blobs()
            );
        }
        clear(&machine);
    }
    println!("listed after {listed} of {kills} kills");
    finish(machine);
}

/// How long an image takes from the last of its bytes until it is listed, so that both sides of that moment are met.
fn after_the_last_byte(machine: &Machine, proxy: &Proxy, (name, bytes): (&str, u64)) -> Duration {
    proxy.stop_after(bytes);
    pod(machine, "crash", name, &json!({"command": ["true"], "spec": {"restartPolicy": "Never"}}));
    proxy.await_passed(bytes);
    let begun = Instant::now();
    await_some("the image is listed", || {
        let listed = machine.cli(&["image", "list"]);
        if listed.contains("crash/app") { Ok(()) } else { Err(listed) }
    });
    let took = begun.elapsed();
    proxy.heal();
    machine.await_phase("crash", "Succeeded");
    clear(machine);
    took
}

/// No pod, no image, and nothing half-done: the next round begins from nothing.
fn clear(machine: &Machine) {
    machine.remove_manifest("crash.yaml");
    machine.await_no_pods();
    await_some("the image can go", || {
        machine.cli(&["image", "prune"]);
        let listed = machine.cli(&["image", "list"]);
        if listed.contains("crash/app") { Err(listed) } else { Ok(()) }
    });
    for dir in ["ingest", "layers"] {
        let path = machine.dir.join("root/image-store").join(dir);
        await_some(&format!("{dir} is empty"), || {
            let left: Vec<_> = std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}
