//! Listeners, TLS, connections.

use super::{reply, rewound::Rewound};
use crate::{ApiServer, Error, Limits, aside::Aside, auth::Peer, http::ApiBody, tls::Tls};
use http::{HeaderValue, Request, Response, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use weft_kinds::status;

/// What every HTTP/2 client says first.
const H2_PREFACE_LEN: usize = 24;
/// All headers of a request together.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Connections that are being told that there is no room; further ones are just closed.
const REFUSALS_MAX: usize = 64;
/// Streams on one HTTP/2 connection; client-go shares one for all its watches.
const H2_STREAMS_MAX: u32 = 1000;
/// Streams that a client opened and reset before they were looked at: more are an attack
/// (CVE-2023-44487), and the connection ends.
const H2_RESETS_MAX: usize = 50;
/// Bytes that wait for the flow control of one HTTP/2 stream.
const H2_SEND_BYTES_MAX: usize = 256 << 10;

/// Who may come in.
#[derive(Clone)]
struct Doors {
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

/// Whether a connection is served or told to come back.
struct Admission {
    served: bool,
    _permit: OwnedSemaphorePermit,
}

impl Doors {
    fn admit(&self) -> Option<Admission> {
        let enter = |door: &Arc<Semaphore>, served| {
            let _permit = door.clone().try_acquire_owned().ok()?;
            Some(Admission { served, _permit })
        };
        enter(&self.slots, true).or_else(|| enter(&self.refusals, false))
    }
}

pub(crate) async fn serve(
    server: ApiServer,
    listeners: Vec<std::net::TcpListener>,
    tls: Tls,
) -> Result<(), Error> {
    let mut accepting = JoinSet::new();
    let doors = Doors {
        slots: Arc::new(Semaphore::new(server.0.config.limits.connections)),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
    };
    for listener in listeners {
        listener.set_nonblocking(true).map_err(Error::Listen)?;
        let listener = TcpListener::from_std(listener).map_err(Error::Listen)?;
        accepting.spawn(accept(server.clone(), listener, tls.clone(), doors.clone()));
    }
    accepting.spawn(crate::janitor::run(server.clone()));
    accepting.spawn(crate::alloc::run(server.clone()));
    while let Some(done) = accepting.join_next().await {
        if let Err(panic) = done {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
    // Clones may live on in clients of this process: the directory is let go of here.
    let closing = tokio::task::spawn_blocking(move || server.0.store.close());
    if let Err(panic) = closing.await {
        std::panic::resume_unwind(panic.into_panic());
    }
    Ok(())
}

async fn accept(server: ApiServer, listener: TcpListener, tls: Tls, doors: Doors) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = server.0.shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: others must close first.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if let Some(admission) = doors.admit() {
            connections.spawn(connection(server.clone(), stream, tls.clone(), admission));
        }
    }
    drop(listener);
    // Watches end by themselves; requests get their answers.
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(server.0.config.limits.grace, ended).await;
    connections.shutdown().await;
}

async fn connection(server: ApiServer, stream: TcpStream, tls: Tls, admission: Admission) {
    let limits = server.0.config.limits.clone();
    // Watch events are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let handshake = tokio_rustls::TlsAcceptor::from(tls.config.clone()).accept(stream);
    let mut stream = match tokio::time::timeout(limits.header_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    // hyper would wait for the preface of HTTP/2 for ever.
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let Some(first) = first_bytes(&mut stream, h2, limits.first_timeout).await else {
        return tracing::debug!("nothing came after the TLS handshake");
    };
    let peer = Peer::Network(tls.client(stream.get_ref().1).map(Arc::new));
    let io = TokioIo::new(Rewound::new(first, stream));
    let shutdown = server.0.shutdown.clone();
    let served = admission.served;
    let service = service_fn(move |req: Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        async move {
            let response: Response<ApiBody> =
                if served { super::handle(&server, req, peer).await } else { full_up() };
            Ok::<_, Infallible>(response)
        }
    });
    let stop = Aside::new(async move {
        tokio::select! {
            () = shutdown.cancelled() => true,
            () = tokio::time::sleep(limits.first_timeout), if !served => false,
        }
    });
    let ended = if h2 {
        let serving = builder_h2().serve_connection(io, service);
        until(serving, stop, http2::Connection::graceful_shutdown).await
    } else {
        let serving = builder_h1(&limits).serve_connection(io, service).with_upgrades();
        until(serving, stop, http1::UpgradeableConnection::graceful_shutdown).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Serves until the connection ends, or `stop` says that it shall: gracefully or at once.
async fn until<C: Future<Output = hyper::Result<()>>>(
    serving: C,
    stop: impl Future<Output = bool> + Unpin,
    gracefully: impl FnOnce(Pin<&mut C>),
) -> hyper::Result<()> {
    tokio::pin!(serving);
    tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        graceful = stop => {
            if !graceful {
                return Ok(());
            }
            gracefully(serving.as_mut());
            serving.await
        }
    }
}

fn builder_h1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
}

fn builder_h2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_MAX)
        .max_local_error_reset_streams(H2_RESETS_MAX)
        .max_send_buf_size(H2_SEND_BYTES_MAX)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .adaptive_window(true);
    builder
}

/// What a connection is told for which there is no room.
fn full_up() -> Response<ApiBody> {
    let why = "Too many requests, please try again later.";
    let mut refused = reply::error(&status::too_many_requests(why, 1).into());
    refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    refused
}

/// What the client says first: all of the preface of HTTP/2, or one byte of HTTP/1, whose headers
/// have a time-out of their own. `None` when it does not come in time.
async fn first_bytes(
    stream: &mut (impl AsyncRead + Unpin),
    h2: bool,
    timeout: Duration,
) -> Option<Vec<u8>> {
    let mut first = vec![0; if h2 { H2_PREFACE_LEN } else { 1 }];
    let read = stream.read_exact(&mut first);
    matches!(tokio::time::timeout(timeout, read).await, Ok(Ok(_))).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const LATER: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let soon = Duration::from_millis(50);
        let (mut client, mut server) = tokio::io::duplex(64);
        assert_eq!(first_bytes(&mut server, false, soon).await, None);
        client.write_all(b"G").await.unwrap();
        assert_eq!(first_bytes(&mut server, false, LATER).await.unwrap(), b"G");
        client.write_all(b"PRI * HTTP").await.unwrap();
        assert_eq!(first_bytes(&mut server, true, soon).await, None, "half a preface");
        let (mut client, mut server) = tokio::io::duplex(64);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        client.write_all(preface).await.unwrap();
        assert_eq!(first_bytes(&mut server, true, LATER).await.unwrap(), preface);
        drop(client);
        assert_eq!(first_bytes(&mut server, true, LATER).await, None);
    }
}
