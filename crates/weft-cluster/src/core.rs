//! The core of the controllers: changes and answers in, work out. No I/O, no clock, no tasks.
//!
//! Everything happens on one thread, so a planner sees one consistent world and nothing needs a
//! lock. A key has at most one round of work under way; what happens to it meanwhile makes it
//! due again afterwards.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::action::{About, Action, Plan, Severity, Verb};
use crate::config::Config;
use crate::key::{Controller, Key, concerned};
use crate::kinds::{Change, Delta, Kind, World};
use crate::scheduler::{self, Assumed};
use crate::store::Object;
use crate::{
    budget, cidr, cronjob, daemonset, deployment, endpoints, endpointslice, gc, job, mirror,
    namespace, nodelife, podgc, replicaset, statefulset, storage,
};

/// First pause after a write that lost a race; doubles up to [`PAUSE_MS_MAX`].
const CONFLICT_MS: i64 = 4;
/// First pause after a write that the API refused.
const REFUSED_MS: i64 = 100;
/// Longest pause: a person who repairs the cause sees the effect soon.
const PAUSE_MS_MAX: i64 = 30_000;

/// How the API answered one write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Done, with the object (or a Status) as the answer.
    Done(Value),
    /// The object is not there.
    NotFound,
    /// Another write came first, or an object of this name exists.
    Conflict,
    /// Refused or not reached.
    Failed(String),
}

/// Writes of one round of one key. They may run at the same time.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) key: Key,
    pub(crate) actions: Vec<Action>,
}

#[derive(Default)]
struct Running {
    pending: usize,
    dirty: bool,
    conflict: bool,
    failed: bool,
    /// Whether the owner was told that a pod could not be made: one of many refusals says it.
    explained: bool,
}

/// See the module's header.
pub(crate) struct Core {
    pub(crate) world: World,
    config: Config,
    due: BTreeSet<Key>,
    timers: BTreeSet<(Timestamp, Key)>,
    timer_of: HashMap<Key, Timestamp>,
    held: HashMap<Key, Timestamp>,
    failures: HashMap<Key, u32>,
    running: HashMap<Key, Running>,
    assumed: Assumed,
    /// Pods that wait for a node.
    pending: BTreeSet<Key>,
    /// Since when something is so that a planner waits for: a pod's node is missing, an owner is
    /// being deleted that has its dependents to see to.
    since: HashMap<Key, Timestamp>,
    /// What the planners of endpoints remember of a Service.
    memories: HashMap<Key, endpointslice::Memory>,
    /// What was last said of an object's owners.
    notices: HashMap<Key, String>,
    /// Why the last pod of a ReplicaSet could not be made.
    refusals: HashMap<Key, String>,
    /// How many pods the next round of a key may make, where more are missing.
    batches: HashMap<Key, usize>,
    side: Vec<Action>,
}

