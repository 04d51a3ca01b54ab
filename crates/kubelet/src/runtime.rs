//! The runtime that was chosen, opened.

use crate::config::Config;
use crate::config::runtime::Choice;
use crate::images::Images;
use anyhow::{Context, Result};
use cri::Runtime;
use cri::calls::{Calls, Watched};
use cri::client::{Client, Endpoint};
use engine::Engine;
use image::registry::{Registry, RegistryConfig};
use image::{PullConfig, Puller, Store};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// How to bring an image into a runtime that has its own.
const IMPORT_WITH: &str = "`ctr --namespace k8s.io images import FILE` with containerd, `skopeo copy` or `podman load` \
                           into its storage with CRI-O";
/// A pull that takes longer is given up.
const PULL_WITHIN: Duration = Duration::from_secs(30 * 60);

/// The runtime and what belongs to it.
pub(crate) struct Opened {
    pub(crate) runtime: Arc<dyn Runtime>,
    /// What it is being asked.
    pub(crate) calls: Arc<Calls>,
    pub(crate) images: Images,
    /// To be closed at the end; and its images, to be filled from a directory.
    pub(crate) embedded: Option<(Arc<Engine>, Arc<Store>)>,
}

/// Opens the embedded engine, or makes the way to a runtime behind a socket, which need not be there yet.
pub(crate) async fn open(config: &Config) -> Result<Opened> {
    match &config.runtime {
        Choice::Embedded => open_embedded(config).await,
        Choice::Docker { endpoint } => Ok(open_docker(config, endpoint)),
        Choice::Remote { runtime, images } => Ok(open_remote(config, runtime, images.clone())),
    }
}

async fn open_embedded(config: &Config) -> Result<Opened> {
    let dropped = config.root_dir.join("images");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&dropped);
    made.with_context(|| format!("cannot make {}", dropped.display()))?;
    let dir = config.root_dir.join("image-store");
    let store = tokio::task::spawn_blocking(move || Store::open(&dir)).await?;
    let store = store.context("the image store cannot be opened")?;
    let puller = puller(config, &store);
    let engine = Engine::open(engine_config(config, &store, &puller)?).await.context("the engine cannot start")?;
    let watched = Watched::new(engine.clone());
    let calls = watched.calls();
    let runtime: Arc<dyn Runtime> = Arc::new(watched);
    let images = Images::Store { store: Arc::clone(&store), engine: Arc::clone(&runtime), puller };
    Ok(Opened { runtime, calls, images, embedded: Some((engine, store)) })
}

fn open_remote(config: &Config, runtime: &Endpoint, images: Option<Endpoint>) -> Opened {
    info!(socket = %runtime.path().display(), "containers are run by the runtime behind a socket");
    let client = Client::new(&cri::client::Config {
        runtime: runtime.clone(),
        images,
        call_within: config.call_within,
        pull_within: PULL_WITHIN,
    });
    elsewhere(Watched::new_blind(Arc::new(client)), IMPORT_WITH)
}

fn open_docker(config: &Config, endpoint: &Path) -> Opened {
    info!(socket = %endpoint.display(), "containers are run by the Docker Engine");
    let docker = docker::Docker::connect(docker::Config {
        endpoint: endpoint.to_owned(),
        pause: engine::pause_program(),
        call_within: config.call_within,
        log_max_bytes: config.log_max_bytes,
        log_max_files: config.log_max_files,
    });
    elsewhere(Watched::new(Arc::new(docker)), "`docker load --input FILE`")
}

/// A runtime that is another process and has its own images.
fn elsewhere(watched: Watched, import_with: &'static str) -> Opened {
    let calls = watched.calls();
    let runtime: Arc<dyn Runtime> = Arc::new(watched);
    let images = Images::Runtime { runtime: Arc::clone(&runtime), calls: Arc::clone(&calls), import_with };
    Opened { runtime, calls, images, embedded: None }
}

fn puller(config: &Config, store: &Arc<Store>) -> Arc<Puller> {
    let registry = Registry::new(RegistryConfig {
        hosts_dir: Some(config.images.registry_config_dir.clone()),
        progress_within: config.images.progress_within,
    });
    Puller::new(Arc::clone(store), registry, PullConfig::default())
}

fn engine_config(config: &Config, images: &Arc<Store>, puller: &Arc<Puller>) -> Result<engine::Config> {
    Ok(engine::Config {
        root_dir: config.root_dir.clone(),
        run_dir: config.run_dir.clone(),
        bridge: config.pod_bridge.clone(),
        pod_cidr: config.pod_cidr.parse().context("--pod-cidr")?,
        cgroup_root: config.cgroup_root.clone(),
        resolv_conf: config.resolv_conf.clone(),
        log_max_bytes: config.log_max_bytes,
        log_max_files: config.log_max_files,
        image: Arc::clone(images),
        puller: Arc::clone(puller),
    })
}
