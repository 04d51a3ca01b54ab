//! The images as the command line sees them: the embedded engine's store, or those of the runtime.

use cri::{Runtime, v1};
use image::{ImportOptions, Store};
use server::{HostError, HostErrorKind, ImageSummary, ImportRequest, ImportedImage};
use std::sync::Arc;

/// Whose images they are.
pub(crate) enum Images {
    /// Ours; the engine knows which ones its containers use.
    Store { store: Arc<Store>, engine: Arc<dyn Runtime> },
    /// The runtime's, with the way to import there.
    Runtime { runtime: Arc<dyn Runtime>, import_with: &'static str },
}

impl Images {
    pub(crate) async fn list(&self) -> Result<Vec<ImageSummary>, HostError> {
        match self {
            Self::Store { store, .. } => Ok(store.list().into_iter().map(|image| of_store(&image)).collect()),
            Self::Runtime { runtime, .. } => {
                let listed = runtime.list_images(v1::ListImagesRequest::default()).await?;
                let mut images: Vec<ImageSummary> = listed.images.into_iter().map(of_runtime).collect();
                images.sort_by(|a, b| (&a.references, &a.id).cmp(&(&b.references, &b.id)));
                Ok(images)
            }
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
            Self::Store { store, engine } => (engine, store.resolve(reference).map_err(image_error)?.is_some()),
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

fn of_store(image: &image::Image) -> ImageSummary {
    ImageSummary {
        id: image.id.clone(),
        references: image.refs.clone(),
        digests: image.digests.clone(),
        size_bytes: image.size_bytes,
        pinned: image.pinned,
    }
}

fn of_runtime(image: v1::Image) -> ImageSummary {
    ImageSummary {
        id: image.id,
        references: image.repo_tags,
        digests: image.repo_digests,
        size_bytes: image.size,
        pinned: image.pinned,
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
