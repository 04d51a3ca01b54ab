//! Which path is answered where.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, delete, get, post};
use axum::{Extension, Json, Router};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::{ContainerRef, EventFilter, Host, HostError, LogRequest, health, images, logs, port_forward, streams};

/// Bodies of requests.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

type Shared = Arc<dyn Host>;

/// The whole API of port 10248.
pub fn healthz(host: Shared) -> Router {
    with_health(Router::new()).fallback(not_found).with_state(host)
}

/// Port 10255: what may be read without credentials.
pub fn read_only(host: Shared) -> Router {
    const DEBUG_PATHS: [&str; 8] =
        ["run", "exec", "attach", "portForward", "containerLogs", "runningpods", "logs", "debug/pprof"];
    let mut router = with_facts(with_health(Router::new()));
    for path in DEBUG_PATHS {
        for path in [format!("/{path}"), format!("/{path}/"), format!("/{path}/{{*rest}}")] {
            router = router.route(&path, any(debug_disabled));
        }
    }
    router.fallback(not_found).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(host)
}

/// The unix socket of the command line: everything, for root is trusted.
pub fn local(host: Shared) -> Router {
    with_facts(with_health(Router::new()))
        .route("/manifests", get(manifests))
        .route("/events", get(events))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", get(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(streams::attach))
        .route("/portForward/{namespace}/{pod}", get(port_forward::port_forward))
        .route("/images", get(images::list).merge(delete(images::remove)))
        .route("/images/import", post(images::import))
        .route("/images/pull", post(images::pull))
        .route("/images/pulls", get(images::pulls))
        .route("/images/prune", post(images::prune))
        .fallback(not_found)
        .layer(Extension(logs::Watches::default()))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(host)
}

fn with_health(router: Router<Shared>) -> Router<Shared> {
    router.route("/healthz", get(health::all)).route("/healthz/{check}", get(health::one))
}

fn with_facts(router: Router<Shared>) -> Router<Shared> {
    let router = router.route("/pods", get(pods)).route("/stats/summary", get(summary).post(summary));
    router.route("/spec", get(|| async { moved_to_spec() })).route("/spec/", get(spec))
}

/// 301, as the file server of old gave it; axum's [`Redirect::permanent`] is 308.
fn moved_to_spec() -> Response {
    let mut response = Redirect::permanent("/spec/").into_response();
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response
}

pub(crate) async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

async fn debug_disabled() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n").into_response()
}

/// A v1 `PodList`; items carry no kind and version of their own, as in every Kubernetes list.
#[derive(Serialize)]
struct PodList<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
    items: Vec<PodItem<'a>>,
}

#[derive(Serialize)]
struct PodItem<'a> {
    metadata: &'a ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a PodSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a PodStatus>,
}

impl<'a> From<&'a Pod> for PodItem<'a> {
    fn from(pod: &'a Pod) -> Self {
        Self { metadata: &pod.metadata, spec: pod.spec.as_ref(), status: pod.status.as_ref() }
    }
}

async fn pods(State(host): State<Shared>) -> Response {
    let list = host.pods().await;
    let items = list.items.iter().map(PodItem::from).collect();
    Json(PodList { kind: "PodList", api_version: "v1", metadata: &list.metadata, items }).into_response()
}

async fn summary(State(host): State<Shared>) -> Result<Response, HostError> {
    Ok(Json(host.stats().await?).into_response())
}

async fn spec(State(host): State<Shared>) -> Response {
    Json(host.machine_info().await).into_response()
}

async fn manifests(State(host): State<Shared>) -> Response {
    Json(host.manifests().await).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventQuery {
    namespace: Option<String>,
    pod: Option<String>,
}

async fn events(
    State(host): State<Shared>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, HostError> {
    let wrong = || HostError::invalid("the query may be ?namespace=NAMESPACE or ?namespace=NAMESPACE&pod=POD");
    let Query(query) = query.map_err(|_| wrong())?;
    let filter = match (query.namespace, query.pod) {
        (None, None) => EventFilter::All,
        (Some(namespace), None) => EventFilter::Namespace { namespace },
        (Some(namespace), Some(pod)) => EventFilter::Pod { namespace, pod },
        (None, Some(_)) => return Err(wrong()),
    };
    Ok(Json(host.events(filter).await).into_response())
}

async fn container_logs(
    State(host): State<Shared>,
    Extension(watches): Extension<logs::Watches>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, HostError> {
    let options = logs::LogOptions::from_query(&query, jiff::Timestamp::now()).map_err(HostError::invalid)?;
    let container = ContainerRef { namespace, pod, container };
    let source = host.logs(LogRequest { container, options: options.clone() }).await?;
    let stream = logs::open(source, options, &watches).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(stream)).into_response())
}
