//! The reconciler: each stage on a thread of its own, from the latest snapshot to the kernel.

use crate::{
    Network,
    closing::{Applied, AppliedSender},
    cni::Programs,
    fabric::{apply, observe_underlay},
    health::View,
    host_port::Wanted,
    metrics::Metrics,
    state::{AppliedFabric, State},
};
use ipnet::IpNet;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::info;
use weft_fabric::{FabricConfig, FabricTables, Mode};
use weft_model::{Map, NamespacedName, Node, NodeName, Service, Slices, Snapshot};
use weft_netlink::{Netlink, netfilter};
use weft_services::ServiceTables;

/// Snapshots as `weft-kube` publishes them.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// How often the kernel is compared with the tables although nothing changed: somebody else
/// may have changed it (a link that went down takes its routes with it).
pub(crate) const DRIFT_INTERVAL: Duration = Duration::from_secs(10);
/// What nobody uses any more is deleted this much after a change, so that the next change need
/// not wait for it.
const SWEEP_INTERVAL: Duration = Duration::from_millis(20);
/// Frontends that are compared with the kernel's maps every [`DRIFT_INTERVAL`]: a millisecond's
/// worth, as a change may come meanwhile. 10,000 take seven minutes.
const VERIFY_COUNT: usize = 256;
/// After an error the next try comes after this, then twice that, and so on up to
/// [`DRIFT_INTERVAL`].
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(100);

/// What a stage says after a try.
pub enum Outcome {
    /// Fine until something changes.
    Applied,
    /// Fine, and there is something to tidy up when nothing else is to be done.
    Untidy,
    /// To be tried again soon.
    Failed,
}

/// Runs `step` on the latest snapshot whenever there is a new one, when `also` changes, again
/// after errors, and at [`DRIFT_INTERVAL`], until `cancel` or the end of the source. Blocks its
/// thread.
pub fn follow(
    runtime: &Handle,
    cancel: &CancellationToken,
    mut snapshots: Snapshots,
    mut also: Option<watch::Receiver<Wanted>>,
    mut step: impl FnMut(&Snapshot) -> Outcome,
) {
    let mut retry = RETRY_MIN;
    loop {
        let latest = snapshots.borrow_and_update().clone();
        let wait = match latest.as_deref().map(&mut step) {
            Some(Outcome::Failed) => {
                let wait = retry;
                retry = (retry * 2).min(DRIFT_INTERVAL);
                wait
            }
            Some(Outcome::Untidy) => {
                retry = RETRY_MIN;
                SWEEP_INTERVAL
            }
            Some(Outcome::Applied) | None => {
                retry = RETRY_MIN;
                DRIFT_INTERVAL
            }
        };
        let go_on = runtime.block_on(async {
            tokio::select! {
                () = cancel.cancelled() => false,
                changed = snapshots.changed() => changed.is_ok(),
                () = changed(&mut also) => true,
                () = tokio::time::sleep(wait) => true,
            }
        });
        if !go_on {
            return;
        }
    }
}

/// Returns at the next change; never where there is nothing to watch.
async fn changed(also: &mut Option<watch::Receiver<Wanted>>) {
    let news = match also {
        Some(also) => also.changed().await.is_ok(),
        None => false,
    };
    if !news {
        std::future::pending::<()>().await;
    }
}

/// What the fabric depends on beside the kernel: nodes and Service ranges; and when it was
/// applied.
pub type FabricInput = (Map<NodeName, Arc<Node>>, Vec<IpNet>, Instant);

/// The fabric stage: routes, tunnel, addresses, sysctls and the reject rules.
pub struct FabricStage {
    /// Shared state.
    pub state: Arc<State>,
    /// This node.
    pub node: NodeName,
    /// Mode.
    pub network: Network,
    /// Service ranges.
    pub service_cidrs: weft_kube::Ranges,
    /// Handle in the node's namespace.
    pub netlink: Netlink,
    /// The netfilter table, shared with the service stage.
    pub table: Arc<Mutex<netfilter::Table>>,
    /// The nodes and ranges that were applied without an error, and when.
    pub applied: Option<FabricInput>,
}

