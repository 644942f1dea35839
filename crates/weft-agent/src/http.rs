//! HTTP/1.1 for probers and scrapers: one request and one answer a connection, whatever they
//! ask for, with bounds on everything.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tracing::warn;

/// How long a client may take for its request, and for reading the answer.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_MAX: usize = 8 << 10;
/// Pause before a port that could not be bound is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(1);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// `Content-Type`.
    pub kind: &'static str,
    /// One more header.
    pub header: Option<(&'static str, String)>,
    /// Body.
    pub body: String,
}

/// `Content-Type` of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

impl Reply {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, kind: TEXT, header: None, body: body.into() }
    }

    /// There is no such path.
    pub fn not_found() -> Self {
        Self::text(404, "404 page not found\n")
    }
}

/// Answers at an address for ever. A port that somebody else has is reported (`purpose`) and
/// tried again. `places` bounds the connections; what is too many is closed.
pub async fn serve<F>(at: SocketAddr, purpose: &'static str, places: Arc<Semaphore>, reply: F)
where
    F: Fn(&str) -> Reply + Clone + Send + Sync + 'static,
{
    let mut said = false;
    let listener = loop {
        match bind(at).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !said {
                    warn!(%at, %error, "cannot listen for {purpose}");
                    said = true;
                }
                tokio::time::sleep(BIND_PAUSE).await;
            }
        }
    };
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BIND_PAUSE).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let reply = reply.clone();
        connections.spawn(async move {
            let _ = timeout(IDLE_MAX, answer(stream, reply)).await;
            drop(place);
        });
    }
}

/// Listens for both families, or for IPv4 alone where the kernel has no other. An address that
/// is not "all" is never widened to that.
async fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(at).await {
        Err(e) if e.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) && at.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await
        }
        other => other,
    }
}

async fn answer(mut stream: TcpStream, reply: impl Fn(&str) -> Reply) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() >= HEAD_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let path = line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let Reply { status, kind, header, body } = reply(path);
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    let header = header.map_or(String::new(), |(name, value)| format!("{name}: {value}\r\n"));
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nX-Content-Type-Options: nosniff\r\n\
         {header}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    // HEAD wants no body.
    if !line.starts_with("HEAD ") {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}
