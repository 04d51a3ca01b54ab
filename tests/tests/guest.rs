//! The walk, a crash and an OOM kill on pure cgroup v2, in an emulated machine.

use e2e::{machine, manifests};
use std::process::Command;

#[test]
fn f_g04_the_walk_and_a_crash_on_pure_cgroup_v2() {
    let payload = std::env::temp_dir().join(format!("kubelet-e2e-guest-{}", std::process::id()));
    std::fs::create_dir_all(payload.join("images")).expect("made");
    let place = |from: &std::path::Path, to: &str| {
        std::fs::copy(from, payload.join(to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    place(&machine::kubelet_binary(), "kubelet");
    for image in ["busybox", "nginx"] {
        place(&machine::image_archive(image), &format!("images/{image}.tar"));
    }
    let source = machine::workspace();
    place(&source.join("tests/guest/run.sh"), "run.sh");
    let oom = manifests::shell("oom", "Never", "exec tail /dev/zero") + "    resources: {limits: {memory: 32Mi}}\n";
    for (name, text) in
        [("nginx.yaml", manifests::NGINX), ("two.yaml", manifests::NGINX_WITH_TRUNCATOR), ("oom.yaml", &oom)]
    {
        std::fs::write(payload.join(name), text).expect("written");
    }
    let output = Command::new(source.join("scripts/guest.sh")).arg(&payload).output().expect("scripts/guest.sh");
    std::fs::remove_dir_all(&payload).expect("removed");
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{console}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(console.contains("ok: the census is clean"), "{console}");
}
