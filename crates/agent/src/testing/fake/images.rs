//! The images of the runtime in memory, and the registry that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use cri::keys::IMAGE_GIVEN;
use cri::{Code, Error, v1};
use tokio::sync::watch;

#[derive(Debug, Default)]
pub(crate) struct Images {
    state: Mutex<State>,
    /// No pull ends while it is set.
    held: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    here: Vec<v1::Image>,
    /// Names that archives gave.
    given: BTreeSet<String>,
    /// What a pull of a full name brings.
    registry: BTreeMap<String, Remote>,
    /// Every pull: the name, and who asked.
    asked: Vec<(String, Option<String>)>,
    under_way: usize,
    most_under_way: usize,
    removed: Vec<String>,
    /// Ids of images that cannot be removed, and why.
    stubborn: BTreeMap<String, Error>,
    /// Each image is a file here, by its id.
    dir: Option<PathBuf>,
    sandbox_image: Option<String>,
    /// What looking for an image comes to.
    blind: Option<Error>,
}

#[derive(Debug, Clone)]
enum Remote {
    /// For everybody, or for those who know the password.
    Image(Box<v1::Image>, Option<String>),
    Broken(Error),
}

/// An image, by its id and its full names.
pub(crate) fn image(id: &str, names: &[&str]) -> v1::Image {
    let repo_tags = names.iter().map(|&name| name.to_owned()).collect();
    v1::Image { id: id.to_owned(), repo_tags, size: 1_000, ..Default::default() }
}

impl Images {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn add(&self, image: v1::Image) {
        self.lock().here.push(image);
    }

    /// An archive brought it.
    pub(crate) fn give(&self, image: v1::Image) {
        let mut state = self.lock();
        state.given.extend(image.repo_tags.iter().cloned());
        state.here.push(image);
    }

    /// A registry has it; with a password only for those who know it.
    pub(crate) fn publish(&self, image: v1::Image, password: Option<&str>) {
        let name = image.repo_tags[0].clone();
        self.lock().registry.insert(name, Remote::Image(Box::new(image), password.map(str::to_owned)));
    }

    pub(crate) fn fail_pulls_of(&self, name: &str, error: Error) {
        self.lock().registry.insert(name.to_owned(), Remote::Broken(error));
    }

    pub(crate) fn hold_pulls(&self, held: bool) {
        self.held.send_replace(held);
    }

    pub(crate) fn keep_in(&self, dir: PathBuf) {
        self.lock().dir = Some(dir);
    }

    pub(crate) fn make_stubborn(&self, id: &str, error: Error) {
        self.lock().stubborn.insert(id.to_owned(), error);
    }

    pub(crate) fn use_for_sandboxes(&self, name: &str) {
        self.lock().sandbox_image = Some(name.to_owned());
    }

    pub(crate) fn go_blind(&self, error: Error) {
        self.lock().blind = Some(error);
    }

    pub(crate) fn asked(&self) -> Vec<(String, Option<String>)> {
        self.lock().asked.clone()
    }

    pub(crate) fn removed(&self) -> Vec<String> {
        self.lock().removed.clone()
    }

    /// Pulls that have begun and not ended, now and at most.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let state = self.lock();
        (state.under_way, state.most_under_way)
    }

    pub(super) fn list(&self) -> v1::ListImagesResponse {
        v1::ListImagesResponse { images: self.lock().here.clone() }
    }

    pub(super) fn status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Error> {
        let name = request.image.unwrap_or_default().image;
        let state = self.lock();
        match &state.blind {
            Some(error) => Err(error.clone()),
            None => {
                let given = state.given.contains(&name).then(|| (IMAGE_GIVEN.to_owned(), "true".to_owned()));
                let image = state.find(&name).cloned();
                Ok(v1::ImageStatusResponse { image, info: given.into_iter().collect() })
            }
        }
    }

    pub(super) async fn pull(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Error> {
        let name = request.image.unwrap_or_default().image;
        let auth = request.auth.unwrap_or_default();
        let _counted = self.begin_pull(&name, &auth.username);
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        let mut state = self.lock();
        match state.registry.get(&name).cloned() {
            Some(Remote::Image(_, Some(password))) if password != auth.password => {
                let message = format!("{name}: {:?} is a wrong password", auth.password);
                Err(Error::new(Code::Unauthenticated, message))
            }
            Some(Remote::Image(image, _)) => {
                state.here.retain(|known| known.id != image.id);
                let image_ref = image.id.clone();
                state.here.push(*image);
                Ok(v1::PullImageResponse { image_ref })
            }
            Some(Remote::Broken(error)) => Err(error),
            None => match state.find(&name) {
                Some(image) => Ok(v1::PullImageResponse { image_ref: image.id.clone() }),
                None => Err(Error::not_found(format!("{name}: no such image"))),
            },
        }
    }

    fn begin_pull(&self, name: &str, username: &str) -> Counted<'_> {
        let mut state = self.lock();
        state.asked.push((name.to_owned(), (!username.is_empty()).then(|| username.to_owned())));
        state.under_way += 1;
        state.most_under_way = state.most_under_way.max(state.under_way);
        Counted(self)
    }

    pub(super) fn remove(&self, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Error> {
        let id = request.image.unwrap_or_default().image;
        let mut state = self.lock();
        if let Some(error) = state.stubborn.get(&id) {
            return Err(error.clone());
        }
        state.here.retain(|image| image.id != id);
        if let Some(dir) = &state.dir {
            // Not every image of a test has content.
            let _none = std::fs::remove_file(dir.join(&id));
        }
        state.removed.push(id);
        Ok(v1::RemoveImageResponse {})
    }

    pub(super) fn fs_info(&self) -> Result<v1::ImageFsInfoResponse, Error> {
        let dir = self.lock().dir.clone().ok_or_else(|| Error::unimplemented("images"))?;
        let fs_id = Some(v1::FilesystemIdentifier { mountpoint: dir.display().to_string() });
        let usage = v1::FilesystemUsage { fs_id, ..Default::default() };
        Ok(v1::ImageFsInfoResponse { image_filesystems: vec![usage], ..Default::default() })
    }

    pub(super) fn runtime_status(&self) -> v1::StatusResponse {
        let config = self.lock().sandbox_image.as_ref().map(|name| format!("{{\"sandboxImage\":\"{name}\"}}"));
        let info = config.into_iter().map(|config| ("config".to_owned(), config)).collect();
        v1::StatusResponse { info, ..Default::default() }
    }
}

impl State {
    fn find(&self, name: &str) -> Option<&v1::Image> {
        let called = |image: &&v1::Image| image.id == name || image.repo_tags.iter().any(|tag| tag == name);
        self.here.iter().find(called)
    }
}

/// One pull under way, until it is dropped.
struct Counted<'a>(&'a Images);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}
