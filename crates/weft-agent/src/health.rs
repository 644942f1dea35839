//! What load balancers outside ask the node: whether it takes new connections at all
//! (`:10256/healthz` and `/livez`, as kube-proxy serves them; KEP-3836), and for Services with
//! `externalTrafficPolicy: Local` whether it has an endpoint (`healthCheckNodePort`).

use crate::{
    http::{self, Reply},
    metrics::Metrics,
};
use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
};
use weft_services::Health;

/// A change that was not applied for so long makes the node unhealthy (kube-proxy: twice its
/// sync period of 30 s).
const LATE: Duration = Duration::from_secs(60);
/// Connections at once, over all ports.
const CONNECTIONS_MAX: usize = 256;

/// What is told.
#[derive(Clone, Debug)]
pub struct View {
    /// Services by `healthCheckNodePort`.
    pub ports: BTreeMap<u16, Health>,
    /// Whether the node may get new connections.
    pub eligible: bool,
    /// Since when a change waits to be applied.
    pub pending_since: Option<Instant>,
    /// When something was applied last.
    pub applied_at: Option<SystemTime>,
}

impl Default for View {
    /// A node that starts is healthy until it is known to be otherwise.
    fn default() -> Self {
        Self { ports: BTreeMap::new(), eligible: true, pending_since: None, applied_at: None }
    }
}

impl View {
    fn healthy(&self, now: Instant) -> bool {
        self.pending_since.is_none_or(|since| now.saturating_duration_since(since) < LATE)
    }

    /// Status and body for a path on the node's own port.
    fn of_node(&self, path: &str, now: Instant, clock: SystemTime) -> (u16, String) {
        let eligible = match path {
            "/healthz" => Some(self.eligible),
            "/livez" => None,
            _ => return (404, "404 page not found\n".to_owned()),
        };
        let healthy = self.healthy(now);
        let last = if healthy { clock } else { self.applied_at.unwrap_or(UNIX_EPOCH) };
        let times = format!(r#""lastUpdated": "{}","currentTime": "{}""#, time(last), time(clock));
        let body = match eligible {
            Some(eligible) => format!(r#"{{{times}, "nodeEligible": {eligible}}}"#),
            None => format!("{{{times}}}"),
        };
        (if healthy && eligible != Some(false) { 200 } else { 503 }, body)
    }

    /// Status, body and the count of endpoints for the port of a Service.
    fn of_service(&self, port: u16, now: Instant) -> (u16, String, usize) {
        let healthy = self.healthy(now);
        let Some(Health { service, ready_here }) = self.ports.get(&port) else {
            return (503, String::new(), 0);
        };
        // Both names are DNS labels: nothing in them needs escaping.
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\
             \"localEndpoints\": {ready_here},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
            service.namespace, service.name
        );
        (if *ready_here > 0 && healthy { 200 } else { 503 }, body, *ready_here)
    }
}

/// `2006-01-02 15:04:05.999999999 +0000 UTC`, as Go prints a time.
fn time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:09} +0000 UTC",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

/// Year, month and day of the day so many days after 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

/// Which port a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Node,
    Service(u16),
}

