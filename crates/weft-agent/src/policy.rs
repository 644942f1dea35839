//! The policy stage: from snapshots to what the programs at the pods' links judge by.
//!
//! Flow: Snapshot and the node's attachments ([`LocalPods`]) → [`InputMaker`] → `weft_policy`'s
//! planner → numbers ([`lower`]) → the kernel ([`PolicyKernel`]). What a step leaves over is
//! removed after the programs that may still look at it have ended, and before the next step.
//!
//! Invariants:
//! - A link has a value before it has programs: UNKNOWN, by which everything but its own node is
//!   refused. It is READY only by a plan that was made with its pod, and ADD waits for that.
//! - The kernel is written whole, beside what is there, by an agent that has just started, after
//!   an error, and where somebody changed it; pods then change from the old to the new, each at
//!   once. Otherwise what is different is written.
//! - A pod that is attached is judged by the latest that is known of it, until DEL.

pub(crate) mod admit;
mod input;
mod kernel;
mod local;
mod lower;
#[cfg(test)]
mod tests;

pub use kernel::PolicyKernel;
pub use local::{LocalLink, LocalPods, Owner, Subject};

use crate::{
    cni::Programs,
    reconcile::{DRIFT_INTERVAL, Outcome, RETRY_MIN, Snapshots, chain},
    state::State,
};
use input::InputMaker;
use local::Links;
use lower::Mirror;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::info;
use weft_bpf::{BpfError, PodState, PolicyPod, PolicyRetire};
use weft_kube::{Kind, events::Complaint};
use weft_model::{NamespacedName, NodeName, Snapshot};
use weft_policy::{Diagnostic, Limits, Planner, PolicyId, Reasons, Start, Transition};

/// What is left over is removed this much after a step, when nothing else is to be done.
const TIDY_INTERVAL: Duration = Duration::from_millis(20);

/// What the kernel judges by, for whoever must put names to its numbers.
#[derive(Clone, Debug)]
pub struct AppliedPolicy {
    /// Generation of the snapshot.
    pub snapshot: u64,
    /// The kernel's generation.
    pub generation: u32,
    /// The attachments by the index of their link.
    pub links: BTreeMap<u32, AppliedLink>,
    /// What the numbers of reasons stand for.
    pub reasons: Reasons,
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedLink {
    /// Name of the link.
    pub name: Arc<str>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The pod; none for what was attached by hand.
    pub pod: Option<NamespacedName>,
    /// Whether it is judged by its policies; else everything but its own node is refused.
    pub ready: bool,
}

/// The policy stage.
pub struct PolicyStage {
    state: Arc<State>,
    node: NodeName,
    locals: Arc<LocalPods>,
    input: InputMaker,
    complaints: watch::Sender<Arc<BTreeSet<Complaint>>>,
    plan: Option<Planned>,
}

/// What is in the kernel, and how it came there.
struct Planned {
    planner: Planner,
    tables: Mirror,
    /// The next plan is whole, beside what an earlier agent left, or what failed.
    fresh: bool,
    /// Epochs and sets that are in the kernel beside those of `tables`.
    others: (Vec<u32>, Vec<u32>),
    /// What stands at the links.
    links: BTreeMap<u32, PolicyPod>,
    /// Nobody refers to it any more.
    leavings: PolicyRetire,
    generation: u32,
    verified: Instant,
    /// The attachments that were applied.
    seen: Links,
}

impl PolicyStage {
    /// Nothing applied yet. `node_dns`: whether the node answers as the cluster's DNS.
    pub fn new(state: Arc<State>, node: NodeName, node_dns: bool, locals: Arc<LocalPods>) -> Self {
        let input = InputMaker::new(node.clone(), node_dns);
        let (complaints, plan) = Default::default();
        Self { state, node, locals, input, complaints, plan }
    }

    /// What is wrong with policies.
    pub fn complaints(&self) -> watch::Receiver<Arc<BTreeSet<Complaint>>> {
        self.complaints.subscribe()
    }

