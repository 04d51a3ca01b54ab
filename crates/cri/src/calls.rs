//! What is being asked of a runtime right now, and whether it answers: for health checks and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::attach::Terms;
use crate::{ByteStream, Code, Error, ExecSession, LogRotation, Runtime, v1};

/// A call that is not answered after this, beyond what it takes by its nature, is said to hang; a runtime that cannot be
/// reached for as long is said to be away.
pub const SLOW_AFTER: Duration = Duration::from_secs(5);
/// Pulls take as long as registries please; a day is no sign of a runtime that hangs, and one that is slow but goes on
/// must not make a kubelet look ill and be restarted, which would begin it anew. So it is with a runtime that gives up by
/// itself what gets nowhere.
const PULL: Duration = Duration::from_secs(24 * 60 * 60);
/// Of a runtime that does not tell whether a pull gets anywhere, somebody should look at one that takes so long.
const BLIND_PULL: Duration = Duration::from_secs(15 * 60);
/// A pod's server may be slow to take a connection, on either version of IP.
const CONNECT: Duration = Duration::from_secs(20);

tokio::task_local! {
    static FOR: Arc<str>;
}

/// Does `work`, and tells the calls it makes as being for that pod.
pub async fn for_pod<T>(pod: Arc<str>, work: impl Future<Output = T>) -> T {
    FOR.scope(pod, work).await
}

/// A runtime with a register of the calls under way.
pub struct Watched {
    inner: Arc<dyn Runtime>,
    calls: Arc<Calls>,
    /// What a pull may take by its nature.
    pull: Duration,
}

impl Watched {
    /// A runtime that gives up pulls that get nowhere.
    pub fn new(inner: Arc<dyn Runtime>) -> Self {
        Self { inner, calls: Arc::default(), pull: PULL }
    }

    /// A runtime that tells nothing of a pull before its end: one that takes longer than a quarter of an hour is said to hang.
    pub fn new_blind(inner: Arc<dyn Runtime>) -> Self {
        Self { pull: BLIND_PULL, ..Self::new(inner) }
    }

    /// The register; it may be asked at any time, also while calls hang.
    pub fn calls(&self) -> Arc<Calls> {
        Arc::clone(&self.calls)
    }
}

/// The calls under way. There are as many as the caller makes at once, which is bounded by him.
#[derive(Debug, Default)]
pub struct Calls {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    under_way: BTreeMap<u64, Call>,
    /// The images of the pulls among them.
    pulls: BTreeMap<u64, String>,
    away: Option<(Instant, String)>,
}

#[derive(Debug)]
struct Call {
    name: &'static str,
    pod: Option<Arc<str>>,
    since: Instant,
    /// What it may take by its nature.
    nature: Duration,
}

/// What is wrong with a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be reached.
    Away { since: Duration, message: String },
    /// It has taken a call and does not answer.
    Hangs { call: &'static str, pod: Option<Arc<str>>, since: Duration },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { since, message } => {
                write!(f, "the runtime has been away for {} s: {message}", since.as_secs())
            }
            Self::Hangs { call, pod, since } => {
                write!(f, "{call}")?;
                if let Some(pod) = pod {
                    write!(f, " of pod {pod}")?;
                }
                write!(f, " has not been answered for {} s", since.as_secs())
            }
        }
    }
}

impl Calls {
    /// What is wrong now, the longest first; nothing where all is well.
    pub fn troubles(&self) -> Vec<Trouble> {
        let now = Instant::now();
        let state = self.state();
        let away = state.away.iter().map(|(since, message)| (now - *since, message));
        let away = away.filter(|(since, _)| *since >= SLOW_AFTER);
        let away = away.map(|(since, message)| Trouble::Away { since, message: message.clone() });
        let slow = state.under_way.values().filter(|call| now - call.since >= call.nature + SLOW_AFTER);
        let slow = slow.map(|call| Trouble::Hangs { call: call.name, pod: call.pod.clone(), since: now - call.since });
        // The register is in the order of the calls' beginnings.
        away.chain(slow).collect()
    }

    /// The images that are being pulled, as they are named in the requests.
    pub fn pulls(&self) -> BTreeSet<String> {
        self.state().pulls.values().cloned().collect()
    }

    async fn watch_pull<T>(
        &self,
        (image, nature): (Option<String>, Duration),
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let entry = self.begin("pull_image", nature);
        self.state().pulls.extend(image.map(|image| (entry.number, image)));
        self.answer(entry, call).await
    }

