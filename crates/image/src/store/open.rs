//! Opening a store: read what is recorded, set aside what is damaged, remove what was left unfinished.

use super::record::{self, Damaged, ImageRecord, LayerRecord, RefRecord};
use super::{Dirs, DropInRecord, Slots, State, Store, chain_ids};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fs::{open_dir, private_dir, read_limited, remove_tree, spread_out};
use crate::json::{self, Dialect};
use crate::manifest::{ConfigFile, ImageConfig, MAX_CONFIG_BYTES};
use crate::unpack::Limits;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Store {
    /// Opens the store in `root`, making it when there is none.
    ///
    /// A damaged record is moved to `damaged/` below `root` and costs at most the object that it describes.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process, or this one, has it open; [`Error::Io`] when the directory cannot be used.
    pub fn open(root: &Path) -> Result<Arc<Store>> {
        let dirs = Arc::new(Dirs::new(root));
        // The lock comes first: the directories may be another process's.
        private_dir(root)?;
        let lock = lock(root)?;
        for dir in dirs.all() {
            private_dir(dir)?;
        }
        remove_contents(&dirs.ingest)?;
        spread_out(&dirs.ingest)?;
        let rebooted = !same_boot(root);
        let mut state = load(&dirs)?;
        reserve_directories(&dirs, &mut state)?;
        if rebooted {
            // Nothing survives a boot that could use a layer which no image has, so now it may go.
            remove_unused_layers(&dirs, &mut state)?;
            remember_boot(root)?;
        }
        remove_unused_blobs(&dirs, &state)?;
        let (state, changing, slots) = (RwLock::new(state), Mutex::new(()), Slots::default());
        Ok(Arc::new(Store { dirs, limits: Limits::default(), state, changing, slots, _lock: lock }))
    }
}

fn lock(root: &Path) -> Result<OwnedFd> {
    let path = root.join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o600)).map_err(|e| Error::io("open", &path, e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::Locked { path: root.to_owned() }),
        Err(e) => Err(Error::io("lock", &path, e)),
    }
}

fn remove_contents(dir: &Path) -> Result<()> {
    let fd = open_dir(dir)?;
    for name in names(dir)? {
        remove_tree(&fd, &name).map_err(|e| Error::io("remove", dir.join(&name), e))?;
    }
    Ok(())
}

