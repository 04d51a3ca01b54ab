//! Images as the CRI tells of them; the store does the work.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cri::{Code, Error, v1};
use image::PullError;
use image::registry::RegistryError;

use crate::error::{internal, on_pool};
use crate::state::{Core, now_ns};

impl Core {
    /// The image that a container asks for, which must be present.
    pub(crate) fn resolve(&self, spec: Option<&v1::ImageSpec>) -> Result<Arc<image::Image>, Error> {
        let name = name_of(spec)?;
        let found = self.config.image.resolve(name).map_err(of_store)?;
        found.ok_or_else(|| Error::not_found(format!("image {name} is not present")))
    }

    pub(crate) fn list_images(&self, filter: Option<&v1::ImageFilter>) -> Result<Vec<v1::Image>, Error> {
        let wanted = filter.and_then(|filter| filter.image.as_ref()).filter(|spec| !spec.image.is_empty());
        let images = match wanted {
            Some(spec) => self.config.image.resolve(&spec.image).map_err(of_store)?.into_iter().collect(),
            None => self.config.image.list(),
        };
        Ok(images.iter().map(|image| listed(image)).collect())
    }

    pub(crate) fn image_status(&self, request: &v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Error> {
        let name = name_of(request.image.as_ref())?;
        let found = self.config.image.resolve(name).map_err(of_store)?;
        let mut info = BTreeMap::new();
        if let Some(image) = found.as_ref().filter(|_| request.verbose) {
            info.insert(cri::keys::IMAGE_GIVEN.to_owned(), self.was_given(name, image).to_string());
        }
        Ok(v1::ImageStatusResponse { image: found.map(|image| listed(&image)), info })
    }

    /// As the registry has it now, and only if it gives it for this credential: whoever need not ask does not.
    pub(crate) async fn pull_image(&self, request: v1::PullImageRequest) -> Result<String, Error> {
        let name = name_of(request.image.as_ref())?;
        if is_id(name) {
            let found = self.config.image.resolve(name).map_err(of_store)?;
            let absent = || format!("no image has the id {name}, and an id cannot be pulled: give a name");
            return found.map(|image| image.id.clone()).ok_or_else(|| Error::not_found(absent()));
        }
        let reference = image::Reference::parse(name).map_err(of_store)?;
        let login = crate::login(request.auth.as_ref(), reference.domain())?;
        let pulled = self.config.puller.pull(&reference, login).await;
        pulled.map(|image| image.id.clone()).map_err(|error| self.of_pull(error))
    }

    /// Whether no registry need be asked what the name means: it is the image's id or a digest, or an archive gave it to
    /// the image.
    fn was_given(&self, name: &str, image: &image::Image) -> bool {
        let Ok(reference) = image::Reference::parse(name) else { return true };
        let full = reference.to_string();
        let by_archive = || image.refs.contains(&full) && !self.config.image.is_pulled(&full);
        is_id(name) || reference.digest().is_some() || by_archive()
    }

    /// What a failed pull means to the caller. Whatever a registry does, this runtime is there and has answered.
    fn of_pull(&self, error: image::Error) -> Error {
        let image::Error::Pull { source, .. } = &error else { return of_store(error) };
        let message = error.to_string();
        let PullError::Registry { source } = source.as_ref() else {
            return Error::new(code_of_refusal(source), message);
        };
        match source.decisive() {
            RegistryError::Unauthorized { .. } => Error::new(Code::Unauthenticated, message),
            _ if source.is_refusal() => Error::not_found(message),
            _ if source.is_unavailable() => Error::new(Code::Unknown, self.unavailable(&message)),
            _ => Error::new(Code::Unknown, message),
        }
    }

    /// The first word is what callers look for; the rest is for people.
    fn unavailable(&self, message: &str) -> String {
        let drop_in = self.config.root_dir.join("images");
        format!(
            "RegistryUnavailable: {message}; without a network, import the image with `kubelet image import FILE` or drop \
             its archive into {}",
            drop_in.display()
        )
    }

    pub(crate) async fn remove_image(self: &Arc<Self>, spec: Option<&v1::ImageSpec>) -> Result<(), Error> {
        let name = name_of(spec)?.to_owned();
        let Some(image) = self.config.image.resolve(&name).map_err(of_store)? else { return Ok(()) };
        // Nobody may take the image into use between the question and the removal.
        let _alone = self.image_use.write().await;
        let used = self.used_images();
        let core = Arc::clone(self);
        let removed = on_pool(move || core.config.image.remove(&image.id, &|id| used.contains(id))).await?;
        match removed {
            Ok(_) | Err(image::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(of_store(error)),
        }
    }

    pub(crate) fn image_fs_info(&self) -> v1::ImageFsInfoResponse {
        let usage = self.config.image.usage();
        let on = |path: &Path| v1::FilesystemUsage {
            timestamp: now_ns(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: path.display().to_string() }),
            used_bytes: None,
            inodes_used: None,
        };
        let images = v1::FilesystemUsage {
            used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
            inodes_used: Some(v1::UInt64Value { value: usage.inodes }),
            ..on(self.config.image.root())
        };
        v1::ImageFsInfoResponse {
            image_filesystems: vec![images],
            container_filesystems: vec![on(&self.writable_dir())],
        }
    }
}

/// Whether this is a whole image id, which could also be read as a name.
fn is_id(name: &str) -> bool {
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    image::Digest::parse(&format!("sha256:{digits}")).is_ok()
}

fn name_of(spec: Option<&v1::ImageSpec>) -> Result<&str, Error> {
    let name = spec.map(|spec| spec.image.as_str()).unwrap_or_default();
    if name.is_empty() { Err(Error::invalid_argument("image: a name or an id is expected")) } else { Ok(name) }
}

/// The class of a failure for which an image or this machine is to blame.
fn code_of_refusal(error: &PullError) -> Code {
    match error {
        PullError::Document { .. } | PullError::TooLarge { .. } | PullError::Platform { .. } => {
            Code::FailedPrecondition
        }
        PullError::Store { source } if source.is_disk_full() => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

fn listed(image: &image::Image) -> v1::Image {
    let (uid, username) = user(&image.config.user);
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.refs.clone(),
        repo_digests: image.digests.clone(),
        size: image.size_bytes,
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        spec: Some(v1::ImageSpec { image: image.id.clone(), ..Default::default() }),
        pinned: image.pinned,
    }
}

/// The number or the name of an image's user, without its group; neither where it names none.
fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn of_store(error: image::Error) -> Error {
    use image::Error as Store;
    match error {
        Store::NotFound { .. } => Error::not_found(error.to_string()),
        Store::InUse { .. } | Store::Pinned { .. } => Error::failed_precondition(error.to_string()),
        Store::Reference { .. } | Store::Digest { .. } | Store::AmbiguousId { .. } => {
            Error::invalid_argument(error.to_string())
        }
        _ => internal("use the image store")(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_full_disk_is_told_wherever_it_was_found() {
        let written = |errno| image::Error::Io {
            doing: "sync",
            path: "/store/ingest".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        let layer = |source| image::Error::Layer { layer: "sha256:0".to_owned(), source };
        for (source, code) in [
            (written(libc::ENOSPC), Code::ResourceExhausted),
            (written(libc::EDQUOT), Code::ResourceExhausted),
            (written(libc::EIO), Code::Internal),
            (layer(image::LayerError::DiskFull { what: "inodes" }), Code::ResourceExhausted),
            (layer(image::LayerError::Abandoned), Code::Internal),
        ] {
            assert_eq!(code_of_refusal(&PullError::Store { source }), code);
        }
    }

    #[test]
    fn the_user_of_an_image_is_a_number_or_a_name() {
        for (text, uid, name) in
            [("", None, ""), ("1000", Some(1000), ""), ("0:5", Some(0), ""), ("app:staff", None, "app")]
        {
            assert_eq!(user(text), (uid, name.to_owned()), "{text}");
        }
    }
}
