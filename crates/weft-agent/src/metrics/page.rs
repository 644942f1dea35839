//! The page of metrics, from everywhere that values live.

use super::{
    Metrics, process,
    text::{Kind, Page},
};
use crate::{reconcile::Snapshots, state::State};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use weft_kube::Tally;
use weft_model::NodeName;

/// Where the values are.
#[derive(Clone)]
pub struct Sources {
    /// This node.
    pub node: NodeName,
    /// What happened.
    pub metrics: Arc<Metrics>,
    /// What the watches brought.
    pub tally: Arc<Tally>,
    /// The stages.
    pub state: Arc<State>,
    /// The latest snapshot.
    pub snapshots: Snapshots,
}

fn unix(at: Option<SystemTime>) -> f64 {
    at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs_f64()
}

impl Sources {
    /// All metrics as text.
    pub fn page(&self) -> String {
        let mut page = Page::default();
        self.kube_proxy(&mut page);
        self.stages(&mut page);
        self.data_path(&mut page);
        process::write(&mut page);
        page.family("weft_build_info", Kind::Gauge, "Version of this binary.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.finish()
    }

    fn kube_proxy(&self, page: &mut Page) {
        use Kind::{Counter, Gauge, Histogram};
        let inner = self.metrics.copy();
        let mut programming = page.family(
            "kubeproxy_network_programming_duration_seconds",
            Histogram,
            "From the change of a Service or pod, as the EndpointSlice tells it, to the kernel.",
        );
        for (family, histogram) in &inner.programming {
            programming.histogram(&[("ip_family", &family.to_string())], histogram);
        }
        page.family(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            Histogram,
            "What planning and applying the Services took.",
        )
        .histogram(&[], &inner.sync);
        page.one(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            Gauge,
            "When Services were last applied, in Unix time; 0 for never.",
            unix(inner.synced_at),
        );
        let seen = self.tally.seen();
        page.one(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            Gauge,
            "When the last change arrived, in Unix time; 0 for never.",
            unix(seen.queued_at),
        );
        let mut changes = |name, kind, help, value: u64| page.one(name, kind, help, value);
        changes(
            "kubeproxy_sync_proxy_rules_service_changes_total",
            Counter,
            "Changes of Services that were seen.",
            seen.services,
        );
        changes(
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            Gauge,
            "Changes of Services that are not applied yet.",
            seen.services_pending,
        );
        changes(
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            Counter,
            "Changes of EndpointSlices that were seen.",
            seen.slices,
        );
        changes(
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            Gauge,
            "Changes of EndpointSlices that are not applied yet.",
            seen.slices_pending,
        );
        let mut none_here = page.family(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            Gauge,
            "Service ports with a Local policy, endpoints elsewhere and none on this node.",
        );
        let snapshot = self.snapshots.borrow().clone();
        let counts = snapshot.map(|s| weft_services::without_local(&s, &self.node));
        for ((family, policy), count) in counts.into_iter().flatten() {
            let labels = [("ip_family", &*family.to_string()), ("traffic_policy", policy)];
            none_here.sample(&labels, count);
        }
        for (name, path, help) in [
            ("kubeproxy_proxy_healthz_total", "healthz", "Answers to /healthz by status."),
            ("kubeproxy_proxy_livez_total", "livez", "Answers to /livez by status."),
        ] {
            let mut answers = page.family(name, Counter, help);
            for ((_, status), count) in inner.probes.iter().filter(|((p, _), _)| *p == path) {
                answers.sample(&[("code", &status.to_string())], count);
            }
        }
        page.one(
            "weft_sync_failures_total",
            Counter,
            "Tries to apply Services that failed.",
            inner.failures,
        );
    }

    fn stages(&self, page: &mut Page) {
        use Kind::Gauge;
        let generation = self.snapshots.borrow().as_ref().map_or(0, |s| s.generation);
        page.one(
            "weft_snapshot_generation",
            Gauge,
            "Generation of the latest picture of the API.",
            generation,
        );
        let stages = self.state.all_stages();
        let mut family = |name, help, value: &dyn Fn(&crate::state::Stage) -> u64| {
            let mut family = page.family(name, Gauge, help);
            for (name, stage) in &stages {
                family.sample(&[("stage", name)], value(stage));
            }
        };
        family("weft_stage_generation", "Generation that a stage applied last.", &|s| s.generation);
        family("weft_stage_errors", "Errors of a stage's last try.", &|s| s.errors.len() as u64);
        family("weft_stage_diagnostics", "What is wrong with a stage's input.", &|s| {
            s.diagnostics.len() as u64
        });
        let mut counts =
            page.family("weft_stage_entries", Gauge, "What a stage has in the kernel.");
        for (name, stage) in &stages {
            for (kind, count) in &stage.counts {
                counts.sample(&[("stage", name), ("kind", kind)], count);
            }
        }
    }

    fn data_path(&self, page: &mut Page) {
        use Kind::{Counter, Gauge};
        let Some(stats) = self.metrics.inner().stats else { return };
        let mut translated = page.family(
            "weft_socket_translations_total",
            Counter,
            "Connections and datagrams that were translated at the socket.",
        );
        for (kind, count) in [
            ("tcp_connect", stats.tcp_connects),
            ("udp_connect", stats.udp_connects),
            ("udp_datagram", stats.udp_datagrams),
        ] {
            translated.sample(&[("kind", kind)], count);
        }
        page.one(
            "weft_socket_udp_moves_total",
            Counter,
            "Unconnected UDP sockets that moved because their backend had left.",
            stats.udp_moves,
        );
        let mut failures = page.family(
            "weft_socket_failures_total",
            Counter,
            "Connections and datagrams that were not translated although they should.",
        );
        failures.sample(&[("reason", "race")], stats.races);
        failures.sample(&[("reason", "record")], stats.record_failures);
        let mut entries =
            page.family("weft_bpf_map_entries", Gauge, "Entries of the maps of the socket hooks.");
        entries.sample(&[("map", "services")], stats.frontends);
        entries.sample(&[("map", "slots")], stats.slots);
    }
}