    async fn watch<T>(
        &self,
        (name, nature): (&'static str, Duration),
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let entry = self.begin(name, nature);
        self.answer(entry, call).await
    }

    async fn answer<T>(&self, entry: UnderWay<'_>, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let UnderWay { name, nature, .. } = entry;
        let mut call = pin!(call);
        let answer = match tokio::time::timeout(nature + SLOW_AFTER, &mut call).await {
            Ok(answer) => answer,
            Err(_) => {
                let pod = entry.pod.as_deref().unwrap_or("-");
                let waited = nature + SLOW_AFTER;
                warn!(call = name, pod, "the runtime has not answered for {} s", waited.as_secs());
                let answer = call.await;
                let took_s = entry.since.elapsed().as_secs();
                match &answer {
                    Ok(_) => info!(call = name, pod, took_s, "the runtime answered at last"),
                    Err(error) => info!(call = name, pod, took_s, %error, "a slow call of the runtime's failed"),
                }
                answer
            }
        };
        self.learn(answer.as_ref().err());
        answer
    }

    /// Whether it can be reached shows in every answer but the missing ones.
    fn learn(&self, error: Option<&Error>) {
        let mut state = self.state();
        match error {
            Some(error) if error.code == Code::DeadlineExceeded => {}
            Some(error) if error.code == Code::Unavailable => {
                if state.away.is_none() {
                    warn!(%error, "the runtime cannot be reached");
                    state.away = Some((Instant::now(), error.message.clone()));
                }
            }
            _ => {
                if let Some((since, _)) = state.away.take() {
                    info!(away_s = since.elapsed().as_secs(), "the runtime can be reached again");
                }
            }
        }
    }

    fn begin(&self, name: &'static str, nature: Duration) -> UnderWay<'_> {
        let (pod, since) = (FOR.try_with(Arc::clone).ok(), Instant::now());
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number, Call { name, pod: pod.clone(), since, nature });
        drop(state);
        UnderWay { calls: self, number, name, nature, pod, since }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the call out of the register, also when nobody waits for it any more.
struct UnderWay<'a> {
    calls: &'a Calls,
    number: u64,
    name: &'static str,
    nature: Duration,
    pod: Option<Arc<str>>,
    since: Instant,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.calls.state();
        state.under_way.remove(&self.number);
        state.pulls.remove(&self.number);
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Implements the calls that only pass a request on; by its nature each takes what stands behind its types.
macro_rules! watched {
    ($($method:ident($request:ident: $from:ident) -> $to:ident, $nature:expr;)*) => {
        #[async_trait]
        impl Runtime for Watched {
            $(async fn $method(&self, $request: v1::$from) -> Result<v1::$to, Error> {
                let nature = $nature;
                self.calls.watch((stringify!($method), nature), self.inner.$method($request)).await
            })*

            async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Error> {
                let image = request.image.as_ref().map(|image| image.image.clone());
                self.calls.watch_pull((image, self.pull), self.inner.pull_image(request)).await
            }

            fn log_rotation(&self) -> LogRotation {
                self.inner.log_rotation()
            }

            async fn exec(&self, request: v1::ExecRequest, window: Option<(u16, u16)>) -> Result<ExecSession, Error> {
                self.calls.watch(("exec", Duration::ZERO), self.inner.exec(request, window)).await
            }

            async fn attach(&self, request: v1::AttachRequest, terms: Terms) -> Result<ExecSession, Error> {
                self.calls.watch(("attach", Duration::ZERO), self.inner.attach(request, terms)).await
            }

            async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>, Error> {
                let call = self.inner.port_forward(pod_sandbox_id, port);
                self.calls.watch(("port_forward", CONNECT), call).await
            }

            async fn events(&self) -> Result<mpsc::Receiver<v1::ContainerEventResponse>, Error> {
                self.calls.watch(("events", Duration::ZERO), self.inner.events()).await
            }
        }
    };
}

watched! {
    version(request: VersionRequest) -> VersionResponse, Duration::ZERO;
    status(request: StatusRequest) -> StatusResponse, Duration::ZERO;
    run_pod_sandbox(request: RunPodSandboxRequest) -> RunPodSandboxResponse, Duration::ZERO;
    stop_pod_sandbox(request: StopPodSandboxRequest) -> StopPodSandboxResponse, Duration::ZERO;
    remove_pod_sandbox(request: RemovePodSandboxRequest) -> RemovePodSandboxResponse, Duration::ZERO;
    pod_sandbox_status(request: PodSandboxStatusRequest) -> PodSandboxStatusResponse, Duration::ZERO;
    list_pod_sandbox(request: ListPodSandboxRequest) -> ListPodSandboxResponse, Duration::ZERO;
    create_container(request: CreateContainerRequest) -> CreateContainerResponse, Duration::ZERO;
    start_container(request: StartContainerRequest) -> StartContainerResponse, Duration::ZERO;
    stop_container(request: StopContainerRequest) -> StopContainerResponse, seconds(request.timeout);
    remove_container(request: RemoveContainerRequest) -> RemoveContainerResponse, Duration::ZERO;
    list_containers(request: ListContainersRequest) -> ListContainersResponse, Duration::ZERO;
    container_status(request: ContainerStatusRequest) -> ContainerStatusResponse, Duration::ZERO;
    list_container_stats(request: ListContainerStatsRequest) -> ListContainerStatsResponse, Duration::ZERO;
    reopen_container_log(request: ReopenContainerLogRequest) -> ReopenContainerLogResponse, Duration::ZERO;
    exec_sync(request: ExecSyncRequest) -> ExecSyncResponse, exec_nature(&request);
    list_images(request: ListImagesRequest) -> ListImagesResponse, Duration::ZERO;
    image_status(request: ImageStatusRequest) -> ImageStatusResponse, Duration::ZERO;
    remove_image(request: RemoveImageRequest) -> RemoveImageResponse, Duration::ZERO;
    image_fs_info(request: ImageFsInfoRequest) -> ImageFsInfoResponse, Duration::ZERO;
}

/// A command without a limit takes as long as it pleases; a day is no sign of a runtime that hangs.
fn exec_nature(request: &v1::ExecSyncRequest) -> Duration {
    match request.timeout {
        ..=0 => Duration::from_secs(24 * 60 * 60),
        timeout => seconds(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: Duration = Duration::ZERO;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_told_with_its_pod() {
        let calls = Arc::new(Calls::default());
        let hanging = {
            let calls = Arc::clone(&calls);
            let call =
                async move { calls.watch(("run_pod_sandbox", PROMPT), std::future::pending::<Result<(), _>>()).await };
            tokio::spawn(for_pod("default/web".into(), call))
        };
        tokio::time::sleep(SLOW_AFTER / 2).await;
        assert_eq!(calls.troubles(), []);
        tokio::time::sleep(SLOW_AFTER).await;
        let texts: Vec<String> = calls.troubles().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["run_pod_sandbox of pod default/web has not been answered for 7 s"]);
        hanging.abort();
        assert!(hanging.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(calls.troubles(), [], "nobody waits for it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_by_its_nature_does_not_hang() {
        let calls = Calls::default();
        let slow = calls.watch(("stop_container", seconds(30)), std::future::pending::<Result<(), _>>());
        let outcome = tokio::time::timeout(Duration::from_secs(34), slow);
        let looking = async {
            tokio::time::sleep(Duration::from_secs(33)).await;
            calls.troubles()
        };
        assert_eq!(tokio::join!(outcome, looking).1, []);
    }

    #[tokio::test(start_paused = true)]
    async fn pulls_are_told_while_somebody_waits_for_them() {
        let calls = Calls::default();
        let never = || std::future::pending::<Result<(), Error>>();
        let pulls = [Some("a:1"), Some("a:1"), Some("b:1"), None];
        let [a, again, b, unnamed] = pulls.map(|image| calls.watch_pull((image.map(str::to_owned), PULL), never()));
        let looking = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            (calls.pulls(), calls.troubles())
        };
        let outcome = tokio::select! {
            biased;
            _ = async { tokio::join!(a, again, b, unnamed) } => unreachable!("they never end"),
            told = looking => told,
        };
        assert_eq!(outcome, (BTreeSet::from(["a:1".to_owned(), "b:1".to_owned()]), vec![]));
        assert_eq!(calls.pulls(), BTreeSet::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_of_which_nothing_is_heard_is_told_with_its_pod() {
        let calls = Calls::default();
        let hung = calls.watch_pull((Some("a:1".to_owned()), BLIND_PULL), std::future::pending::<Result<(), Error>>());
        let looking = async {
            tokio::time::sleep(BLIND_PULL).await;
            let before = calls.troubles();
            tokio::time::sleep(SLOW_AFTER).await;
            (before, calls.troubles())
        };
        let (before, after) = tokio::select! {
            biased;
            _ = for_pod("default/web".into(), hung) => unreachable!("it never ends"),
            told = looking => told,
        };
        let texts: Vec<String> = after.iter().map(ToString::to_string).collect();
        assert_eq!(before, []);
        assert_eq!(texts, ["pull_image of pod default/web has not been answered for 905 s"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_is_away_is_told_until_it_answers() {
        let calls = Calls::default();
        let answer = async |error: Option<Error>| {
            let _answer = calls.watch(("status", PROMPT), async { error.map_or(Ok(()), Err) }).await;
        };
        answer(Some(Error::unavailable("connection refused"))).await;
        assert_eq!(calls.troubles(), [], "a moment is no trouble");
        tokio::time::sleep(SLOW_AFTER).await;
        answer(Some(Error::unavailable("other words"))).await;
        answer(Some(Error::deadline_exceeded("late"))).await;
        let texts: Vec<String> = calls.troubles().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["the runtime has been away for 5 s: connection refused"]);
        answer(Some(Error::not_found("an answer as good as any"))).await;
        assert_eq!(calls.troubles(), []);
    }
}