impl FabricStage {
    /// Plans, compares and applies. Where nodes and ranges are those of last time, there is
    /// nothing to plan, and the kernel is looked at when it is time.
    pub fn step(&mut self, snapshot: &Snapshot) -> Outcome {
        if let Some((nodes, ranges, at)) = &self.applied
            && nodes.same(&snapshot.nodes)
            && *ranges == self.ranges()
            && at.elapsed() < DRIFT_INTERVAL
        {
            self.state.record("fabric", |stage| stage.generation = snapshot.generation.max(1));
            self.state.fabric.send_if_modified(|now| {
                now.iter_mut().for_each(|f| f.generation = snapshot.generation);
                false
            });
            return Outcome::Applied;
        }
        let (mut errors, mut counts) = (Vec::new(), std::collections::BTreeMap::new());
        let (tables, diagnostics) = match self.plan(snapshot) {
            Ok(plan) => (plan.tables, plan.diagnostics),
            Err(e) => {
                errors.push(e);
                (None, Vec::new())
            }
        };
        let mut changed = 0;
        if let Some(tables) = &tables {
            if let Err(e) = self.write_rules(tables) {
                errors.push(e.to_string());
            }
            counts.insert("routes", tables.routes.len() as u64);
            counts.insert("neighbours", tables.neighbours.len() as u64);
            match apply(&self.netlink, tables) {
                Ok(n) => changed = n,
                Err(e) => errors.extend(e.iter().map(ToString::to_string)),
            }
            counts.insert("changes", changed as u64);
        }
        let diagnostics: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        let fine = errors.is_empty();
        self.state.record("fabric", |stage| {
            stage.log_news("fabric", &errors, &diagnostics);
            (stage.errors, stage.diagnostics, stage.counts) = (errors, diagnostics, counts);
            if fine && tables.is_some() {
                stage.generation = snapshot.generation.max(1);
            }
        });
        self.applied = None;
        if let (true, Some(t)) = (fine, tables) {
            self.applied = Some((snapshot.nodes.clone(), self.ranges(), Instant::now()));
            if changed > 0 {
                info!(generation = snapshot.generation, changed, "fabric applied");
            }
            let applied = AppliedFabric {
                generation: snapshot.generation,
                pod_cidrs: t.pod_cidrs,
                routers: t.routers,
                pod_mtu: t.pod_mtu,
                pod_sources: t.pod_sources,
            };
            self.state.fabric.send_if_modified(|now| {
                let same = now.as_ref().is_some_and(|n| {
                    AppliedFabric { generation: applied.generation, ..n.clone() } == applied
                });
                *now = Some(applied);
                !same
            });
        }
        if fine { Outcome::Applied } else { Outcome::Failed }
    }

    fn plan(&self, snapshot: &Snapshot) -> Result<weft_fabric::FabricPlan, String> {
        let own = snapshot.nodes.get(&self.node);
        let underlay = match own {
            Some(node) => observe_underlay(&self.netlink, node).map_err(|e| e.to_string())?,
            None => Some(weft_fabric::Underlay::default()),
        };
        let underlay = underlay.ok_or_else(|| {
            "no uplink: no link has an InternalIP of the node, and there is no default route"
                .to_owned()
        })?;
        let mode = match self.network {
            Network::Vxlan => Mode::Vxlan,
            Network::Native => Mode::Native,
        };
        let config = FabricConfig { mode, underlay, service_cidrs: self.ranges() };
        Ok(weft_fabric::plan(snapshot, &self.node, &config))
    }

    fn ranges(&self) -> Vec<IpNet> {
        self.service_cidrs.borrow().as_deref().map(<[_]>::to_vec).unwrap_or_default()
    }

