//! Looking at the images, and removing what may go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cri::{Code, v1};
use lifecycle::image_gc::{Disk, Image, Policy, Round};
use lifecycle::{Event, Millis};
use pod::reasons;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::disk::{self, DiskError, Measures};
use super::usage::{self, Names};
use super::{PruneError, PruneFailure, Pruned, PrunedImage, Surroundings};
use crate::clock;
use crate::config::ImageGcConfig;
use crate::core::Message;
use crate::events::whole_warning;
use crate::handle::Query;

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Regular,
    /// It is not known yet what is wanted.
    Soon,
}

/// What is remembered of an image.
#[derive(Debug, Clone, Copy)]
struct Known {
    detected_ms: Millis,
    used_ms: Option<Millis>,
}

pub(super) struct Collector {
    pub(super) surroundings: Surroundings,
    measures: Measures,
    policy: Policy,
    /// By id.
    known: BTreeMap<String, Known>,
    /// When it began to look.
    since_ms: Millis,
    /// The last round failed: the next failure is told.
    failed: bool,
}

/// What a look at everything shows.
pub(super) struct View {
    images: Vec<v1::Image>,
    names: Names,
    /// What pods want, as their specs name it.
    wanted: BTreeSet<String>,
    /// Ids.
    used: BTreeSet<String>,
}

/// Why images take more room than they should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Look(#[from] PruneError),
    #[error("how full the images' file system is cannot be told: {0}")]
    Disk(#[from] DiskError),
    #[error("invalid capacity 0 on image filesystem {}", .0.display())]
    Capacity(PathBuf),
    #[error(
        "Insufficient free disk space on the node's image filesystem ({used_percent:.1}% of {} used). Failed to free sufficient \
         space by deleting unused images. Consider resizing the disk or deleting unused files.",
        in_words(*.capacity_bytes)
    )]
    Insufficient { used_percent: f64, capacity_bytes: u64 },
    #[error(
        "wanted to free {wanted_bytes} bytes, but freed {freed_bytes} bytes space with errors in image deletion: {errors}"
    )]
    Removal { wanted_bytes: u64, freed_bytes: u64, errors: String },
}

impl Failure {
    /// What people are told, the particular before the general.
    fn events(&self) -> Vec<Event> {
        let reason = match self {
            Self::Insufficient { .. } => Some(reasons::FREE_DISK_SPACE_FAILED),
            Self::Capacity(_) => Some(reasons::INVALID_DISK_CAPACITY),
            Self::Look(_) | Self::Disk(_) | Self::Removal { .. } => None,
        };
        let reasons = reason.into_iter().chain([reasons::IMAGE_GC_FAILED]);
        reasons.map(|reason| whole_warning(reason, self.to_string())).collect()
    }
}

impl Collector {
    pub(super) fn new(surroundings: Surroundings, measures: Measures) -> Self {
        let policy = policy(&surroundings.world.config.images.gc);
        let since_ms = clock::mono_ms();
        Self { surroundings, measures, policy, known: BTreeMap::new(), since_ms, failed: false }
    }

    /// Whether nothing is ever to be removed, unless somebody asks.
    pub(super) fn is_idle(&self) -> bool {
        self.policy.is_idle()
    }

    /// Removes what takes too much room or is too old.
    pub(super) async fn round(&mut self) -> Next {
        match self.collect().await {
            Ok(()) => self.failed = false,
            Err(Failure::Look(PruneError::NotReady)) => return Next::Soon,
            Err(Failure::Look(PruneError::Closed)) => {}
            Err(failure) => {
                warn!("images are not cleaned up: {failure}");
                // Once may be a runtime that is just being restarted.
                if std::mem::replace(&mut self.failed, true) {
                    for event in failure.events() {
                        // The loop has ended: there is nobody to tell.
                        let _ended = self.surroundings.messages.send(Message::NodeTold(event)).await;
                    }
                }
            }
        }
        Next::Regular
    }

    /// Removes everything that nobody uses.
    pub(super) async fn prune(&mut self) -> Result<Pruned, PruneError> {
        let mut view = self.view().await?;
        let path = self.images_at().await.ok();
        let before = self.settled(path.as_deref()).await;
        let mut round = Round::all(&self.facts(&view));
        let nothing = Disk { capacity_bytes: 0, available_bytes: 0 };
        let mut pruned = Pruned::default();
        while let Some(id) = round.next(nothing) {
            self.remove(&mut view, &id, &mut pruned).await?;
        }
        let after = self.settled(path.as_deref()).await;
        pruned.freed_bytes = freed_bytes(before, after);
        Ok(pruned)
    }

