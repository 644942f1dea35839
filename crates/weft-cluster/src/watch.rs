//! The watches: one for each kind of the table, and one of the metadata of each kind beside them
//! that discovery tells of, custom ones too.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource as _};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::kinds::{Change, Kind, Partial, Resource, WATCHED, for_each_kind};
use crate::run::Message;

/// First pause of a watch after an error; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What the watch of a kind that is not served any more has still to tell, it tells within this
/// time: most of all that its objects went before.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Discovery is asked this often, and whenever a CustomResourceDefinition changes.
const DISCOVER: Duration = Duration::from_secs(30);
/// And again after these pauses: an API serves a definition a moment after it has told of it.
const DISCOVER_AGAIN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// Spawns all of them.
pub(crate) fn spawn(client: &Client, sender: &mpsc::Sender<Message>, watches: &mut JoinSet<()>) {
    macro_rules! spawn {
        ($kind:ident) => {{
            let (client, sender) = (client.clone(), sender.clone());
            watches.spawn(async move {
                let events = watcher(Api::all(client), watcher::Config::default());
                watch(events, Kind::$kind, Change::$kind, None, sender).await;
            });
        }};
    }
    for_each_kind!(spawn);
    debug_assert_eq!(watches.len(), WATCHED.len());
    watches.spawn(others(client.clone(), sender.clone()));
}

/// How a watch ended.
enum End {
    /// With the queue.
    Queue,
    /// The kind is not served. Whether it was before.
    Absent(bool),
}

/// Passes on what one watch tells. Ends with the queue; of a kind that is not of the table also
/// when it is not served, since what comes then has to begin with a list.
async fn watch<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    kind: Kind,
    change: impl Fn(watcher::Event<K>) -> Change,
    changed: Option<Arc<Notify>>,
    sender: mpsc::Sender<Message>,
) -> End
where
    K: Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(events);
    let mut pause = PAUSE;
    let mut complained = false;
    let mut told = false;
    while let Some(event) = events.next().await {
        let message = match event {
            Ok(event) => {
                complained = false;
                told = true;
                pause = PAUSE;
                Some(change(event))
            }
            Err(
                watcher::Error::InitialListFailed(kube::Error::Api(status))
                | watcher::Error::WatchStartFailed(kube::Error::Api(status)),
            ) if matches!(status.code, 404 | 405) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(kind = kind.name(), "the API does not serve this kind");
                }
                Some(Change::Absent(kind))
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(kind = kind.name(), %error, "watch");
                }
                None
            }
        };
        let absent = matches!(&message, Some(Change::Absent(_)));
        let failed = absent || message.is_none();
        if let Some(message) = message
            && sender.send(Message::Change(Box::new(message))).await.is_err()
        {
            return End::Queue;
        }
        if let Some(changed) = &changed {
            changed.notify_one();
        }
        if absent && matches!(kind, Kind::Other(_)) {
            return End::Absent(told);
        }
        if failed {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    End::Queue
}