    /// Writes the netfilter table where it shall be different, or is gone.
    fn write_rules(&mut self, tables: &FabricTables) -> weft_netlink::Result<()> {
        let rules = netfilter::Rules {
            services: self.ranges(),
            masquerade: tables.pod_cidrs.clone(),
            cluster: tables.cluster.clone(),
            tunnel_port: tables.tunnel.as_ref().map(|t| t.port),
            routers: tables.routers.clone(),
            client_ports: crate::fabric::client_ports(),
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // Flows that could not be forgotten are the service stage's to tell.
        table.set_rules(&rules).map(|_| ())
    }
}

/// What the service stage depends on, beside the kernel. Pods, policies and labels are not among
/// it: they change more often than all else.
#[derive(Clone, Debug)]
pub struct ServiceInput {
    nodes: Map<NodeName, Arc<Node>>,
    services: Map<NamespacedName, Arc<Service>>,
    slices: Map<NamespacedName, Slices>,
    plan: weft_services::PlanInput,
    host_ports: u64,
}

impl ServiceInput {
    fn of(snapshot: &Snapshot, plan: &weft_services::PlanInput, host_ports: u64) -> Self {
        let Snapshot { nodes, services, slices, .. } = snapshot.clone();
        Self { nodes, services, slices, plan: plan.clone(), host_ports }
    }

    fn same(&self, other: &Self) -> bool {
        self.nodes.same(&other.nodes)
            && self.services.same(&other.services)
            && self.slices.same(&other.slices)
            && self.plan == other.plan
            && self.host_ports == other.host_ports
    }
}

/// The service stage: load-balancer tables into the socket hooks' maps and the netfilter table.
pub struct ServiceStage {
    /// Shared state.
    pub state: Arc<State>,
    /// This node.
    pub node: NodeName,
    /// Whether the node answers at the address of the cluster's DNS Service.
    pub node_dns: bool,
    /// Which of the node's addresses answer on node ports; all where empty.
    pub node_port_ranges: Vec<IpNet>,
    /// Goes from one snapshot to the next.
    pub planner: weft_services::Planner,
    /// Where the hooks live.
    pub options: weft_bpf::OpenOptions,
    /// The load balancer, once it is open.
    pub lb: Option<weft_bpf::SocketLb>,
    /// Told of the programs at the pods' links then.
    pub programs: watch::Sender<Option<Programs>>,
    /// The netfilter table, shared with the fabric stage.
    pub table: Arc<Mutex<netfilter::Table>>,
    /// Whether node processes reach node ports at loopback addresses.
    pub localhost_node_ports: bool,
    /// What was applied, for the sockets stage.
    pub applied: AppliedSender,
    /// What load balancers are told.
    pub health: watch::Sender<View>,
    /// The entrances of that table.
    pub entrances: crate::entrance::Entrances,
    /// When the kernel was looked at last.
    pub verified: Option<Instant>,
    /// What was told last: told again where it is another.
    pub told: ServiceTables,
    /// How often the netfilter table was set right, as last told.
    pub repairs: netfilter::Repairs,
    /// What the last step was made of, where it left nothing to do.
    pub settled: Option<ServiceInput>,
    /// What the watches brought.
    pub tally: Arc<weft_kube::Tally>,
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
    /// What is wrong with Services.
    pub complaints: watch::Sender<Arc<[weft_services::Diagnostic]>>,
}

impl ServiceStage {
    /// Plans, compares and applies.
    pub fn step(&mut self, snapshot: &Snapshot) -> Outcome {
        // The node's DNS addresses are the fabric's; without them the tables would send DNS
        // elsewhere for a moment.
        let routers: Option<Vec<IpAddr>> =
            self.state.fabric.borrow().as_ref().map(|f| f.routers.clone());
        let Some(mut node_dns) = routers else { return Outcome::Failed };
        if !self.node_dns {
            node_dns.clear();
        }
        let begin = Instant::now();
        let input = weft_services::PlanInput {
            node_dns,
            node_port_ranges: self.node_port_ranges.clone(),
            localhost_node_ports: self.localhost_node_ports,
        };
        let drift_due = self.verified.is_none_or(|at| at.elapsed() >= DRIFT_INTERVAL);
        let made_of = ServiceInput::of(snapshot, &input, self.state.host_ports.borrow().version);
        let settled = self.settled.take().is_some_and(|before| before.same(&made_of));
        if settled && !drift_due {
            self.settled = Some(made_of);
            self.tally.applied(snapshot.generation);
            self.state.record("services", |stage| stage.generation = snapshot.generation.max(1));
            return Outcome::Applied;
        }
        let tables = self.planner.plan(snapshot, &input).clone();
        // Before the kernel is asked: a call that never returns is late, too.
        self.health.send_modify(|v| {
            v.pending_since.get_or_insert_with(Instant::now);
        });
        if drift_due {
            self.verified = Some(Instant::now());
        }
        // Before the kernel's tables are others: whoever connects from now on is not judged by
        // the old ones.
        let told = self.applied.borrow().as_ref().is_some_and(|a| {
            a.tables.generation == tables.generation && a.tables.frontends.same(&tables.frontends)
        });
        if !told {
            self.applied.send_replace(None);
        }
        let sockets = self.open().and_then(|lb| {
            if drift_due && !lb.verify(VERIFY_COUNT)? {
                info!("the socket hooks' maps were changed by somebody else; mending them");
            }
            lb.switch(&tables)
        });
        // Whatever netfilter says. Where frontends were left out, nobody knows which are old.
        if sockets.is_ok() && !told {
            let now = Applied { snapshot: snapshot.clone(), tables: tables.clone() };
            self.applied.send_replace(Some(Arc::new(now)));
        }
        // A kernel that cannot do the one may do the other.
        let own = snapshot.nodes.get(&self.node).map(AsRef::as_ref);
        let host_ports = self.state.host_ports.borrow().clone();
        let delta = self.entrances.change(&tables, &host_ports.pods, own);
        let entrances = self.entrances.count();
        let (nat, repairs) = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            (table.change_nat(delta), table.repairs())
        };
        self.tell_repairs(repairs);
        if nat.is_ok() {
            self.state.host_ports_applied.send_replace(host_ports.version);
        }
        let (applied, mut errors) = judge(sockets.err(), nat);
        let swept = match &mut self.lb {
            // Only when nothing else is to be done: this generation was here before.
            Some(lb) if self.told.generation == tables.generation => lb.sweep(),
            Some(lb) => Ok(lb.has_leavings()),
            None => Ok(false),
        };
        let untidy = swept.unwrap_or_else(|e| {
            errors.push(chain(&e));
            false
        });
        let done = applied.then(|| self.tally.applied(snapshot.generation));
        self.metrics.synced(begin.elapsed(), done);
        self.complaints.send_if_modified(|now| {
            // Mostly the same ones.
            let news = !Arc::ptr_eq(now, &tables.diagnostics) && *now != tables.diagnostics;
            *now = tables.diagnostics.clone();
            news
        });
        self.metrics.refresh(|| self.lb.as_mut()?.stats().ok());
        let fine = errors.is_empty();
        self.tell(&tables, snapshot, applied, errors, entrances);
        match (fine, untidy) {
            (false, _) => Outcome::Failed,
            (true, true) => Outcome::Untidy,
            (true, false) => {
                self.settled = Some(made_of);
                Outcome::Applied
            }
        }
    }

