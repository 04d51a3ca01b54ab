//! Generated images come out of three implementations as the same trees: ours, umoci and containerd.
//!
//! `FULL=1` gives every image up to 127 layers; otherwise a tenth of them has more than ten. `SEED` gives other images.

use e2e::daemon::{Containerd, run};
use e2e::dice::{Dice, number_from_env};
use e2e::disk::MemoryDisk;
use e2e::oci::{self, Image, Packed, Packing};
use e2e::tree::{self, Kind, Tree};
use e2e::{Machine, Options, Runtime, generate};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, unmount,
};
use std::path::{Path, PathBuf};
use std::process::Command;

const IMAGES: usize = 100;
const MOST_LAYERS: u64 = 127;
/// Of most images, for what each layer costs three times.
const FEW_LAYERS: u64 = 10;
/// What all of them may take on a disk, if they are all as large as they can be.
const MEMORY_BYTES: u64 = 2 << 30;

/// An image and the names by which everyone knows it.
struct Sample {
    /// In a registry's form; umoci knows what is behind the colon.
    name: String,
    tag: String,
    image: Image,
}

fn samples() -> Vec<Sample> {
    let seed = number_from_env("SEED", 1) as u64;
    println!("SEED={seed}");
    let full = std::env::var_os("FULL").is_some();
    let sample = |number: usize| {
        let mut dice = Dice::from_seed(seed.wrapping_mul(1_000_003) + number as u64);
        let count = match number {
            0 => 1,
            1 => MOST_LAYERS,
            _ if full => 1 + dice.below(MOST_LAYERS),
            number if number % 10 == 2 => FEW_LAYERS + 1 + dice.below(MOST_LAYERS - FEW_LAYERS),
            _ => 1 + dice.below(FEW_LAYERS),
        };
        let layers = generate::layers(&mut dice, count as usize);
        let pack = |layer: Vec<u8>| {
            // umoci knows no zstd.
            let packing = if dice.chance(80) { Packing::Gzip } else { Packing::Plain };
            Packed::new(&layer, packing)
        };
        let image = Image::new(layers.into_iter().map(pack).collect());
        Sample { name: format!("example.test/generated:{number}"), tag: number.to_string(), image }
    };
    (0..IMAGES).map(sample).collect()
}

