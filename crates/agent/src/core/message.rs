//! What the loop hears, and what it wants done.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::keys::PodKey;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use lifecycle::{EffectId, Event, Memory, Millis};

use crate::effects::{Job, Performed};
use crate::observe::{Digest, RuntimePod};
use crate::sources::SourceReport;

/// What comes back to the loop.
#[derive(Debug)]
pub enum Message {
    Report(SourceReport),
    /// The runtime answered for the first time.
    Started {
        /// When it was asked.
        stamp: Millis,
        pods: Vec<RuntimePod>,
        /// Pods that it lists and does not tell of yet. Each is to be told by [`Message::Inspected`] some time.
        unseen: Vec<PodKey>,
        /// Pods that ran to their end, by UID.
        finished: BTreeMap<String, PodStatus>,
        /// What earlier lives of the kubelet remembered of pods, by UID.
        stored: BTreeMap<String, Stored>,
    },
    /// Whether the runtime has events to listen to.
    Events {
        had: bool,
    },
    Event(Box<RuntimeEvent>),
    Completed {
        uid: String,
        generation: u64,
        id: EffectId,
        performed: Performed,
    },
    /// An effect that is under way has something to tell.
    Told {
        uid: String,
        generation: u64,
        event: Event,
    },
    /// Something happened to the node.
    NodeTold(Event),
    /// A cheap listing of everything.
    Listed {
        pods: BTreeMap<String, Digest>,
    },
    /// An answer to [`Request::Inspect`]; none where the runtime knows nothing of the pod.
    Inspected {
        uid: String,
        stamp: Millis,
        pod: Option<RuntimePod>,
    },
    /// Pods that left directories or control groups.
    Leftovers(Vec<String>),
    ImagesChanged,
}

/// The runtime tells, unasked, of one of its pods.
#[derive(Debug, Clone)]
pub struct RuntimeEvent {
    pub pod: RuntimePod,
    /// It says that something is gone, which what it carries cannot show.
    pub deletion: bool,
}

/// What was remembered of a pod.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// As it was decided on; none where it cannot be read.
    pub pod: Option<Arc<Pod>>,
    /// None where it cannot be read, or nothing was worth remembering yet.
    pub memory: Option<Memory>,
}

/// What the loop wants done by others.
#[derive(Debug)]
pub enum Request {
    Perform {
        uid: String,
        generation: u64,
        id: EffectId,
        job: Box<Job>,
    },
    /// Ask the runtime for a pod, outside of any machine's effects.
    Inspect(String),
    /// Look for what pods of earlier lives left behind.
    FindLeftovers,
    SaveFinished {
        uid: String,
        status: Box<PodStatus>,
    },
    ForgetFinished(String),
    /// Store this beside the pod's directories; a later one of the same pod makes an earlier one superfluous. It may be
    /// stored late, but not after any [`Effect::RemoveContainer`](lifecycle::Effect) that is asked for after it.
    SaveMemory {
        uid: String,
        memory: Box<Memory>,
    },
    /// The pod changed in place: what SetUp stored of it is old.
    SavePod(Arc<Pod>),
    /// The pod is gone: what is not yet stored of it is not to be stored any more.
    ForgetMemory(String),
}

pub type Outbox = Vec<Request>;
