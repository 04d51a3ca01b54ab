//! Images as the CRI tells of them; Docker does the work.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use bollard::auth::DockerCredentials;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use cri::{Error, v1};
use futures_util::StreamExt;

use crate::call::{CONFLICT, NOT_FOUND, absent_is_done, of_docker};
use crate::core::Core;
use crate::facts::now_ns;
use crate::pause::Pause;

/// A pull of which nothing is heard for so long is given up.
const PROGRESS_WITHIN: Duration = Duration::from_secs(60);
/// Images asked about at a time.
const AT_ONCE: usize = 8;
/// Longer names are none of any registry's.
const MAX_NAME_BYTES: usize = 1024;

impl Core {
    /// An image by its name or id; `None` where it is absent.
    pub(crate) async fn inspect_image(&self, name: &str) -> Result<Option<ImageInspect>, Error> {
        check(name)?;
        let of = name.to_owned();
        let action = format!("inspect image {name}");
        match self.call(&action, |docker| async move { docker.inspect_image(&of).await }).await {
            Ok(image) => Ok(Some(image)),
            Err(failed) if failed.status == Some(NOT_FOUND) => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    pub(crate) async fn list_images(&self, filter: Option<&v1::ImageFilter>) -> Result<Vec<v1::Image>, Error> {
        let wanted = filter.and_then(|filter| filter.image.as_ref()).filter(|spec| !spec.image.is_empty());
        if let Some(spec) = wanted {
            return Ok(self.inspect_image(&spec.image).await?.iter().map(listed).collect());
        }
        let options = ListImagesOptionsBuilder::new().build();
        let all = self.call("list images", |docker| async move { docker.list_images(Some(options)).await }).await?;
        // Only one by one does Docker tell whose user an image runs as.
        let asking = all.into_iter().map(|image| async move { self.inspect_image(&image.id).await });
        let mut asking = futures_util::stream::iter(asking).buffer_unordered(AT_ONCE);
        let mut images = Vec::new();
        while let Some(found) = asking.next().await {
            images.extend(found?.iter().map(listed));
        }
        Ok(images)
    }

    pub(crate) async fn image_status(&self, spec: Option<&v1::ImageSpec>) -> Result<Option<v1::Image>, Error> {
        Ok(self.inspect_image(name_of(spec)?).await?.as_ref().map(listed))
    }

    /// Pulls an image; its id.
    pub(crate) async fn pull_image(
        &self,
        spec: Option<&v1::ImageSpec>,
        auth: Option<v1::AuthConfig>,
    ) -> Result<String, Error> {
        let name = name_of(spec)?;
        check(name)?;
        let reference = tagged(name);
        let action = format!("pull image {name}");
        let silent = || {
            let seconds = PROGRESS_WITHIN.as_secs();
            Error::deadline_exceeded(format!("{action}: no progress within {seconds} s"))
        };
        let options = CreateImageOptionsBuilder::new().from_image(&reference).build();
        let client = self.client().await?;
        let auth = auth.map(credentials).transpose()?;
        if name.contains('@') && self.inspect_image(name).await?.is_some() {
            // Of a digest that it has Docker asks no registry by itself, and would give it to everybody.
            let asked = tokio::time::timeout(PROGRESS_WITHIN, client.inspect_registry_image(name, auth.clone())).await;
            asked.map_err(|_| silent())?.map_err(|error| of_docker(&action, &error))?;
        }
        let mut progress = client.create_image(Some(options), None, auth).boxed();
        loop {
            match tokio::time::timeout(PROGRESS_WITHIN, progress.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(of_docker(&action, &error).into()),
                Err(_) => return Err(silent()),
            }
        }
        let absent = || Error::internal(format!("{action}: docker pulled it and does not have it"));
        self.inspect_image(&reference).await?.and_then(|image| image.id).ok_or_else(absent)
    }

    /// Removes an image with all its names.
    pub(crate) async fn remove_image(&self, spec: Option<&v1::ImageSpec>) -> Result<(), Error> {
        let name = name_of(spec)?;
        let Some(image) = self.inspect_image(name).await? else { return Ok(()) };
        let id = image.id.clone().unwrap_or_default();
        if is_pinned(&image) {
            return Err(Error::failed_precondition(format!("remove image {name}: pods need it for their sandboxes")));
        }
        if let Some(user) = self.user_of_image(&id).await? {
            return Err(Error::failed_precondition(format!("remove image {name}: container {user} uses it")));
        }
        for tag in image.repo_tags.unwrap_or_default() {
            self.remove_one_image(&tag).await?;
        }
        // It went with its last name, unless it had none or is known by a digest besides.
        self.remove_one_image(&id).await
    }

    async fn remove_one_image(&self, name: &str) -> Result<(), Error> {
        let options = RemoveImageOptionsBuilder::new().build();
        let (of, action) = (name.to_owned(), format!("remove image {name}"));
        let remove = |docker: bollard::Docker| async move { docker.remove_image(&of, Some(options), None).await };
        match self.call(&action, remove).await.map(drop) {
            Err(failed) if failed.status == Some(CONFLICT) => Err(Error::failed_precondition(failed.error.message)),
            answer => Ok(absent_is_done(answer)?),
        }
    }

    /// A container, anybody's, that was made of the image.
    async fn user_of_image(&self, id: &str) -> Result<Option<String>, Error> {
        let filters = HashMap::from([("ancestor", vec![id.to_owned()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let list = |docker: bollard::Docker| async move { docker.list_containers(Some(options)).await };
        let all = self.call("list containers", list).await?;
        Ok(all.into_iter().find(|container| container.image_id.as_deref() == Some(id)).and_then(|found| found.id))
    }

    /// Layers that images share are counted for each: Docker tells no more without looking at every file it has.
    pub(crate) async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, Error> {
        let info = self.call("ask for docker's directory", |docker| async move { docker.info().await }).await?;
        let options = ListImagesOptionsBuilder::new().build();
        let images = self.call("list images", |docker| async move { docker.list_images(Some(options)).await }).await?;
        let used = images.iter().map(|image| u64::try_from(image.size).unwrap_or(0)).sum();
        let on = |used: Option<u64>| v1::FilesystemUsage {
            timestamp: now_ns(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: info.docker_root_dir.clone().unwrap_or_default() }),
            used_bytes: used.map(|value| v1::UInt64Value { value }),
            inodes_used: None,
        };
        Ok(v1::ImageFsInfoResponse { image_filesystems: vec![on(Some(used))], container_filesystems: vec![on(None)] })
    }
}

fn name_of(spec: Option<&v1::ImageSpec>) -> Result<&str, Error> {
    let name = spec.map(|spec| spec.image.as_str()).unwrap_or_default();
    if name.is_empty() { Err(Error::invalid_argument("image: a name or an id is expected")) } else { Ok(name) }
}

/// A name becomes part of a path of the API: nothing in it may lead elsewhere.
fn check(name: &str) -> Result<(), Error> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte));
    let leads = name.split('/').any(|part| part.is_empty() || part.bytes().all(|byte| byte == b'.'));
    if plain && !leads && name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(Error::invalid_argument(format!("image {name:?}: expected a name such as registry.example/app:1.0, or an id")))
}

/// Docker takes a name without a tag for all tags there are.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}

/// Docker leaves out what is its default; elsewhere names are whole.
fn whole_name(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    match (is_host, first.is_empty()) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/library/{rest}"),
        (false, false) => format!("docker.io/{name}"),
    }
}

fn names(listed: Option<&Vec<String>>) -> Vec<String> {
    listed.into_iter().flatten().filter(|name| !name.contains("<none>")).map(|name| whole_name(name)).collect()
}

/// An image's digest, or its id where it was never in a registry.
pub(crate) fn reference(image: &ImageInspect) -> String {
    let digest = names(image.repo_digests.as_ref()).into_iter().next();
    digest.or_else(|| image.id.clone()).unwrap_or_default()
}

fn is_pinned(image: &ImageInspect) -> bool {
    image.repo_tags.iter().flatten().any(|name| Pause::is_one(name))
}

fn listed(image: &ImageInspect) -> v1::Image {
    let id = image.id.clone().unwrap_or_default();
    let (uid, username) = user(image.config.as_ref().and_then(|config| config.user.as_deref()).unwrap_or_default());
    v1::Image {
        spec: Some(v1::ImageSpec { image: id.clone(), ..Default::default() }),
        id,
        repo_tags: names(image.repo_tags.as_ref()),
        repo_digests: names(image.repo_digests.as_ref()),
        size: image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        pinned: is_pinned(image),
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

/// Docker reads name and password apart.
fn credentials(auth: v1::AuthConfig) -> Result<DockerCredentials, Error> {
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let (mut username, mut password) = (given(auth.username), given(auth.password));
    if username.is_none() && !auth.auth.is_empty() {
        // What stands in it is never part of a message.
        let wrong = || Error::invalid_argument("credentials: auth: expected user:password in base64");
        let bytes = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).map_err(|_| wrong())?;
        let text = String::from_utf8(bytes).map_err(|_| wrong())?;
        let (user, word) = text.split_once(':').ok_or_else(wrong)?;
        (username, password) = (Some(user.to_owned()), Some(word.trim_end_matches('\0').to_owned()));
    }
    Ok(DockerCredentials {
        username,
        password,
        serveraddress: given(auth.server_address),
        identitytoken: given(auth.identity_token),
        registrytoken: given(auth.registry_token),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_and_have_a_tag() {
        for (name, whole) in [
            ("nginx:latest", "docker.io/library/nginx:latest"),
            ("me/app:1", "docker.io/me/app:1"),
            ("registry.example/app:1", "registry.example/app:1"),
            ("localhost/app@sha256:00", "localhost/app@sha256:00"),
            ("host:5000/a/b:1", "host:5000/a/b:1"),
        ] {
            assert_eq!(whole_name(name), whole);
        }
        for (name, expected) in [
            ("nginx", "nginx:latest"),
            ("h:5000/app", "h:5000/app:latest"),
            ("app:1", "app:1"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(tagged(name), expected);
        }
    }

    #[test]
    fn s_l07_no_name_leads_out_of_its_path() {
        for good in ["nginx", "docker.io/library/nginx:latest", "sha256:0f", "h:5000/a/b@sha256:0f"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "../containers/x", "a/../../b", "a//b", "a?x=1", "a b", "a%2f..", "a\0", "ä", &"a".repeat(1025)]
        {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn credentials_are_read_in_either_form_and_never_shown() {
        let plain = v1::AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
        // "u:p:q"
        let coded = v1::AuthConfig { auth: "dTpwOnE=".into(), ..Default::default() };
        let parts = |auth| credentials(auth).map(|found| (found.username.unwrap(), found.password.unwrap()));
        assert_eq!(parts(plain), Ok(("u".into(), "p".into())));
        assert_eq!(parts(coded), Ok(("u".into(), "p:q".into())));
        for bad in ["c2VjcmV0", "!!secret!!"] {
            let error = credentials(v1::AuthConfig { auth: bad.into(), ..Default::default() }).unwrap_err();
            assert!(!error.message.contains("secret") && !error.message.contains(bad), "{error}");
        }
    }
}
