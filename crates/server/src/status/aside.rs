//! Work of pages that a disk can hold up, done aside: the thread of the pages goes on, and `/livez`
//! answers while the disk hangs.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

/// Threads for such work; what comes beyond them waits for one.
pub(super) const THREADS: usize = 8;

/// Longest wait of a client for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does it, and waits.
///
/// # Errors
/// The answer to the client if the work takes too long, and goes on, or panics.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Response> {
    let refused =
        |code: StatusCode, why: &str| (code, Json(json!({ "error": why }))).into_response();
    match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "it panicked: see the log")),
        Err(_) => {
            let why = "the disk takes too long; what was asked for is still being done";
            Err(refused(StatusCode::SERVICE_UNAVAILABLE, why))
        }
    }
}