impl Core {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            world: World::default(),
            config,
            due: BTreeSet::new(),
            timers: BTreeSet::new(),
            timer_of: HashMap::new(),
            held: HashMap::new(),
            failures: HashMap::new(),
            running: HashMap::new(),
            assumed: Assumed::default(),
            pending: BTreeSet::new(),
            since: HashMap::new(),
            memories: HashMap::new(),
            notices: HashMap::new(),
            refusals: HashMap::new(),
            batches: HashMap::new(),
            side: Vec::new(),
        }
    }

    /// The first moment that everything is known in: what is done once.
    pub(crate) fn begin(&mut self) {
        self.due.insert(Key::new(Controller::StandardClass, Kind::StorageClass, "", ""));
    }

    /// One step of one watch.
    pub(crate) fn handle_change(&mut self, change: Change) {
        let (before, kinds) = (self.world.others_synced(), self.world.others_count());
        for delta in self.world.ingest(change) {
            self.note(&delta);
        }
        // Until now some owners and dependents were not known; or some are not any more, and
        // nobody waits for those.
        let lost = self.world.others_count() < kinds;
        if (!before || lost) && self.world.others_synced() {
            let bound = self.world.bound();
            self.due.extend(bound.into_iter().map(|(kind, meta)| {
                let namespace = meta.namespace.as_deref().unwrap_or_default();
                let name = meta.name.as_deref().unwrap_or_default();
                Key::new(Controller::Garbage, kind, namespace, name)
            }));
        }
    }

    /// The answer to one write of the round of `key`.
    pub(crate) fn handle_answer(
        &mut self,
        key: &Key,
        action: &Action,
        outcome: Outcome,
        now: Timestamp,
    ) {
        // Events are nobody's condition: a lost one is no failure of the round.
        if action.is_event() {
            return;
        }
        let (mut conflict, mut failed) = (false, false);
        match outcome {
            Outcome::Done(answer) => {
                self.tell_owner(key, action, &answer, now);
                let deltas = if answer["kind"] == action.kind.name() {
                    self.world.absorb(action.kind, answer)
                } else if let Some(uid) = action.deleted_uid() {
                    self.forget(action, uid)
                } else {
                    Vec::new()
                };
                deltas.iter().for_each(|delta| self.note(delta));
            }
            Outcome::NotFound if action.deleted_uid().is_some() => {
                // With a uid as its condition: that very object is gone.
                let uid = action.deleted_uid().unwrap_or_default();
                self.forget(action, uid).iter().for_each(|delta| self.note(delta));
            }
            Outcome::NotFound | Outcome::Conflict => conflict = true,
            Outcome::Failed(reason) => {
                failed = true;
                tracing::debug!(?key, kind = action.kind.name(), name = action.name, reason);
                self.explain_failure(key, action, &reason, now);
            }
        }
        if matches!(action.verb, Verb::CreateSub("binding", _)) && (conflict || failed) {
            self.assumed.release(&action.namespace, &action.name);
        }
        if self.world.metadata(key.kind, &key.namespace, &key.name).is_none() {
            self.refusals.remove(key);
        }
        let Some(running) = self.running.get_mut(key) else { return };
        running.pending = running.pending.saturating_sub(1);
        running.conflict |= conflict;
        running.failed |= failed;
        if running.pending == 0 {
            self.finish(key, now);
        }
    }

    /// Work that is due. Nothing before every first list is complete.
    pub(crate) fn poll(&mut self, now: Timestamp) -> Vec<Work> {
        if !self.world.synced() {
            return Vec::new();
        }
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.timers.pop_first() {
                self.timer_of.remove(&key);
                self.due.insert(key);
            }
        }
        let mut works = Vec::new();
        let mut round = scheduler::Round::default();
        for key in std::mem::take(&mut self.due) {
            if let Some(running) = self.running.get_mut(&key) {
                running.dirty = true;
                continue;
            }
            if let Some(until) = self.held.get(&key).copied() {
                if until > now {
                    self.set_timer(key, until);
                    continue;
                }
                self.held.remove(&key);
            }
            let Some(mut plan) = self.plan_or_hold(&key, &mut round, now) else { continue };
            // Nothing new in a namespace that ends; the API would refuse it.
            plan.actions.retain(|action| {
                !matches!(action.verb, Verb::Create(_))
                    || self
                        .world
                        .namespaces
                        .get("", &action.namespace)
                        .is_none_or(|of| !of.deleting())
            });
            if let Some(at) = plan.again_at {
                self.set_timer(key.clone(), at);
            }
            self.start_slowly(&key, &mut plan);
            let pending = plan.actions.iter().filter(|action| !action.is_event()).count();
            if pending > 0 {
                self.running.insert(key.clone(), Running { pending, ..Running::default() });
            } else {
                self.failures.remove(&key);
            }
            if !plan.actions.is_empty() {
                works.push(Work { key, actions: plan.actions });
            }
        }
        if !self.side.is_empty() {
            let key = Key::new(Controller::Garbage, Kind::Event, "", "");
            works.push(Work { key, actions: std::mem::take(&mut self.side) });
        }
        works
    }

    /// When [`Core::poll`] wants to be called although nothing happens.
    pub(crate) fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether nothing is due or under way (timers aside).
    #[cfg(test)]
    pub(crate) fn idle(&self) -> bool {
        self.due.is_empty() && self.running.is_empty()
    }

    /// A planner that panics is a bug, but one of one object: it must not stop the others, also
    /// because the object that brought it about is stored and would do so after every start.
    fn plan_or_hold(
        &mut self,
        key: &Key,
        round: &mut scheduler::Round,
        now: Timestamp,
    ) -> Option<Plan> {
        // Planners only read the world; what they do change is put right below.
        let planned = catch_unwind(AssertUnwindSafe(|| self.plan(key, round, now)));
        let panic = match planned {
            Ok(plan) => return Some(plan),
            Err(panic) => panic,
        };
        let reason = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        tracing::error!(
            controller = ?key.controller, kind = key.kind.name(), namespace = key.namespace,
            name = key.name, reason, "a planner panicked; this object waits, the others go on"
        );
        *round = scheduler::Round::default();
        if key.controller == Controller::Scheduler {
            self.assumed.release(&key.namespace, &key.name);
        }
        self.hold(key, REFUSED_MS, now);
        None
    }

    fn plan(&mut self, key: &Key, round: &mut scheduler::Round, now: Timestamp) -> Plan {
        let (world, config) = (&self.world, &self.config);
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        #[cfg(test)]
        assert_ne!(name, crate::tests::POISON, "a planner with a bug");
        match key.controller {
            Controller::Namespace => namespace::plan(world, config, name, now),
            Controller::NodeCidr => cidr::plan(world, config, now),
            Controller::NodeLife => nodelife::plan(world, config, name, now),
            Controller::Deployment => deployment::plan(world, namespace, name, now),
            Controller::CronJob => cronjob::plan(world, namespace, name, now),
            Controller::Budget => budget::plan(world, namespace, name, now),
            Controller::ReplicaSet | Controller::Replication => {
                let refusal = self.refusals.get(key).map(String::as_str);
                let plan = replicaset::plan(world, (key.kind, namespace, name), refusal, now);
                if !plan.actions.iter().any(|one| matches!(one.verb, Verb::Create(_))) {
                    self.refusals.remove(key);
                }
                plan
            }
            Controller::StatefulSet => statefulset::plan(world, namespace, name, now),
            Controller::DaemonSet => daemonset::plan(world, namespace, name, now),
            Controller::Job => job::plan(world, namespace, name, now),
            Controller::Scheduler => {
                let plan = scheduler::plan(world, &mut self.assumed, round, namespace, name, now);
                let waits = world.pods.get(namespace, name).is_some_and(|pod| {
                    scheduler::is_ours(pod) && self.assumed.node(namespace, name).is_none()
                });
                if waits {
                    self.pending.insert(key.clone());
                } else {
                    self.pending.remove(key);
                }
                plan
            }
            Controller::EndpointSlice | Controller::Endpoints | Controller::Mirror => {
                let memory = self.memories.entry(key.clone()).or_default();
                let of = (namespace, name);
                let plan = match key.controller {
                    Controller::EndpointSlice => {
                        endpointslice::plan(world, config, memory, of, now)
                    }
                    Controller::Endpoints => endpoints::plan(world, memory, of),
                    _ => mirror::plan(world, memory, of, now),
                };
                if memory.is_empty() {
                    self.memories.remove(key);
                }
                plan
            }
            Controller::Garbage => {
                let since = match gc::ends(world, key.kind, namespace, name) {
                    true => *self.since.entry(key.clone()).or_insert(now),
                    false => {
                        self.since.remove(key);
                        now
                    }
                };
                let of = (key.kind, namespace, name);
                tell_once(&mut self.notices, key, gc::plan(world, of, since, now))
            }
            Controller::Claim => {
                tell_once(&mut self.notices, key, storage::bind(world, namespace, name, now))
            }
            Controller::Volume => {
                tell_once(&mut self.notices, key, storage::keep(world, name, now))
            }
            Controller::StandardClass => storage::standard(world),
            Controller::PodGarbage => {
                let since = match podgc::missing_node(world, namespace, name) {
                    Some(_) => *self.since.entry(key.clone()).or_insert(now),
                    None => {
                        self.since.remove(key);
                        now
                    }
                };
                podgc::plan(world, config, since, namespace, name, now)
            }
        }
    }

    fn forget(&mut self, action: &Action, uid: &str) -> Vec<Delta> {
        let gone = self.world.forget(action.kind, &action.namespace, &action.name, Some(uid));
        gone.into_iter().collect()
    }

    fn note(&mut self, delta: &Delta) {
        match delta {
            Delta::Pod(old, new) => {
                let bound = new.as_ref().is_none_or(|pod| crate::pods::node(pod).is_some());
                if bound && let Some(pod) = new.as_ref().or(old.as_ref()) {
                    self.assumed.release(pod.namespace(), pod.name());
                }
                // Room may have come free.
                let freed = old.as_ref().is_some_and(|pod| {
                    crate::pods::node(pod).is_some() && !crate::pods::finished(pod)
                }) && new.as_ref().is_none_or(|pod| crate::pods::finished(pod));
                // An affinity may be satisfied now.
                let placed =
                    bound && old.as_ref().is_none_or(|pod| crate::pods::node(pod).is_none());
                if freed || placed {
                    self.due.extend(self.pending.iter().cloned());
                }
            }
            // What pods wait for may be bound.
            Delta::PersistentVolumeClaim(..) => self.due.extend(self.pending.iter().cloned()),
            Delta::Node(old, new) if !scheduler::same_to_us(old.as_ref(), new.as_ref()) => {
                self.due.extend(self.pending.iter().cloned());
            }
            _ => {}
        }
        self.due.extend(concerned(&self.world, delta));
    }

    fn finish(&mut self, key: &Key, now: Timestamp) {
        let Some(running) = self.running.remove(key) else { return };
        if running.failed || running.conflict {
            self.batches.remove(key);
            self.hold(key, if running.failed { REFUSED_MS } else { CONFLICT_MS }, now);
        } else {
            self.failures.remove(key);
            // Always look again: the answers changed the world.
            self.due.insert(key.clone());
        }
        if running.dirty {
            self.due.insert(key.clone());
        }
    }

    /// One pod first, then twice as many in each round that succeeds: where the API refuses them
    /// (a quota, a policy), it is not asked hundreds of times.
    fn start_slowly(&mut self, key: &Key, plan: &mut Plan) {
        let most = self.batches.remove(key).unwrap_or(1);
        let mut made = 0usize;
        plan.actions.retain(|action| {
            let makes = action.kind == Kind::Pod && matches!(action.verb, Verb::Create(_));
            made += usize::from(makes);
            !makes || made <= most
        });
        if made > most {
            self.batches.insert(key.clone(), most.saturating_mul(2));
        }
    }

    /// Leaves a key alone for a while, longer each time in a row.
    fn hold(&mut self, key: &Key, first_ms: i64, now: Timestamp) {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = (first_ms << (*failures).min(16)).min(PAUSE_MS_MAX);
        *failures = failures.saturating_add(1);
        let pause = SignedDuration::from_millis(pause);
        let until = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        self.held.insert(key.clone(), until);
        self.set_timer(key.clone(), until);
    }

    fn set_timer(&mut self, key: Key, at: Timestamp) {
        if let Some(before) = self.timer_of.get(&key).copied() {
            if before <= at {
                return;
            }
            self.timers.remove(&(before, key.clone()));
        }
        self.timer_of.insert(key.clone(), at);
        self.timers.insert((at, key));
    }

    /// A pod (or a CronJob's Job) that was made or deleted is the owner's news, as
    /// `kubectl describe` shows it. Its name is known from the answer only.
    fn tell_owner(&mut self, key: &Key, action: &Action, answer: &Value, now: Timestamp) {
        let component = match (key.controller, action.kind) {
            (Controller::ReplicaSet, Kind::Pod) => "replicaset-controller",
            (Controller::DaemonSet, Kind::Pod) => "daemonset-controller",
            (Controller::Job, Kind::Pod) => "job-controller",
            (Controller::Replication, Kind::Pod) => "replication-controller",
            (Controller::StatefulSet, Kind::Pod) => "statefulset-controller",
            (Controller::StatefulSet, Kind::PersistentVolumeClaim) => "statefulset-controller",
            (Controller::CronJob, Kind::Job) => "cronjob-controller",
            _ => return,
        };
        let (reason, verb, done, name) = match &action.verb {
            Verb::Create(_) => {
                self.refusals.remove(key);
                let name = answer["metadata"]["name"].as_str().unwrap_or_default();
                ("SuccessfulCreate", "create", "Created", name)
            }
            Verb::Delete(_) => ("SuccessfulDelete", "delete", "Deleted", action.name.as_str()),
            _ => return,
        };
        let message = match key.controller {
            Controller::StatefulSet if action.kind == Kind::PersistentVolumeClaim => {
                // Its name is <template>-<pod>, the pod's <set>-<number>.
                let pod = name.rfind(&format!("-{}-", key.name)).map_or(name, |at| &name[at + 1..]);
                format!("{verb} Claim {name} Pod {pod} in StatefulSet {} success", key.name)
            }
            Controller::StatefulSet => {
                format!("{verb} Pod {name} in StatefulSet {} successful", key.name)
            }
            Controller::CronJob => format!("{done} job {name}"),
            _ => format!("{done} pod: {name}"),
        };
        if let Some(meta) = self.world.metadata(key.kind, &key.namespace, &key.name) {
            let about = About { kind: key.kind, meta, component, now };
            self.side.push(Action::event(&about, Severity::Normal, reason, &message));
        }
    }

    /// A pod that cannot be created is the owner's news.
    fn explain_failure(&mut self, key: &Key, action: &Action, reason: &str, now: Timestamp) {
        let Verb::Create(body) = &action.verb else { return };
        if action.kind == Kind::PersistentVolumeClaim {
            let message = format!("create Claim {} failed error: {reason}", action.name);
            return self.tell_failure(key, (key.kind, &key.namespace, &key.name), &message, now);
        }
        if action.kind != Kind::Pod {
            return;
        }
        if key.controller == Controller::ReplicaSet {
            self.refusals.insert(key.clone(), reason.to_owned());
        }
        let Some(owner) =
            body["metadata"]["ownerReferences"].as_array().and_then(|all| all.first())
        else {
            return;
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let Some(kind) = Kind::of(&text(&owner["apiVersion"]), &text(&owner["kind"])) else {
            return;
        };
        let of = (kind, action.namespace.as_str(), text(&owner["name"]));
        let message = format!("Error creating: {reason}");
        self.tell_failure(key, (of.0, of.1, &of.2), &message, now);
    }

    /// Tells an owner that something could not be made, once a round.
    fn tell_failure(
        &mut self,
        key: &Key,
        (kind, namespace, name): (Kind, &str, &str),
        message: &str,
        now: Timestamp,
    ) {
        let Some(meta) = self.world.metadata(kind, namespace, name) else { return };
        if let Some(running) = self.running.get_mut(key)
            && std::mem::replace(&mut running.explained, true)
        {
            return;
        }
        let about = About { kind, meta, component: "weft-cluster", now };
        self.side.push(Action::event(&about, Severity::Warning, "FailedCreate", message));
    }
}

/// An object that stays as it is says so once.
fn tell_once(
    notices: &mut HashMap<Key, String>,
    key: &Key,
    (mut plan, notice): (Plan, Option<String>),
) -> Plan {
    if notices.get(key) == notice.as_ref() {
        plan.actions.retain(|action| !action.is_event());
    }
    match notice {
        Some(notice) => notices.insert(key.clone(), notice),
        None => notices.remove(key),
    };
    plan
}
