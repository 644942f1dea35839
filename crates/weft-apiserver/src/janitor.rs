//! What the server tidies up by itself: Events older than an hour, as kube-apiserver does.

use crate::ApiServer;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(60);
/// `--event-ttl` of kube-apiserver.
const EVENT_TTL: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

pub(crate) async fn run(server: ApiServer) {
    loop {
        tokio::select! {
            () = server.0.shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => server.0.expire_events(jiff::Timestamp::now() - EVENT_TTL),
        }
    }
}
