//! The images as the command line sees them: the embedded engine's store, or those of the runtime.

use agent::credentials::{PullFailure, with_each};
use cri::calls::Calls;
use cri::{Runtime, v1};
use image::{ImportOptions, PullError, Puller, Reference, Store};
use server::{
    HostError, HostErrorKind, ImagePull, ImageSummary, ImportRequest, ImportedImage, LayerPull, LayerState, PulledImage,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whose images they are.
pub(crate) enum Images {
    /// Ours; the engine knows which ones its containers use.
    Store { store: Arc<Store>, engine: Arc<dyn Runtime>, puller: Arc<Puller> },
    /// The runtime's, with what it is being asked and the way to import there.
    Runtime { runtime: Arc<dyn Runtime>, calls: Arc<Calls>, import_with: &'static str },
}

impl Images {
    pub(crate) async fn list(&self) -> Result<Vec<ImageSummary>, HostError> {
        match self {
            Self::Store { store, engine, .. } => {
                let used = used(engine.as_ref()).await?;
                Ok(store.list().iter().map(|image| of_store(image, &used)).collect())
            }
            Self::Runtime { runtime, .. } => {
                let used = used(runtime.as_ref()).await?;
                let listed = runtime.list_images(v1::ListImagesRequest::default()).await?;
                let mut images: Vec<ImageSummary> =
                    listed.images.into_iter().map(|image| of_runtime(image, &used)).collect();
                images.sort_by(|a, b| (&a.references, &a.id).cmp(&(&b.references, &b.id)));
                Ok(images)
            }
        }
    }

    /// Makes an image present as its registry has it now, with the first credential that is good for it; without any
    /// where there is none.
    pub(crate) async fn pull(
        &self,
        reference: &str,
        credentials: Vec<v1::AuthConfig>,
    ) -> Result<PulledImage, HostError> {
        let id = with_each(credentials, |auth| self.pull_as(reference, auth)).await.map_err(HostError::internal)?;
        Ok(PulledImage { reference: reference.to_owned(), id })
    }

    async fn pull_as(&self, reference: &str, auth: Option<v1::AuthConfig>) -> Result<String, PullFailure> {
        match self {
            Self::Store { puller, .. } => {
                let name = Reference::parse(reference).map_err(of_puller)?;
                let login = engine::login(auth.as_ref(), name.domain())?;
                let image = puller.pull(&name, login).await.map_err(of_puller)?;
                Ok(image.id.clone())
            }
            Self::Runtime { runtime, .. } => {
                let image = v1::ImageSpec {
                    image: reference.to_owned(),
                    user_specified_image: reference.to_owned(),
                    ..Default::default()
                };
                let request = v1::PullImageRequest { image: Some(image), auth, sandbox_config: None };
                Ok(runtime.pull_image(request).await?.image_ref)
            }
        }
    }

    /// What is being pulled, for pods and for people.
    pub(crate) fn pulls(&self) -> Vec<ImagePull> {
        match self {
            Self::Store { puller, .. } => puller.under_way().into_iter().map(under_way).collect(),
            // No runtime tells how far it is.
            Self::Runtime { calls, .. } => calls.pulls().into_iter().map(no_figures).collect(),
        }
    }

    pub(crate) async fn import(&self, request: ImportRequest) -> Result<Vec<ImportedImage>, HostError> {
        let store = match self {
            Self::Store { store, .. } => Arc::clone(store),
            Self::Runtime { import_with, .. } => {
                let text = format!("the runtime keeps its own images; import there: {import_with}");
                return Err(HostError::invalid(text));
            }
        };
        let options = ImportOptions { pinned: request.pinned };
        // The store blocks: beside the runtime's threads.
        let imported = tokio::task::spawn_blocking(move || store.import(&request.path, options)).await;
        let imported = imported.map_err(|error| HostError::internal(error.to_string()))?.map_err(image_error)?;
        let told = |image: image::Imported| -> Vec<ImportedImage> {
            let names = if image.references.is_empty() { vec![image.id.clone()] } else { image.references };
            names.into_iter().map(|reference| ImportedImage { reference, id: image.id.clone() }).collect()
        };
        Ok(imported.into_iter().flat_map(told).collect())
    }

    pub(crate) async fn remove(&self, reference: &str) -> Result<(), HostError> {
        let spec = v1::ImageSpec { image: reference.to_owned(), ..v1::ImageSpec::default() };
        let (runtime, known) = match self {
            Self::Store { store, engine, .. } => (engine, store.resolve(reference).map_err(image_error)?.is_some()),
            Self::Runtime { runtime, .. } => {
                let request = v1::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
                (runtime, runtime.image_status(request).await?.image.is_some())
            }
        };
        // The runtime is content with the removal of what it does not have; a person would like to know.
        if !known {
            return Err(HostError::not_found(format!("image {reference:?} not found")));
        }
        runtime.remove_image(v1::RemoveImageRequest { image: Some(spec) }).await?;
        Ok(())
    }
}

/// The images that containers have, running or not, by every name that a runtime gives them.
async fn used(runtime: &dyn Runtime) -> Result<BTreeSet<String>, HostError> {
    let listed = runtime.list_containers(v1::ListContainersRequest::default()).await?;
    let names = |container: v1::Container| {
        [container.image_id, container.image_ref, container.image.map(|image| image.image).unwrap_or_default()]
    };
    Ok(listed.containers.into_iter().flat_map(names).collect())
}

fn of_store(image: &image::Image, used: &BTreeSet<String>) -> ImageSummary {
    ImageSummary {
        id: image.id.clone(),
        references: image.refs.clone(),
        digests: image.digests.clone(),
        size_bytes: image.size_bytes,
        pinned: image.pinned,
        in_use: used.contains(&image.id),
    }
}

fn of_runtime(image: v1::Image, used: &BTreeSet<String>) -> ImageSummary {
    let in_use =
        [&image.id].into_iter().chain(&image.repo_tags).chain(&image.repo_digests).any(|name| used.contains(name));
    ImageSummary {
        id: image.id,
        references: image.repo_tags,
        digests: image.repo_digests,
        size_bytes: image.size,
        pinned: image.pinned,
        in_use,
    }
}

fn of_puller(error: image::Error) -> PullFailure {
    let another_may_help = match &error {
        image::Error::Pull { source, .. } => {
            matches!(&**source, PullError::Registry { source } if source.is_refusal())
        }
        _ => false,
    };
    PullFailure { message: error.to_string(), another_may_help }
}

fn no_figures(reference: String) -> ImagePull {
    ImagePull { reference, done_bytes: 0, total_bytes: None, layers: Vec::new() }
}

fn under_way(pull: image::PullProgress) -> ImagePull {
    let layer = |layer: image::LayerProgress| LayerPull {
        digest: layer.digest,
        done_bytes: layer.done_bytes,
        total_bytes: layer.total_bytes,
        state: match layer.state {
            image::LayerState::Waiting => LayerState::Waiting,
            image::LayerState::Fetching => LayerState::Fetching,
            image::LayerState::Present => LayerState::Present,
            image::LayerState::Done => LayerState::Done,
        },
    };
    ImagePull {
        reference: pull.reference,
        done_bytes: pull.done_bytes,
        total_bytes: pull.total_bytes,
        layers: pull.layers.into_iter().map(layer).collect(),
    }
}

fn image_error(error: image::Error) -> HostError {
    let kind = match &error {
        image::Error::NotFound { .. } => HostErrorKind::NotFound,
        image::Error::InUse { .. } | image::Error::Pinned { .. } => HostErrorKind::Conflict,
        _ => HostErrorKind::Invalid,
    };
    HostError::new(kind, error.to_string())
}
