//! `/healthz`: the checks and the texts that clients of upstream's know.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::{HealthCheck, Host};

/// In the order in which they are run and shown.
const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

const PLAIN: [(HeaderName, &str); 2] =
    [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];

async fn run(host: &dyn Host, check: &str) -> Result<(), String> {
    match check {
        "log" => host.health(HealthCheck::Log).await,
        "syncloop" => host.health(HealthCheck::SyncLoop).await,
        // Ping is well if it can answer.
        _ => Ok(()),
    }
}

/// `/healthz`: all checks but those excluded; `?verbose` lists them, a failure always does.
pub(crate) async fn all(State(host): State<Arc<dyn Host>>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let excluded: Vec<&str> =
        query.iter().filter(|(key, _)| key == "exclude").flat_map(|(_, names)| names.split(',')).collect();
    let verbose = query.iter().any(|(key, _)| key == "verbose");
    let mut list = String::new();
    let mut failed = false;
    for check in CHECKS {
        if excluded.contains(&check) {
            list += &format!("[+]{check} excluded: ok\n");
            continue;
        }
        match run(&*host, check).await {
            Ok(()) => list += &format!("[+]{check} ok\n"),
            Err(reason) => {
                failed = true;
                list += &format!("[-]{check} failed: {reason}\n");
            }
        }
    }
    let unknown: Vec<String> =
        excluded.iter().filter(|name| !CHECKS.contains(name)).map(|name| format!("{name:?}")).collect();
    if !unknown.is_empty() {
        list += &format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(", "));
    }
    match (failed, verbose) {
        (true, _) => (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, list + "healthz check failed\n").into_response(),
        (false, true) => (PLAIN, list + "healthz check passed\n").into_response(),
        (false, false) => (PLAIN, "ok").into_response(),
    }
}

/// `/healthz/<check>`.
pub(crate) async fn one(State(host): State<Arc<dyn Host>>, Path(check): Path<String>) -> Response {
    if !CHECKS.contains(&&*check) {
        return crate::routes::not_found().await;
    }
    match run(&*host, &check).await {
        Ok(()) => (PLAIN, "ok").into_response(),
        Err(reason) => {
            (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("Internal server error: {reason}\n")).into_response()
        }
    }
}
