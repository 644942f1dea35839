//! From a request to a verb and back.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod params;
pub(crate) mod reply;
pub(crate) mod route;
pub(crate) mod serve;
mod watch;

use crate::{
    ApiServer,
    auth::{Identity, Peer},
    discovery,
    error::ApiError,
    proxy,
    store::Key,
    verbs::{
        Ctx, FieldValidation, Outcome, Part,
        delete::{DeleteOptions, Propagation},
        from_storage, read,
        scale::ScaleChange,
        update::Patch,
    },
};
use accept::Format;
use body::BoxError;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Body;
use params::Params;
pub use reply::ApiBody;
use route::{Route, Target, route};
use serde_json::Value;
use std::{
    convert::Infallible,
    task::{Context, Poll},
};
use weft_kinds::{decode, status};

/// The in-process face of a server: a `tower` service that `kube::Client::new` takes.
#[derive(Clone)]
pub struct InProcess(ApiServer);

impl InProcess {
    pub(crate) fn new(server: ApiServer) -> Self {
        Self(server)
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ApiBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.0.clone();
        async move { Ok(handle(&server, request, Peer::InProcess).await) }.boxed()
    }
}

/// Answers one request. Never fails: what is refused is a Status.
pub(crate) async fn handle<B>(
    server: &ApiServer,
    request: Request<B>,
    peer: Peer,
) -> Response<ApiBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let gzip = peer == Peer::Network && accept::gzip(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match dispatch(server, request, peer).await {
        Ok(r) => r,
        Err(e) => {
            tracing::debug!(%method, path, code = e.code(), message = e.message(), "refused");
            reply::error(&e)
        }
    };
    if gzip { reply::compressed(response).await } else { response }
}

async fn dispatch<B>(
    server: &ApiServer,
    request: Request<B>,
    peer: Peer,
) -> Result<Response<ApiBody>, ApiError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let now = jiff::Timestamp::now();
    let route = route(request.uri().path());
    let identity = server.0.auth.identify(peer, request.headers(), now.as_second());
    // As in kube-apiserver, health and version are for everybody.
    if identity.is_none() && !matches!(route, Route::Health | Route::Version) {
        return Err(status::unauthorized().into());
    }
    let target = match route {
        Route::Resource(target) => target,
        Route::NotFound => return Err(status::unknown_resource().into()),
        other => {
            if request.method() != Method::GET && request.method() != Method::HEAD {
                return Err(status::method_not_allowed().into());
            }
            return discovery::answer(&other, request.headers());
        }
    };
    let anonymous = || Identity { user: "system:anonymous".into(), groups: Vec::new() };
    let params = Params::parse(request.uri().query().unwrap_or(""));
    let ctx = context(identity.unwrap_or_else(anonymous), &params, request.headers(), now)?;
    if proxy::is_stream(&target) {
        return proxy::stream(server, request, &target, &params).await;
    }
    resource(server, ctx, request, &target, &params).await
}

fn context(
    identity: Identity,
    params: &Params,
    headers: &HeaderMap,
    now: jiff::Timestamp,
) -> Result<Ctx, ApiError> {
    let validation = match params.get("fieldValidation") {
        None | Some("Warn") => FieldValidation::Warn,
        Some("Strict") => FieldValidation::Strict,
        Some("Ignore") => FieldValidation::Ignore,
        Some(other) => {
            return Err(status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))
            .into());
        }
    };
    let dry_run = match params.get("dryRun") {
        None => false,
        Some("All") => true,
        Some(other) => {
            return Err(status::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))
            .into());
        }
    };
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
    let manager = params
        .get("fieldManager")
        .unwrap_or_else(|| agent.split('/').next().unwrap_or(agent))
        .to_owned();
    Ok(Ctx { identity, dry_run, validation, manager, now, warnings: Vec::new() })
}

