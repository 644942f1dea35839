//! Events about bad objects: what is left out of the network, told where people look for it
//! (`kubectl describe`).
//!
//! Every agent sees the same objects and has the same complaints. An Event has a name made of
//! what it says, so that all of them, and all that come after a restart, mean one Event: the
//! first one makes it, the others find it there. It is counted again only where it is not
//! fresh. An agent says a complaint once, as long as it lasts, and no more than a few a second; one
//! that cannot be written waits for itself alone.
//!
//! Needs, beside the rights for the watches, `create`, `get` and `patch` on events (core/v1).

use crate::{Diagnostic, Kind, cluster_policy::ClusterNetworkPolicy};
use k8s_openapi::{
    api::{
        core::v1::{Event, EventSource, Node, ObjectReference, Pod, Service},
        discovery::v1::EndpointSlice,
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use weft_model::NamespacedName;

/// Name of the component in Events.
pub const COMPONENT: &str = "weft-agent";
/// An Event that was told so recently is not counted again: it is another agent's word about
/// the same, or this one's before a restart.
const FRESH: Duration = Duration::from_secs(300);
/// Events that are written at once.
const BURST: u32 = 10;
/// Then one in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// What could not be written is tried again after this, then after twice that, and so on.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// How long writing one may take.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest message of an Event in characters (the API's own limit).
const MESSAGE_MAX: usize = 1024;

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Kind of the object.
    pub kind: Kind,
    /// Its namespace and name.
    pub object: NamespacedName,
    /// One word for machines, e.g. `AddressConflict`.
    pub reason: &'static str,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it, and what was left out because of it.
    pub message: String,
}

impl From<&Diagnostic> for Complaint {
    fn from(d: &Diagnostic) -> Self {
        Self {
            kind: d.kind,
            object: d.object.clone(),
            reason: "InvalidField",
            field: d.field.clone(),
            message: d.message.clone(),
        }
    }
}

/// Tells the complaints that are current, for ever.
pub async fn report(
    client: Client,
    node: String,
    mut current: watch::Receiver<Arc<BTreeSet<Complaint>>>,
) {
    let mut ledger = Ledger::new(Instant::now());
    loop {
        let complaints = current.borrow_and_update().clone();
        let wait = match ledger.next(&complaints, Instant::now()) {
            Step::Say(complaint) => {
                let told = tell(&client, &node, &complaint, Timestamp::now());
                match tokio::time::timeout(TELL_TIMEOUT, told).await {
                    Ok(Ok(())) => ledger.said(complaint),
                    Ok(Err(error)) => {
                        tracing::debug!(object = %complaint.object, %error, "cannot write an Event");
                        ledger.failed(complaint, Instant::now());
                    }
                    Err(_) => {
                        tracing::debug!(object = %complaint.object, "an Event takes too long");
                        ledger.failed(complaint, Instant::now());
                    }
                }
                continue;
            }
            Step::Wait(time) => Some(time),
            Step::Idle => None,
        };
        let paused = async {
            match wait {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = current.changed() => if changed.is_err() { return },
            () = paused => {}
        }
    }
}

/// What was said, and when more may be.
struct Ledger {
    said: BTreeSet<Complaint>,
    /// What could not be written: when it is tried again, and after which pause.
    failed: BTreeMap<Complaint, (Instant, Duration)>,
    /// Events that may be written at once.
    tokens: u32,
    filled_at: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Say(Complaint),
    Wait(Duration),
    Idle,
}

impl Ledger {
    fn new(now: Instant) -> Self {
        Self { said: BTreeSet::new(), failed: BTreeMap::new(), tokens: BURST, filled_at: now }
    }

    /// What to do now. A complaint that has gone is forgotten, so that it is news when it comes
    /// back.
    fn next(&mut self, current: &BTreeSet<Complaint>, now: Instant) -> Step {
        self.said.retain(|c| current.contains(c));
        self.failed.retain(|c, _| current.contains(c));
        let due = |c: &&Complaint| self.failed.get(*c).is_none_or(|(at, _)| *at <= now);
        let Some(news) = current.iter().filter(|c| !self.said.contains(*c)).find(due) else {
            let next = self.failed.values().map(|(at, _)| at.saturating_duration_since(now)).min();
            return next.map_or(Step::Idle, Step::Wait);
        };
        let passed = now.saturating_duration_since(self.filled_at);
        let fresh = u32::try_from(passed.as_millis() / PAUSE.as_millis()).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(fresh) >= BURST {
            (self.tokens, self.filled_at) = (BURST, now);
        } else {
            self.tokens += fresh;
            self.filled_at += PAUSE * fresh;
        }
        if self.tokens == 0 {
            return Step::Wait(PAUSE.saturating_sub(now.saturating_duration_since(self.filled_at)));
        }
        self.tokens -= 1;
        Step::Say(news.clone())
    }

    fn said(&mut self, complaint: Complaint) {
        self.failed.remove(&complaint);
        self.said.insert(complaint);
    }

    /// It could not be written: others go first for a while.
    fn failed(&mut self, complaint: Complaint, now: Instant) {
        let before = self.failed.get(&complaint).map(|(_, pause)| *pause);
        let pause = before.map_or(RETRY_MIN, |pause| (pause * 2).min(RETRY_MAX));
        self.failed.insert(complaint, (now + pause, pause));
    }
}

/// Writes one Event, or finds that it is there.
async fn tell(
    client: &Client,
    node: &str,
    complaint: &Complaint,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let about = match subject(client, complaint).await {
        Ok(Some(about)) => about,
        Ok(None) => return Ok(()),
        Err(kube::Error::Api(status)) if is_final(&status) => {
            tracing::warn!(object = %complaint.object, error = %status, "it cannot be looked up");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    // Events about what has no namespace are in this one.
    let namespace = match &*complaint.object.namespace {
        "" => "default",
        namespace => namespace,
    };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let event = event(node, complaint, about, namespace, now);
    let name = event.metadata.name.clone().unwrap_or_default();
    match api.create(&PostParams::default(), &event).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
        // Not allowed, or the namespace is going away: trying again would not help.
        Err(kube::Error::Api(status)) if is_final(&status) => {
            tracing::warn!(object = %complaint.object, error = %status, "an Event is refused");
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let Some(known) = api.get_opt(&name).await? else { return Ok(()) };
    let told = known.last_timestamp.as_ref().map(|t| t.0);
    let age = told.and_then(|t| Duration::try_from(now.duration_since(t)).ok());
    if age.is_none_or(|age| age < FRESH) {
        return Ok(());
    }
    let body = json!({
        // Only one of several agents counts.
        "metadata": {"resourceVersion": known.metadata.resource_version},
        "count": known.count.unwrap_or(1).saturating_add(1),
        "lastTimestamp": Time(now),
    });
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&body)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether trying again would not help.
fn is_final(status: &kube::core::Status) -> bool {
    (400..500).contains(&status.code) && status.code != 429
}

/// The object, if it is still there: tools find Events by its UID, and the model keeps none.
async fn subject(
    client: &Client,
    complaint: &Complaint,
) -> Result<Option<ObjectReference>, kube::Error> {
    let NamespacedName { namespace, name } = &complaint.object;
    let (api_version, kind, uid) = match complaint.kind {
        Kind::Service => {
            let api = Api::<Service>::namespaced(client.clone(), namespace);
            ("v1", "Service", uid(&api, name).await?)
        }
        Kind::EndpointSlice => {
            let api = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
            ("discovery.k8s.io/v1", "EndpointSlice", uid(&api, name).await?)
        }
        Kind::Node => ("v1", "Node", uid(&Api::<Node>::all(client.clone()), name).await?),
        Kind::Pod => {
            let api = Api::<Pod>::namespaced(client.clone(), namespace);
            ("v1", "Pod", uid(&api, name).await?)
        }
        Kind::NetworkPolicy => {
            let api = Api::<NetworkPolicy>::namespaced(client.clone(), namespace);
            ("networking.k8s.io/v1", "NetworkPolicy", uid(&api, name).await?)
        }
        Kind::ClusterNetworkPolicy => {
            let api = Api::<ClusterNetworkPolicy>::all(client.clone());
            let version = <ClusterNetworkPolicy as k8s_openapi::Resource>::API_VERSION;
            (version, "ClusterNetworkPolicy", uid(&api, name).await?)
        }
        Kind::Namespace => return Ok(None),
    };
    Ok(uid.map(|uid| ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_string()),
        namespace: (!namespace.is_empty()).then(|| namespace.to_string()),
        uid: Some(uid),
        field_path: Some(complaint.field.clone()),
        ..ObjectReference::default()
    }))
}

/// By a list of one: the right to list is there anyway, for the watches.
async fn uid<K>(api: &Api<K>, name: &str) -> Result<Option<String>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = api.list_metadata(&only).await?;
    Ok(found.items.into_iter().next().and_then(|o| o.metadata.uid))
}

fn event(
    node: &str,
    complaint: &Complaint,
    about: ObjectReference,
    namespace: &str,
    now: Timestamp,
) -> Event {
    let uid = about.uid.clone().unwrap_or_default();
    let text = format!("{}: {}", complaint.field, complaint.message);
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(complaint, &uid)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: Some(complaint.reason.to_owned()),
        message: Some(text.chars().take(MESSAGE_MAX).collect()),
        type_: Some("Warning".to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

/// `<object>.<hash>`: the same for everybody who says the same about the same object. An
/// object's name has at most 253 characters, and so has an Event's: it is cut to 236, and with
/// `.` and 16 digits ends within the limit and with a digit.
fn event_name(complaint: &Complaint, uid: &str) -> String {
    // FNV-1a with the parts told apart.
    let parts = [uid, complaint.reason, &complaint.field, &complaint.message];
    let hash = parts.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, part| {
        part.bytes()
            .chain([0xff])
            .fold(hash, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
    });
    let name: String = complaint.object.name.chars().take(236).collect();
    format!("{}.{hash:016x}", name.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(n: usize) -> Complaint {
        Complaint {
            kind: Kind::Service,
            object: NamespacedName::new("shop", "web"),
            reason: "AddressConflict",
            field: "spec.externalIPs".to_owned(),
            message: format!("number {n}"),
        }
    }

    fn all(n: usize) -> BTreeSet<Complaint> {
        (0..n).map(complaint).collect()
    }

    #[test]
    fn news_are_told_once_and_not_too_fast() {
        let begin = Instant::now();
        let mut ledger = Ledger::new(begin);
        let mut told = 0;
        for second in 0..20u32 {
            let now = begin + Duration::from_secs(second.into());
            while let Step::Say(c) = ledger.next(&all(25), now) {
                ledger.said(c);
                told += 1;
            }
            let most = 10 + usize::try_from(second).expect("small");
            assert_eq!(told, most.min(25), "after {second} s");
        }
        assert_eq!(ledger.next(&all(25), begin), Step::Idle);
        // What has gone is news when it comes back.
        assert_eq!(ledger.next(&all(24), begin), Step::Idle);
        let later = begin + Duration::from_secs(600);
        assert_eq!(ledger.next(&all(25), later), Step::Say(complaint(24)));
    }

    #[test]
    fn what_cannot_be_written_holds_up_nobody_and_is_tried_again() {
        let begin = Instant::now();
        let mut ledger = Ledger::new(begin);
        assert_eq!(ledger.next(&all(3), begin), Step::Say(complaint(0)));
        ledger.failed(complaint(0), begin);
        for n in 1..3 {
            assert_eq!(ledger.next(&all(3), begin), Step::Say(complaint(n)));
            ledger.said(complaint(n));
        }
        assert_eq!(ledger.next(&all(3), begin), Step::Wait(RETRY_MIN));
        let second = begin + RETRY_MIN;
        assert_eq!(ledger.next(&all(3), second), Step::Say(complaint(0)));
        ledger.failed(complaint(0), second);
        assert_eq!(ledger.next(&all(3), second), Step::Wait(RETRY_MIN * 2));
        // What has gone is not waited for, and begins anew when it is back.
        assert_eq!(ledger.next(&BTreeSet::new(), second), Step::Idle);
        assert_eq!(ledger.next(&all(1), second), Step::Say(complaint(0)));
        ledger.said(complaint(0));
        assert_eq!(ledger.next(&all(1), second + RETRY_MAX), Step::Idle);
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut now = Instant::now();
        let mut ledger = Ledger::new(now);
        for _ in 0..20 {
            ledger.failed(complaint(0), now);
            now = ledger.failed[&complaint(0)].0;
        }
        ledger.failed(complaint(0), now);
        assert_eq!(ledger.next(&all(1), now), Step::Wait(RETRY_MAX));
    }

    #[test]
    fn names_are_the_same_for_the_same_and_valid() {
        let mut one = complaint(1);
        assert_eq!(event_name(&one, "u"), event_name(&one, "u"));
        let others = [event_name(&one, "v"), event_name(&complaint(2), "u"), event_name(&one, "u")];
        assert_eq!(others.iter().collect::<BTreeSet<_>>().len(), 3);
        one.object = NamespacedName::new("shop", &"a.b-".repeat(80)[..253]);
        let name = event_name(&one, "u");
        assert!(name.len() <= 253 && !name.contains("-."), "{name}");
    }
}