    async fn collect(&mut self) -> Result<(), Failure> {
        let mut view = self.view().await?;
        let path = self.images_at().await?;
        let mut before = disk::measured(self.measures.now, &path).await?;
        if before.capacity_bytes == 0 {
            return Err(Failure::Capacity(path));
        }
        let (facts, times_ms) = (self.facts(&view), (self.since_ms, clock::mono_ms()));
        let mut round = Round::new(&self.policy, &facts, before, times_ms);
        if round.missing_bytes(before) > 0 {
            // What was removed lately may still count, and no image is to go for it.
            before = disk::measured(self.measures.settled, &path).await?;
            round = Round::new(&self.policy, &facts, before, times_ms);
        }
        let wanted_bytes = round.missing_bytes(before);
        if wanted_bytes > 0 {
            let percent = before.used_percent();
            info!("the images' file system {} is {percent} % full; freeing {wanted_bytes} bytes", path.display());
        }
        let (mut now, mut pruned) = (before, Pruned::default());
        while let Some(id) = round.next(now) {
            self.remove(&mut view, &id, &mut pruned).await?;
            now = disk::measured(self.measures.settled, &path).await?;
        }
        if !pruned.failed.is_empty() {
            let errors: Vec<&str> = pruned.failed.iter().map(|failure| failure.error.as_str()).collect();
            let freed_bytes = freed_bytes(Some(before), Some(now));
            return Err(Failure::Removal { wanted_bytes, freed_bytes, errors: errors.join(", ") });
        }
        if round.missing_bytes(now) > 0 {
            let used_percent = f64::from(now.used_percent());
            return Err(Failure::Insufficient { used_percent, capacity_bytes: now.capacity_bytes });
        }
        Ok(())
    }

    /// Learns which images there are.
    pub(super) async fn look(&mut self) -> Result<Vec<v1::Image>, PruneError> {
        let since_ms = clock::mono_ms();
        let runtime = self.surroundings.world.runtime.clone();
        let listed = self.answer("list the images", runtime.list_images(v1::ListImagesRequest::default())).await?;
        self.note(&listed.images);
        let (records, images) = (self.surroundings.world.records.clone(), listed.images.clone());
        let pruned = tokio::task::spawn_blocking(move || records.prune(&images, since_ms)).await;
        if let Err(error) = pruned {
            warn!(%error, "records of pulls are not cleaned up");
        }
        Ok(listed.images)
    }

    /// Looks at everything. What is used is noted as used at this moment.
    pub(super) async fn view(&mut self) -> Result<View, PruneError> {
        let images = self.look().await?;
        let runtime = self.surroundings.world.runtime.clone();
        let wanted = self.wanted().await?;
        let in_use = self.answer("list the containers", usage::names_in_use(&*runtime)).await?;
        let mut view = View { names: Names::of(&images), images, wanted: BTreeSet::new(), used: BTreeSet::new() };
        self.use_all(&mut view, &in_use).await?;
        self.use_all(&mut view, &wanted).await?;
        view.wanted = wanted;
        let now_ms = clock::mono_ms();
        for id in &view.used {
            if let Some(known) = self.known.get_mut(id) {
                known.used_ms = Some(now_ms);
            }
        }
        Ok(view)
    }

    /// Remembers since when which image is there.
    fn note(&mut self, images: &[v1::Image]) {
        let detected_ms = clock::mono_ms();
        let known = images.iter().map(|image| {
            let before = self.known.get(&image.id).copied();
            (image.id.clone(), before.unwrap_or(Known { detected_ms, used_ms: None }))
        });
        self.known = known.collect();
    }

    async fn wanted(&self) -> Result<BTreeSet<String>, PruneError> {
        let (reply, answer) = oneshot::channel();
        self.surroundings.queries.send(Query::WantedImages(reply)).await.map_err(|_| PruneError::Closed)?;
        answer.await.map_err(|_| PruneError::Closed)?.ok_or(PruneError::NotReady)
    }

    async fn use_all(&self, view: &mut View, names: &BTreeSet<String>) -> Result<(), PruneError> {
        for name in names {
            let id = view.names.id_of(&*self.surroundings.world.runtime, name);
            let id = self.answer("tell which image a name stands for", id).await?;
            view.used.extend(id);
        }
        Ok(())
    }

