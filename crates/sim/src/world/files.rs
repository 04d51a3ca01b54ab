//! The manifests that the kubelet is given, and how people change them.

use super::{Happening, SOURCES, World};
use crate::facts::{Fact, Told};
use crate::kubelet::Mutant;
use crate::pods::{self, Version};
use agent::core::{FileReport, Message, Problem, SourceReport};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use std::sync::Arc;

const FILES_MAX: usize = 4;

#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(super) name: String,
    source: usize,
    manifest: Value,
    pub(super) version: Version,
    /// What is in it now cannot be read; `version` is the last good one.
    spoiled: bool,
    /// It claims the name of a pod in another file, in vain.
    pub(super) contends: bool,
}

impl World {
    pub(super) fn add_file(&mut self) {
        self.names += 1;
        let name = format!("p{}", self.names);
        let source = usize::try_from(self.rng.below(SOURCES as u64)).unwrap_or(0);
        let (manifest, version) = self.invent(&name);
        self.add(&name, source, (manifest, version));
    }

    pub(super) fn add(&mut self, name: &str, source: usize, (manifest, version): (Value, Version)) {
        let file = File { name: format!("{name}.yaml"), source, manifest, version, spoiled: false, contends: false };
        self.note(format_args!("add {} to source {source}: {}", file.name, file.manifest));
        self.files.push(file);
        self.tell_source(source);
    }

    fn invent(&mut self, name: &str) -> (Value, Version) {
        self.names += 1;
        let uid = format!("{name}-u{}", self.names);
        let (manifest, cast) = pods::invent(&mut self.rng, name, &uid);
        self.known.truth.cast.extend(cast);
        let version = pods::version(&manifest);
        (manifest, version)
    }

    /// The kubelet reads a source again.
    fn tell_source(&mut self, source: usize) {
        if self.kubelet.is_none() {
            return;
        }
        let (epoch, after_ms) = (self.known.epoch, self.rng.between(1, 1_500));
        self.at(after_ms, Happening::Report { epoch, source });
    }

    pub(super) fn edit(&mut self) {
        if self.files.is_empty() || self.files.len() < FILES_MAX && self.rng.chance(150) {
            return self.add_file();
        }
        let index = usize::try_from(self.rng.below(self.files.len() as u64)).unwrap_or(0);
        if self.files[index].contends {
            return self.remove(index);
        }
        match self.rng.below(10) {
            0 | 1 => self.remove(index),
            2 | 3 => self.replace(index),
            4 | 5 => self.edit_in_place(index),
            6 => self.spoil(index),
            7 => self.bring_back(),
            8 => self.contend(index),
            _ => self.move_over(index),
        }
    }

    fn remove(&mut self, index: usize) {
        let file = self.files.remove(index);
        self.note(format_args!("remove {}", file.name));
        self.tell_source(file.source);
        if !file.contends {
            let name = pods::name_of(&file.version.plan.uid).to_owned();
            self.files.retain(|other| !(other.contends && pods::name_of(&other.version.plan.uid) == name));
            self.removed.push(file);
        }
    }

    pub(super) fn unwant(&mut self, uid: &str) {
        let index = self.files.iter().position(|file| file.version.plan.uid == uid && !file.contends);
        if let Some(index) = index.filter(|_| !self.known.calm) {
            let source = self.files[index].source;
            self.remove(index);
            self.report_soon(source);
        }
    }

    fn replace(&mut self, index: usize) {
        let name = pods::name_of(&self.files[index].version.plan.uid).to_owned();
        let (manifest, version) = self.invent(&name);
        self.note(format_args!("replace {name}: {manifest}"));
        let former = self.files[index].clone();
        self.removed.push(former);
        let file = &mut self.files[index];
        (file.manifest, file.version, file.spoiled) = (manifest, version, false);
        let source = file.source;
        self.tell_source(source);
    }

    fn edit_in_place(&mut self, index: usize) {
        for _ in 0..self.rng.between(1, 3) {
            let file = &mut self.files[index];
            pods::edit(&mut self.rng, &mut file.manifest);
            file.version = pods::version(&file.manifest);
            file.spoiled = false;
            let (name, source) = (file.name.clone(), file.source);
            self.note(format_args!("edit {name}"));
            self.report_soon(source);
        }
    }