    /// Says that the netfilter table was not as it was written; also where the fabric stage, which
    /// shares it, found that.
    fn tell_repairs(&mut self, repairs: netfilter::Repairs) {
        if repairs != self.repairs {
            let elements = repairs.elements - self.repairs.elements;
            let tables = repairs.tables - self.repairs.tables;
            let what = "the netfilter table was changed by somebody else; it was set right";
            tracing::warn!(elements, tables, "{what}");
            self.repairs = repairs;
        }
    }

    /// Says how it went, in time that depends on what is different.
    fn tell(
        &mut self,
        tables: &ServiceTables,
        snapshot: &Snapshot,
        applied: bool,
        errors: Vec<String>,
        entrances: usize,
    ) {
        let health = (!self.told.health.same(&tables.health))
            .then(|| tables.health.iter().map(|(p, h)| (p.get(), h.clone())).collect());
        self.health.send_modify(|v| {
            if let Some(ports) = health {
                v.ports = ports;
            }
            v.eligible = snapshot.nodes.get(&self.node).is_none_or(|n| n.eligible);
            if applied {
                (v.pending_since, v.applied_at) = (None, Some(SystemTime::now()));
            }
        });
        let diagnostics: Option<Vec<String>> =
            (!Arc::ptr_eq(&self.told.diagnostics, &tables.diagnostics))
                .then(|| tables.diagnostics.iter().map(ToString::to_string).collect());
        self.state.record("services", |stage| {
            stage.log_news("services", &errors, diagnostics.as_deref().unwrap_or_default());
            stage.errors = errors;
            if let Some(diagnostics) = diagnostics {
                stage.diagnostics = diagnostics;
            }
            stage.counts.insert("frontends", tables.frontends.len() as u64);
            stage.counts.insert("withoutBackends", tables.without_backends.len() as u64);
            stage.counts.insert("entrances", entrances as u64);
            stage.counts.insert("repairedElements", self.repairs.elements);
            stage.counts.insert("repairedTables", self.repairs.tables);
            if applied {
                stage.generation = snapshot.generation.max(1);
            }
        });
        self.told = tables.clone();
    }