    fn facts(&self, view: &View) -> Vec<Image> {
        let unknown = Known { detected_ms: clock::mono_ms(), used_ms: None };
        let fact = |image: &v1::Image| {
            let known = self.known.get(&image.id).copied().unwrap_or(unknown);
            Image {
                id: image.id.clone(),
                in_use: view.used.contains(&image.id),
                pinned: image.pinned,
                detected_ms: known.detected_ms,
                used_ms: known.used_ms,
            }
        };
        view.images.iter().map(fact).collect()
    }

    /// Removes one image, unless somebody has come meanwhile who wants it.
    pub(super) async fn remove(&mut self, view: &mut View, id: &str, pruned: &mut Pruned) -> Result<(), PruneError> {
        let wanted = self.wanted().await?;
        let new: BTreeSet<String> = wanted.difference(&view.wanted).cloned().collect();
        self.use_all(view, &new).await?;
        view.wanted.extend(new);
        let Some(image) = view.images.iter().find(|image| image.id == id && !view.used.contains(id)) else {
            return Ok(());
        };
        let (id, names) = (id.to_owned(), names_of(image));
        let spec = v1::ImageSpec { image: id.clone(), ..Default::default() };
        let request = v1::RemoveImageRequest { image: Some(spec) };
        match self.answer("remove an image", self.surroundings.world.runtime.remove_image(request)).await {
            Ok(_) => {
                info!(image = %id, names = names.join(" "), "removed an image that nobody uses");
                self.known.remove(&id);
                pruned.removed.push(PrunedImage { id, names, size_bytes: image.size });
            }
            // Somebody else's containers are not ours to see.
            Err(PruneError::Runtime { error, .. }) if error.code == Code::FailedPrecondition => {
                debug!(image = %id, %error, "an image is in use after all");
            }
            Err(error) => pruned.failed.push(PruneFailure { id, names, error: error.to_string() }),
        }
        Ok(())
    }

    async fn images_at(&self) -> Result<PathBuf, DiskError> {
        let runtime = &self.surroundings.world.runtime;
        let asked = self.answer("tell where images lie", runtime.image_fs_info(v1::ImageFsInfoRequest::default()));
        let info = asked.await.map_err(|error| match error {
            PruneError::Runtime { error, .. } => DiskError::Runtime(error),
            PruneError::NotReady | PruneError::Closed => DiskError::Unnamed,
        })?;
        let mut named = info.image_filesystems.into_iter().filter_map(|usage| usage.fs_id).map(|id| id.mountpoint);
        named.find(|path| !path.is_empty()).map(PathBuf::from).ok_or(DiskError::Unnamed)
    }

    async fn settled(&self, path: Option<&Path>) -> Option<Disk> {
        disk::measured(self.measures.settled, path?).await.ok()
    }

    /// The runtime's answer, within the time that it has for one.
    async fn answer<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, cri::Error>>,
    ) -> Result<T, PruneError> {
        let within: Duration = self.surroundings.world.call_within;
        let late = || Err(cri::Error::deadline_exceeded(format!("no answer within {} s", within.as_secs())));
        let answer = tokio::time::timeout(within, call).await.unwrap_or_else(|_| late());
        answer.map_err(|error| PruneError::Runtime { what, error })
    }
}

fn policy(config: &ImageGcConfig) -> Policy {
    let ms = |duration: Duration| Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX);
    Policy {
        high_percent: config.high_percent,
        low_percent: config.low_percent,
        min_age_ms: ms(config.min_age),
        max_age_ms: config.max_age.map(ms),
    }
}

fn names_of(image: &v1::Image) -> Vec<String> {
    if image.repo_tags.is_empty() { image.repo_digests.clone() } else { image.repo_tags.clone() }
}

/// Others write to the disk as well: it may even have grown fuller.
fn freed_bytes(before: Option<Disk>, after: Option<Disk>) -> u64 {
    let freed = |(before, after): (Disk, Disk)| after.available_bytes.saturating_sub(before.available_bytes);
    before.zip(after).map_or(0, freed)
}

/// As people read it: `9.8 GiB`.
fn in_words(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(step) = (1..=UNITS.len()).rev().find(|step| bytes >> (10 * step) > 0) else { return format!("{bytes} B") };
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[step - 1])
}
