//! Which images are used: names and ids, as containers, pods and runtimes have them, brought together.

use std::collections::{BTreeMap, BTreeSet};

use cri::{Code, Runtime, v1};
use pod::image_name::normalize;

/// The images of a runtime by everything they are called.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// To ids.
    known: BTreeMap<String, String>,
}

impl Names {
    pub(super) fn of(images: &[v1::Image]) -> Self {
        let mut known = BTreeMap::new();
        for image in images {
            let names = image.repo_tags.iter().chain(&image.repo_digests);
            for name in names.chain([&image.id]) {
                // Docker has short names where others have full ones.
                known.extend(normalize(name).ok().map(|full| (full, image.id.clone())));
                known.insert(name.clone(), image.id.clone());
            }
        }
        Self { known }
    }

    /// The id of an image by a name that a pod or a container has for it; none if it is not there.
    ///
    /// # Errors
    /// It is not known under this name, and the runtime does not say whether it knows better.
    pub(super) async fn id_of(&self, runtime: &dyn Runtime, name: &str) -> Result<Option<String>, cri::Error> {
        let full = normalize(name);
        let known = self.known.get(name).or_else(|| self.known.get(full.as_ref().ok()?));
        if known.is_some() || name.is_empty() {
            return Ok(known.cloned());
        }
        let image = v1::ImageSpec { image: full.unwrap_or_else(|_| name.to_owned()), ..Default::default() };
        match runtime.image_status(v1::ImageStatusRequest { image: Some(image), verbose: false }).await {
            Ok(status) => Ok(status.image.map(|image| image.id)),
            // No image can have such a name.
            Err(error) if error.code == Code::InvalidArgument => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What the runtime's containers, running or not, were made from, and what holds its sandboxes: names and ids.
pub(super) async fn names_in_use(runtime: &dyn Runtime) -> Result<BTreeSet<String>, cri::Error> {
    let containers = runtime.list_containers(v1::ListContainersRequest::default()).await?.containers;
    let mut names = BTreeSet::new();
    for container in containers {
        let image = container.image.unwrap_or_default();
        names.extend([
            image.image,
            image.image_ref,
            image.user_specified_image,
            container.image_ref,
            container.image_id,
        ]);
    }
    names.extend(sandbox_image(runtime).await?);
    names.remove("");
    Ok(names)
}

/// containerd before 1.7 does not pin the image of which it makes sandboxes, and tells of it here only.
async fn sandbox_image(runtime: &dyn Runtime) -> Result<Option<String>, cri::Error> {
    let status = runtime.status(v1::StatusRequest { verbose: true }).await?;
    Ok(cri::shown_json(&status.info, "config")["sandboxImage"].as_str().map(str::to_owned))
}
