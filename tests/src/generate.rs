//! Images from a seed: layers with everything that a layer can hold and do to those below it.
//!
//! Only what the specification leaves no choice about is generated: each path at most once in a layer, no whiteout of what
//! the same layer brings, nothing beneath a symbolic link, hard links to files of the same layer.

use crate::dice::Dice;
use crate::layer::{Attributes, Layer, Naming};
use crate::tree::Xattrs;
use std::collections::{BTreeMap, BTreeSet};
use tar::EntryType;

/// Version 2 of a file capability: effective, `CAP_NET_BIND_SERVICE` and `CAP_NET_RAW`.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const PLACES: [&str; 5] = ["etc", "usr", "usr/bin", "var", "var/lib"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Other,
}

/// What there is after the layers so far.
struct World<'a> {
    dice: &'a mut Dice,
    paths: BTreeMap<String, Kind>,
    /// Written or taken away by the layer that is being made.
    touched: BTreeSet<String>,
    /// Regular files of the layer that is being made.
    files: Vec<(String, Attributes)>,
}

/// So many layers, lowest first.
pub fn layers(dice: &mut Dice, count: usize) -> Vec<Vec<u8>> {
    let mut world = World { dice, paths: BTreeMap::new(), touched: BTreeSet::new(), files: Vec::new() };
    let mut layers = vec![world.base()];
    while layers.len() < count {
        // Builders leave empty layers behind, all of them the same.
        let layer = if world.dice.chance(4) { Layer::default().finish() } else { world.next() };
        layers.push(layer);
    }
    layers
}