/// Names in a directory of the store; all that it makes are ASCII, and others are not its own.
fn names(dir: &Path) -> Result<Vec<String>> {
    let list = |e| Error::io("list", dir, e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(list)? {
        names.extend(entry.map_err(list)?.file_name().into_string());
    }
    Ok(names)
}

fn same_boot(root: &Path) -> bool {
    match (fs::read(BOOT_ID), read_limited(&root.join("boot"), 256)) {
        (Ok(now), Ok(then)) => now == then,
        _ => false,
    }
}

fn remember_boot(root: &Path) -> Result<()> {
    let path = root.join("boot");
    fs::read(BOOT_ID).and_then(|id| fs::write(&path, id)).map_err(|e| Error::io("write", &path, e))
}

fn load(dirs: &Dirs) -> Result<State> {
    let mut state = State { layers: load_layers(dirs)?, ..State::default() };
    let (refs, damaged) = record::read_all::<RefRecord>(&dirs.refs)?;
    set_aside(dirs, damaged);
    state.refs = refs.into_iter().map(|(_, r)| (r.reference.clone(), r)).collect();
    let (drop_ins, damaged) = record::read_all::<DropInRecord>(&dirs.drop_ins)?;
    set_aside(dirs, damaged);
    state.drop_ins = drop_ins.into_iter().map(|(_, r)| (r.file.clone(), r)).collect();

    let (mut images, damaged) = record::read_all::<ImageRecord>(&dirs.images)?;
    images.extend(damaged.iter().filter_map(|d| rebuild(dirs, d)));
    set_aside(dirs, damaged);
    for (path, record) in images {
        match complete(dirs, &state, &record) {
            Ok(config) => state.put_image(record, config),
            Err(reason) => {
                tracing::warn!(image = %record.id, reason, "image is incomplete and was dropped; import it again");
                drop_file(&path);
            }
        }
    }
    let State { images, refs, .. } = &mut state;
    refs.retain(|name, record| {
        let kept = images.contains_key(&record.image);
        if !kept {
            drop_file(&dirs.ref_record(name));
        }
        kept
    });
    Ok(state)
}

fn load_layers(dirs: &Dirs) -> Result<HashMap<Digest, LayerRecord>> {
    let (records, damaged) = record::read_all::<LayerRecord>(&dirs.layer_records)?;
    set_aside(dirs, damaged);
    let (mut layers, mut contents) = (HashMap::new(), HashMap::new());
    for (path, layer) in records {
        let is_there = fs::symlink_metadata(dirs.layer(layer.dir)).is_ok_and(|m| m.is_dir());
        // Stacks may share a directory, but what lies in it is one layer.
        if is_there && *contents.entry(layer.dir).or_insert_with(|| layer.diff_id.clone()) == layer.diff_id {
            layers.insert(layer.chain_id.clone(), layer);
        } else {
            drop_file(&path);
        }
    }
    Ok(layers)
}

/// The configuration of an image all of whose parts are there.
fn complete(dirs: &Dirs, state: &State, record: &ImageRecord) -> std::result::Result<ImageConfig, String> {
    if let Some(missing) = record.layers.iter().find(|chain_id| !state.layers.contains_key(chain_id)) {
        return Err(format!("layer {missing} is missing"));
    }
    read_config(dirs, &record.id).map(ConfigFile::into_run_config)
}

fn read_config(dirs: &Dirs, id: &Digest) -> std::result::Result<ConfigFile, String> {
    let bytes = read_limited(&dirs.blob(id), MAX_CONFIG_BYTES).map_err(|e| format!("its configuration: {e}"))?;
    if Digest::of(&bytes) != *id {
        return Err("its configuration is damaged".to_owned());
    }
    json::parse(&bytes, Dialect::Oci)
}

/// An image record can be made anew from the image's configuration, all but its pins and manifest digests.
fn rebuild(dirs: &Dirs, damaged: &Damaged) -> Option<(PathBuf, ImageRecord)> {
    let hex = damaged.path.file_name()?.to_str()?;
    let id = Digest::parse(&format!("sha256:{hex}")).ok()?;
    let config = read_config(dirs, &id).ok()?;
    let layers = chain_ids(&config.rootfs.diff_ids);
    let record =
        ImageRecord { id, digests: BTreeSet::new(), manifests: BTreeSet::new(), layers, pinned_by: BTreeSet::new() };
    Some((damaged.path.clone(), record))
}

/// Keeps what is damaged for a person to look at, out of the way.
fn set_aside(dirs: &Dirs, damaged: Vec<Damaged>) {
    for Damaged { path, reason } in damaged {
        tracing::error!(?path, reason, "record in the image store is damaged; it was moved to \"damaged\"");
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let moved = open_dir(&dirs.damaged)
            .and_then(|fd| remove_tree(&fd, name).map_err(|e| Error::io("remove", &dirs.damaged, e)))
            .and_then(|()| fs::rename(&path, dirs.damaged.join(name)).map_err(|e| Error::io("move", &path, e)));
        if let Err(error) = moved {
            tracing::warn!(%error, "failed to set a damaged record aside");
        }
    }
}

/// A record that describes nothing. If it cannot be removed it is found again at the next start.
fn drop_file(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, ?path, "failed to remove a stale record");
    }
}

fn reserve_directories(dirs: &Dirs, state: &mut State) -> Result<()> {
    let recorded: HashSet<u32> = state.layers.values().map(|layer| layer.dir).collect();
    let present = names(&dirs.layers)?.into_iter().filter_map(|name| name.parse().ok());
    state.taken = present.filter(|dir| !recorded.contains(dir)).collect();
    Ok(())
}

fn remove_unused_layers(dirs: &Dirs, state: &mut State) -> Result<()> {
    let used: HashSet<&Digest> = state.images.values().flat_map(|stored| &stored.record.layers).collect();
    let is_unused = |layer: &&LayerRecord| !used.contains(&layer.chain_id);
    let unused: Vec<LayerRecord> = state.layers.values().filter(is_unused).cloned().collect();
    let kept: HashSet<u32> = state.layers.values().filter(|layer| !is_unused(layer)).map(|layer| layer.dir).collect();
    let doomed: BTreeSet<u32> = unused.iter().map(|layer| layer.dir).chain(state.taken.iter().copied()).collect();
    let layers = open_dir(&dirs.layers)?;
    for dir in doomed.difference(&kept.into_iter().collect()) {
        remove_tree(&layers, &dir.to_string()).map_err(|e| Error::io("remove", dirs.layer(*dir), e))?;
    }
    for layer in unused {
        drop_file(&dirs.layer_record(&layer.chain_id));
        state.layers.remove(&layer.chain_id);
    }
    state.taken.clear();
    Ok(())
}

fn remove_unused_blobs(dirs: &Dirs, state: &State) -> Result<()> {
    let used: HashSet<&str> = state
        .images
        .values()
        .flat_map(|stored| stored.record.manifests.iter().chain([&stored.record.id]))
        .map(Digest::hex)
        .collect();
    let blobs = open_dir(&dirs.blobs)?;
    for name in names(&dirs.blobs)?.iter().filter(|name| !used.contains(name.as_str())) {
        // Damage may have made anything of it, and what stands there would be in the way of an import.
        remove_tree(&blobs, name).map_err(|e| Error::io("remove", dirs.blobs.join(name), e))?;
    }
    Ok(())
}
