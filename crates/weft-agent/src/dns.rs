//! The node's DNS server: sockets, framing and limits around [`weft_dns::answer`].
//!
//! Datagrams are answered where they are received, one task a socket: an answer takes
//! microseconds and waits for nothing, so that a flood of queries costs no memory and queries
//! that are too many are dropped by the kernel's socket buffer. (One task a query, on the other
//! hand, is how other servers ran out of memory.)

mod socket;
mod tcp;
mod udp;

use arc_swap::ArcSwapOption;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use weft_dns::{DnsIndex, Zone};
use weft_model::Snapshot;

/// Why the DNS server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A listening socket could not be made.
    #[error("cannot listen for DNS on {address} ({protocol})")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Replies must come from the address that was asked, so every address is named.
    #[error("cannot listen for DNS on {0}: name the addresses one by one")]
    Wildcard(SocketAddr),
    /// Nobody publishes snapshots any more.
    #[error("the source of snapshots has ended")]
    SourceEnded,
}

/// The index that is answered from; none before the first snapshot.
type Current = Arc<ArcSwapOption<DnsIndex>>;

/// The bound server. Sockets belong to the network namespace of the thread that called
/// [`Server::bind`].
#[derive(Debug)]
pub struct Server {
    zone: Zone,
    sockets: Vec<(UdpSocket, TcpListener)>,
    served: watch::Sender<u64>,
}

impl Server {
    /// Binds UDP and TCP on every address. The addresses may not exist yet (IP_FREEBIND): the
    /// server answers on them from the moment that they do. Must be called inside a tokio
    /// runtime.
    pub fn bind(zone: Zone, listen: &[SocketAddr]) -> Result<Self, DnsError> {
        let sockets = listen.iter().map(|a| socket::pair(*a)).collect::<Result<_, _>>()?;
        Ok(Self { zone, sockets, served: watch::Sender::new(0) })
    }

    /// The addresses that it listens on, with the ports that the kernel chose for port 0.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect()
    }

    /// Generation of the snapshot that is being answered from; 0 before the first (until then
    /// the answer is SERVFAIL).
    pub fn served(&self) -> watch::Receiver<u64> {
        self.served.subscribe()
    }

    /// Serves until `cancel`; an error means that the server cannot go on. A panic of a task is
    /// passed on.
    pub async fn run(
        self,
        snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        cancel: CancellationToken,
    ) -> Result<(), DnsError> {
        let current = Current::default();
        let connections = Arc::new(tcp::Connections::default());
        let mut tasks = JoinSet::new();
        for (udp, tcp) in self.sockets {
            let (for_udp, for_tcp) = (current.clone(), current.clone());
            tasks.spawn(async move { udp::serve(udp, for_udp).await });
            tasks.spawn(tcp::serve(tcp, for_tcp, connections.clone()));
        }
        tasks.spawn(follow(snapshots, self.zone, current, self.served));
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => match ended {
                Ok(result) => result,
                Err(e) => match e.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // Aborted: the runtime shuts down.
                    Err(_) => Ok(()),
                },
            },
        }
    }
}

/// Builds the index of every snapshot (the latest, where they come faster than that).
async fn follow(
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    zone: Zone,
    current: Current,
    served: watch::Sender<u64>,
) -> Result<(), DnsError> {
    let zone = Arc::new(zone);
    let mut indexed: Option<Arc<Snapshot>> = None;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let (Some(before), Some(next)) = (&indexed, &snapshot)
            && DnsIndex::same_answers(before, next)
        {
            served.send_replace(next.generation);
            indexed = snapshot;
        } else if let Some(snapshot) = snapshot {
            indexed = Some(snapshot.clone());
            let (zone, current) = (zone.clone(), current.clone());
            // Off the workers that answer: a large cluster's index takes milliseconds.
            let build = tokio::task::spawn_blocking(move || {
                let previous = current.load_full();
                let next = DnsIndex::build(&snapshot, &zone, previous.as_deref());
                let generation = next.generation();
                current.store(Some(Arc::new(next)));
                generation
            });
            match build.await {
                Ok(generation) => served.send_replace(generation),
                Err(e) => match e.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Ok(()),
                },
            };
        }
        snapshots.changed().await.map_err(|_| DnsError::SourceEnded)?;
    }
}

#[cfg(test)]
mod tests;
