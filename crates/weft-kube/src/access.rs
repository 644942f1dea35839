//! The client of the API, for a node on which it cannot be taken for granted.
//!
//! - **Endpoints.** On a node without kube-proxy the agent cannot ask for the API at the
//!   address of the `kubernetes` Service: it would have to serve that first. Connections go to
//!   the first of several places that answers ([`Endpoints`]); whichever it is, the certificate
//!   must bear the name that the kubeconfig gives.
//! - **Dead peers.** An API server's machine that vanishes ends no connection. Keep-alive
//!   notices within half a minute.
//! - **Credentials** are files that others replace: tokens expire, certificates rotate. The
//!   client is built anew when one of them changes, and when the API says 401.
//! - **Retry-After** of a 429 or 503 holds for every request of the client.

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, Uri, header::RETRY_AFTER};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use kube::{
    Client,
    client::{Body, ConfigExt},
    config::{Config, KubeConfigOptions, Kubeconfig},
};
use std::{
    fmt,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

/// Longest wait for a connection to one place.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection is asked for a sign of life after this, then this often…
const KEEPALIVE: Duration = Duration::from_secs(10);
/// …and is dead after so many without one: half a minute in all, as with client-go.
const KEEPALIVE_RETRIES: u32 = 2;
/// Longest `Retry-After` that is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// After a 401 the credentials are read again, but not more often than this.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig cannot be read.
    #[error("cannot read the kubeconfig {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// It cannot be used: a file that it names is missing, say.
    #[error("cannot use the kubeconfig {}", path.display())]
    Use {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// One place to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The server of the kubeconfig.
    Server,
    /// An address.
    At(SocketAddr),
}

/// Where the API is, in the order of trying; shared with whoever learns of changes.
#[derive(Clone, Debug)]
pub struct Endpoints(Arc<Mutex<Order>>);

#[derive(Debug)]
struct Order {
    places: Vec<Place>,
    /// The place that answered last.
    current: usize,
}

impl Endpoints {
    /// Tries `places` in their order; the kubeconfig's server where there is none.
    pub fn new(places: Vec<Place>) -> Self {
        let this = Self(Arc::new(Mutex::new(Order { places: Vec::new(), current: 0 })));
        this.set(places);
        this
    }

    /// Replaces the places. Connections that are open stay.
    pub fn set(&self, places: Vec<Place>) {
        let places = if places.is_empty() { vec![Place::Server] } else { places };
        let mut order = lock(&self.0);
        let used = order.places.get(order.current).copied();
        order.current = places.iter().position(|p| Some(*p) == used).unwrap_or(0);
        order.places = places;
    }

    /// The places, that which answered last first.
    pub fn in_order(&self) -> Vec<Place> {
        let order = lock(&self.0);
        let mut places = order.places.clone();
        places.rotate_left(order.current);
        places
    }

    fn answered(&self, place: Place) {
        let mut order = lock(&self.0);
        if let Some(at) = order.places.iter().position(|p| *p == place) {
            order.current = at;
        }
    }

    /// The current place took the connection and then failed: the next one's turn.
    fn failed(&self) {
        let mut order = lock(&self.0);
        order.current = (order.current + 1) % order.places.len().max(1);
    }
}

impl Default for Endpoints {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host of the kubeconfig's server, without brackets.
pub fn server_host(kubeconfig: &Path) -> Result<String, AccessError> {
    let parsed = read(kubeconfig)?;
    let used = |source: BoxError| AccessError::Use { path: kubeconfig.to_owned(), source };
    let name = parsed.current_context.clone().unwrap_or_default();
    let context = parsed.contexts.iter().find(|c| c.name == name).and_then(|c| c.context.as_ref());
    let cluster = context.map(|c| c.cluster.as_str()).unwrap_or_default();
    let cluster = parsed.clusters.iter().find(|c| c.name == cluster);
    let server = cluster.and_then(|c| c.cluster.as_ref()?.server.clone());
    let server = server.ok_or_else(|| used("its current context names no server".into()))?;
    let uri: Uri = server.parse().map_err(|e| used(Box::new(e)))?;
    let host = uri.host().ok_or_else(|| used(format!("no host in '{server}'").into()))?;
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

fn read(kubeconfig: &Path) -> Result<Kubeconfig, AccessError> {
    Kubeconfig::read_from(kubeconfig).map_err(|source| AccessError::Read {
        path: kubeconfig.to_owned(),
        source: Box::new(source),
    })
}

/// A client with the credentials of `kubeconfig`. Files that it names are read here for the
/// first time, so what is wrong with them is told at once.
pub async fn client(kubeconfig: &Path, endpoints: Endpoints) -> Result<Client, AccessError> {
    let first = load(kubeconfig, &endpoints).await?;
    let service = Reloading {
        kubeconfig: kubeconfig.to_owned(),
        endpoints,
        loaded: Arc::new(Mutex::new(first)),
    };
    Ok(Client::new(polite(service), "default"))
}

type Stack = BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>;

/// What was built from the files, and what they looked like.
struct Loaded {
    stack: Stack,
    files: Vec<(PathBuf, Option<Looks>)>,
    at: Instant,
    /// The API refused these credentials.
    refused: bool,
}

/// Inode, size and time of change: replaced, rewritten or touched, one of them differs.
type Looks = (u64, u64, i64, i64);

fn looks(path: &Path) -> Option<Looks> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

async fn load(kubeconfig: &Path, endpoints: &Endpoints) -> Result<Loaded, AccessError> {
    // Before reading: what changes meanwhile is seen as a change.
    let at = Instant::now();
    let mut files = vec![kubeconfig.to_owned()];
    let parsed = read(kubeconfig)?;
    let clusters = parsed.clusters.iter().filter_map(|c| c.cluster.as_ref());
    files.extend(clusters.filter_map(|c| c.certificate_authority.as_ref()).map(PathBuf::from));
    for user in parsed.auth_infos.iter().filter_map(|u| u.auth_info.as_ref()) {
        let named = [&user.client_certificate, &user.client_key, &user.token_file];
        files.extend(named.into_iter().flatten().map(PathBuf::from));
    }
    let files = files.into_iter().map(|f| (f.clone(), looks(&f))).collect();
    let used = |source: BoxError| AccessError::Use { path: kubeconfig.to_owned(), source };
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    let config = config.map_err(|e| used(Box::new(e)))?;
    let stack = stack(&config, endpoints.clone()).map_err(|e| used(Box::new(e)))?;
    Ok(Loaded { stack, files, at, refused: false })
}

fn stack(config: &Config, endpoints: Endpoints) -> kube::Result<Stack> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE));
    http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let connector = Connector { http, endpoints };
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let client = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(BoxCloneSyncService::new(service))
}

