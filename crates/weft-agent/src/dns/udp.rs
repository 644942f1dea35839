//! Datagrams.

use super::{Current, DnsError};
use std::{io, time::Duration};
use tokio::{io::Interest, net::UdpSocket};
use weft_dns::{Transport, Verdict, answer};

/// The largest query that is read; longer ones are cut off, and then refused as malformed. A
/// name, a question and EDNS options take a few hundred bytes.
const QUERY_LEN_MAX: usize = 4096;
/// Queries answered before other tasks of the worker get their turn.
const BATCH_MAX: usize = 64;
/// Pause after an error of the socket, so that one that stays does not keep a CPU busy.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Answers for ever.
pub(super) async fn serve(socket: UdpSocket, current: Current) -> Result<(), DnsError> {
    let mut query = vec![0; QUERY_LEN_MAX];
    let mut reply = Vec::with_capacity(usize::from(u16::MAX));
    loop {
        let ready = async {
            socket.ready(Interest::READABLE).await?;
            batch(&socket, &current, &mut query, &mut reply)
        };
        match ready.await {
            Ok(()) => tokio::task::yield_now().await,
            Err(e) => {
                tracing::warn!(error = %e, "DNS over UDP");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Answers what waits, up to a limit.
fn batch(
    socket: &UdpSocket,
    current: &Current,
    query: &mut [u8],
    reply: &mut Vec<u8>,
) -> io::Result<()> {
    let index = current.load();
    for _ in 0..BATCH_MAX {
        let (len, client) = match socket.try_recv_from(query) {
            Ok(x) => x,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        };
        // Nobody asks from port 0; a reply there would be an error.
        if client.port() == 0 {
            continue;
        }
        let verdict = answer(index.as_deref(), &query[..len], Transport::Udp, reply);
        if verdict == Verdict::Ignore {
            continue;
        }
        // A reply that cannot be sent is lost, like any datagram: the client asks again.
        if let Err(e) = socket.try_send_to(reply, client) {
            tracing::debug!(error = %e, %client, "DNS reply not sent");
        }
    }
    Ok(())
}