    /// Runs [`Self::step`] whenever there is something new, again after errors, and for drift, until
    /// `cancel`. Blocks its thread.
    pub fn run(
        &mut self,
        runtime: &Handle,
        cancel: &CancellationToken,
        mut snapshots: Snapshots,
        mut programs: watch::Receiver<Option<Programs>>,
    ) {
        let mut fabric = self.state.fabric.subscribe();
        let mut links = self.locals.follow();
        let mut retry = RETRY_MIN;
        loop {
            let latest = snapshots.borrow_and_update().clone();
            links.mark_unchanged();
            fabric.mark_unchanged();
            let kernel = programs.borrow_and_update().as_ref().map(|p| p.policy.clone());
            let outcome = match (latest, kernel) {
                (Some(snapshot), Some(kernel)) => self.step(&kernel, &snapshot),
                // They come as changes.
                _ => Outcome::Applied,
            };
            let wait = match outcome {
                Outcome::Applied => DRIFT_INTERVAL,
                Outcome::Untidy => TIDY_INTERVAL,
                Outcome::Failed => retry,
            };
            retry = match outcome {
                Outcome::Failed => (retry * 2).min(DRIFT_INTERVAL),
                Outcome::Applied | Outcome::Untidy => RETRY_MIN,
            };
            let go_on = runtime.block_on(async {
                tokio::select! {
                    () = cancel.cancelled() => false,
                    changed = snapshots.changed() => changed.is_ok(),
                    changed = links.changed() => changed.is_ok(),
                    changed = fabric.changed() => changed.is_ok(),
                    Ok(()) = programs.changed() => true,
                    () = tokio::time::sleep(wait) => true,
                }
            });
            if !go_on {
                return;
            }
        }
    }

    /// Tidies up, plans, compares and applies.
    pub fn step<K: PolicyKernel>(&mut self, kernel: &K, snapshot: &Snapshot) -> Outcome {
        // The node's DNS addresses are the fabric's.
        let routers = self.state.fabric.borrow().as_ref().map(|f| f.routers.clone());
        let Some(routers) = routers else { return Outcome::Failed };
        let done = self.try_step(kernel, snapshot, &routers);
        let errors: Vec<String> = done.as_ref().err().map(|e| chain(e)).into_iter().collect();
        if !errors.is_empty()
            && let Some(plan) = &mut self.plan
        {
            // Nobody knows what the kernel has: what follows is written beside it.
            plan.fresh = true;
        }
        let (diagnostics, counts) = self.describe();
        let fine = errors.is_empty();
        self.state.record("policy", |stage| {
            stage.log_news("policy", &errors, &diagnostics);
            (stage.errors, stage.diagnostics, stage.counts) = (errors, diagnostics, counts);
            if fine {
                stage.generation = snapshot.generation.max(1);
            }
        });
        match (fine, &self.plan) {
            (false, _) => Outcome::Failed,
            (true, Some(plan)) if !lower::is_empty(&plan.leavings) || !plan.planner.settled() => {
                Outcome::Untidy
            }
            (true, _) => Outcome::Applied,
        }
    }

    fn try_step<K: PolicyKernel>(
        &mut self,
        kernel: &K,
        snapshot: &Snapshot,
        routers: &[IpAddr],
    ) -> Result<(), BpfError> {
        if self.plan.is_none() {
            self.plan = Some(Planned::adopt(kernel, &self.node)?);
        }
        let Some(plan) = &mut self.plan else { return Ok(()) };
        if plan.fresh {
            plan.begin_anew(kernel)?;
        } else {
            plan.tidy(kernel)?;
            if plan.verified.elapsed() >= DRIFT_INTERVAL && !plan.is_in(kernel)? {
                info!("the tables of policy were changed by somebody else; writing them anew");
                plan.begin_anew(kernel)?;
            }
        }
        self.locals.identify(snapshot, &self.node);
        let links = self.locals.follow().borrow().clone();
        let (input, changed) = self.input.make(snapshot, &links, routers);
        if !changed && !plan.fresh && plan.planner.settled() && plan.seen.same(&links) {
            return Ok(());
        }
        let transition = plan.planner.plan(input);
        let mut step = lower::step(&transition, &plan.tables);
        plan.leave(&transition);
        plan.tables.follow(&transition);
        let wanted = plan.wanted(&links, &self.input);
        let differs = |(link, pod): &(&u32, &PolicyPod)| plan.links.get(link) != Some(pod);
        step.pods = wanted.iter().filter(differs).map(|(_, pod)| *pod).collect();
        // Flows of a pod that had been judged are judged again; a new one has none.
        let judged = |pod: &PolicyPod| {
            plan.links.get(&pod.link).is_some_and(|before| before.state == PodState::Ready)
        };
        // Until it is done.
        let fresh = std::mem::replace(&mut plan.fresh, true);
        let matters = lower::matters(&step) || step.pods.iter().any(judged);
        if matters || fresh {
            plan.generation = kernel.apply(&step)?;
        } else if !step.pods.is_empty() {
            kernel.put_pods(&step.pods)?;
        }
        plan.fresh = false;
        if matters || !step.pods.is_empty() {
            let (pods, moves, sets) = (step.pods.len(), step.moves.len(), step.sets.len());
            info!(generation = plan.generation, pods, moves, sets, "policy applied");
        }
        (plan.links, plan.seen) = (wanted, links);
        self.publish(snapshot);
        Ok(())
    }

