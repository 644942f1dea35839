//! `weft lab verify`: proves the network model with real packets.
//!
//! `gather` reads the cluster from the API, `measure` sends packets from probes inside the
//! pods' and nodes' own namespaces and cgroups, `report` is pure.

mod gather;
mod measure;
mod report;

pub use report::{Check, Report};

use anyhow::Result;

use crate::paths::LabPaths;

/// Verifies a running lab.
pub async fn verify(paths: &LabPaths, client: &kube::Client) -> Result<Report> {
    let cluster = gather::gather(paths, client).await?;
    let checks = {
        let cluster = cluster.clone();
        let paths = paths.clone();
        tokio::task::spawn_blocking(move || measure::measure(&paths, &cluster)).await??
    };
    Ok(Report::new(&cluster, checks))
}
