//! `kill -9` at any moment of a pull: an image that is listed is whole, and the pod gets up.

use crate::{finish, machine, pod, random_layer, verifying};
use e2e::dice::{Dice, number_from_env};
use e2e::oci::{self, Image, Packing};
use e2e::registry::{self, Access, Proxy, Registry, Wire};
use e2e::{Machine, await_some};
use serde_json::json;
use std::time::{Duration, Instant};

const LAYERS: usize = 5;

/// `KILLS` says how often.
#[test]
fn a_kubelet_killed_in_a_pull_lists_only_what_is_whole() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let kills = number_from_env("KILLS", 50);
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let proxy = Proxy::start(&registry);
    let mut layers = vec![oci::busybox(Packing::Gzip)];
    layers.extend((0..LAYERS).map(|number| random_layer(&mut dice, &number.to_string(), 40 << 10)));
    let image = Image::new(layers);
    registry.put("crash/app:1", &image);
    let name = format!("{}/crash/app:1", proxy.host());
    let total: u64 = image.blobs().map(|blob| blob.bytes.len() as u64).sum();
    let mut machine = machine(&[]);
    let mut tail = after_the_last_byte(&machine, &proxy, (&name, total));
    let mut container = verifying(LAYERS);
    container["imagePullPolicy"] = json!("IfNotPresent");
    container["spec"] = json!({"restartPolicy": "Never"});
    let mut listed = 0;
    proxy.stop_after(0);
    pod(&machine, "crash", &name, &container);
    for round in 0..kills {
        // At a byte of the download, held there; or any moment from the last of its bytes on.
        let held = dice.chance(50);
        let bytes = if held { dice.below(total) } else { total };
        proxy.stop_after(bytes);
        proxy.await_passed(bytes);
        let moments = if held { Duration::from_millis(3) } else { tail * 3 / 2 };
        let until = Instant::now() + Duration::from_micros(dice.below(moments.as_micros() as u64 + 1));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        machine.kill_kubelet();
        proxy.cut();
        // As the disk was left: nothing comes until it is known what is listed. The pod goes on where it was.
        proxy.stop_after(0);
        proxy.forget();
        machine.start_kubelet();
        let there = machine.cli(&["image", "list"]).contains("crash/app");
        if !held {
            // Whatever else the machine does meanwhile: the moments close in on the one at which the image is there.
            tail = if there { tail * 4 / 5 } else { tail * 5 / 4 };
        }
        if !there {
            forget_layers(&mut machine, &proxy);
            continue;
        }
        listed += 1;
        proxy.heal();
        machine.await_phase("crash", "Succeeded");
        let fetched = proxy.blobs();
        assert!(fetched.is_empty(), "round {round}: an image that was listed was fetched: {fetched:#?}");
        clear(&machine);
        proxy.stop_after(0);
        pod(&machine, "crash", &name, &container);
    }
    println!("listed after {listed} of {kills} kills");
    assert!(listed > 0 || kills < 50, "no kill came after the image was there: nothing was seen");
    // What the last of them left is no worse than nothing.
    proxy.heal();
    machine.await_phase("crash", "Succeeded");
    finish(machine);
}

/// What a kill within the commit left in its place stays until the machine boots, as containers may have it, and is not
/// fetched again: the next rounds would wait for its bytes.
fn forget_layers(machine: &mut Machine, proxy: &Proxy) {
    let store = machine.dir.join("root/image-store");
    if std::fs::read_dir(store.join("layers")).expect("layers").next().is_none() {
        return;
    }
    machine.kill_kubelet();
    proxy.cut();
    for dir in ["layers", "layer-records"] {
        std::fs::remove_dir_all(store.join(dir)).expect("removed");
    }
    machine.start_kubelet();
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
