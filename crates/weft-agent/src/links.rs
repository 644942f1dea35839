//! The programs at the pods' links: attached by ADD, kept by a stage.

use crate::{
    cni::{CniService, Programs},
    reconcile::{DRIFT_INTERVAL, Outcome, RETRY_MIN, chain},
    state::State,
};
use ipnet::IpNet;
use std::{collections::BTreeMap, sync::Arc};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::info;
use weft_bpf::PodLinks;
use weft_kube::{Ranges, lower::SOCKET_LB};
use weft_netlink::Netlink;

/// The stage that keeps the programs of links that are there, and forgets those that are gone.
pub struct LinkStage {
    /// Shared state.
    pub state: Arc<State>,
    /// Whose links they are.
    pub cni: Arc<CniService>,
    /// Service ranges.
    pub ranges: Ranges,
    /// Handle in the node's namespace.
    pub netlink: Netlink,
    /// The programs, once they are loaded.
    pub programs: watch::Receiver<Option<Programs>>,
}

impl LinkStage {
    /// Runs [`Self::step`] once all that it needs is there, when the fabric changes, and again
    /// and again for drift, until `cancel`. Snapshots are none of its business: pods' links come
    /// and go with CNI's requests. Blocks its thread.
    pub fn run(&mut self, runtime: &Handle, cancel: &CancellationToken) {
        let mut fabric = self.state.fabric.subscribe();
        let (mut loaded, mut ranges) = (self.programs.clone(), self.ranges.clone());
        let mut retry = RETRY_MIN;
        loop {
            let wait = match self.step() {
                Outcome::Applied | Outcome::Untidy => {
                    retry = RETRY_MIN;
                    DRIFT_INTERVAL
                }
                Outcome::Failed => {
                    retry = (retry * 2).min(DRIFT_INTERVAL);
                    retry
                }
            };
            let go_on = runtime.block_on(async {
                tokio::select! {
                    () = cancel.cancelled() => false,
                    changed = fabric.changed() => changed.is_ok(),
                    Ok(()) = loaded.changed() => true,
                    Ok(()) = ranges.changed() => true,
                    () = tokio::time::sleep(wait) => true,
                }
            });
            if !go_on {
                return;
            }
        }
    }

    /// Configures, compares and repairs.
    pub fn step(&mut self) -> Outcome {
        let programs = self.programs.borrow().clone();
        let fabric = self.state.fabric.borrow().clone();
        let ranges = self.ranges.borrow().clone();
        let (Some(programs), Some(fabric), Some(ranges)) = (programs, fabric, ranges) else {
            return Outcome::Failed;
        };
        let mut errors = Vec::new();
        let mut note = |e: weft_bpf::BpfError| errors.push(chain(&e));
        let all = programs;
        let programs = &all.links;
        let configured = programs.configure(&ranges, &fabric.routers);
        let configured = configured.map_err(&mut note).is_ok();
        // ADD may use them from now on; what an agent before left is repaired meanwhile.
        if configured && !*self.state.pod_links.borrow() {
            info!(attach = ?programs.attach_kind(), "programs of pod links loaded");
            self.cni.set_programs(all.clone());
            self.state.pod_links.send_replace(true);
        }
        let (repaired, failed) = self.cni.keep_programs(programs);
        failed.into_iter().for_each(&mut note);
        let gone = programs.sweep(&self.netlink).map_err(&mut note).unwrap_or(0);
        let counts = counts(programs).map_err(&mut note).unwrap_or_default();
        if repaired > 0 {
            // What older programs judged was judged by the tables that they knew.
            let judged_again = all.policy.bump().map(drop);
            judged_again.map_err(&mut note).ok();
        }
        if repaired > 0 || gone > 0 {
            info!(repaired, gone, "programs of pod links were not as they shall be");
        }
        let fine = errors.is_empty();
        let diagnostics = beyond(&ranges);
        self.state.record("podLinks", |stage| {
            stage.log_news("podLinks", &errors, &diagnostics);
            (stage.errors, stage.diagnostics, stage.counts) = (errors, diagnostics, counts);
            if fine {
                stage.generation = fabric.generation.max(1);
            }
        });
        if fine { Outcome::Applied } else { Outcome::Failed }
    }
}

/// What is said about Service ranges that the programs have no room for.
fn beyond(ranges: &[IpNet]) -> Vec<String> {
    let told = |range: IpNet| {
        format!(
            "Service range {range} is one too many for the programs at the pods' links: pods reach \
             its Services by TCP and UDP sockets, and all their other packets to it (SCTP, pods \
             with {SOCKET_LB}: disabled) are refused; put the Services into fewer, wider \
             ServiceCIDRs (or --service-cidr)"
        )
    };
    weft_bpf::ranges_left_out(ranges).map(told).collect()
}

fn counts(programs: &PodLinks) -> weft_bpf::Result<BTreeMap<&'static str, u64>> {
    let (stats, (links, opted_out)) = (programs.stats()?, programs.count()?);
    Ok(BTreeMap::from([
        ("links", links as u64),
        ("optedOut", opted_out as u64),
        ("flows", stats.flows),
        ("translated", stats.translated),
        ("reversed", stats.reversed),
        ("noBackend", stats.no_backend),
        ("spoofed", stats.spoofed),
        ("errors", stats.errors),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_find_no_room_are_told_with_what_to_do() {
        let range = |text: String| text.parse::<IpNet>().expect("range");
        let v4 = |n: u8| range(format!("10.{n}.0.0/16"));
        let v6 = |n: u8| range(format!("fd00:{n}::/112"));
        let four: Vec<IpNet> = (0..4).flat_map(|n| [v6(n), v4(n)]).collect();
        assert_eq!(beyond(&four), [""; 0]);
        let more = [four, vec![v4(4), v6(4), v4(5)]].concat();
        let told = beyond(&more);
        for (text, range) in told.iter().zip(["10.4.0.0/16", "10.5.0.0/16", "fd00:4::/112"]) {
            assert!(text.contains(range) && text.contains("ServiceCIDRs"), "{text}");
        }
        assert_eq!(told.len(), 3);
    }
}
