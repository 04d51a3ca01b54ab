//! The daemon: everything wired together, started in order and ended in order.

use crate::cli::RunFlags;
use crate::client::socket_path;
use crate::config::runtime::Choice;
use crate::config::{self, Config};
use crate::host::Host;
use crate::log::{self, LogOutput};
use crate::readiness::{self, Readiness};
use crate::runtime::{self, Opened};
use crate::stats::Rates;
use agent::credentials::{Credentials, CredentialsConfig};
use agent::{AgentConfig, AgentHandle, DnsConfig, ImagesConfig, SourceConfig};
use anyhow::{Context, Result, bail};
use image::Store;
use rustix::fs::{FlockOperation, Mode, OFlags};
use server::{Bound, Limits};
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const WORKER_THREADS: usize = 2;
/// For mounts, unpacking and file reads; each thread ends after a while without work.
const MAX_BLOCKING_THREADS: usize = 16;
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long the servers may take to finish their answers at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// The moment between a spawn and its `execve`, on a machine with more to do than it can.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Runs the kubelet until SIGTERM or SIGINT. Pods go on running.
pub(crate) fn daemon(flags: RunFlags) -> Result<()> {
    let log = log::start(flags.verbosity);
    let facts = node::facts();
    let config = config::load(&flags, &facts.hostname)?;
    if !rustix::process::geteuid().is_root() {
        bail!("making containers needs root: start the kubelet as root");
    }
    // Ours is the only provider; a second installation cannot happen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(config, facts, log));
    // Blocking work that is still under way must not keep the process: it is repaired at the next start.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    outcome
}

async fn serve(config: Config, facts: node::Facts, log: LogOutput) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    directories(&config)?;
    let _only_one = lock(&config.run_dir.join("kubelet.lock")).await?;
    let credentials = credentials(&config).await?;
    let sockets = bind(&config).await?;
    let Opened { runtime, calls, images, embedded } = runtime::open(&config).await?;
    let groups = cgroup::Layout::detect().context("no control groups are mounted below /sys/fs/cgroup")?;
    let agent = agent::run(agent_config(&config, &facts, &credentials), Arc::clone(&runtime), Some(groups))
        .context("the agent cannot start")?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    if let Some((_, store)) = &embedded {
        tasks.spawn(watch_images(Arc::clone(store), config.root_dir.join("images"), agent.clone(), stop.clone()));
    }
    let readiness = Arc::new(Readiness::default());
    if embedded.is_none() {
        tasks.spawn(readiness::look_after(Arc::clone(&runtime), Arc::clone(&readiness), stop.clone()));
    }
    let host = Arc::new(Host {
        agent: agent.clone(),
        runtime,
        calls,
        readiness,
        images,
        node_name: config.node_name.clone(),
        rates: Rates::default(),
        credentials,
        log,
        root_dir: config.root_dir.clone(),
        log_dir: config.pod_logs_dir.clone(),
    });
    answer(sockets, &host, &stop, &mut tasks);
    info!(node = config.node_name, "the kubelet runs");
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: ending; pods go on running"),
        _ = interrupt.recv() => info!("SIGINT: ending; pods go on running"),
    }
    stop.cancel();
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, finish).await.is_err() {
        warn!("some answers were not finished within {SHUTDOWN_TIMEOUT:?}");
    }
    agent.shutdown().await;
    match embedded {
        Some((engine, _)) => engine.close().await.context("the engine did not close cleanly"),
        None => Ok(()),
    }
}

fn directories(config: &Config) -> Result<()> {
    let make = |path: &Path, mode: u32| {
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("cannot make {}", path.display()))
    };
    make(&config.root_dir, 0o750)?;
    make(&config.run_dir, 0o700)?;
    make(&config.pod_logs_dir, 0o755)
}

