//! HTTP/1 and HTTP/2.

use crate::grpc::{self, Reply};
use crate::identity::{Peer, proto};
use http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// How long a request may take once the end is announced.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest head of a request; also what hyper starts with.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// Window of an HTTP/2 connection: what a client may make it keep.
const WINDOW: u32 = 256 * 1024;

/// Waits until the end is announced.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error: the sender has gone, with everything else.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves requests until the client goes or `stop` says so; requests under way are finished.
macro_rules! serve_until {
    ($connection:expr, $stop:expr) => {{
        let mut connection = pin!($connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = stopped(&mut $stop) => {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(DRAIN_TIMEOUT, connection).await;
            }
        }
    }};
}

pub(crate) async fn serve_http1<S>(stream: S, peer: Peer, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, peer.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that shuts its side down after the request still wants the answer.
        .half_close(true)
        .max_buf_size(HEAD_LEN_MAX)
        .serve_connection(TokioIo::new(stream), service);
    serve_until!(connection, stop);
}

pub(crate) async fn serve_http2<S>(stream: S, peer: Peer, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, peer.clone()));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(100)
        .max_header_list_size(HEAD_LEN_MAX as u32)
        .serve_connection(TokioIo::new(stream), service);
    serve_until!(connection, stop);
}

async fn answer(request: Request<Incoming>, peer: Peer) -> Result<Response<Reply>, Infallible> {
    let line = format!("{} {} {}", request.method(), request.uri(), proto(request.version()));
    if request.version() == http::Version::HTTP_2 && grpc::is_grpc(request.headers()) {
        peer.log(&format!("{line:?} grpc"));
        return Ok(grpc::answer(request));
    }
    let (parts, mut body) = request.into_parts();
    let mut body_len = 0;
    while let Some(Ok(frame)) = body.frame().await {
        body_len += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let status = status(parts.uri.path());
    let mut json = serde_json::to_vec_pretty(&peer.json(&parts, body_len)).unwrap_or_default();
    json.push(b'\n');
    // These have no body (RFC 9110); HEAD is hyper's business.
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        json.clear();
    }
    peer.log(&format!("{line:?} {}", status.as_u16()));
    let mut response = Response::new(Reply::Full(json.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(SERVER, HeaderValue::from_static("weft-stand-in"));
    Ok(response)
}

/// `/status/<code>` asks for a code; interim ones cannot be final.
fn status(path: &str) -> StatusCode {
    path.strip_prefix("/status/")
        .and_then(|code| code.parse().ok())
        .filter(|code| (200..600).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        for (path, code) in [
            ("/", 200),
            ("/status/404", 404),
            ("/status/204", 204),
            ("/status/101", 200),
            ("/status/600", 200),
            ("/status/x", 200),
            ("/x/status/404", 200),
        ] {
            assert_eq!(status(path).as_u16(), code, "{path}");
        }
    }
}