async fn resource<B>(
    server: &ApiServer,
    mut ctx: Ctx,
    request: Request<B>,
    target: &Target,
    params: &Params,
) -> Result<Response<ApiBody>, ApiError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let kind = target.kind;
    let Some(format) = accept::format(request.headers()) else {
        return Err(status::not_acceptable(&["application/json"]).into());
    };
    let include = params.get("includeObject").unwrap_or("Metadata").to_owned();
    let (parts, body) = request.into_parts();
    if parts.method == Method::GET || parts.method == Method::HEAD {
        return read_resource(server, target, params, format, &include);
    }
    let headers = &parts.headers;
    let body = body::read(body).await?;
    let outcome = match (parts.method.as_str(), &target.name, target.subresource.as_deref()) {
        ("POST", None, None) if !kind.stored => {
            let names = (kind.api_version(), kind.kind);
            let decoded = body::object(headers, &body, (&names.0, names.1), Some(kind))?;
            server.0.review(&ctx, kind, decoded.object)?
        }
        (_, _, _) if !kind.stored => return Err(status::method_not_allowed().into()),
        ("POST", None, None) => {
            let names = (kind.api_version(), kind.kind);
            let decoded = body::object(headers, &body, (&names.0, names.1), Some(kind))?;
            server.0.create(&mut ctx, kind, target.namespace.as_deref(), decoded)?
        }
        ("POST", Some(name), Some(sub)) => {
            let key = key(target, name);
            create_sub(server, &mut ctx, target, &key, sub, headers, &body)?
        }
        ("PUT", Some(name), sub) => {
            let key = key(target, name);
            put(server, &mut ctx, target, &key, sub, headers, &body)?
        }
        ("PATCH", Some(name), sub) => {
            let key = key(target, name);
            patch(server, &mut ctx, target, &key, sub, headers, &body, params)?
        }
        ("DELETE", Some(name), None) => {
            let options = delete_options(params, headers, &body)?;
            server.0.delete(&ctx, kind, &key(target, name), &options)?
        }
        ("DELETE", None, None) if kind.verbs.contains(&"deletecollection") => {
            let options = delete_options(params, headers, &body)?;
            let scope = read::scope(kind, target.namespace.as_deref(), params)?;
            let gone = server.0.delete_collection(&ctx, kind, &scope, &options)?;
            let list = read::List {
                rv: gone.rv,
                items: gone.items.iter().map(|(_, e)| from_storage(kind, &e.bytes)).collect(),
                next: None,
                remaining: None,
            };
            return Ok(reply::list(kind, &list, format, &include));
        }
        _ => return Err(status::method_not_allowed().into()),
    };
    let object =
        if outcome.own_kind { from_storage(kind, &outcome.object) } else { outcome.object };
    let mut response = if outcome.own_kind {
        reply::object(outcome.code, kind, object, format, &include)
    } else {
        reply::bytes(outcome.code, "application/json", object)
    };
    for w in &ctx.warnings {
        let text = w.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(v) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, v);
        }
    }
    Ok(response)
}

fn key(target: &Target, name: &str) -> Key {
    Key::new(target.namespace.as_deref().unwrap_or(""), name)
}

fn read_resource(
    server: &ApiServer,
    target: &Target,
    params: &Params,
    format: Format,
    include: &str,
) -> Result<Response<ApiBody>, ApiError> {
    let kind = target.kind;
    if !kind.verbs.contains(&"get") {
        return Err(status::method_not_allowed().into());
    }
    match (&target.name, target.subresource.as_deref()) {
        (None, _) if params.flag("watch") == Some(true) => {
            let scope = watch::scope(kind, target.namespace.as_deref(), params)?;
            watch::start(server, kind, scope, params, format)
        }
        (None, _) => {
            let scope = read::scope(kind, target.namespace.as_deref(), params)?;
            let list = server.0.list(kind, &scope, params)?;
            Ok(reply::list(kind, &list, format, include))
        }
        (Some(name), None) => {
            let object = server.0.get(kind, &key(target, name))?;
            Ok(reply::object(200, kind, object, format, include))
        }
        (Some(name), Some("scale")) if kind.scale.is_some() => {
            let scale = server.0.get_scale(kind, &key(target, name))?;
            Ok(reply::bytes(200, "application/json", scale.object))
        }
        (Some(name), Some(sub)) if part(target, sub).is_some() => {
            let object = server.0.get(kind, &key(target, name))?;
            Ok(reply::object(200, kind, object, format, include))
        }
        _ => Err(status::unknown_resource().into()),
    }
}

/// The part of an object that a subresource is.
fn part(target: &Target, sub: &str) -> Option<Part> {
    let listed = || target.kind.subresources.iter().any(|s| s.name == sub);
    match sub {
        "status" if target.kind.status => Some(Part::Status),
        "finalize" if listed() => Some(Part::Finalize),
        "ephemeralcontainers" | "resize" if listed() => Some(Part::Main),
        _ => None,
    }
}

