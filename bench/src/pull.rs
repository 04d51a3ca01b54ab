//! Pulling and unpacking an image from a registry on the loopback, side by side with containerd and podman.

use crate::report::percentile;
use crate::side::run;
use crate::{Bench, footprint};
use anyhow::{Context, Result, ensure};
use e2e::daemon::Containerd;
use e2e::dice::Dice;
use e2e::layer::{Attributes, Layer};
use e2e::oci::{Image, Packed, Packing};
use e2e::registry::{self, Access, Registry, Wire};
use e2e::{Machine, Options};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const LAYERS: usize = 10;
/// Of each layer, unpacked.
const LAYER_BYTES: usize = 20_000_000;
/// Of the faster one of the others.
const GOAL_RATIO: f64 = 0.7;
const GOAL_BYTES: f64 = 64.0 * 1024.0 * 1024.0;

/// Who pulls, with its times and, of ours, its peaks of memory above rest in bytes.
struct Side<'a> {
    name: &'static str,
    pull: Box<dyn FnMut() -> Result<Option<f64>> + 'a>,
    /// Makes the store empty again.
    clear: Box<dyn FnMut() -> Result<()> + 'a>,
    seconds: Vec<f64>,
    peak_bytes: Vec<f64>,
}

/// What was measured, as text and as JSON.
pub(crate) struct Pulls {
    pub(crate) text: String,
    pub(crate) json: Value,
}

pub(crate) fn measure(bench: &Bench) -> Result<Pulls> {
    ensure!(registry::is_available(), "run `scripts/setup.sh test`");
    let rounds = if bench.arguments.quick { 3 } else { 7 };
    eprintln!("pull: making the image");
    let (image, unpacked_bytes) = image();
    let packed_bytes: usize = image.blobs().map(|blob| blob.bytes.len()).sum();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    registry.put("bench/app:1", &image);
    let name = format!("{}/bench/app:1", registry.host());
    let dir = tempfile::tempdir()?;
    let machine = Machine::start(Options { images: vec![], ..Options::default() });
    let containerd = Containerd::start(&dir.path().join("containerd"), Path::new("/usr/bin"));
    let mut sides = vec![ours(&machine, &name), containerds(&containerd, &name)];
    if Path::new("/usr/bin/podman").exists() {
        sides.push(podmans(dir.path().join("podman"), &name));
    } else {
        eprintln!("pull: without podman, which is not installed (`scripts/setup.sh bench`)");
    }
    for round in 0..=rounds {
        for side in &mut sides {
            rustix::fs::sync();
            let begun = Instant::now();
            let peak_bytes = (side.pull)().with_context(|| format!("pull by {}", side.name))?;
            let seconds = begun.elapsed().as_secs_f64();
            (side.clear)().with_context(|| format!("removal by {}", side.name))?;
            // The first round warms what stays warm: programs, the registry's files.
            if round > 0 {
                side.seconds.push(seconds);
                side.peak_bytes.extend(peak_bytes);
            }
        }
        eprintln!("pull: {round} of {rounds}");
    }
    let pulls = report(&sides, &format!("{unpacked_bytes} bytes in {LAYERS} gzip layers of {packed_bytes} bytes"));
    drop(sides);
    machine.finish();
    Ok(pulls)
}

fn side<'a>(
    name: &'static str,
    pull: impl FnMut() -> Result<Option<f64>> + 'a,
    clear: impl FnMut() -> Result<()> + 'a,
) -> Side<'a> {
    Side { name, pull: Box::new(pull), clear: Box::new(clear), seconds: Vec::new(), peak_bytes: Vec::new() }
}

fn ours<'a>(machine: &'a Machine, name: &str) -> Side<'a> {
    let name = name.to_owned();
    let pull = move || {
        let pid = machine.kubelet_pid();
        footprint::forget_peak(pid)?;
        let rest_bytes = footprint::resident(pid)?.now_bytes;
        machine.cli(&["image", "pull", "--quiet", &name]);
        Ok(Some(footprint::resident(pid)?.peak_bytes.saturating_sub(rest_bytes) as f64))
    };
    side("kubelet image pull", pull, || {
        machine.cli(&["image", "prune"]);
        let listed = machine.cli(&["image", "list"]);
        ensure!(!listed.contains("bench/app"), "the image is still there:\n{listed}");
        Ok(())
    })
}

fn containerds<'a>(containerd: &'a Containerd, name: &str) -> Side<'a> {
    // In the namespace of pods the CRI plugin gives each image a second name, by which it would stay.
    let ctr = || {
        let mut ctr = Command::new("/usr/bin/ctr");
        ctr.arg("--address").arg(containerd.socket()).args(["--namespace", "bench", "images"]);
        ctr
    };
    let (pulled, removed) = (name.to_owned(), name.to_owned());
    let pull = move || {
        run(ctr().args(["pull", "--plain-http", &pulled]))?;
        Ok(None)
    };
    side("ctr image pull", pull, move || run(ctr().args(["rm", "--sync", &removed])))
}