/// Serves for ever: the node's own address, and a port for each Service that wants one. A port
/// that somebody else has is reported and tried again.
pub async fn serve(
    node: SocketAddr,
    mut view: watch::Receiver<View>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(node, Asked::Node, view.clone(), metrics.clone(), places.clone()));
    let mut ports: BTreeMap<u16, AbortHandle> = BTreeMap::new();
    loop {
        let wanted: Vec<u16> = view.borrow_and_update().ports.keys().copied().collect();
        ports.retain(|port, task| {
            let keep = wanted.contains(port);
            if !keep {
                task.abort();
            }
            keep
        });
        for port in wanted {
            ports.entry(port).or_insert_with(|| {
                let at = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
                let asked = Asked::Service(port);
                tasks.spawn(listen(at, asked, view.clone(), metrics.clone(), places.clone()))
            });
        }
        tokio::select! {
            changed = view.changed() => changed?,
            Some(ended) = tasks.join_next() => {
                if let Err(e) = ended && let Ok(panic) = e.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

async fn listen(
    at: SocketAddr,
    asked: Asked,
    view: watch::Receiver<View>,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
) {
    let reply = move |path: &str| {
        let now = Instant::now();
        let (status, body, weight) = match asked {
            Asked::Node => {
                let (status, body) = view.borrow().of_node(path, now, SystemTime::now());
                metrics.probed(path, status);
                (status, body, None)
            }
            Asked::Service(port) => {
                let (status, body, count) = view.borrow().of_service(port, now);
                (status, body, Some(("X-Load-Balancing-Endpoint-Weight", count.to_string())))
            }
        };
        let kind = if status == 404 { http::TEXT } else { "application/json" };
        Reply { status, kind, header: weight, body }
    };
    http::serve(at, "probes of load balancers", places, reply).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    use weft_model::NamespacedName;

    #[test]
    fn times_read_as_go_prints_them() {
        let at = |s, n| time(UNIX_EPOCH + Duration::new(s, n));
        assert_eq!(at(0, 0), "1970-01-01 00:00:00.000000000 +0000 UTC");
        assert_eq!(at(951_782_400, 5), "2000-02-29 00:00:00.000000005 +0000 UTC");
        assert_eq!(at(1_795_274_483, 0), "2026-11-21 15:21:23.000000000 +0000 UTC");
    }

    #[test]
    fn a_node_that_leaves_is_alive_but_not_healthy() {
        let now = Instant::now();
        let mut view = View::default();
        let ask = |v: &View, path| v.of_node(path, now, UNIX_EPOCH).0;
        assert_eq!(
            (ask(&view, "/healthz"), ask(&view, "/livez"), ask(&view, "/x")),
            (200, 200, 404)
        );
        view.eligible = false;
        assert_eq!((ask(&view, "/healthz"), ask(&view, "/livez")), (503, 200));
        assert!(view.of_node("/healthz", now, UNIX_EPOCH).1.ends_with("\"nodeEligible\": false}"));
        view.eligible = true;
        view.pending_since = now.checked_sub(LATE);
        assert_eq!((ask(&view, "/healthz"), ask(&view, "/livez")), (503, 503));
    }

    #[test]
    fn services_without_endpoints_here_are_not_available() {
        let service = NamespacedName::new("shop", "web");
        let mut view = View::default();
        for (port, ready_here) in [(1, 2), (2, 0)] {
            view.ports.insert(port, Health { service: service.clone(), ready_here });
        }
        let now = Instant::now();
        let (status, body, count) = view.of_service(1, now);
        assert_eq!((status, count), (200, 2));
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["service"]["namespace"], "shop");
        assert_eq!(
            (&body["localEndpoints"], &body["serviceProxyHealthy"]),
            (&2.into(), &true.into())
        );
        assert_eq!(view.of_service(2, now).0, 503);
        view.pending_since = now.checked_sub(LATE);
        assert_eq!(view.of_service(1, now).0, 503);
    }

    #[tokio::test]
    async fn ports_come_and_go_with_their_services() {
        let free = || {
            let socket = std::net::TcpListener::bind("[::]:0").expect("bind");
            socket.local_addr().expect("address").port()
        };
        let (node, port) = (free(), free());
        let (tx, rx) = watch::channel(View::default());
        let at = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), node);
        let server = tokio::spawn(serve(at, rx, Arc::default()));
        let ask = async |port: u16, path: &str| -> io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            Ok(said)
        };
        let until = async |port: u16, wanted: &str| {
            while !ask(port, "/healthz").await.is_ok_and(|said| said.starts_with(wanted)) {
                tokio::task::yield_now().await;
            }
        };
        until(node, "HTTP/1.1 200 OK").await;
        let service = NamespacedName::new("shop", "web");
        tx.send_modify(|v| {
            v.ports.insert(port, Health { service, ready_here: 1 });
        });
        until(port, "HTTP/1.1 200 OK").await;
        assert!(
            ask(port, "/").await.expect("answer").contains("X-Load-Balancing-Endpoint-Weight: 1")
        );
        tx.send_modify(|v| v.ports.get_mut(&port).expect("there").ready_here = 0);
        until(port, "HTTP/1.1 503").await;
        tx.send_modify(|v| v.ports.clear());
        while ask(port, "/").await.is_ok() {
            tokio::task::yield_now().await;
        }
        server.abort();
    }
}
