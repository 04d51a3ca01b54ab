//! `/images`: what there is, and how it comes and goes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::listen::Connection;
use crate::routes::MAX_BODY_BYTES;
use crate::{ErrorBody, Host, HostError, HostErrorKind, ImagePull, ImportRequest, PullLine, PullRequest, PulledImage};

/// Between two looks at a pull's progress; what has not changed is not told.
const LOOK_EVERY: Duration = Duration::from_millis(200);

type Shared = Arc<dyn Host>;

pub(crate) async fn list(State(host): State<Shared>) -> Result<Response, HostError> {
    Ok(Json(host.images().await?).into_response())
}

pub(crate) async fn import(
    State(host): State<Shared>,
    request: Result<Json<ImportRequest>, JsonRejection>,
) -> Result<Response, HostError> {
    const SHAPE: &str = r#"{"path": "/absolute/path.tar", "pinned": false}"#;
    let Json(request) = request.map_err(|rejection| refused(&rejection, SHAPE))?;
    if !request.path.is_absolute() {
        let path = request.path.display();
        return Err(HostError::invalid(format!(
            "path {path} must be absolute: the kubelet has another working directory"
        )));
    }
    Ok(Json(host.image_import(request).await?).into_response())
}

fn refused(rejection: &JsonRejection, shape: &str) -> HostError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => HostError::new(
            HostErrorKind::TooLarge,
            format!("the request's body is larger than the {MAX_BODY_BYTES} bytes that are allowed"),
        ),
        _ => HostError::invalid(format!("the request's body must be {shape}: {}", rejection.body_text())),
    }
}

#[derive(Deserialize)]
pub(crate) struct RemoveQuery {
    reference: String,
}

pub(crate) async fn remove(
    State(host): State<Shared>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<StatusCode, HostError> {
    let Query(query) = query.map_err(|_| HostError::invalid("the query must be ?reference=NAME_OR_ID"))?;
    host.image_remove(&query.reference).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn pulls(State(host): State<Shared>) -> Response {
    Json(host.image_pulls().await).into_response()
}

pub(crate) async fn prune(State(host): State<Shared>) -> Result<Response, HostError> {
    Ok(Json(host.image_prune().await?).into_response())
}

/// Answers with a line of JSON for each step of the progress and one for the end. A client that hangs up gives the
/// pull up.
pub(crate) async fn pull(
    State(host): State<Shared>,
    connection: Option<Extension<Connection>>,
    request: Result<Json<PullRequest>, JsonRejection>,
) -> Result<Response, HostError> {
    let Json(request) = request.map_err(|rejection| refused(&rejection, r#"{"reference": "NAME[:TAG][@DIGEST]"}"#))?;
    let reference = pod::image_name::normalize(&request.reference)
        .map_err(|error| HostError::invalid(format!("image {:?} {error}", request.reference)))?;
    let stop = connection.map(|Extension(connection)| connection.stop).unwrap_or_default();
    let lines = lines(Pulling::start(host, reference, stop));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// A pull that a client waits for.
struct Pulling {
    host: Shared,
    reference: String,
    /// A task of its own, which ends with this: a client that does not read must not hold up a pull that others share.
    pull: AbortOnDropHandle<Result<PulledImage, HostError>>,
    looks: Interval,
    told: Option<ImagePull>,
    stop: CancellationToken,
}

impl Pulling {
    fn start(host: Shared, reference: String, stop: CancellationToken) -> Self {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (asked, wanted) = (Arc::clone(&host), reference.clone());
        let pull = AbortOnDropHandle::new(tokio::spawn(async move { asked.image_pull(&wanted).await }));
        Self { host, reference, pull, looks, told: None, stop }
    }

    async fn next(&mut self) -> PullLine {
        loop {
            tokio::select! {
                biased;
                pulled = &mut self.pull => return match pulled {
                    Ok(Ok(image)) => PullLine::Pulled(image),
                    Ok(Err(error)) => failed(error.message),
                    Err(_) => failed("the pull ended with a fault in the kubelet; its log says more"),
                },
                () = self.stop.cancelled() => return failed("the kubelet is shutting down"),
                _ = self.looks.tick() => {}
            }
            let pulls = self.host.image_pulls().await;
            let now = pulls.into_iter().find(|pull| pull.reference == self.reference);
            if let Some(now) = now.filter(|now| self.told.as_ref() != Some(now)) {
                self.told = Some(now.clone());
                return PullLine::Progress(now);
            }
        }
    }
}

fn failed(message: impl Into<String>) -> PullLine {
    PullLine::Failed(ErrorBody { message: message.into() })
}

fn lines(pulling: Pulling) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(Some(pulling), async |pulling| {
        let mut pulling = pulling?;
        let line = pulling.next().await;
        let rest = matches!(line, PullLine::Progress(_)).then_some(pulling);
        let mut json = serde_json::to_vec(&line).unwrap_or_default();
        json.push(b'\n');
        Some((Ok(json.into()), rest))
    })
}
