//! One pull: what the reference names now, and of that what the store lacks.

use super::find::{Found, find};
use super::layer::Task;
use super::progress::Progress;
use super::{PullError, Puller};
use crate::digest::Digest;
use crate::login::Login;
use crate::reference::Reference;
use crate::registry::Session;
use crate::store::{Claim, Image, LayerPlan, NewImage, Origin, Store};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, PullError>;

impl Puller {
    pub(super) async fn bring(
        &self,
        reference: &Reference,
        login: Option<Login>,
        progress: &Arc<Progress>,
    ) -> Result<Arc<Image>> {
        let session = Arc::new(self.registry.session(reference, login)?);
        // What was here once is likely to be the same still, and then its digest is all that need be asked.
        if self.store.resolve(&reference.to_string())?.is_some() {
            let digest = session.digest().await?;
            if let Some(image) = self.known(reference, &digest).await? {
                return Ok(image);
            }
        }
        let root = session.manifest().await?;
        if let Some(image) = self.known(reference, &root.digest).await? {
            return Ok(image);
        }
        let found = find(&session, root).await?;
        let plan = self.store.plan(&found.config.rootfs.diff_ids);
        progress.begin(&found.layers, |at| plan.is_present(at));
        match self.bring_layers(&plan, &session, (&found, progress)).await {
            Ok(()) => {
                blocking({
                    let reference = reference.clone();
                    move || commit(plan, found, &reference)
                })
                .await
            }
            Err(error) => {
                plan.fail();
                Err(error)
            }
        }
    }

    /// The image that came by this manifest before: then only the reference may be new.
    async fn known(&self, reference: &Reference, digest: &Digest) -> Result<Option<Arc<Image>>> {
        let by_digest = format!("{}@{digest}", reference.repository());
        let Some(image) = self.store.resolve(&by_digest)? else { return Ok(None) };
        let names = names(reference);
        // Where nothing is to be changed, what others change is not waited for.
        if names.iter().all(|name| image.refs.contains(name) && self.store.is_pulled(name)) {
            return Ok(Some(image));
        }
        let store = self.store.clone();
        blocking(move || name_again(&store, &image.id, &names)).await
    }

    /// Makes all layers of a plan complete. The first that fails ends the others.
    async fn bring_layers(
        &self,
        plan: &LayerPlan,
        session: &Arc<Session>,
        (found, progress): (&Found, &Arc<Progress>),
    ) -> Result<()> {
        let mut brought = Brought(JoinSet::new());
        for (at, layer) in found.layers.iter().enumerate() {
            let slot = match brought.while_waiting_for(plan.claim(at)).await? {
                Claim::Ours(slot) => slot,
                Claim::Present => {
                    progress.done(at);
                    continue;
                }
            };
            while brought.0.len() >= self.config.layers_at_once.max(1) {
                brought.next().await?;
            }
            let turn = brought.while_waiting_for(self.turns.clone().acquire_owned()).await?;
            let turn = turn.map_err(|_| PullError::BrokenOff)?;
            let (session, layer, progress) = (session.clone(), layer.clone(), progress.clone());
            brought.0.spawn(Task { session, slot, layer, at, progress, _turn: turn }.bring());
        }
        while !brought.0.is_empty() {
            brought.next().await?;
        }
        Ok(())
    }
}

/// Layers under way. Dropped, they are given up.
struct Brought(JoinSet<Result<()>>);

impl Brought {
    async fn next(&mut self) -> Result<()> {
        match self.0.join_next().await {
            Some(ended) => ended.map_err(|_| PullError::BrokenOff)?,
            None => Ok(()),
        }
    }

    /// What is waited for, unless one of the layers fails meanwhile.
    async fn while_waiting_for<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T> {
        let mut wanted = pin!(wanted);
        loop {
            tokio::select! {
                got = &mut wanted => return Ok(got),
                ended = self.next(), if !self.0.is_empty() => ended?,
            }
        }
    }
}

fn commit(plan: LayerPlan, found: Found, reference: &Reference) -> Result<Arc<Image>> {
    let diff_ids = found.config.rootfs.diff_ids.clone();
    let repositories = BTreeSet::from([reference.repository()]);
    let image = NewImage {
        config_bytes: &found.config_bytes,
        config: found.config.into_run_config(),
        diff_ids: &diff_ids,
        manifests: found.manifests.iter().map(|bytes| &bytes[..]).collect(),
        repositories: &repositories,
        pinned_by: None,
    };
    Ok(plan.commit(image, &names(reference))?)
}

/// `None` when the image has gone meanwhile.
fn name_again(store: &Store, id: &str, names: &[String]) -> Result<Option<Arc<Image>>> {
    // Nothing is removed while a change is under way.
    let mut change = store.change();
    if store.resolve(id)?.is_none() {
        return Ok(None);
    }
    let digest = Digest::parse(id)?;
    for name in names {
        change.put_ref(name, &digest, Origin::Pulled)?;
    }
    change.commit()?;
    Ok(store.resolve(id)?)
}

/// What the image is to be called: by its digest it is found without a name.
fn names(reference: &Reference) -> Vec<String> {
    if reference.digest().is_some() { Vec::new() } else { vec![reference.to_string()] }
}

/// Does to its end what has begun to change the store.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PullError::BrokenOff)?
}
