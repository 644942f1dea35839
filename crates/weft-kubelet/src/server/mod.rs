//! The kubelet's HTTP interface on a Unix socket: logs, exec and attach, the list of pods. The
//! API server has authenticated and authorised whoever asks; the socket is root's alone.

mod channels;
mod exec;
mod logs;
mod peer;
mod port_forward;

use crate::ctx::{ContainerEntry, Ctx, PodEntry};
use anyhow::Context;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::StatusCode;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;

/// Binds the socket, for root only; one that a predecessor left is replaced.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(ctx: Arc<Ctx>, listener: UnixListener) {
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(pods))
        .route("/containerLogs/{ns}/{pod}/{container}", get(logs::logs))
        .route("/exec/{ns}/{pod}/{container}", any(exec::exec))
        .route("/attach/{ns}/{pod}/{container}", any(exec::attach))
        .route("/portForward/{ns}/{pod}", any(port_forward::port_forward))
        .fallback(async |uri: http::Uri| {
            Failure::new(StatusCode::NOT_FOUND, "NotFound", format!("no such path: {}", uri.path()))
        })
        .with_state(ctx);
    if let Err(e) = axum::serve(listener, router).await {
        tracing::error!("kubelet.sock: {e}");
    }
}

async fn pods(State(ctx): State<Arc<Ctx>>) -> Json<Value> {
    let pods = ctx.pods.lock().expect("invariant: no panic under this lock");
    let items: Vec<_> = pods.values().map(|e| Arc::clone(&e.pod)).collect();
    drop(pods);
    let items: Vec<_> =
        items.iter().map(|p| serde_json::to_value(&**p).unwrap_or_default()).collect();
    Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// An error as the API's clients read it: a `Status`.
#[derive(Debug)]
pub struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "reason": self.reason,
            "code": self.code.as_u16()});
        (self.code, Json(body)).into_response()
    }
}

/// Query parameters in order, with repetitions.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// Kubernetes' clients write booleans as `true` or `1`; `also` is an older name.
    fn flag(&self, key: &str, also: &str) -> bool {
        let on = |v: &str| matches!(v, "1" | "true" | "True" | "TRUE" | "t" | "T");
        self.get(key).or(self.get(also)).is_some_and(on)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        match self.get(key).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(v) => v
                .parse()
                .map(Some)
                .map_err(|_| Failure::bad(format!("{key}: {v:?} is not a number that fits"))),
        }
    }
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Params {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &S,
    ) -> Result<Self, Failure> {
        axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map(|q| Self(q.0))
            .map_err(|e| Failure::bad(e.to_string()))
    }
}

/// Finds a container of a pod of this node.
fn find(
    ctx: &Ctx,
    ns: &str,
    pod: &str,
    container: &str,
) -> Result<(PodEntry, Option<ContainerEntry>), Failure> {
    let pods = ctx.pods.lock().expect("invariant: no panic under this lock");
    let entry = pods.get(&(ns.to_owned(), pod.to_owned())).cloned();
    drop(pods);
    let entry = entry.ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, "NotFound", format!("pod \"{pod}\" not found"))
    })?;
    let known = entry
        .pod
        .spec
        .as_ref()
        .is_some_and(|s| crate::plan::containers(s).any(|(_, c)| c.name == container));
    if !known {
        return Err(Failure::bad(format!("container {container} is not valid for pod {pod}")));
    }
    let found = entry.containers.get(container).cloned();
    Ok((entry, found))
}

/// Why a container waits, for messages.
fn waiting(entry: &PodEntry, container: &str) -> Option<String> {
    let status = entry.pod.status.as_ref()?;
    let all = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let mut all = all;
    let state = all.find(|s| s.name == container)?.state.as_ref()?;
    state.waiting.as_ref()?.reason.clone()
}