/// Mounted where it can be read, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// Topmost layer first. The kernel wants two at least; an empty one at the bottom changes nothing.
    fn overlay(layers: &[PathBuf], empty: &Path, at: &Path) -> Mounted {
        std::fs::create_dir_all(at).expect("a mount point");
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("overlayfs");
        for layer in layers.iter().map(PathBuf::as_path).chain([empty]) {
            fsconfig_set_string(&overlay, "lowerdir+", layer).expect("a layer");
        }
        fsconfig_create(&overlay).expect("a stack of layers");
        let mount =
            fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).expect("a mount");
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mount, "", rustix::fs::CWD, at, flags).expect("mounted");
        Mounted(at.to_owned())
    }

    fn by_containerd(containerd: &Containerd, image: &str, at: &Path) -> Mounted {
        std::fs::create_dir_all(at).expect("a mount point");
        run(containerd.ctr().args(["images", "mount", image]).arg(at));
        Mounted(at.to_owned())
    }

    fn read(&self) -> Tree {
        tree::read(&self.0)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// The layouts: with whole names as an archive, and with tags for umoci, which share the blobs.
fn write(samples: &[Sample], dir: &Path) -> PathBuf {
    let (named, tagged) = (dir.join("named"), dir.join("tagged"));
    oci::write_layout(&named, samples.iter().map(|sample| (sample.name.as_str(), &sample.image)));
    std::fs::create_dir_all(&tagged).expect("the layout");
    std::os::unix::fs::symlink(named.join("blobs"), tagged.join("blobs")).expect("a link");
    oci::write_layout(&tagged, samples.iter().map(|sample| (sample.tag.as_str(), &sample.image)));
    let archive = dir.join("images.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&named).arg("."));
    archive
}

/// What our store made of each, in the order of the samples.
fn ours(samples: &[Sample], archive: &Path, dir: &Path) -> Vec<Tree> {
    let mut machine = Machine::start(Options { images: vec![], ..Options::default() });
    machine.stop_kubelet();
    let memory = MemoryDisk::mount(&machine.dir.join("root/image-store"), MEMORY_BYTES);
    machine.start_kubelet();
    let told = machine.cli(&["image", "import", &archive.display().to_string()]);
    for sample in samples {
        assert!(told.contains(&sample.name), "{} in {told}", sample.name);
    }
    machine.stop_kubelet();
    let store = image::Store::open(&machine.dir.join("root/image-store")).expect("the store");
    let empty = dir.join("empty");
    std::fs::create_dir_all(&empty).expect("a directory");
    let tree = |sample: &Sample| {
        let image = store.resolve(&sample.name).expect("a reference").expect("imported");
        assert_eq!(image.id, sample.image.id());
        let layers: Vec<PathBuf> = image.layers.iter().map(|layer| store.layers_dir().join(layer)).collect();
        Mounted::overlay(&layers, &empty, &dir.join("ours").join(&sample.tag)).read()
    };
    let trees = samples.iter().map(tree).collect();
    drop((store, memory));
    machine.start_kubelet();
    machine.finish();
    trees
}

fn umocis(sample: &Sample, dir: &Path) -> Tree {
    let bundle = dir.join("umoci").join(&sample.tag);
    std::fs::create_dir_all(dir.join("umoci")).expect("a directory");
    let image = format!("{}:{}", dir.join("tagged").display(), sample.tag);
    run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    let tree = tree::read(&bundle.join("rootfs"));
    std::fs::remove_dir_all(&bundle).expect("removed");
    tree
}

type Settle = fn(&Tree, &mut Tree, &mut Tree);

/// Where umoci and containerd differ from each other, so that one of them must differ from us; and what makes the other's
/// word the only one.
const DIFFERENCES: [(&str, Settle); 3] = [
    ("what no layer says a directory's time is, or what changed it after it was said, is the time of unpacking", times),
    (
        "containerd leaves the root as its snapshot has it, whatever a layer says of it; umoci does as the layer says",
        root,
    ),
    (
        "umoci makes a directory that no layer names in place, where it inherits the group of the one above; \
         containerd makes it with the mode alone",
        inherited_group,
    ),
];

/// The time of a directory holds where both have it.
fn times(ours: &Tree, umoci: &mut Tree, containerd: &mut Tree) {
    for (path, theirs) in umoci.iter_mut().filter(|(_, node)| node.kind == Kind::Directory) {
        if let (Some(ours), Some(others)) = (ours.get(path), containerd.get_mut(path))
            && theirs.mtime != others.mtime
        {
            (theirs.mtime, others.mtime) = (ours.mtime, ours.mtime);
        }
    }
}

fn root(_: &Tree, umoci: &mut Tree, containerd: &mut Tree) {
    containerd.insert(PathBuf::new(), umoci[Path::new("")].clone());
}

fn inherited_group(_: &Tree, umoci: &mut Tree, containerd: &mut Tree) {
    let inherits = |path: &Path| path.parent().is_some_and(|above| umoci[above].mode & 0o2000 != 0);
    let inheriting: Vec<PathBuf> = umoci.keys().filter(|path| inherits(path)).cloned().collect();
    for path in inheriting {
        let (Some(theirs), Some(others)) = (umoci.get_mut(&path), containerd.get(&path)) else { continue };
        if theirs.kind == Kind::Directory && theirs.mode == others.mode | 0o2000 {
            theirs.mode = others.mode;
        }
    }
}

#[test]
fn s_b05_s_b13_generated_images_unpack_as_umoci_and_containerd_unpack_them() {
    if !Runtime::Containerd.is_available() || !e2e::registry::is_there("umoci", "umoci") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    // Nobody waits for a disk with each layer.
    let _memory = MemoryDisk::mount(dir.path(), MEMORY_BYTES);
    let samples = samples();
    let archive = write(&samples, dir.path());
    let ours = ours(&samples, &archive, dir.path());
    let containerd = Containerd::start(&dir.path().join("containerd"), Path::new("/usr/bin"));
    run(containerd.ctr().args(["images", "import"]).arg(&archive));
    let mut wrong = Vec::new();
    for (sample, ours) in samples.iter().zip(&ours) {
        let mut umoci = umocis(sample, dir.path());
        let at = dir.path().join("theirs").join(&sample.tag);
        let mut containerds = Mounted::by_containerd(&containerd, &sample.name, &at).read();
        for (_, settle) in DIFFERENCES {
            settle(ours, &mut umoci, &mut containerds);
        }
        let told = |lines: Vec<String>| lines.into_iter().map(|line| format!("image {}: {line}", sample.tag));
        wrong.extend(told(tree::differences(("ours", ours), ("umoci", &umoci))));
        wrong.extend(told(tree::differences(("ours", ours), ("containerd", &containerds))));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
