//! Joins the sources: which pods are wanted, and what each file is to be told. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{FileReport, SourceReport};
use crate::handle::ManifestStatus;

/// A file of a source. Ordered as the configuration and then the names have it.
type Key = (usize, Arc<str>);

/// A pod that is to run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) pod: Arc<Pod>,
    /// What is wrong with the manifest it came from, which is then an earlier version of it.
    pub(crate) manifest_error: Option<ManifestError>,
}

/// Why a manifest is refused, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestError {
    pub(crate) message: String,
    pub(crate) since: Timestamp,
}

/// The state of all sources.
#[derive(Debug)]
pub(crate) struct Mux {
    reports: Vec<Option<Vec<FileReport>>>,
    in_force: BTreeMap<Key, InForce>,
    conflicts: BTreeMap<Key, ManifestError>,
}

/// A file that is not in force because another has the name or UID of one of its pods.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conflict {
    pub(crate) pod: Arc<Pod>,
    /// With file, field and what to do.
    pub(crate) message: String,
    /// As the pod's history tells it.
    pub(crate) event: String,
}

#[derive(Debug, Clone, PartialEq)]
struct InForce {
    pods: Vec<Arc<Pod>>,
}

impl Mux {
    pub(crate) fn new(sources: usize) -> Self {
        Self { reports: vec![None; sources], in_force: BTreeMap::new(), conflicts: BTreeMap::new() }
    }

    /// Nothing that looks abandoned may be cleaned before this is true (rule 7).
    pub(crate) fn all_reported(&self) -> bool {
        self.reports.iter().all(Option::is_some)
    }

    /// Takes a report and decides anew which file's pods are in force. `runs` tells whether a pod of that UID runs
    /// already: among files that contend for a name at the same moment, its file wins. Returns the conflicts that are new.
    pub(crate) fn update(&mut self, report: SourceReport, runs: &dyn Fn(&str) -> bool) -> Vec<Conflict> {
        let Some(slot) = self.reports.get_mut(report.source) else { return Vec::new() };
        *slot = Some(report.files);
        let files = self.candidates();
        let mut claims = Claims::default();
        let mut in_force = BTreeMap::new();
        let mut conflicts = BTreeMap::new();
        let mut fresh = Vec::new();
        for (key, pods) in self.by_right(&files, runs) {
            let granted = match claims.claim(&key, pods) {
                Ok(()) => pods.to_vec(),
                Err(conflict) => {
                    let known = self.conflicts.get(&key).filter(|known| known.message == conflict.message).cloned();
                    let since = Timestamp::now();
                    let error = known.unwrap_or_else(|| {
                        let message = conflict.message.clone();
                        fresh.push(conflict);
                        ManifestError { message, since }
                    });
                    conflicts.insert(key.clone(), error);
                    self.fall_back(&key, &mut claims)
                }
            };
            in_force.insert(key, InForce { pods: granted });
        }
        self.conflicts = conflicts;
        self.in_force = in_force;
        fresh
    }

    /// Every pod that is to run, by UID.
    pub(crate) fn wanted(&self) -> BTreeMap<String, Wanted> {
        let problems: BTreeMap<Key, ManifestError> = self
            .files()
            .filter_map(|(key, file)| {
                Some((key, ManifestError { message: file.problem.as_ref()?.message.clone(), since: file.since }))
            })
            .chain(self.conflicts.iter().map(|(key, conflict)| (key.clone(), conflict.clone())))
            .collect();
        let pods = self.in_force.iter().flat_map(|(key, files)| files.pods.iter().map(move |pod| (key, pod)));
        let wanted = pods.map(|(key, pod)| {
            let manifest_error = problems.get(key).cloned();
            (pod::uid(pod).to_owned(), Wanted { pod: pod.clone(), manifest_error })
        });
        wanted.collect()
    }

    /// What became of each file.
    pub(crate) fn manifests(&self) -> Vec<ManifestStatus> {
        let status = |(key, file): (Key, &FileReport)| {
            let conflict = self.conflicts.get(&key);
            let problem = file.problem.as_ref().map(|problem| problem.message.clone());
            let pods = self.in_force.get(&key).map_or(0, |files| files.pods.len());
            ManifestStatus {
                file: file.name.to_string(),
                since: conflict.map_or(file.since, |conflict| conflict.since),
                keeps_last_good: pods > 0 && (problem.is_some() || conflict.is_some()),
                error: problem.or_else(|| conflict.map(|conflict| conflict.message.clone())),
                ignored: file.ignored,
                pods,
            }
        };
        self.files().map(status).collect()
    }