fn podmans<'a>(dir: PathBuf, name: &str) -> Side<'a> {
    let name = name.to_owned();
    let podman = move || {
        let mut podman = Command::new("/usr/bin/podman");
        podman.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
        podman.args(["--storage-driver", "overlay"]);
        podman
    };
    let remove = podman.clone();
    let pull = move || {
        run(podman().args(["pull", "--quiet", "--tls-verify=false", &name]))?;
        Ok(None)
    };
    side("podman pull", pull, move || run(remove().args(["rmi", "--all", "--force"])))
}

fn report(sides: &[Side], what: &str) -> Pulls {
    let median = |values: &[f64]| percentile(values, 50);
    let seconds = |side: &Side| median(&side.seconds).unwrap_or(f64::NAN);
    let others = sides.iter().skip(1).map(seconds).fold(f64::INFINITY, f64::min);
    let ratio = seconds(&sides[0]) / others;
    let peak_bytes = sides[0].peak_bytes.iter().copied().fold(0.0, f64::max);
    let mut text = format!("pull and unpack from the loopback, cold store: {what}\n");
    for side in sides {
        let range = |of: fn(f64, f64) -> f64| side.seconds.iter().copied().reduce(of).unwrap_or(f64::NAN);
        let (least, most) = (range(f64::min), range(f64::max));
        let _ = writeln!(text, "  {:<20} {:.2} s  ({least:.2} to {most:.2})", side.name, seconds(side));
    }
    let word = |reached| if reached { "yes" } else { "NO" };
    let _ = writeln!(text, "  of the faster one    {ratio:.2}    goal ≤ {GOAL_RATIO}  {}", word(ratio <= GOAL_RATIO));
    let mib = peak_bytes / f64::from(1 << 20);
    let _ = writeln!(text, "  peak above rest      {mib:.0} MiB  goal ≤ 64 MiB  {}", word(peak_bytes <= GOAL_BYTES));
    let figures: serde_json::Map<String, Value> =
        sides.iter().map(|side| (side.name.to_owned(), json!(side.seconds))).collect();
    let json = json!({
        "measure": "pull", "image": what, "unit": "s", "figures": figures, "ratio": ratio, "ratio_at_most": GOAL_RATIO,
        "peak_bytes": peak_bytes, "peak_at_most_bytes": GOAL_BYTES,
    });
    Pulls { text, json }
}

/// Files as systems have them: many small ones and few large, most of it text and programs, some of it compressed already.
fn image() -> (Image, usize) {
    let mut dice = Dice::from_seed(5);
    let words: Vec<Vec<u8>> = (0..4096)
        .map(|_| {
            let len = 2 + dice.below(11);
            (0..len).map(|_| dice.below(256) as u8).collect()
        })
        .collect();
    let layers: Vec<Vec<u8>> = (0..LAYERS).map(|number| layer(&mut dice, &words, number)).collect();
    let unpacked_bytes = layers.iter().map(Vec::len).sum();
    let pack = |layer: &Vec<u8>| Packed::new(layer, Packing::Gzip);
    (Image::new(layers.iter().map(pack).collect()), unpacked_bytes)
}

fn layer(dice: &mut Dice, words: &[Vec<u8>], number: usize) -> Vec<u8> {
    let mut layer = Layer::default();
    let mut left_bytes = LAYER_BYTES;
    let mut files = 0_u32;
    while left_bytes > 0 {
        if files.is_multiple_of(50) {
            layer.dir(&format!("usr/{number}-{}", files / 50), &Attributes::mode(0o755));
        }
        // From 256 bytes to 4 MB, each doubling as frequent as the next.
        let bytes = (256 + dice.below(256) as usize) << dice.below(14);
        let bytes = bytes.min(left_bytes);
        let content = content(dice, words, bytes);
        layer.file(&format!("usr/{number}-{}/{files}", files / 50), &Attributes::mode(0o644), &content);
        left_bytes -= bytes;
        files += 1;
    }
    layer.finish()
}

fn content(dice: &mut Dice, words: &[Vec<u8>], bytes: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(bytes + 16);
    let packed = dice.chance(10);
    while content.len() < bytes {
        if packed {
            content.extend(dice.below(u64::MAX).to_le_bytes());
        } else {
            // Few words are frequent.
            let most = 1 << (1 + dice.below(12));
            content.extend(&words[dice.below(most) as usize]);
        }
    }
    content.truncate(bytes);
    content
}