    fn publish(&self, snapshot: &Snapshot) {
        let Some(plan) = &self.plan else { return };
        let links = plan.seen.values().map(|l| {
            let pod = match &l.owner {
                Owner::Pod { id, .. } => Some(id.clone()),
                Owner::Nobody | Owner::Forgotten => None,
            };
            let ready = plan.links.get(&l.index).is_some_and(|p| p.state == PodState::Ready);
            (l.index, AppliedLink { name: l.name.clone(), ips: l.ips.clone(), pod, ready })
        });
        self.state.policy.send_replace(Some(Arc::new(AppliedPolicy {
            snapshot: snapshot.generation,
            generation: plan.generation,
            links: links.collect(),
            reasons: plan.planner.reasons(),
        })));
        let all = plan.planner.diagnostics().iter().flat_map(complaints).collect();
        self.complaints.send_if_modified(|now| {
            let news = **now != all;
            *now = Arc::new(all);
            news
        });
    }

    fn describe(&self) -> (Vec<String>, BTreeMap<&'static str, u64>) {
        let Some(plan) = &self.plan else { return Default::default() };
        let census = plan.planner.census();
        let unknown = plan.links.values().filter(|p| p.state == PodState::Unknown).count();
        let selected = |p: &&PolicyPod| p.epoch != 0;
        let counts = [
            ("links", plan.links.len() as u64),
            ("unknown", unknown as u64),
            ("selected", plan.links.values().filter(selected).count() as u64),
            ("sets", census.sets as u64),
            ("entries", census.entries as u64),
            ("prefixes", census.prefixes as u64),
            ("kernelGeneration", plan.generation.into()),
        ];
        let diagnostics = plan.planner.diagnostics().iter().map(ToString::to_string).collect();
        (diagnostics, counts.into())
    }
}

impl Planned {
    /// Goes on from what an earlier agent left: numbers that it used mean something until their
    /// tables are gone.
    fn adopt<K: PolicyKernel>(kernel: &K, node: &NodeName) -> Result<Self, BpfError> {
        let found = kernel.observe()?;
        let start = Start {
            epoch: next(found.epoch_max),
            set: next(found.set_max),
            reason: next(kernel.reason_max()?),
        };
        let (tables, others, links, leavings, seen) = Default::default();
        Ok(Self {
            planner: Planner::new(node.clone(), Limits::default(), start),
            tables,
            fresh: true,
            others,
            links,
            leavings,
            generation: 0,
            verified: Instant::now(),
            seen,
        })
    }

    /// The next plan is written beside all that is there.
    fn begin_anew<K: PolicyKernel>(&mut self, kernel: &K) -> Result<(), BpfError> {
        let found = kernel.observe()?;
        let ready = found.pods.iter().filter(|p| p.state == PodState::Ready);
        let (mut epochs, mut sets) = (BTreeSet::new(), BTreeSet::new());
        for pod in ready {
            epochs.insert(pod.epoch);
            let PolicyPod { ingress, egress, .. } = pod;
            sets.extend(
                [ingress.admin, ingress.rest, egress.admin, egress.rest].into_iter().flatten(),
            );
        }
        // What a step that failed has written, and no pod has come to: tries that go on failing
        // must not fill the maps with copies.
        let gone = PolicyRetire {
            epochs: found.epochs.iter().copied().filter(|e| !epochs.contains(e)).collect(),
            sets: found.sets.iter().copied().filter(|s| !sets.contains(s)).collect(),
            ..PolicyRetire::default()
        };
        if !lower::is_empty(&gone) {
            kernel.wait_for_readers();
            kernel.retire(&gone)?;
        }
        self.planner.restart();
        self.others = (epochs.into_iter().collect(), sets.into_iter().collect());
        self.tables = Mirror::default();
        self.leavings = PolicyRetire::default();
        self.links = found.pods.into_iter().map(|p| (p.link, p)).collect();
        (self.fresh, self.generation, self.verified) = (true, found.generation, Instant::now());
        Ok(())
    }