    fn files(&self) -> impl Iterator<Item = (Key, &FileReport)> {
        let reports = self.reports.iter().enumerate();
        reports.flat_map(|(source, files)| files.iter().flatten().map(move |file| ((source, file.name.clone()), file)))
    }

    fn candidates(&self) -> BTreeMap<Key, Vec<Arc<Pod>>> {
        self.files().map(|(key, file)| (key, file.pods.clone())).collect()
    }

    /// The order in which files claim names: unchanged ones, then edits that keep to the names they have, then files
    /// with a pod that runs already, then the rest; each group in the order of configuration and name.
    fn by_right<'a>(
        &self,
        files: &'a BTreeMap<Key, Vec<Arc<Pod>>>,
        runs: &dyn Fn(&str) -> bool,
    ) -> Vec<(Key, &'a [Arc<Pod>])> {
        let rank = |key: &Key, pods: &[Arc<Pod>]| {
            let held = self.in_force.get(key).map(|files| files.pods.as_slice()).unwrap_or_default();
            let names: BTreeSet<String> = held.iter().map(|pod| pod::full_name(pod)).collect();
            if held.len() == pods.len() && held.iter().zip(pods).all(|(a, b)| Arc::ptr_eq(a, b)) {
                0
            } else if pods.iter().all(|pod| names.contains(&pod::full_name(pod))) {
                1
            } else if pods.iter().any(|pod| runs(pod::uid(pod))) {
                2
            } else {
                3
            }
        };
        let mut order: Vec<(Key, &[Arc<Pod>])> =
            files.iter().map(|(key, pods)| (key.clone(), pods.as_slice())).collect();
        order.sort_by_key(|(key, pods)| rank(key, pods));
        order
    }

    /// A file that lost keeps what it had in force, less what another has claimed by now.
    fn fall_back(&self, key: &Key, claims: &mut Claims) -> Vec<Arc<Pod>> {
        let held = self.in_force.get(key).map(|files| files.pods.as_slice()).unwrap_or_default();
        held.iter().filter(|pod| claims.claim(key, std::slice::from_ref(*pod)).is_ok()).cloned().collect()
    }
}

/// Names and UIDs that are taken, and by which file.
#[derive(Debug, Default)]
struct Claims {
    names: BTreeMap<String, Arc<str>>,
    uids: BTreeMap<String, Arc<str>>,
}

impl Claims {
    /// Takes the names and UIDs of all `pods`, or none of them.
    fn claim(&mut self, key: &Key, pods: &[Arc<Pod>]) -> Result<(), Conflict> {
        let file = &key.1;
        let mut names = BTreeSet::new();
        let mut uids = BTreeSet::new();
        for pod in pods {
            let (name, namespace) = (pod::name(pod), pod::namespace(pod));
            let full_name = pod::full_name(pod);
            let holder = self.names.get(&full_name).or_else(|| names.contains(&full_name).then_some(file));
            if let Some(holder) = holder {
                let message = format!(
                    "{file}: metadata.name: pod {name:?} in namespace {namespace:?} is declared in {holder} already; \
                     two pods cannot have one name: rename or remove one of them"
                );
                let event = format!(
                    "Error validating pod {full_name}({}) from {file} due to duplicate pod name {name:?}, ignoring",
                    pod::uid(pod)
                );
                return Err(Conflict { pod: pod.clone(), message, event });
            }
            let uid = pod::uid(pod);
            let holder = self.uids.get(uid).or_else(|| uids.contains(uid).then_some(file));
            if let Some(holder) = holder {
                let message = format!(
                    "{file}: metadata.uid: {uid:?} of pod {name:?} in namespace {namespace:?} is the UID of another pod \
                     in {holder}; every pod needs its own: change or remove it"
                );
                let event = format!(
                    "Error validating pod {full_name}({uid}) from {file} due to duplicate pod UID {uid:?}, ignoring"
                );
                return Err(Conflict { pod: pod.clone(), message, event });
            }
            names.insert(full_name);
            uids.insert(uid.to_owned());
        }
        self.names.extend(names.into_iter().map(|name| (name, file.clone())));
        self.uids.extend(uids.into_iter().map(|uid| (uid, file.clone())));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
