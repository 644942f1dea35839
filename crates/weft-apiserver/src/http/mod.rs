//! From a request to a verb and back.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod health;
mod options;
pub(crate) mod params;
pub(crate) mod reply;
mod rewound;
pub(crate) mod route;
pub(crate) mod serve;
mod watch;
mod write;

use crate::{
    ApiServer,
    auth::{self, Bound, Identity, Peer},
    definitions, discovery,
    error::ApiError,
    metrics::{self, Asked},
    proxy,
    store::Key,
    verbs::{self, Ctx, from_storage, read},
};
use accept::{Encoding, Format, SERVED};
use body::BoxError;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Body;
use options::Options;
use params::Params;
pub use reply::ApiBody;
use route::{Route, Target, route};
use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Instant,
};
use weft_kinds::{Kind, status};

/// A write whose kind changes that often before it is committed is given up.
const STALE_MAX: usize = 50;

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
    let gzip = peer != Peer::InProcess && accept::gzip(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (mut asked, started) = (Asked::path(&method), Instant::now());
    let response = match dispatch(server, request, peer, &mut asked).await {
        Ok(r) => r,
        Err(e) => {
            tracing::debug!(%method, path, code = e.code(), message = e.message(), "refused");
            reply::error(&e)
        }
    };
    let response = if gzip { reply::compressed(response).await } else { response };
    let whole = response.body().size_hint().exact().is_some();
    let took = whole.then(|| started.elapsed());
    server.0.metrics.answered(asked, response.status().as_u16(), took);
    response
}

async fn dispatch<B>(
    server: &ApiServer,
    request: Request<B>,
    peer: Peer,
    asked: &mut Asked,
) -> Result<Response<ApiBody>, ApiError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let now = jiff::Timestamp::now();
    let registry = server.0.registry();
    let route = route(&registry, request.uri().path());
    let identity = {
        let alive = |bound: &Bound<'_>| server.0.alive(bound);
        server.0.auth.identify(&peer, request.headers(), now.as_second(), &alive)
    };
    // As in kube-apiserver, health and version are for everybody.
    if identity.is_none() && !matches!(route, Route::Health(_) | Route::Version) {
        return Err(status::unauthorized().into());
    }
    let target = match route {
        Route::Resource(target) => target,
        Route::NotFound => return Err(status::unknown_resource().into()),
        other => {
            if request.method() != Method::GET && request.method() != Method::HEAD {
                return Err(status::method_not_allowed().into());
            }
            let query = request.uri().query().unwrap_or("");
            return match other {
                Route::Health(health) => health.answer(&server.0, &Params::parse(query)),
                Route::Metrics => {
                    let page = metrics::page(&server.0);
                    Ok(reply::bytes(200, metrics::CONTENT_TYPE, page.into()))
                }
                other => discovery::answer(&registry, &other, request.headers()),
            };
        }
    };
    let asked_for = auth::impersonated(request.headers())?;
    let identity = asked_for.or(identity).unwrap_or_else(Identity::anonymous);
    let params = Params::parse(request.uri().query().unwrap_or(""));
    *asked = Asked::resource(request.method(), &target, params.flag("watch") == Some(true));
    let ctx = context(identity, request.method(), &params, request.headers(), now)?;
    if proxy::is_stream(&target) {
        return proxy::stream(server, request, &target, &params).await;
    }
    let mut response = resource(server, ctx, request, &target, &params).await?;
    // What was acknowledged or shown must not be lost later.
    let store = &server.0.store;
    store.durable(store.rv()).await.map_err(verbs::not_journalled)?;
    if let Some(text) = deprecated(&target.kind) {
        warn(&mut response, text);
    }
    Ok(response)
}

/// Said with every answer about a kind that Kubernetes wants to be rid of.
fn deprecated(kind: &Kind) -> Option<&'static str> {
    (kind.group.is_empty() && kind.kind == "Endpoints")
        .then_some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
}

fn warn(response: &mut Response<ApiBody>, text: &str) {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(v) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
        response.headers_mut().append(header::WARNING, v);
    }
}

