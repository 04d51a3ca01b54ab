//! How a runtime is set up, and how it is reached: settings with which it cannot be used, and two sockets instead of one.

use cri::testing::FaultyProxy;
use e2e::layer::{Attributes, Layer};
use e2e::oci::{self, Image, Packed, Packing};
use e2e::registry::{self, Access, Registry, Wire};
use e2e::story::{restarts, status};
use e2e::{Machine, Options, Part, Play, Runtime, await_some, await_true};
use serde_json::json;

const IMAGE_CALLS: [&str; 5] = ["ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"];

/// A daemon that comes back with systemd as its cgroup driver is refused in health and log, with what to do; its pods stay
/// as they are, and all is well when it is set right.
#[test]
fn docker_that_comes_back_with_another_cgroup_driver_is_refused() {
    let runtime = Runtime::Docker;
    if !runtime.is_available() {
        return;
    }
    let mut machine = Machine::start(Options { runtime, ..Options::default() });
    machine.play(&Play::new("stays", "Always").grace(2).main(Part::forever("main")));
    let before = machine.await_ready("stays");
    let file = machine.daemon().settings();
    let usual = std::fs::read(&file).expect("the settings");
    let restart = |machine: &mut Machine, text: &[u8]| {
        machine.daemon().kill();
        std::fs::write(&file, text).expect("written");
        machine.daemon().restart();
    };
    let mut systemd: serde_json::Value = serde_json::from_slice(&usual).expect("JSON");
    systemd["exec-opts"] = json!(["native.cgroupdriver=systemd"]);
    // With this driver it takes no path for it.
    systemd["cgroup-parent"] = json!("other.slice");
    restart(&mut machine, systemd.to_string().as_bytes());
    let told = ["has systemd as its cgroup driver", "native.cgroupdriver=cgroupfs"];
    await_some("health tells what to do", || {
        let health = machine.healthz()?;
        if told.iter().all(|text| health.contains(text)) { Ok(()) } else { Err(health) }
    });
    let warned = |line: &&str| line.contains("WARN") && told.iter().all(|text| line.contains(text));
    assert_eq!(machine.log().lines().filter(warned).count(), 1, "{}", machine.log());
    restart(&mut machine, &usual);
    await_true("all is well again", || machine.healthz().is_ok_and(|health| health == "ok"));
    machine.play(&Play::new("later", "Always").grace(2).main(Part::forever("main")));
    machine.await_ready("later");
    let after = machine.pod("stays").expect("the pod");
    assert_eq!(status(&after, "main")["containerID"], status(&before, "main")["containerID"]);
    assert_eq!(restarts(&after, "main"), 0);
    machine.await_end("stays");
    machine.await_end("later");
    machine.finish();
}

/// `--image-service-endpoint`: images are asked for there alone, and all else at the runtime's own socket.
#[test]
fn an_image_service_of_its_own_is_asked_for_images_and_for_nothing_else() {
    let runtime = Runtime::Containerd;
    if !runtime.is_available() || !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let name = |image: &str| format!("{}/{image}:1", registry.host());
    for image in ["used", "unused"] {
        let mut own = Layer::default();
        own.file("label", &Attributes::mode(0o644), image.as_bytes());
        let layers = vec![oci::busybox(Packing::Gzip), Packed::new(&own.finish(), Packing::Gzip)];
        registry.put(&format!("{image}:1"), &Image::new(layers));
    }
    let mut machine = Machine::start(Options { runtime, faulty: true, ..Options::default() });
    machine.stop_kubelet();
    let socket = machine.dir.join("images.sock");
    let images = FaultyProxy::start(&socket, &machine.daemon().socket()).expect("the proxy starts");
    machine.add_flag(format!("--image-service-endpoint=unix://{}", socket.display()));
    let before = machine.faults().asked();
    machine.start_kubelet();
    let main = Part::forever("main").field("image", json!(name("used"))).field("imagePullPolicy", json!("Always"));
    machine.play(&Play::new("web", "Always").grace(2).main(main));
    machine.await_ready("web");
    machine.cli(&["image", "pull", &name("unused")]);
    let listed = machine.cli(&["image", "list"]);
    assert!(listed.contains(&name("used")) && listed.contains(&name("unused")), "{listed}");
    let pruned = machine.cli(&["image", "prune"]);
    assert!(pruned.contains(&name("unused")) && !pruned.contains(&name("used")), "{pruned}");
    machine.await_end("web");

    let asked = images.asked();
    let of_images: Vec<&str> = asked.keys().map(String::as_str).collect();
    assert!(of_images.iter().all(|call| IMAGE_CALLS.contains(call)), "{asked:?}");
    for call in ["ListImages", "ImageStatus", "PullImage", "RemoveImage"] {
        assert!(of_images.contains(&call), "{call} was not asked for: {asked:?}");
    }
    let after = machine.faults().asked();
    for call in IMAGE_CALLS {
        assert_eq!(after.get(call), before.get(call), "{call} was asked at the runtime's own socket");
    }
    for call in ["Version", "RunPodSandbox", "CreateContainer", "StartContainer", "RemovePodSandbox"] {
        assert!(after.get(call) > before.get(call), "{call} was not asked for: {after:?}");
    }
    machine.finish();
    drop(images);
}
