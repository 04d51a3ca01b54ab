//! Finding again what an earlier engine left: from records, from the shims, and from what lies about without either.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::Error;
use shim::protocol::{ContainerState, Request, Response, records};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::container::{read_exit, read_started};
use crate::delete;
use crate::files::{self, FileError, failed};
use crate::ids;
use crate::record::{self, ContainerRecord, Phase, RecordError, SandboxRecord};
use crate::shim_link::ShimError;
use crate::shim_process;
use crate::state::{Container, Core, End, Sandbox};

/// A shim answers at once. One that does not is left alone: what it says later is heard then.
const ANSWER: Duration = Duration::from_secs(5);

/// A sandbox as it was found, and what of it cannot stay.
struct Found {
    sandbox: Arc<Sandbox>,
    fate: Fate,
    /// Containers without a usable record: nobody knows what they were.
    unknown: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Remove,
}

impl Core {
    /// Takes over every sandbox below the run directory.
    ///
    /// # Errors
    /// Only what concerns the directories themselves; damage to a sandbox costs that sandbox.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), FileError> {
        let mut work = JoinSet::new();
        for id in ids_in(&self.sandboxes_dir())? {
            let found = self.find(&id);
            if let Some(address) = found.sandbox.state().address {
                self.network.reserve(address);
            }
            self.insert_sandbox(&found.sandbox);
            work.spawn(Arc::clone(self).take_over(found));
        }
        while work.join_next().await.is_some() {}
        self.remove_strays()
    }

    fn find(&self, id: &str) -> Found {
        let dir = self.sandboxes_dir().join(id);
        let (record, fate) = match record::read::<SandboxRecord>(&dir.join(record::SANDBOX)) {
            Ok(record) if record.phase() == Phase::Creating => (record, Fate::Remove),
            Ok(record) => (record, Fate::Keep),
            Err(error) => {
                self.quarantine(&dir.join(record::SANDBOX), id, &error);
                let cgroup = fs::read_to_string(dir.join(CGROUP_FILE)).unwrap_or_else(|_| self.default_cgroup(id));
                (SandboxRecord { cgroup, phase: Phase::NotReady.into(), ..Default::default() }, Fate::Remove)
            }
        };
        let sandbox = Arc::new(Sandbox::new(id.to_owned(), dir, record));
        let mut unknown = Vec::new();
        for container in ids_in(&sandbox.dir.join(records::CONTAINERS)).unwrap_or_default() {
            let (found, known) = self.find_container(&sandbox, &container);
            if !known {
                unknown.push(container);
            }
            self.insert_container(&sandbox, found);
        }
        Found { sandbox, fate, unknown }
    }

    fn find_container(&self, sandbox: &Sandbox, id: &str) -> (Container, bool) {
        let dir = sandbox.container_dir(id);
        let path = dir.join(record::CONTAINER);
        let (record, known) = match record::read::<ContainerRecord>(&path) {
            Ok(record) => (record, true),
            Err(error) => {
                self.quarantine(&path, id, &error);
                (ContainerRecord::default(), false)
            }
        };
        let mut container = Container::new(id.to_owned(), record);
        container.started = read_started(&dir);
        if let Some(exit) = read_exit(&dir) {
            container.end.send_replace(Some(End::of(&exit)));
        }
        (container, known)
    }

    /// Puts a damaged record aside for whoever wants to know, and says so.
    fn quarantine(&self, path: &Path, id: &str, error: &RecordError) {
        if matches!(error, RecordError::Absent { .. }) {
            return;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.damaged_dir().join(format!("{id}-{name}"));
        let moved = files::private_dirs(&self.damaged_dir())
            .and_then(|()| fs::rename(path, &aside).map_err(failed("move aside", path)));
        match moved {
            Ok(()) => warn!(%error, aside = %aside.display(), "a damaged record is put aside; its object is removed"),
            Err(failure) => warn!(%error, %failure, "a damaged record cannot be put aside; its object is removed"),
        }
    }

    async fn take_over(self: Arc<Self>, found: Found) {
        let Found { sandbox, fate, unknown } = found;
        let _turn = sandbox.turn.lock().await;
        if sandbox.phase() < Phase::Stopped
            && let Err(error) = self.reconnect(&sandbox).await
        {
            warn!(sandbox = %sandbox.id, %error, "containers without a shim cannot be killed yet");
        }
        for container in unknown {
            if let Err(error) = self.remove_container_held(&sandbox, &container).await {
                warn!(%container, %error, "a container without a record cannot be removed");
            }
        }
        if fate == Fate::Remove {
            info!(sandbox = %sandbox.id, "an unfinished sandbox is removed");
            let removed = async {
                self.stop_held(&sandbox).await?;
                self.remove_held(&sandbox).await
            };
            if let Err(error) = removed.await {
                warn!(sandbox = %sandbox.id, %error, "an unfinished sandbox cannot be removed yet");
            }
        }
    }

    /// Speaks to a sandbox's shim anew, or buries its containers where it is gone; by whoever holds the turn.
    ///
    /// # Errors
    /// The shim is gone and its containers cannot be killed yet.
    pub(crate) async fn reconnect(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        // Refused or absent: no shim listens.
        let Ok(socket) = shim_process::connect(&sandbox.dir) else { return self.bury(sandbox).await };
        let link = self.attach_shim(sandbox, socket)?;
        let (core, of) = (Arc::downgrade(self), Arc::downgrade(sandbox));
        let apply = Box::new(move |response: &Response| {
            let (Some(core), Some(sandbox)) = (core.upgrade(), of.upgrade()) else { return };
            if let Response::Containers(states) = response {
                states.iter().for_each(|state| core.apply_state(&sandbox, state));
            }
        });
        match link.call_applied(Request::List, ANSWER, apply).await {
            Ok(_) => Ok(()),
            Err(ShimError::Gone) => self.bury(sandbox).await,
            Err(error) => {
                warn!(sandbox = %sandbox.id, %error, "a shim does not answer; its containers are left alone");
                Ok(())
            }
        }
    }

    fn apply_state(&self, sandbox: &Sandbox, found: &ContainerState) {
        if let Some(container) = sandbox.state().containers.get_mut(&found.container) {
            container.started = found.started.clone().or(container.started.take());
        }
        if let Some(exit) = &found.exit {
            self.container_exited(sandbox, &found.container, exit);
        }
    }

    /// Writable layers of containers that are no more, as after a boot, which empties the run directory only.
    fn remove_strays(&self) -> Result<(), FileError> {
        let dir = self.writable_dir();
        let strays: BTreeSet<String> = ids_in(&dir)?.into_iter().filter(|id| self.sandbox_of(id).is_none()).collect();
        if strays.is_empty() {
            return Ok(());
        }
        info!(count = strays.len(), "writable layers without a container are removed");
        // Nobody waits for it: nothing can refer to them any more.
        tokio::task::spawn_blocking(move || {
            for id in strays {
                if let Err(error) = delete::remove_tree(&dir.join(&id)) {
                    warn!(container = %id, %error, "a writable layer without a container cannot be removed");
                }
            }
        });
        Ok(())
    }
}

/// Names the pod's control group beside the record, for when that is damaged.
pub(crate) const CGROUP_FILE: &str = "cgroup";

/// The names in a directory that are ids, in order.
fn ids_in(dir: &Path) -> Result<Vec<String>, FileError> {
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut ids: Vec<String> = names.filter(|name| ids::is_id(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}
