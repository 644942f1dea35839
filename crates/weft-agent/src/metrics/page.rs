//! The page of metrics, from everywhere that values live.

use super::{
    Metrics, process,
    text::{Kind, Page},
};
use crate::{flows::by_reason, policy_report, reconcile::Snapshots, state::State};
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
        self.policy(&mut page);
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

    fn policy(&self, page: &mut Page) {
        use Kind::{Counter, Gauge};
        let generation = self.state.policy.borrow().as_ref().map_or(0, |a| a.generation);
        page.one(
            "weft_policy_generation",
            Gauge,
            "The kernel's generation of rules; 0 for none.",
            generation,
        );
        let sums = policy_report::sums(&by_reason(&self.state));
        let verdicts = |c: &policy_report::Counts| {
            [("allowed", c.allowed), ("denied", c.denied), ("audited", c.audited)]
        };
        let mut flows = page.family(
            "weft_policy_flows_total",
            Counter,
            "Flows by verdict and kind of reason; one that is judged again counts again.",
        );
        for (reason, counts) in &sums.kinds {
            for (verdict, count) in verdicts(counts) {
                flows.sample(&[("reason", reason), ("verdict", verdict)], count);
            }
        }
        let mut dropped = page.family(
            "weft_policy_dropped_packets_total",
            Counter,
            "Packets that policy dropped, by kind of reason.",
        );
        for (reason, counts) in &sums.kinds {
            dropped.sample(&[("reason", reason)], counts.dropped);
        }
        let mut rules = page.family(
            "weft_policy_rule_flows_total",
            Counter,
            "Flows by the rule that decided; of rules beyond a bound together, without labels.",
        );
        for (rule, counts) in &sums.rules {
            let (policy, direction) = (rule.policy.to_string(), rule.direction.to_string());
            let index = rule.index.to_string();
            for (verdict, count) in verdicts(counts).into_iter().filter(|(_, count)| *count > 0) {
                let labels = [
                    ("policy", &*policy),
                    ("direction", &*direction),
                    ("rule", &*index),
                    ("verdict", verdict),
                ];
                rules.sample(&labels, count);
            }
        }
        for (verdict, count) in verdicts(&sums.other).into_iter().filter(|(_, count)| *count > 0) {
            let labels = [("policy", ""), ("direction", ""), ("rule", ""), ("verdict", verdict)];
            rules.sample(&labels, count);
        }
        let counts = self.state.flows.counts();
        page.one("weft_flow_events_total", Counter, "Verdicts that were told.", counts.seen);
        page.one(
            "weft_flow_events_lost_total",
            Counter,
            "Verdicts that were not told because there were too many.",
            counts.lost,
        );
        page.one("weft_flow_followers", Gauge, "Who follows flows now.", counts.followers as u64);
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