    /// Loads the programs ahead of the first tables.
    pub fn open_early(&mut self) {
        let begin = Instant::now();
        if self.open().is_ok() {
            info!(elapsed_ms = begin.elapsed().as_millis() as u64, "socket hooks attached");
        }
    }

    fn open(&mut self) -> weft_bpf::Result<&mut weft_bpf::SocketLb> {
        let lb = match self.lb.take() {
            Some(lb) => lb,
            None => {
                let lb = weft_bpf::SocketLb::open(self.options.clone())?;
                match (lb.pod_links(), lb.policy()) {
                    (Ok(links), Ok(policy)) => {
                        let (links, policy) = (links.clone(), policy.clone());
                        self.programs.send_replace(Some(Programs { links, policy }));
                    }
                    (Err(e), _) | (_, Err(e)) => {
                        // No pod is attached without them; what works for others goes on.
                        let errors = vec![chain(e)];
                        self.state.record("podLinks", |stage| stage.errors = errors);
                    }
                }
                lb
            }
        };
        Ok(self.lb.insert(lb))
    }
}

/// Whether the tables count as applied, and all errors of the try.
///
/// Some errors are about a few Services or flows while all others are served. They are the same
/// on every node: if they made nodes unhealthy, load balancers outside would have none left, and
/// an agent that starts anew would refuse all pods.
fn judge(
    sockets: Option<weft_bpf::BpfError>,
    nat: weft_netlink::Result<netfilter::Applied>,
) -> (bool, Vec<String>) {
    let mut applied = true;
    let mut errors = Vec::new();
    if let Some(e) = sockets {
        applied &=
            matches!(&e, weft_bpf::BpfError::MapFull { left_out, .. } if !left_out.0.is_empty());
        errors.push(chain(&e));
    }
    match nat {
        Ok(done) => errors.extend(done.not_forgotten.map(|e| chain(&e))),
        Err(e) => {
            applied = false;
            errors.push(chain(&e));
        }
    }
    (applied, errors)
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_bpf::{BpfError, LeftOut};
    use weft_netlink::Error;

    fn full(left_out: &[&str]) -> BpfError {
        let left_out = LeftOut(left_out.iter().map(|a| a.parse().expect("address")).collect());
        BpfError::MapFull { map: "WEFT_SERVICES", max_entries: 1, left_out }
    }

    fn kernel() -> Error {
        let source = std::io::Error::from_raw_os_error(libc::EINVAL);
        Error::Kernel {
            operation: "list",
            object: "connection table".to_owned(),
            detail: String::new(),
            source,
        }
    }

    #[test]
    fn what_concerns_a_few_services_leaves_the_node_healthy() {
        let fine = netfilter::Applied::default;
        assert_eq!(judge(None, Ok(fine())), (true, Vec::new()));
        let (applied, errors) = judge(Some(full(&["10.96.0.1:80"])), Ok(fine()));
        assert!(applied && errors.len() == 1 && errors[0].contains("10.96.0.1:80"), "{errors:?}");
        let done = netfilter::Applied { not_forgotten: Some(kernel()), ..fine() };
        let (applied, errors) = judge(None, Ok(done));
        assert!(applied && errors.len() == 1 && errors[0].contains("connection"), "{errors:?}");
        // Where nothing is named, others may be missing, too.
        assert!(!judge(Some(full(&[])), Ok(fine())).0);
        assert!(!judge(Some(BpfError::Object(String::new())), Ok(fine())).0);
        let (applied, errors) = judge(Some(full(&["10.96.0.1:80"])), Err(kernel()));
        assert!(!applied && errors.len() == 2, "{errors:?}");
    }
}
