//! Which images may go, and in which order.
//!
//! Facts go in, one image after another comes out. How much was really freed is measured by whoever removes them, and told
//! before the next one is named: images share content, and their sizes do not say what the removal of one brings.

use std::collections::VecDeque;

use crate::Millis;

/// When images go. `high_percent` of 100 is never for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Images go once their file system is as full as this, in percent.
    pub high_percent: u8,
    /// And until it is only as full as this.
    pub low_percent: u8,
    /// What was known for less is left alone.
    pub min_age_ms: Millis,
    /// What was not used for longer goes however much room there is; none for never.
    pub max_age_ms: Option<Millis>,
}

/// An image of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    /// A container was made from it, a pod wants it, or it is being pulled.
    pub in_use: bool,
    /// The runtime is not to lose it.
    pub pinned: bool,
    /// When it was first seen.
    pub detected_ms: Millis,
    /// When it was last seen in use; none if it never was.
    pub used_ms: Option<Millis>,
}

/// The file system that holds the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
}

/// What is to be removed, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// They go in any case.
    outdated: VecDeque<String>,
    /// They go while room is wanted.
    spare: VecDeque<String>,
    /// The room that is wanted; none where nothing is wanting.
    wanted_bytes: Option<u64>,
}

impl Disk {
    /// In percent, rounded up.
    pub fn used_percent(&self) -> u8 {
        let available = u128::from(self.available_bytes.min(self.capacity_bytes)) * 100;
        let free = available / u128::from(self.capacity_bytes.max(1));
        100 - u8::try_from(free).unwrap_or(100)
    }
}

impl Policy {
    /// Whether nothing is ever removed under it.
    pub fn is_idle(&self) -> bool {
        self.high_percent >= 100 && self.max_age_ms.is_none()
    }

    /// How much is to be available, if there is too little now.
    fn wanted_bytes(&self, disk: Disk) -> Option<u64> {
        if self.high_percent >= 100 || disk.used_percent() < self.high_percent {
            return None;
        }
        let free_percent = u128::from(100 - self.low_percent.min(100));
        u64::try_from(u128::from(disk.capacity_bytes) * free_percent / 100).ok()
    }
}

impl Round {
    /// What the policy asks for now. `since_ms` is when the kubelet began to look: what was used before is not known.
    pub fn new(policy: &Policy, images: &[Image], disk: Disk, (since_ms, now_ms): (Millis, Millis)) -> Round {
        let wanted_bytes = policy.wanted_bytes(disk);
        let old_enough = |image: &&Image| now_ms.saturating_sub(image.detected_ms) >= policy.min_age_ms;
        let (outdated, spare): (Vec<&Image>, Vec<&Image>) =
            in_order(images).into_iter().filter(old_enough).partition(|image| {
                policy.max_age_ms.is_some_and(|max| now_ms.saturating_sub(idle_ms(image, since_ms)) > max)
            });
        let ids = |images: Vec<&Image>| images.into_iter().map(|image| image.id.clone()).collect();
        Round { outdated: ids(outdated), spare: ids(spare), wanted_bytes }
    }

    /// Everything that may go, whatever its age and whatever room there is.
    pub fn all(images: &[Image]) -> Round {
        let ids = in_order(images).into_iter().map(|image| image.id.clone());
        Round { outdated: ids.collect(), spare: VecDeque::new(), wanted_bytes: None }
    }

    /// The next image to be removed, with the disk as it is now; none if that is enough, or nothing more may go.
    pub fn next(&mut self, disk: Disk) -> Option<String> {
        let outdated = self.outdated.pop_front();
        outdated.or_else(|| if self.missing_bytes(disk) > 0 { self.spare.pop_front() } else { None })
    }

    /// What is still to be freed.
    pub fn missing_bytes(&self, disk: Disk) -> u64 {
        self.wanted_bytes.map_or(0, |wanted| wanted.saturating_sub(disk.available_bytes))
    }
}

/// Since when nobody is known to use it.
fn idle_ms(image: &Image, since_ms: Millis) -> Millis {
    image.used_ms.unwrap_or(0).max(image.detected_ms).max(since_ms)
}

/// What may go at all: what was not used for the longest time first, of those what is known for longest.
fn in_order(images: &[Image]) -> Vec<&Image> {
    let mut free: Vec<&Image> = images.iter().filter(|image| !image.in_use && !image.pinned).collect();
    free.sort_by(|a, b| (a.used_ms, a.detected_ms, &a.id).cmp(&(b.used_ms, b.detected_ms, &b.id)));
    free
}

#[cfg(test)]
mod tests;
