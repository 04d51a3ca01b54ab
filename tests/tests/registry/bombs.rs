//! What is small on its way and huge at its end (S-B09), and how many layers an image may have (S-B13).

use crate::{finish, machine, pod, refused_pull};
use e2e::disk::MemoryDisk;
use e2e::layer::{Attributes, Layer};
use e2e::oci::{self, Blob, Image, Packed, Packing, sha256};
use e2e::registry::{self, Access, Registry, Wire};
use e2e::{Machine, await_some};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;

/// The store's: 48 MiB beyond what is to stay free.
const DISK_BYTES: u64 = 176 << 20;
/// Of the kubelet beyond what it has before the first bomb, whatever they are.
const MOST_MEMORY_KIB: u64 = 64 << 10;
/// So much of nothing is packed at once, and comes over and over again.
const PIECE_BYTES: usize = 4 << 20;
const MANY: u64 = 10 << 30;

/// S-B09: each is refused with what is wrong with it and by its digest, and costs neither disk nor memory.
#[test]
fn s_b09_bombs_are_refused_and_cost_little() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let (machine, disk) = machine_with_disk();
    machine.cli(&["image", "pull", &put(&registry, "small", &small(gzip))]);
    let before = reset_peak_kib(&machine);
    for (name, bytes, expected) in bombs() {
        let layer = layer(bytes, b"");
        let digest = layer.blob.digest.clone();
        let told = refused_pull(&machine, &put(&registry, name, &layer));
        assert!(told.contains(&digest) && told.contains(expected), "{name}: {expected} in {told}");
        assert!(!machine.cli(&["image", "list"]).contains(&format!("bombs/{name}")));
        nothing_is_left(&machine);
    }
    let peak = peak_kib(&machine);
    assert!(peak <= before + MOST_MEMORY_KIB, "{before} KiB before, and at most {peak} KiB");
    for (name, layer) in [("twin-zstd", small(zstd)), ("twin-window", layer(window(27), &[0; 1024]))] {
        machine.cli(&["image", "pull", &put(&registry, name, &layer)]);
    }
    finish_without(machine, disk);
}

/// A kubelet whose store has a disk of its own.
fn machine_with_disk() -> (Machine, MemoryDisk) {
    let mut machine = machine(&[]);
    machine.stop_kubelet();
    let disk = MemoryDisk::mount(&machine.dir.join("root/image-store"), DISK_BYTES);
    machine.start_kubelet();
    (machine, disk)
}

/// Ends it, without that disk and without pods.
fn finish_without(mut machine: Machine, disk: MemoryDisk) {
    machine.await_no_pods();
    machine.stop_kubelet();
    drop(disk);
    machine.start_kubelet();
    finish(machine);
}

/// The bytes of each, and what is said about it.
fn bombs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let end = [0; 1024];
    let whole = gzip(&[&header("a", 1)[..], b"x", &[0; 511], &end].concat());
    let mut checksum = whole.clone();
    let at = checksum.len() - 8;
    checksum[at] ^= 1;
    // A frame that is to be skipped, and is longer than anything that could come.
    let skipped = [&b"\x50\x2a\x4d\x18\xff\xff\xff\xff"[..], &[0; 4096]].concat();
    vec![
        ("gzip-one", zeros(gzip, 1), "over the limit"),
        ("zstd-one", zeros(zstd, 1), "over the limit"),
        ("gzip-many", zeros(gzip, 40), "not enough space left on the image file system"),
        ("zstd-many", zeros(zstd, 40), "not enough space left on the image file system"),
        ("gzip-behind-the-end", behind_the_end(gzip), "too much follows its end"),
        ("zstd-behind-the-end", behind_the_end(zstd), "too much follows its end"),
        ("gzip-in-gzip", gzip(&zeros(gzip, 1)), "malformed tar archive"),
        ("zstd-window", window(31), "cannot read the layer"),
        ("zstd-skipped", skipped, "cannot read the layer"),
        ("gzip-cut", whole[..whole.len() - 9].to_vec(), "cannot read the layer"),
        ("gzip-checksum", checksum, "cannot read the layer"),
        ("gzip-junk", [&whole[..], b"junk"].concat(), "cannot read the layer"),
    ]
}

type Pack = fn(&[u8]) -> Vec<u8>;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("memory takes all")
}

/// The header of a file in an archive.
fn header(path: &str, size_bytes: u64) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).expect("a short path");
    header.set_mode(0o644);
    header.set_size(size_bytes);
    header.set_cksum();
    *header.as_bytes()
}

