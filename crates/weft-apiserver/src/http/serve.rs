//! Listeners, TLS, connections.

use crate::{ApiServer, Error, auth::Peer, http::ApiBody, tls::Tls};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{convert::Infallible, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A client that has not finished its TLS handshake or its headers by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// All headers of a request together.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Streams on one HTTP/2 connection; client-go shares one for all its watches.
const H2_STREAMS_MAX: u32 = 1000;

pub(crate) async fn serve(
    server: ApiServer,
    listeners: Vec<std::net::TcpListener>,
    tls: Tls,
) -> Result<(), Error> {
    let mut accepting = JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(Error::Listen)?;
        let listener = TcpListener::from_std(listener).map_err(Error::Listen)?;
        accepting.spawn(accept(server.clone(), listener, tls.clone()));
    }
    accepting.spawn(crate::janitor::run(server.clone()));
    while let Some(done) = accepting.join_next().await {
        if let Err(panic) = done {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
    Ok(())
}

async fn accept(server: ApiServer, listener: TcpListener, tls: Tls) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = server.0.shutdown.cancelled() => return,
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
        connections.spawn(connection(server.clone(), stream, tls.clone()));
    }
}

async fn connection(server: ApiServer, stream: TcpStream, tls: Tls) {
    // Watch events are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let handshake = tokio_rustls::TlsAcceptor::from(tls.0).accept(stream);
    let stream = match tokio::time::timeout(HEADER_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
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
    let service = service_fn(move |req: Request<Incoming>| {
        let server = server.clone();
        async move {
            let response: Response<ApiBody> = super::handle(&server, req, Peer::Network).await;
            Ok::<_, Infallible>(response)
        }
    });
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
    {
        tracing::debug!(error, "connection ended");
    }
}