impl World<'_> {
    fn base(&mut self) -> Vec<u8> {
        let mut layer = self.layer();
        if self.dice.chance(50) {
            layer.dir(".", &self.attributes(0o755));
        }
        for place in PLACES {
            layer.dir(place, &self.attributes(0o755));
            self.put(place, Kind::Directory);
        }
        for _ in 0..10 + self.dice.below(25) {
            self.add(&mut layer);
        }
        layer.finish()
    }

    fn next(&mut self) -> Vec<u8> {
        let mut layer = self.layer();
        for _ in 0..1 + self.dice.below(9) {
            match self.dice.below(100) {
                0..55 => self.add(&mut layer),
                55..70 => self.remove(&mut layer),
                70..78 => self.empty(&mut layer),
                78..90 => self.replace(&mut layer),
                _ => self.change(&mut layer),
            }
        }
        layer.finish()
    }

    fn layer(&mut self) -> Layer {
        self.touched.clear();
        self.files.clear();
        let naming = [Naming::Gnu, Naming::Pax, Naming::Dotted][self.dice.below(3) as usize];
        Layer::new(naming)
    }

    fn put(&mut self, path: &str, kind: Kind) {
        self.paths.insert(path.to_owned(), kind);
        // Directories above are not written by this layer, but they are there because of it.
        for (at, _) in path.match_indices('/') {
            self.touched.insert(path[..at].to_owned());
        }
        self.touched.insert(path.to_owned());
    }

    /// Something new in a directory; now and then in one that no layer names.
    fn add(&mut self, layer: &mut Layer) {
        let dirs: Vec<&String> =
            self.paths.iter().filter(|(_, kind)| **kind == Kind::Directory).map(|(p, _)| p).collect();
        let parent = dirs[self.dice.below(dirs.len() as u64) as usize].clone();
        let mut path = format!("{parent}/{}", self.name());
        // Not where a file may have been in a lower layer: containerd looks for the directory's like beneath that file.
        let unnamed = self.dice.chance(40) && PLACES.contains(&parent.as_str());
        let full = if unnamed { format!("{path}/{}", self.name()) } else { path.clone() };
        // A path whose like is there, or was taken away by this very layer.
        if self.paths.contains_key(&path) || self.touched.contains(&path) || full.len() > 1000 {
            return;
        }
        if unnamed {
            self.put(&path, Kind::Directory);
            path = full;
        }
        self.write(layer, &path);
    }

    /// A member of any kind.
    fn write(&mut self, layer: &mut Layer, path: &str) {
        let kind = match self.dice.below(100) {
            0..25 => {
                let mut attributes = self.attributes(0o755);
                self.note(&mut attributes);
                layer.dir(path, &attributes);
                Kind::Directory
            }
            25..65 => {
                self.file(layer, path);
                Kind::Other
            }
            65..78 => {
                let to = ["../lib", "/etc/passwd", "no/where", ".", "x y\u{e9}"][self.dice.below(5) as usize];
                let to = if self.dice.chance(10) { "l/".repeat(100) + "end" } else { to.to_owned() };
                layer.symlink(path, &self.attributes(0o777), &to);
                Kind::Other
            }
            78..90 if !self.files.is_empty() => {
                // As archivers do it: a link says once more what the file is.
                let (to, attributes) = self.files[self.dice.below(self.files.len() as u64) as usize].clone();
                layer.hard_link(path, &attributes, &to);
                Kind::Other
            }
            _ => {
                let kind = [EntryType::Char, EntryType::Block, EntryType::Fifo][self.dice.below(3) as usize];
                let number = |dice: &mut Dice| dice.below(250) as u32 + 1;
                let (major, minor) = (number(self.dice), number(self.dice));
                layer.device(path, &self.attributes(0o620), (kind, major, minor));
                Kind::Other
            }
        };
        self.put(path, kind);
    }

    fn file(&mut self, layer: &mut Layer, path: &str) {
        let len = [0, 1, 511, 512, 513, 5000, 40_000][self.dice.below(7) as usize];
        let seed = self.dice.below(251) as u8;
        let content: Vec<u8> = (0..len).map(|at: usize| (at as u8).wrapping_mul(seed) ^ (at >> 8) as u8).collect();
        let mut attributes = self.attributes(0o644);
        self.note(&mut attributes);
        if self.dice.chance(10) {
            attributes.xattrs.insert("security.capability".to_owned(), CAPABILITY.to_vec());
        }
        layer.file(path, &attributes, &content);
        self.files.push((path.to_owned(), attributes));
    }

    /// What lower layers have and this one has not touched, neither itself nor anything in it.
    fn untouched(&mut self, kind: Option<Kind>) -> Option<String> {
        let within = |path: &str| {
            let inside = format!("{path}/");
            self.touched.contains(path)
                || self.touched.range(inside.clone()..).next().is_some_and(|t| t.starts_with(&inside))
        };
        let wanted = |(path, found): &(&String, &Kind)| {
            !PLACES.contains(&path.as_str()) && kind.is_none_or(|kind| kind == **found) && !within(path)
        };
        let found: Vec<&String> = self.paths.iter().filter(wanted).map(|(path, _)| path).collect();
        if found.is_empty() { None } else { Some(found[self.dice.below(found.len() as u64) as usize].clone()) }
    }

    fn forget_beneath(&mut self, path: &str) {
        let inside = format!("{path}/");
        self.paths.retain(|known, _| !known.starts_with(&inside));
    }

    fn remove(&mut self, layer: &mut Layer) {
        let Some(path) = self.untouched(None) else { return };
        layer.whiteout(&path);
        self.forget_beneath(&path);
        let kind = self.paths.remove(&path).unwrap_or(Kind::Other);
        self.put(&path, kind);
        self.paths.remove(&path);
    }

    /// A directory whose earlier content goes; the mark may come before or after its new content.
    fn empty(&mut self, layer: &mut Layer) {
        let Some(path) = self.untouched(Some(Kind::Directory)) else { return };
        let first = self.dice.chance(70);
        layer.dir(&path, &self.attributes(0o755));
        if first {
            layer.opaque(&path);
        }
        self.forget_beneath(&path);
        self.put(&path, Kind::Directory);
        for _ in 0..self.dice.below(4) {
            let inside = format!("{path}/{}", self.name());
            if !self.touched.contains(&inside) && inside.len() < 1000 {
                self.write(layer, &inside);
            }
        }
        if !first {
            layer.opaque(&path);
        }
    }

    /// Something else, often of another kind, by the name of what was there.
    fn replace(&mut self, layer: &mut Layer) {
        let Some(path) = self.untouched(None) else { return };
        let was = self.paths.get(&path).copied();
        self.write(layer, &path);
        let is = self.paths.get(&path).copied();
        // A directory over a directory adds to it; anything else hides what was beneath.
        if (was, is) != (Some(Kind::Directory), Some(Kind::Directory)) {
            self.forget_beneath(&path);
        }
    }

    /// Other attributes of a directory, whose content stays.
    fn change(&mut self, layer: &mut Layer) {
        let Some(path) = self.untouched(Some(Kind::Directory)) else { return };
        layer.dir(&path, &self.attributes(0o755));
        self.put(&path, Kind::Directory);
    }

    fn attributes(&mut self, mode: u32) -> Attributes {
        let special = [0, 0, 0, 0, 0o4000, 0o2000, 0o1000, 0o7000][self.dice.below(8) as usize];
        let mode = if self.dice.chance(30) { self.dice.below(0o1000) as u32 | special } else { mode };
        let owner = |dice: &mut Dice| [0, 0, 1, 33, 1000, 65_534, 100_000, 4_000_000][dice.below(8) as usize];
        let (uid, gid) = (owner(self.dice), owner(self.dice));
        let nanoseconds = if self.dice.chance(30) { self.dice.below(1_000_000_000) as u32 } else { 0 };
        let mtime = (1 + self.dice.below(1_800_000_000), nanoseconds);
        Attributes { mode, uid, gid, mtime, xattrs: Xattrs::new() }
    }

    /// Now and then an attribute of the user's, which may hold any bytes.
    fn note(&mut self, attributes: &mut Attributes) {
        if self.dice.chance(15) {
            // A record without a value would take the attribute away.
            let value = (0..1 + self.dice.below(300)).map(|at| (at as u8).wrapping_mul(7) ^ b'\n').collect();
            attributes.xattrs.insert("user.note".to_owned(), value);
        }
    }

    fn name(&mut self) -> String {
        let letters = |dice: &mut Dice, len: u64| -> String {
            (0..len).map(|_| char::from(b'a' + dice.below(26) as u8)).collect()
        };
        match self.dice.below(100) {
            0..4 => letters(self.dice, 255),
            4..8 => letters(self.dice, 120),
            8..11 => format!("\u{e9}\u{4e2d} {}", letters(self.dice, 3)),
            11..14 => format!(".{}", letters(self.dice, 4)),
            14..16 => format!("wh.{}", letters(self.dice, 3)),
            // Few, so that layers meet.
            16..60 => letters(self.dice, 1),
            _ => letters(self.dice, 6),
        }
    }
}