/// Two kubelets with one run directory would both think the pods theirs. A child of a killed one, on its way to `execve`,
/// holds all of its descriptors for a moment longer, this lock among them: whoever has the lock has the ports, the
/// socket and the image store free as well.
async fn lock(path: &Path) -> Result<OwnedFd> {
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
        .with_context(|| format!("cannot open {}", path.display()))?;
    let given_up = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if tokio::time::Instant::now() < given_up => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => bail!(
                "another kubelet runs with this run directory ({}); give this one its own --run-dir",
                path.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// Who the node is to registries. Docker's configuration is looked for where every kubelet does.
async fn credentials(config: &Config) -> Result<Arc<Credentials>> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let mut found = CredentialsConfig::usual(&config.root_dir, home.as_deref());
    if let Some(providers) = &config.images.providers {
        found.provider_config = Some(providers.config.clone());
        found.provider_bin_dir = Some(providers.bin_dir.clone());
    }
    let credentials = tokio::task::spawn_blocking(move || Credentials::new(found)).await?;
    Ok(Arc::new(credentials.context("--image-credential-provider-config")?))
}

fn agent_config(config: &Config, facts: &node::Facts, credentials: &Arc<Credentials>) -> AgentConfig {
    let path =
        config.manifests.clone().map(|path| SourceConfig::Path { path, check_every: config.file_check_frequency });
    let url = config.manifest_url.clone().map(|url| SourceConfig::Url {
        url,
        headers: config.manifest_url_headers.clone(),
        check_every: config.http_check_frequency,
    });
    AgentConfig {
        node_name: config.node_name.clone(),
        node_ips: config.node_ip.or_else(node::primary_ip).into_iter().collect(),
        root_dir: config.root_dir.clone(),
        log_dir: config.pod_logs_dir.clone(),
        cgroup_root: config.cgroup_root.clone(),
        sources: path.into_iter().chain(url).collect(),
        dns: DnsConfig { resolv_conf: config.resolv_conf.clone(), ..DnsConfig::default() },
        node_memory_bytes: facts.memory_bytes,
        node_cpu_millis: facts.cores as u64 * 1000,
        node_ephemeral_bytes: node::capacity_bytes(&config.root_dir).unwrap_or(0),
        node_labels: config.node_labels.clone(),
        max_pods: config.max_pods,
        call_within: config.call_within,
        log_max_bytes: config.log_max_bytes,
        log_max_files: config.log_max_files,
        images: ImagesConfig {
            serialize: config.images.serialize,
            max_parallel: config.images.max_parallel,
            qps: config.images.qps,
            burst: config.images.burst,
            // The others give up what gets nowhere.
            turn_within: matches!(config.runtime, Choice::Remote { .. }).then_some(config.images.progress_within),
            verification: config.images.verification.clone(),
            gc: config.images.gc,
            credentials: Arc::clone(credentials),
        },
        max_restart_delay_ms: config.max_restart_delay.as_millis().try_into().unwrap_or(0),
    }
}

/// Imports what is dropped into the image directory, and tells the pods that wait for an image.
async fn watch_images(images: Arc<Store>, dir: std::path::PathBuf, agent: AgentHandle, stop: CancellationToken) {
    let changed = move || {
        let agent = agent.clone();
        tokio::spawn(async move { agent.images_changed().await });
    };
    tokio::select! {
        () = image::drop_in::watch(images, dir, changed) => {}
        () = stop.cancelled() => {}
    }
}

/// The sockets, bound before anything is started: a port that is taken ends the kubelet with nothing touched.
struct Sockets {
    local: Bound,
    read_only: Option<Bound>,
    healthz: Option<Bound>,
}

async fn bind(config: &Config) -> Result<Sockets> {
    let tcp = async |flag: &'static str, address, port| match port {
        0 => Ok(None),
        port => server::bind_tcp(SocketAddr::new(address, port)).await.map(Some).context(flag),
    };
    Ok(Sockets {
        local: server::bind_unix(&socket_path(&config.run_dir))?,
        read_only: tcp("--read-only-port", config.address, config.read_only_port).await?,
        healthz: tcp("--healthz-port", config.healthz_bind_address, config.healthz_port).await?,
    })
}

fn answer(sockets: Sockets, host: &Arc<Host>, stop: &CancellationToken, tasks: &mut JoinSet<()>) {
    tasks.spawn(server::serve(sockets.local, server::local(host.clone()), Limits::LOCAL, stop.clone()));
    if let Some(bound) = sockets.read_only {
        tasks.spawn(server::serve(bound, server::read_only(host.clone()), Limits::PUBLIC, stop.clone()));
    }
    if let Some(bound) = sockets.healthz {
        tasks.spawn(server::serve(bound, server::healthz(host.clone()), Limits::PUBLIC, stop.clone()));
    }
}