/// Watches the metadata of every kind that the table does not have, as they come and go.
async fn others(client: Client, sender: mpsc::Sender<Message>) {
    let changed = Arc::new(Notify::new());
    let mut running: BTreeMap<Kind, AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut told = false;
    let mut pause = PAUSE;
    let mut again = DISCOVER_AGAIN[..0].iter();
    loop {
        match other_kinds(&client).await {
            Ok(kinds) => {
                pause = PAUSE;
                let first = !std::mem::replace(&mut told, true);
                let new = kinds.iter().any(|kind| !running.contains_key(kind));
                let gone: Vec<Kind> =
                    running.keys().copied().filter(|kind| !kinds.contains(kind)).collect();
                if !gone.is_empty() {
                    tokio::time::sleep(LAST_WORDS).await;
                }
                for kind in &gone {
                    running.remove(kind).iter().for_each(AbortHandle::abort);
                }
                if (new || first || !gone.is_empty())
                    && tell(&sender, Change::Kinds(kinds.clone())).await.is_err()
                {
                    return;
                }
                for kind in kinds {
                    running.entry(kind).or_insert_with(|| {
                        tasks.spawn(metadata(client.clone(), kind, changed.clone(), sender.clone()))
                    });
                }
                // Ended watches: of kinds that are gone.
                while tasks.try_join_next().is_some() {}
                let wait = again.next().copied().unwrap_or(DISCOVER);
                if tokio::time::timeout(wait, changed.notified()).await.is_ok() {
                    again = DISCOVER_AGAIN.iter();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "discovery");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn tell(sender: &mpsc::Sender<Message>, change: Change) -> Result<(), ()> {
    sender.send(Message::Change(Box::new(change))).await.map_err(|_| ())
}

/// Watches the metadata of one kind, again and again where it is not served for a while.
async fn metadata(client: Client, kind: Kind, changed: Arc<Notify>, sender: mpsc::Sender<Message>) {
    let mut pause = PAUSE;
    while let End::Absent(told) =
        metadata_once(client.clone(), kind, changed.clone(), sender.clone()).await
    {
        if told {
            pause = PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One such watch. A change of a definition of custom kinds wakes discovery.
fn metadata_once(
    client: Client,
    kind: Kind,
    changed: Arc<Notify>,
    sender: mpsc::Sender<Message>,
) -> impl Future<Output = End> + Send {
    let (group, version) = kind.api_version().rsplit_once('/').unwrap_or(("", kind.api_version()));
    let named = GroupVersionKind::gvk(group, version, kind.name());
    let resource = ApiResource::from_gvk_with_plural(&named, kind.plural());
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
    let events = watcher(api, watcher::Config::default());
    let of = |object: PartialObjectMeta<DynamicObject>| Partial::of(object.meta().clone());
    let change = move |event| {
        let event = match event {
            watcher::Event::Init => watcher::Event::Init,
            watcher::Event::InitApply(object) => watcher::Event::InitApply(of(object)),
            watcher::Event::InitDone => watcher::Event::InitDone,
            watcher::Event::Apply(object) => watcher::Event::Apply(of(object)),
            watcher::Event::Delete(object) => watcher::Event::Delete(of(object)),
        };
        Change::Other(kind, event)
    };
    let definitions = kind.is("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    watch(events, kind, change, definitions.then_some(changed), sender)
}

/// The kinds that garbage collection has to know beside those of the table.
async fn other_kinds(client: &Client) -> Result<Vec<Kind>, kube::Error> {
    let found = discover(client).await?;
    let wanted = found.into_iter().filter(|one| {
        // Events have no owners, come in masses and go by themselves.
        one.resource.kind != "Event"
            && Kind::of(&one.resource.api_version, &one.resource.kind).is_none()
            && ["list", "watch", "delete"].into_iter().all(|verb| one.has(verb))
    });
    let mut kinds: Vec<Kind> = wanted.map(|one| one.resource.intern()).collect();
    kinds.sort();
    kinds.dedup();
    Ok(kinds)
}

/// One resource that the API serves.
pub(crate) struct Found {
    pub(crate) resource: Resource,
    verbs: Vec<String>,
}

impl Found {
    pub(crate) fn has(&self, verb: &str) -> bool {
        self.verbs.iter().any(|held| held == verb)
    }
}

/// Everything that the API serves, each group in its preferred version and what that lacks in
/// the others.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Found>, kube::Error> {
    let mut lists = vec![client.list_core_api_resources("v1").await?];
    for group in client.list_api_groups().await?.groups {
        let preferred = group.preferred_version.map(|version| version.group_version);
        let rest = group.versions.into_iter().map(|version| version.group_version);
        let mut versions: Vec<String> = preferred.into_iter().collect();
        for version in rest {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        for version in versions {
            match client.list_api_group_resources(&version).await {
                Ok(list) => lists.push(list),
                // Gone since the list of groups.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
    }
    let mut found: Vec<Found> = Vec::new();
    for list in lists {
        let group = list.group_version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        for one in list.resources {
            let same = |other: &Found| {
                let of = other.resource.api_version.rsplit_once('/').map_or("", |(of, _)| of);
                of == group && other.resource.plural == one.name
            };
            if one.name.contains('/') || found.iter().any(same) {
                continue;
            }
            let resource = Resource {
                api_version: list.group_version.clone(),
                kind: one.kind,
                plural: one.name,
                namespaced: one.namespaced,
            };
            found.push(Found { resource, verbs: one.verbs });
        }
    }
    Ok(found)
}