    /// What a transition will leave over.
    fn leave(&mut self, transition: &Transition) {
        self.leavings = lower::leavings(transition);
        if matches!(transition, Transition::Whole(_)) {
            let (mut epochs, mut sets) = std::mem::take(&mut self.others);
            if self.tables.epoch != 0 {
                epochs.push(self.tables.epoch);
            }
            sets.extend(self.tables.sets.keys());
            self.leavings = PolicyRetire { epochs, sets, ..PolicyRetire::default() };
        }
    }

    /// Removes what the last step left over, when no program can be looking at it.
    fn tidy<K: PolicyKernel>(&mut self, kernel: &K) -> Result<(), BpfError> {
        if lower::is_empty(&self.leavings) {
            return Ok(());
        }
        kernel.wait_for_readers();
        kernel.retire(&self.leavings)?;
        self.leavings = PolicyRetire::default();
        Ok(())
    }

    /// Whether the kernel has what was applied. Links that are not known here are being attached
    /// or detached.
    fn is_in<K: PolicyKernel>(&mut self, kernel: &K) -> Result<bool, BpfError> {
        self.verified = Instant::now();
        let found = kernel.observe()?;
        let pods: BTreeMap<u32, PolicyPod> = found.pods.into_iter().map(|p| (p.link, p)).collect();
        let census = self.planner.census();
        let epochs: &[u32] = if census.prefixes == 0 { &[] } else { &[self.tables.epoch] };
        Ok(found.generation == self.generation
            && found.epochs == epochs
            && self.tables.sets.keys().eq(&found.sets)
            && self.links.iter().all(|(link, pod)| pods.get(link) == Some(pod)))
    }

    /// What shall stand at the links.
    fn wanted(&self, links: &Links, input: &InputMaker) -> BTreeMap<u32, PolicyPod> {
        let epoch = self.tables.epoch;
        let of = |link: &LocalLink| match &link.owner {
            Owner::Pod { id, incarnation } => {
                let hooks = self.tables.pods.get(id);
                let hooks = hooks.filter(|_| input.is_known(id, *incarnation));
                hooks.map_or_else(
                    || PolicyPod::unknown(link.index),
                    |hooks| lower::ready(link.index, epoch, *hooks),
                )
            }
            Owner::Nobody => lower::ready(link.index, epoch, Default::default()),
            // It is some pod's, and nobody knows whose: no policy can be said not to select it.
            Owner::Forgotten => PolicyPod::unknown(link.index),
        };
        links.values().map(|l| (l.index, of(l))).collect()
    }
}

/// A number that nobody has had.
fn next(highest: u32) -> u32 {
    highest.checked_add(1).unwrap_or(1)
}

/// What to tell of a diagnostic, on the policies that it is about.
fn complaints(diagnostic: &Diagnostic) -> Vec<Complaint> {
    let (Diagnostic::TooLarge { policies, .. } | Diagnostic::TooManyPrefixes { policies, .. }) =
        diagnostic
    else {
        // Two pods with one address: one of them is leaving. Too many peers: no policy's fault.
        return Vec::new();
    };
    let of = |policy: &PolicyId| {
        let (kind, object) = match policy {
            PolicyId::Network(id) => (Kind::NetworkPolicy, id.clone()),
            PolicyId::Cluster { name, .. } => {
                (Kind::ClusterNetworkPolicy, NamespacedName::new("", name))
            }
        };
        let (field, message) = ("spec".to_owned(), diagnostic.to_string());
        Complaint { kind, object, reason: "TooLarge", field, message }
    };
    policies.iter().map(of).collect()
}