/// Nothing but zeros in so many files. Both compressions take what is packed in pieces, one after the other.
fn zeros(pack: Pack, files: u64) -> Vec<u8> {
    let piece = pack(&[0; PIECE_BYTES]);
    let each = MANY / files / PIECE_BYTES as u64;
    let mut packed = Vec::new();
    for number in 0..files {
        packed.extend(pack(&header(&format!("zeros-{number}"), each * PIECE_BYTES as u64)));
        packed.extend(piece.repeat(each as usize));
    }
    packed
}

fn behind_the_end(pack: Pack) -> Vec<u8> {
    let archive = [&header("a", 0)[..], &[0; 1024]].concat();
    [pack(&archive), pack(&[0; PIECE_BYTES]).repeat((MANY / PIECE_BYTES as u64) as usize)].concat()
}

/// An empty archive in one zstd block that is said to need a window of two to the `log`th bytes (RFC 8878, 3.1.1.1).
fn window(log: u8) -> Vec<u8> {
    const RAW_AND_LAST: u32 = 1;
    let block = [0; 1024];
    let length = (block.len() as u32) << 3 | RAW_AND_LAST;
    [&b"\x28\xb5\x2f\xfd\x00"[..], &[(log - 10) << 3], &length.to_le_bytes()[..3], &block].concat()
}

/// The harmless twin, in several pieces too.
fn small(pack: Pack) -> Arc<Packed> {
    let zeros = vec![0; PIECE_BYTES];
    let pieces = [&header("zeros", 2 * PIECE_BYTES as u64)[..], &zeros, &zeros, &[0; 1024]];
    let bytes: Vec<u8> = pieces.iter().flat_map(|piece| pack(piece)).collect();
    layer(bytes, &pieces.concat())
}

/// The compression is told by the bytes themselves, whatever the type says.
fn layer(bytes: Vec<u8>, plain: &[u8]) -> Arc<Packed> {
    Arc::new(Packed { diff_id: format!("sha256:{}", sha256(plain)), blob: Blob::new(oci::LAYER, bytes) })
}

/// An image of this layer alone; gives its name.
fn put(registry: &Registry, name: &str, layer: &Arc<Packed>) -> String {
    registry.put(&format!("bombs/{name}:1"), &Image::new(vec![layer.clone()]));
    format!("{}/bombs/{name}:1", registry.host())
}

fn nothing_is_left(machine: &Machine) {
    let ingest = machine.dir.join("root/image-store/ingest");
    await_some("nothing is left of it", || {
        let left: Vec<_> = std::fs::read_dir(&ingest).into_iter().flatten().flatten().map(|e| e.path()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// What the kubelet has in memory; from now on its peak is counted anew.
fn reset_peak_kib(machine: &Machine) -> u64 {
    // proc_pid_clear_refs(5)
    std::fs::write(format!("/proc/{}/clear_refs", machine.kubelet_pid()), "5").expect("its own file");
    peak_kib(machine)
}

fn peak_kib(machine: &Machine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", machine.kubelet_pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// S-B13: as many layers as overlayfs takes, and not one more.
#[test]
fn s_b13_an_image_of_as_many_layers_as_there_may_be() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    // In memory, or most of the time would go with waiting for the disk to keep each layer.
    let (machine, disk) = machine_with_disk();
    let attributes = Attributes::mode(0o644);
    // Each is one more upon those of the one before, so that every layer is fetched once.
    let one = |number: usize| {
        let mut layer = Layer::default();
        layer.dir("many", &Attributes::mode(0o755));
        layer.file(&format!("many/{number}"), &attributes, b"");
        layer.file("count", &attributes, number.to_string().as_bytes());
        Packed::new(&layer.finish(), Packing::Gzip)
    };
    let layers: Vec<_> = [oci::busybox(Packing::Gzip)].into_iter().chain((2..=501).map(one)).collect();
    let name = |count: usize| format!("{}/layers/app:{count}", registry.host());
    for count in [127, 128, 129, 500, 501] {
        registry.put(&format!("layers/app:{count}"), &Image::new(layers[..count].to_vec()));
    }
    for count in [127, 128, 129, 500] {
        let script = format!("test $(cat /count) = {count} && test $(ls /many | wc -l) = {}", count - 1);
        let spec = json!({"restartPolicy": "Never"});
        let container = json!({"command": ["/bin/sh", "-c", script], "spec": spec});
        pod(&machine, &format!("layers-{count}"), &name(count), &container);
        machine.await_phase(&format!("layers-{count}"), "Succeeded");
        machine.remove_manifest(&format!("layers-{count}.yaml"));
    }
    let told = refused_pull(&machine, &name(501));
    assert!(told.contains("501 layers") && told.contains("500"), "{told}");
    finish_without(machine, disk);
}