    fn report_soon(&mut self, source: usize) {
        if self.kubelet.is_some() {
            let (epoch, after_ms) = (self.known.epoch, self.rng.between(0, 30));
            self.at(after_ms, Happening::Report { epoch, source });
        }
    }

    fn spoil(&mut self, index: usize) {
        let file = &mut self.files[index];
        file.spoiled = !file.spoiled;
        let (name, source, spoiled) = (file.name.clone(), file.source, file.spoiled);
        self.note(format_args!("{name} is {}", if spoiled { "spoiled" } else { "good again" }));
        self.tell_source(source);
    }

    /// A pod that was removed is wanted again, UID and all.
    fn bring_back(&mut self) {
        let Some(file) = self.removed.pop() else { return };
        let name = pods::name_of(&file.version.plan.uid);
        if self.files.iter().any(|other| pods::name_of(&other.version.plan.uid) == name) {
            return;
        }
        self.note(format_args!("bring back {}", file.version.plan.uid));
        self.tell_source(file.source);
        self.files.push(File { spoiled: false, ..file });
    }

    fn contend(&mut self, index: usize) {
        let (source, uid) = (self.files[index].source, self.files[index].version.plan.uid.clone());
        let name = pods::name_of(&uid).to_owned();
        if self.files.iter().any(|other| other.contends) {
            return;
        }
        let (manifest, version) = self.invent(&name);
        let file = File { name: format!("z-{name}.yaml"), source, manifest, version, spoiled: false, contends: true };
        self.note(format_args!("{} claims the name of {name}", file.name));
        self.files.push(file);
        self.tell_source(source);
    }

    fn move_over(&mut self, index: usize) {
        let name = pods::name_of(&self.files[index].version.plan.uid).to_owned();
        if self.files.iter().any(|other| other.contends && pods::name_of(&other.version.plan.uid) == name) {
            return;
        }
        let source = self.files[index].source;
        self.files[index].source = (source + 1) % SOURCES;
        self.note(format_args!("move {name} from source {source}"));
        self.tell_source(source);
        self.tell_source((source + 1) % SOURCES);
    }

    /// A source tells all it has, as it is at this moment.
    pub(super) fn report_source(&mut self, source: usize) {
        let files: Vec<File> = self.files.iter().filter(|file| file.source == source).cloned().collect();
        let told = files.iter().map(|file| Told {
            file: file.name.clone(),
            plan: file.version.plan.clone(),
            spoiled: file.spoiled,
            contends: file.contends,
        });
        self.known.told[source] = Some(told.collect());
        self.tell(&Fact::SourceReported);
        let files = files.iter().map(|file| self.file_report(file)).collect();
        self.note(format_args!("source {source} reports"));
        self.deliver(Message::Report(SourceReport { source, files }), None);
        if let Some(kubelet) = &self.kubelet {
            let manifests = kubelet.agent.manifests();
            self.tell(&Fact::ManifestStatuses(&manifests));
        }
    }

    fn file_report(&self, file: &File) -> FileReport {
        let message = format!("{}: not a manifest", file.name);
        let pods = match self.mutant {
            Some(Mutant::DropsLastGood) if file.spoiled => Vec::new(),
            _ => vec![self.given(&file.version.pod)],
        };
        FileReport {
            name: Arc::from(file.name.as_str()),
            pods,
            secrets: Vec::new(),
            problem: file.spoiled.then_some(Problem { message }),
            ignored: false,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    /// What a broken kubelet makes of a manifest.
    fn given(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let mut changed = Pod::clone(pod);
        match (self.mutant, &mut changed.spec) {
            (Some(Mutant::ForgetsGate), _) => changed.metadata.name.clone_from(&changed.metadata.uid),
            (Some(Mutant::MissesEdits), Some(spec)) => {
                for container in &mut spec.containers {
                    container.image = Some(format!("image-{}:1", container.name));
                }
            }
            _ => return pod.clone(),
        }
        Arc::new(changed)
    }
}
