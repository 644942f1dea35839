//! The node's DNS server: sockets, framing and limits around [`weft_dns::answer`].

use std::{io, net::SocketAddr, sync::Arc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_dns::Zone;
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
    /// Nobody publishes snapshots any more.
    #[error("the source of snapshots has ended")]
    SourceEnded,
}

/// The bound server. Sockets belong to the network namespace of the thread that called
/// [`Server::bind`].
#[derive(Debug)]
pub struct Server {
    zone: Zone,
    served: watch::Sender<u64>,
}

impl Server {
    /// Binds UDP and TCP on every address. The addresses may not exist yet (IP_FREEBIND).
    pub fn bind(zone: Zone, listen: &[SocketAddr]) -> Result<Self, DnsError> {
        let _ = listen;
        Ok(Self { zone, served: watch::Sender::new(0) })
    }

    /// Generation of the snapshot that is being answered from; 0 before the first (until then
    /// the answer is SERVFAIL).
    pub fn served(&self) -> watch::Receiver<u64> {
        self.served.subscribe()
    }

    /// Serves until `cancel`; an error means that the server cannot go on.
    pub async fn run(
        self,
        snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        cancel: CancellationToken,
    ) -> Result<(), DnsError> {
        let _ = (snapshots, self.zone);
        cancel.cancelled().await;
        Ok(())
    }
}
