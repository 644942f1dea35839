//! Connections: messages with a length of two bytes in front (RFC 1035 section 4.2.2), any
//! number on one connection (RFC 7766).

use super::{Current, DnsError};
use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use weft_dns::{Transport, Verdict, answer};

/// How long a client may take for a whole message, in either direction.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Connections at once, of everybody.
const CONNECTIONS_MAX: usize = 512;
/// Connections at once of one address: a pod cannot keep the others of its node from asking.
const CONNECTIONS_PER_CLIENT_MAX: usize = 32;
/// Pause after a failed accept (out of file descriptors, say).
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Who is connected, over all listeners.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<HashMap<IpAddr, usize>>);

/// A place among the connections, given back when dropped.
struct Place {
    connections: Arc<Connections>,
    client: IpAddr,
}

impl Connections {
    /// Takes a place, where there is one.
    fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.values().sum::<usize>() >= CONNECTIONS_MAX {
            return None;
        }
        let mine = map.entry(client).or_default();
        if *mine >= CONNECTIONS_PER_CLIENT_MAX {
            return None;
        }
        *mine += 1;
        Some(Place { connections: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut map = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = map.get_mut(&self.client) {
            *n -= 1;
            if *n == 0 {
                map.remove(&self.client);
            }
        }
    }
}

/// Accepts for ever.
pub(super) async fn serve(
    listener: TcpListener,
    current: Current,
    connections: Arc<Connections>,
) -> Result<(), DnsError> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    // Too many: closed at once, which the client sees, instead of a queue.
                    if let Some(place) = connections.enter(client.ip()) {
                        tasks.spawn(converse(stream, current.clone(), place));
                    }
                }
                Err(e) => {
                    tracing::warn!(error = %e, "DNS over TCP");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            },
            Some(ended) = tasks.join_next() => {
                if let Err(e) = ended && let Ok(panic) = e.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

/// Serves one connection until the client ends it, is silent for too long, or breaks the rules.
async fn converse(stream: TcpStream, current: Current, _place: Place) {
    if let Err(e) = exchange(stream, &current).await {
        tracing::debug!(error = %e, "DNS connection");
    }
}

async fn exchange(mut stream: TcpStream, current: &Current) -> io::Result<()> {
    let mut query = Vec::new();
    let mut reply = Vec::new();
    let mut framed = Vec::new();
    loop {
        let len = match timeout(IDLE_MAX, stream.read_u16()).await? {
            Ok(len) => usize::from(len),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        };
        query.resize(len, 0);
        timeout(IDLE_MAX, stream.read_exact(&mut query)).await??;
        if answer(current.load().as_deref(), &query, Transport::Tcp, &mut reply) == Verdict::Ignore
        {
            return Ok(());
        }
        // One write: length and message in one segment.
        let len = u16::try_from(reply.len()).map_err(io::Error::other)?;
        framed.clear();
        framed.extend_from_slice(&len.to_be_bytes());
        framed.extend_from_slice(&reply);
        timeout(IDLE_MAX, stream.write_all(&framed)).await??;
    }
}