fn create_sub(
    server: &ApiServer,
    ctx: &mut Ctx,
    target: &Target,
    key: &Key,
    sub: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Outcome, ApiError> {
    let kind = target.kind;
    let Some(row) = kind.subresources.iter().find(|s| s.name == sub) else {
        return Err(status::unknown_resource().into());
    };
    let version = if row.group.is_empty() {
        row.version.to_owned()
    } else {
        format!("{}/{}", row.group, row.version)
    };
    let mut object = body::parse(headers, body)?.object;
    if sub != "eviction" {
        body::type_meta(&mut object, &version, row.kind)?;
    }
    match sub {
        "binding" => server.0.bind(ctx, kind, key, &object),
        "eviction" => server.0.evict(ctx, kind, key, &object),
        "token" => server.0.token(ctx, kind, key, &object),
        _ => Err(status::method_not_allowed().into()),
    }
}

fn put(
    server: &ApiServer,
    ctx: &mut Ctx,
    target: &Target,
    key: &Key,
    sub: Option<&str>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Outcome, ApiError> {
    let kind = target.kind;
    if sub == Some("scale") && kind.scale.is_some() {
        let scale = body::object(headers, body, ("autoscaling/v1", "Scale"), None)?.object;
        return server.0.set_scale(ctx, kind, key, &ScaleChange::Put(scale));
    }
    let part = match sub {
        None => Part::Main,
        Some(s) => part(target, s).ok_or_else(|| ApiError::from(status::unknown_resource()))?,
    };
    let decoded = body::object(headers, body, (&kind.api_version(), kind.kind), Some(kind))?;
    ctx.strict(kind, decoded.strict)?;
    server.0.update(ctx, kind, key, part, decoded.object)
}

#[allow(clippy::too_many_arguments)]
fn patch(
    server: &ApiServer,
    ctx: &mut Ctx,
    target: &Target,
    key: &Key,
    sub: Option<&str>,
    headers: &HeaderMap,
    body: &[u8],
    params: &Params,
) -> Result<Outcome, ApiError> {
    let kind = target.kind;
    let json = || -> Result<Value, ApiError> {
        Ok(decode::json_value(body).map_err(|e| status::bad_request(e.to_string()))?.object)
    };
    let patch = match body::content_type(headers) {
        "application/json-patch+json" => Patch::Json(json()?),
        "application/merge-patch+json" => Patch::Merge(json()?),
        "application/strategic-merge-patch+json" => Patch::Strategic(json()?),
        "application/apply-patch+yaml" => {
            let decoded =
                decode::yaml_value(body).map_err(|e| status::bad_request(e.to_string()))?;
            let part = match sub {
                None => Part::Main,
                Some(s) => {
                    part(target, s).ok_or_else(|| ApiError::from(status::unknown_resource()))?
                }
            };
            if params.get("fieldManager").is_none() {
                return Err(status::failure(
                    422,
                    "Invalid",
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                )
                .into());
            }
            let force = params.flag("force") == Some(true);
            return server.0.apply(ctx, kind, key, part, decoded, force);
        }
        _ => {
            return Err(status::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ])
            .into());
        }
    };
    match sub {
        Some("scale") if kind.scale.is_some() => {
            server.0.set_scale(ctx, kind, key, &ScaleChange::Patch(patch))
        }
        None => server.0.patch(ctx, kind, key, Part::Main, &patch),
        Some(s) => {
            let part = part(target, s).ok_or_else(|| ApiError::from(status::unknown_resource()))?;
            server.0.patch(ctx, kind, key, part, &patch)
        }
    }
}

/// DeleteOptions from the body and the query.
fn delete_options(
    params: &Params,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<DeleteOptions, ApiError> {
    let object = if body.is_empty() { Value::Null } else { body::parse(headers, body)?.object };
    let mut options = DeleteOptions::parse(&object)?;
    if let Some(seconds) = params.get("gracePeriodSeconds") {
        let seconds = seconds
            .parse()
            .map_err(|_| status::bad_request("gracePeriodSeconds must be a number"))?;
        options.grace_seconds = Some(seconds);
    }
    if let Some(policy) = params.get("propagationPolicy") {
        options.propagation = Some(Propagation::parse(policy)?);
    }
    Ok(options)
}
