//! Listeners, TLS, connections.

use crate::{ApiServer, Error, auth::Peer, http::ApiBody, tls::Tls};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{convert::Infallible, io::Cursor, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, join, split},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

/// A client that has not finished its TLS handshake or its headers by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// A client that says nothing after the handshake is cut off.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// What every HTTP/2 client says first.
const H2_PREFACE_LEN: usize = 24;
/// Connections at once; the next one waits in the listener's backlog.
const CONNECTIONS_MAX: usize = 4096;
/// All headers of a request together.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// How long connections may take to end when the server does.
const GRACE: Duration = Duration::from_secs(5);
/// Streams on one HTTP/2 connection; client-go shares one for all its watches.
const H2_STREAMS_MAX: u32 = 1000;

pub(crate) async fn serve(
    server: ApiServer,
    listeners: Vec<std::net::TcpListener>,
    tls: Tls,
) -> Result<(), Error> {
    let mut accepting = JoinSet::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for listener in listeners {
        listener.set_nonblocking(true).map_err(Error::Listen)?;
        let listener = TcpListener::from_std(listener).map_err(Error::Listen)?;
        accepting.spawn(accept(server.clone(), listener, tls.clone(), slots.clone()));
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

async fn accept(server: ApiServer, listener: TcpListener, tls: Tls, slots: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await;
            (slot.expect("invariant: nobody closes the semaphore"), listener.accept().await)
        };
        let (slot, stream) = tokio::select! {
            () = server.0.shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = next => match accepted {
                (slot, Ok((stream, _))) => (slot, stream),
                (_, Err(error)) => {
                    // Out of descriptors: others must close first.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        connections.spawn(connection(server.clone(), stream, tls.clone(), slot));
    }
    drop(listener);
    // Watches end by themselves; requests get their answers.
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, ended).await;
    connections.shutdown().await;
}

async fn connection(server: ApiServer, stream: TcpStream, tls: Tls, _slot: OwnedSemaphorePermit) {
    // Watch events are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let handshake = tokio_rustls::TlsAcceptor::from(tls.config.clone()).accept(stream);
    let mut stream = match tokio::time::timeout(HEADER_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    // The builder would wait for the first bytes, which tell HTTP/2 from HTTP/1, for ever.
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let Some(first) = first_bytes(&mut stream, h2, FIRST_TIMEOUT).await else {
        return tracing::debug!("nothing came after the TLS handshake");
    };
    let peer = Peer::Network(tls.client(stream.get_ref().1).map(Arc::new));
    let (rest, out) = split(stream);
    let stream = join(Cursor::new(first).chain(rest), out);
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if h2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(H2_STREAMS_MAX)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .adaptive_window(true);
    let shutdown = server.0.shutdown.clone();
    let service = service_fn(move |req: Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        async move {
            let response: Response<ApiBody> = super::handle(&server, req, peer).await;
            Ok::<_, Infallible>(response)
        }
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended");
    }
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

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let soon = Duration::from_millis(50);
        let (mut client, mut server) = tokio::io::duplex(64);
        assert_eq!(first_bytes(&mut server, false, soon).await, None);
        client.write_all(b"G").await.unwrap();
        assert_eq!(first_bytes(&mut server, false, FIRST_TIMEOUT).await.unwrap(), b"G");
        client.write_all(b"PRI * HTTP").await.unwrap();
        assert_eq!(first_bytes(&mut server, true, soon).await, None, "half a preface");
        let (mut client, mut server) = tokio::io::duplex(64);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        client.write_all(preface).await.unwrap();
        assert_eq!(first_bytes(&mut server, true, FIRST_TIMEOUT).await.unwrap(), preface);
        drop(client);
        assert_eq!(first_bytes(&mut server, true, FIRST_TIMEOUT).await, None);
    }
}