/// Connects to the first place that answers. TLS comes above it, with the name of the
/// kubeconfig's server.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    endpoints: Endpoints,
}

/// No place answered.
#[derive(Debug)]
struct Unreachable(Vec<String>);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the API cannot be reached: {}", self.0.join("; "))
    }
}

impl std::error::Error for Unreachable {}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Unreachable;
    type Future = BoxFuture<'static, Result<Self::Response, Unreachable>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let Self { http, endpoints } = self.clone();
        Box::pin(async move {
            let mut errors = Vec::new();
            for place in endpoints.in_order() {
                let (uri, name) = match place {
                    Place::Server => (server.clone(), server.to_string()),
                    Place::At(at) => match format!("http://{at}").parse() {
                        Ok(uri) => (uri, at.to_string()),
                        Err(_) => continue,
                    },
                };
                let connected = http.clone().oneshot(uri);
                match tokio::time::timeout(CONNECT_TIMEOUT, connected).await {
                    Ok(Ok(stream)) => {
                        endpoints.answered(place);
                        return Ok(stream);
                    }
                    Ok(Err(e)) => {
                        errors.push(format!("{name}: {}", crate::source::error_chain(&e)))
                    }
                    Err(_) => errors.push(format!("{name}: no answer")),
                }
            }
            Err(Unreachable(errors))
        })
    }
}

/// Builds the stack anew when the files have changed, or the API refused what was in them.
#[derive(Clone)]
struct Reloading {
    kubeconfig: PathBuf,
    endpoints: Endpoints,
    loaded: Arc<Mutex<Loaded>>,
}

impl Reloading {
    async fn stack(&self) -> Stack {
        let outdated = {
            let loaded = lock(&self.loaded);
            let changed = loaded.files.iter().any(|(path, then)| looks(path) != *then);
            let refused = loaded.refused && loaded.at.elapsed() >= RELOAD_INTERVAL;
            changed || refused
        };
        if outdated {
            match load(&self.kubeconfig, &self.endpoints).await {
                Ok(fresh) => {
                    tracing::info!("credentials of the Kubernetes API read again");
                    *lock(&self.loaded) = fresh;
                }
                // Half-written, say. What we have may serve still.
                Err(e) => {
                    let why = crate::source::error_chain(&e);
                    tracing::warn!("credentials of the Kubernetes API: {why}");
                }
            }
        }
        lock(&self.loaded).stack.clone()
    }
}

/// A request without an answer, whether it failed or its caller waits no longer: a server that
/// hangs takes connections all the while, and must not keep its turn.
struct Unanswered<'a>(Option<&'a Endpoints>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(endpoints) = self.0 {
            endpoints.failed();
        }
    }
}

impl Service<Request<Body>> for Reloading {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        let uri = request.uri();
        let query = uri.query().unwrap_or_default();
        tracing::debug!(method = %request.method(), path = uri.path(), query, "request");
        Box::pin(async move {
            let mut waiting = Unanswered(Some(&this.endpoints));
            let answer = this.stack().await.oneshot(request).await?;
            waiting.0 = None;
            if answer.status() == StatusCode::UNAUTHORIZED {
                lock(&this.loaded).refused = true;
            }
            Ok(answer)
        })
    }
}

/// `service` with `Retry-After` obeyed: after an answer 429 or 503 that bears it, every request
/// waits until then.
pub fn polite<S, B>(service: S) -> Polite<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    Polite { service, not_before: Arc::default() }
}

/// See [`polite`].
#[derive(Clone, Debug)]
pub struct Polite<S> {
    service: S,
    not_before: Arc<Mutex<Option<Instant>>>,
}

impl<S, B> Service<Request<Body>> for Polite<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            while let Some(wait) = remaining(&this.not_before) {
                tokio::time::sleep(wait).await;
            }
            let answer = this.service.oneshot(request).await?;
            if let Some(wait) = retry_after(&answer) {
                *lock(&this.not_before) = Some(Instant::now() + wait);
            }
            Ok(answer)
        })
    }
}

fn remaining(not_before: &Mutex<Option<Instant>>) -> Option<Duration> {
    let until = (*lock(not_before))?;
    let wait = until.saturating_duration_since(Instant::now());
    (!wait.is_zero()).then_some(wait)
}

/// What the answer asks for. The API sends seconds, never a date.
fn retry_after<B>(answer: &Response<B>) -> Option<Duration> {
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    let header = answer.headers().get(RETRY_AFTER).filter(|_| busy.contains(&answer.status()))?;
    let seconds: u64 = header.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests;