fn context(
    identity: Identity,
    method: &Method,
    params: &Params,
    headers: &HeaderMap,
    now: jiff::Timestamp,
) -> Result<Ctx, ApiError> {
    let apply = body::content_type(headers) == body::APPLY;
    let options = Options::parse(method, params, headers, apply)?;
    let Options { dry_run, validation, manager } = options;
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
    let kind = &*target.kind;
    let Some((format, mut encoding)) = accept::format(request.headers()) else {
        return Err(status::not_acceptable(SERVED).into());
    };
    if encoding == Encoding::Json && accept::pretty(request.headers(), params) {
        encoding = Encoding::Pretty;
    }
    let include = params.get("includeObject").unwrap_or("Metadata").to_owned();
    let (parts, body) = request.into_parts();
    ctx.warnings.extend(kind.custom().and_then(|custom| custom.warning()).map(str::to_owned));
    if parts.method == Method::GET || parts.method == Method::HEAD {
        let watch = target.name.is_none() && params.flag("watch") == Some(true);
        if watch && encoding == Encoding::Yaml {
            return Err(status::not_acceptable(&SERVED[..1]).into());
        }
        let mut response = read_resource(server, target, params, format, &include)?;
        ctx.warnings.iter().for_each(|w| warn(&mut response, w));
        return Ok(if watch { response } else { reply::encoded(response, encoding).await });
    }
    let timeout = server.0.config.limits.body_timeout;
    let (body, _room) = body::read(&parts.headers, body, timeout, &server.0.body_room).await?;
    let (mut target, warned) = (target.clone(), ctx.warnings.len());
    let mut tries = 0..STALE_MAX;
    let answer = loop {
        let (target_now, headers) = (&target, &parts.headers);
        let incoming = write::Incoming { target: target_now, headers, body: &body, params };
        let answer = write::answer(server, &mut ctx, &parts.method, &incoming);
        match answer {
            Err(e) if e.is_stale_kind() => {
                if tries.next().is_none() {
                    let name = target.name.as_deref().unwrap_or_default();
                    break Err(status::conflict(&target.kind, name).into());
                }
                // Waits for whoever is about to change the kind.
                server.0.sync_definitions();
                target = match route(&server.0.registry(), parts.uri.path()) {
                    Route::Resource(found) => *found,
                    _ => break Err(status::unknown_resource().into()),
                };
                ctx.warnings.truncate(warned);
            }
            answer => break answer,
        }
    };
    let kind = &*target.kind;
    server.0.tend_ranges();
    if answer.is_ok() && !ctx.dry_run && definitions::concerns(&server.0.registry(), kind) {
        server.0.sync_definitions();
    }
    let outcome = match answer? {
        write::Answer::Object(outcome) => outcome,
        write::Answer::List(list) => {
            let response = reply::list(kind, &list, format, &include);
            return Ok(reply::encoded(response, encoding).await);
        }
    };
    let object =
        if outcome.own_kind { from_storage(kind, &outcome.object) } else { outcome.object };
    let response = if outcome.own_kind {
        reply::object(outcome.code, kind, object, format, &include)
    } else {
        reply::bytes(outcome.code, "application/json", object)
    };
    let mut response = reply::encoded(response, encoding).await;
    ctx.warnings.iter().for_each(|w| warn(&mut response, w));
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
    let kind = &*target.kind;
    if !kind.verbs.contains(&"get") {
        return Err(status::method_not_allowed().into());
    }
    match (&target.name, target.subresource.as_deref()) {
        (None, _) if params.flag("watch") == Some(true) => {
            options::check_list(params, true)?;
            let scope = watch::scope(kind, target.namespace.as_deref(), params)?;
            watch::start(server, &target.kind, scope, params, format)
        }
        (None, _) => {
            options::check_list(params, false)?;
            let scope = read::scope(kind, target.namespace.as_deref(), params)?;
            let list = server.0.list(kind, &scope, params)?;
            Ok(reply::list(kind, &list, format, include))
        }
        (Some(name), None) => {
            let rv = read::version(params)?;
            read::reached(rv.unwrap_or(0), server.0.store.rv())?;
            let object = server.0.get(kind, &key(target, name))?;
            Ok(reply::object(200, kind, object, format, include))
        }
        (Some(name), Some("scale")) if kind.scale.is_some() => {
            let scale = server.0.get_scale(kind, &key(target, name))?;
            Ok(reply::scale(scale.object, format, include))
        }
        (Some(name), Some(sub)) if write::part(target, sub).is_some() => {
            let object = server.0.get(kind, &key(target, name))?;
            Ok(reply::object(200, kind, object, format, include))
        }
        _ => Err(status::unknown_resource().into()),
    }
}
