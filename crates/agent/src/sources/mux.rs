//! Joins the sources: which pods are wanted, and what each file is to be told. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use pod::PullSecret;

use super::text::Content;
use super::{FileReport, SourceReport};
use crate::handle::ManifestStatus;

/// A file of a source. Ordered as the configuration and then the names have it.
type Key = (usize, Arc<str>);

/// By namespace and name.
pub(crate) type Secrets = BTreeMap<(String, String), Arc<PullSecret>>;

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
    in_force: BTreeMap<Key, Content>,
    conflicts: BTreeMap<Key, ManifestError>,
}

/// A file that is not in force because another has the name or UID of one of its pods, or the name of a secret.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conflict {
    /// With file, field and what to do.
    pub(crate) message: String,
    /// As the history of the pod that it is about tells it.
    pub(crate) event: Option<(Arc<Pod>, String)>,
}

impl Content {
    /// The very same objects.
    fn is(&self, other: &Self) -> bool {
        fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
        }
        same(&self.pods, &other.pods) && same(&self.secrets, &other.secrets)
    }

    /// Has no name that the other has not.
    fn keeps_to(&self, other: &Self) -> bool {
        let names: BTreeSet<String> = other.pods.iter().map(|pod| pod::full_name(pod)).collect();
        let keys: BTreeSet<(&str, &str)> = other.secrets.iter().map(|secret| secret.key()).collect();
        self.pods.iter().all(|pod| names.contains(&pod::full_name(pod)))
            && self.secrets.iter().all(|secret| keys.contains(&secret.key()))
    }
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
        for (key, content) in self.by_right(&files, runs) {
            let granted = match claims.claim(&key, content) {
                Ok(()) => content.clone(),
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
            in_force.insert(key, granted);
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

    /// Every secret in force.
    pub(crate) fn secrets(&self) -> Secrets {
        let secrets = self.in_force.values().flat_map(|content| &content.secrets);
        secrets.map(|secret| ((secret.namespace.clone(), secret.name.clone()), secret.clone())).collect()
    }

    /// What became of each file.
    pub(crate) fn manifests(&self) -> Vec<ManifestStatus> {
        let status = |(key, file): (Key, &FileReport)| {
            let conflict = self.conflicts.get(&key);
            let problem = file.problem.as_ref().map(|problem| problem.message.clone());
            let (pods, secrets) = self.in_force.get(&key).map_or((0, 0), |c| (c.pods.len(), c.secrets.len()));
            ManifestStatus {
                file: file.name.to_string(),
                since: conflict.map_or(file.since, |conflict| conflict.since),
                keeps_last_good: pods + secrets > 0 && (problem.is_some() || conflict.is_some()),
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

    fn candidates(&self) -> BTreeMap<Key, Content> {
        let content = |file: &FileReport| Content { pods: file.pods.clone(), secrets: file.secrets.clone() };
        self.files().map(|(key, file)| (key, content(file))).collect()
    }

    /// The order in which files claim names: unchanged ones, then edits that keep to the names they have, then files
    /// with a pod that runs already, then the rest; each group in the order of configuration and name.
    fn by_right<'a>(&self, files: &'a BTreeMap<Key, Content>, runs: &dyn Fn(&str) -> bool) -> Vec<(Key, &'a Content)> {
        let nothing = Content::default();
        let rank = |key: &Key, content: &Content| {
            let held = self.in_force.get(key).unwrap_or(&nothing);
            if content.is(held) {
                0
            } else if content.keeps_to(held) {
                1
            } else if content.pods.iter().any(|pod| runs(pod::uid(pod))) {
                2
            } else {
                3
            }
        };
        let mut order: Vec<(Key, &Content)> = files.iter().map(|(key, content)| (key.clone(), content)).collect();
        order.sort_by_key(|(key, content)| rank(key, content));
        order
    }

    /// A file that lost keeps what it had in force, less what another has claimed by now.
    fn fall_back(&self, key: &Key, claims: &mut Claims) -> Content {
        let Some(held) = self.in_force.get(key) else { return Content::default() };
        let mut claim = |content: &Content| claims.claim(key, content).is_ok();
        let mut kept = Content::default();
        for pod in &held.pods {
            if claim(&Content { pods: vec![pod.clone()], ..Content::default() }) {
                kept.pods.push(pod.clone());
            }
        }
        for secret in &held.secrets {
            if claim(&Content { secrets: vec![secret.clone()], ..Content::default() }) {
                kept.secrets.push(secret.clone());
            }
        }
        kept
    }
}

/// Names and UIDs that are taken, and by which file.
#[derive(Debug, Default)]
struct Claims {
    pods: BTreeMap<String, Arc<str>>,
    uids: BTreeMap<String, Arc<str>>,
    secrets: BTreeMap<(String, String), Arc<str>>,
}

impl Claims {
    /// Takes all names and UIDs of `content`, or none of them.
    fn claim(&mut self, key: &Key, content: &Content) -> Result<(), Conflict> {
        let (mut pods, mut uids, mut secrets) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for pod in &content.pods {
            let full_name = pod::full_name(pod);
            if let Some(holder) = holder(&self.pods, &pods, &full_name, &key.1) {
                return Err(same_name(&key.1, pod, holder));
            }
            let uid = pod::uid(pod).to_owned();
            if let Some(holder) = holder(&self.uids, &uids, &uid, &key.1) {
                return Err(same_uid(&key.1, pod, holder));
            }
            pods.insert(full_name);
            uids.insert(uid);
        }
        for secret in &content.secrets {
            let name = (secret.namespace.clone(), secret.name.clone());
            if let Some(holder) = holder(&self.secrets, &secrets, &name, &key.1) {
                return Err(same_secret(&key.1, secret, holder));
            }
            secrets.insert(name);
        }
        self.pods.extend(pods.into_iter().map(|name| (name, key.1.clone())));
        self.uids.extend(uids.into_iter().map(|uid| (uid, key.1.clone())));
        self.secrets.extend(secrets.into_iter().map(|name| (name, key.1.clone())));
        Ok(())
    }
}

/// The file that has `name`: another, or `own` where it declares it twice.
fn holder<'a, K: Ord>(
    taken: &'a BTreeMap<K, Arc<str>>,
    wanted: &BTreeSet<K>,
    name: &K,
    own: &'a Arc<str>,
) -> Option<&'a Arc<str>> {
    taken.get(name).or_else(|| wanted.contains(name).then_some(own))
}

fn same_name(file: &str, pod: &Arc<Pod>, holder: &str) -> Conflict {
    let (name, namespace) = (pod::name(pod), pod::namespace(pod));
    let message = format!(
        "{file}: metadata.name: pod {name:?} in namespace {namespace:?} is declared in {holder} already; \
         two pods cannot have one name: rename or remove one of them"
    );
    let event = format!(
        "Error validating pod {}({}) from {file} due to duplicate pod name {name:?}, ignoring",
        pod::full_name(pod),
        pod::uid(pod)
    );
    Conflict { message, event: Some((pod.clone(), event)) }
}

fn same_uid(file: &str, pod: &Arc<Pod>, holder: &str) -> Conflict {
    let (name, namespace, uid) = (pod::name(pod), pod::namespace(pod), pod::uid(pod));
    let message = format!(
        "{file}: metadata.uid: {uid:?} of pod {name:?} in namespace {namespace:?} is the UID of another pod \
         in {holder}; every pod needs its own: change or remove it"
    );
    let full_name = pod::full_name(pod);
    let event =
        format!("Error validating pod {full_name}({uid}) from {file} due to duplicate pod UID {uid:?}, ignoring");
    Conflict { message, event: Some((pod.clone(), event)) }
}

fn same_secret(file: &str, secret: &PullSecret, holder: &str) -> Conflict {
    let (namespace, name) = secret.key();
    let message = format!(
        "{file}: metadata.name: secret {name:?} in namespace {namespace:?} is declared in {holder} already, \
         which stays in force; rename or remove one of them"
    );
    Conflict { message, event: None }
}

#[cfg(test)]
mod tests;
