//! What a real cluster brings itself: scheduler, workloads, EndpointSlices, pod CIDRs.
#![forbid(unsafe_code)]

mod config;
mod error;

pub use config::Config;
pub use error::Error;

use tokio_util::sync::CancellationToken;

/// Runs every controller until `cancel` fires.
pub async fn run(
    _client: kube::Client,
    _config: Config,
    cancel: CancellationToken,
) -> Result<(), Error> {
    cancel.cancelled().await;
    Ok(())
}
