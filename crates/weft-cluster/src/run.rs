//! The thin edge: watches and writes. All decisions are in [`crate::core`].

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::Request;
use jiff::Timestamp;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::action::{Action, Verb};
use crate::config::Config;
use crate::core::{Core, Outcome};
use crate::error::Error;
use crate::key::Key;
use crate::kinds::{Change, Kind, WATCHED, for_each_kind};

/// Changes and answers that wait for the core. Answers must not overtake changes (see
/// [`crate::store`]), so both take this one queue.
const QUEUE_MAX: usize = 4096;
/// Messages taken in before the planners run: coalesces a burst, bounds the delay.
const BATCH_MAX: usize = 1024;
/// A write that takes longer than this has failed; the watch tells what became of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// First pause of a watch after an error; doubles up to [`WATCH_PAUSE_MAX`].
const WATCH_PAUSE: Duration = Duration::from_millis(20);
const WATCH_PAUSE_MAX: Duration = Duration::from_secs(5);

enum Message {
    Change(Box<Change>),
    Answer { key: Key, action: Box<Action>, outcome: Outcome },
}

/// Runs every controller until `cancel` fires. Waits for an API that is not there yet.
pub async fn run(client: Client, config: Config, cancel: CancellationToken) -> Result<(), Error> {
    crate::cidr::check(&config)?;
    let requests = Arc::new(Semaphore::new(config.requests_max.max(1)));
    let (sender, mut receiver) = mpsc::channel(QUEUE_MAX);
    let mut watches = JoinSet::new();
    spawn_watches(&client, &sender, &mut watches);
    let mut writes: JoinSet<()> = JoinSet::new();
    let mut core = Core::new(config);
    let mut synced = false;
    loop {
        let timer = sleep_until(core.next_timer());
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            Some(ended) = watches.join_next() => {
                propagate(ended);
                return Err(Error::Ended { task: "watch" });
            }
            Some(ended) = writes.join_next(), if !writes.is_empty() => propagate(ended),
            message = receiver.recv() => {
                let mut next = message;
                let mut taken = 0;
                while let Some(message) = next {
                    handle(&mut core, message);
                    taken += 1;
                    next = if taken < BATCH_MAX { receiver.try_recv().ok() } else { None };
                }
            }
            () = timer => {}
        }
        for work in core.poll(Timestamp::now()) {
            for action in work.actions {
                let (client, sender) = (client.clone(), sender.clone());
                let (requests, key) = (requests.clone(), work.key.clone());
                writes.spawn(async move {
                    let Ok(_permit) = requests.acquire_owned().await else { return };
                    let outcome = execute(&client, &action).await;
                    if !action.is_event() {
                        let message = Message::Answer { key, action: Box::new(action), outcome };
                        // A closed queue means that the controllers are stopping.
                        let _ = sender.send(message).await;
                    }
                });
            }
        }
        if !synced && core.world.synced() {
            synced = true;
            tracing::info!("every first list is complete, the controllers act");
        } else if !synced {
            tracing::trace!(missing = ?core.world.missing());
        }
    }
}

fn handle(core: &mut Core, message: Message) {
    match message {
        Message::Change(change) => core.handle_change(*change),
        Message::Answer { key, action, outcome } => {
            core.handle_answer(&key, &action, outcome, Timestamp::now());
        }
    }
}

/// A panic of a task ends the process that runs the controllers, not silently one of them.
fn propagate(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn sleep_until(at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    let left = at.duration_since(Timestamp::now());
    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
}

fn spawn_watches(client: &Client, sender: &mpsc::Sender<Message>, watches: &mut JoinSet<()>) {
    macro_rules! spawn {
        ($kind:ident) => {{
            let (client, sender) = (client.clone(), sender.clone());
            watches.spawn(async move {
                watch(client, Kind::$kind, Change::$kind, sender).await;
            });
        }};
    }
    for_each_kind!(spawn);
    debug_assert_eq!(watches.len(), WATCHED.len());
}

async fn watch<K>(
    client: Client,
    kind: Kind,
    change: fn(watcher::Event<K>) -> Change,
    sender: mpsc::Sender<Message>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher(Api::<K>::all(client), watcher::Config::default());
    let mut events = std::pin::pin!(events);
    let mut pause = WATCH_PAUSE;
    let mut complained = false;
    while let Some(event) = events.next().await {
        let message = match event {
            Ok(event) => {
                complained = false;
                pause = WATCH_PAUSE;
                Some(change(event))
            }
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
                if status.code == 404 =>
            {
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
        let failed = !matches!(&message, Some(change) if !matches!(change, Change::Absent(_)));
        if let Some(message) = message
            && sender.send(Message::Change(Box::new(message))).await.is_err()
        {
            return;
        }
        if failed {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(WATCH_PAUSE_MAX);
        }
    }
}

async fn execute(client: &Client, action: &Action) -> Outcome {
    match &action.verb {
        Verb::Sweep => match sweep(client, &action.name).await {
            Ok(true) => Outcome::Done(Value::Null),
            Ok(false) => Outcome::Conflict,
            Err(error) => Outcome::Failed(error.to_string()),
        },
        Verb::DeleteOrphan { missing, delete } => {
            for owner in missing {
                let Some(kind) = Kind::of(&owner.api_version, &owner.kind) else {
                    return Outcome::Conflict;
                };
                let uri = format!("{}/{}", path(kind, &action.namespace), owner.name);
                match call(client, "GET", uri, "application/json", None).await {
                    Outcome::NotFound => {}
                    Outcome::Done(held) if held["metadata"]["uid"] != owner.uid => {}
                    Outcome::Done(_) => return Outcome::Conflict,
                    other => return other,
                }
            }
            let verb = Verb::Delete(delete.clone());
            let delete = Action { verb, ..action.clone() };
            write(client, &delete).await
        }
        _ => write(client, action).await,
    }
}

/// Deletes everything that a namespace holds, of every kind the API serves, and gives up the
/// namespace's finalizer once nothing is left. Says whether it did.
async fn sweep(client: &Client, namespace: &str) -> Result<bool, kube::Error> {
    let mut left = 0;
    for (version, plural, verbs) in namespaced_kinds(client).await? {
        let root = if version.contains('/') { "/apis" } else { "/api" };
        let uri = format!("{root}/{version}/namespaces/{namespace}/{plural}");
        let has = |verb: &str| verbs.iter().any(|held| held == verb);
        if !has("list") || !(has("delete") || has("deletecollection")) {
            continue;
        }
        let list = get(client, &uri).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        left += items.len();
        for item in &items {
            if item["metadata"]["deletionTimestamp"].is_null() {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                let uri = format!("{uri}/{name}");
                if let Outcome::Done(answer) =
                    call(client, "DELETE", uri, "application/json", None).await
                    && answer["metadata"]["deletionTimestamp"].is_null()
                {
                    left -= 1;
                }
            }
        }
    }
    if left > 0 {
        return Ok(false);
    }
    let uri = format!("/api/v1/namespaces/{namespace}");
    let mut held = match call(client, "GET", uri.clone(), "application/json", None).await {
        Outcome::Done(held) => held,
        Outcome::NotFound => return Ok(true),
        _ => return Ok(false),
    };
    if let Some(finalizers) = held["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|one| one != "kubernetes");
    }
    let uri = format!("{uri}/finalize");
    let outcome = call(client, "PUT", uri, "application/json", Some(held)).await;
    Ok(matches!(outcome, Outcome::Done(_) | Outcome::NotFound))
}

/// Version, plural and verbs of every namespaced kind the API serves.
async fn namespaced_kinds(
    client: &Client,
) -> Result<Vec<(String, String, Vec<String>)>, kube::Error> {
    let mut lists = vec![client.list_core_api_resources("v1").await?];
    for group in client.list_api_groups().await?.groups {
        if let Some(version) = group.preferred_version.or(group.versions.into_iter().next()) {
            lists.push(client.list_api_group_resources(&version.group_version).await?);
        }
    }
    let mut kinds = Vec::new();
    for list in lists {
        for resource in list.resources {
            if resource.namespaced && !resource.name.contains('/') {
                kinds.push((list.group_version.clone(), resource.name, resource.verbs));
            }
        }
    }
    Ok(kinds)
}

async fn get(client: &Client, uri: &str) -> Result<Value, kube::Error> {
    let request = Request::get(uri).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

async fn write(client: &Client, action: &Action) -> Outcome {
    let (method, uri, content, body) = request(action);
    call(client, method, uri, content, Some(body)).await
}

async fn call(
    client: &Client,
    method: &str,
    uri: String,
    content: &str,
    body: Option<Value>,
) -> Outcome {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request =
        Request::builder().method(method).uri(uri).header("content-type", content).body(body);
    let request = match request {
        Ok(request) => request,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, client.request::<Value>(request)).await {
        Err(_) => Outcome::Failed("the API did not answer in time".into()),
        Ok(Ok(answer)) => Outcome::Done(answer),
        Ok(Err(kube::Error::Api(status))) => match status.code {
            404 => Outcome::NotFound,
            409 => Outcome::Conflict,
            _ => Outcome::Failed(status.message.clone()),
        },
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
    }
}

/// Method, path, content type and body of a plain write.
fn request(action: &Action) -> (&'static str, String, &'static str, Value) {
    const JSON: &str = "application/json";
    let base = path(action.kind, &action.namespace);
    let named = |sub: Option<&str>| match sub {
        Some(sub) => format!("{base}/{}/{sub}", action.name),
        None => format!("{base}/{}", action.name),
    };
    match &action.verb {
        Verb::Create(body) => ("POST", base.clone(), JSON, body.clone()),
        Verb::CreateSub(sub, body) => ("POST", named(Some(sub)), JSON, body.clone()),
        Verb::Replace(sub, body) => ("PUT", named(*sub), JSON, body.clone()),
        Verb::Merge(sub, body) => {
            ("PATCH", named(*sub), "application/merge-patch+json", body.clone())
        }
        Verb::Strategic(sub, body) => {
            ("PATCH", named(*sub), "application/strategic-merge-patch+json", body.clone())
        }
        Verb::Delete(delete) | Verb::DeleteOrphan { delete, .. } => {
            let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
            if let Some(uid) = &delete.uid {
                body["preconditions"] = json!({"uid": uid});
            }
            if let Some(grace) = delete.grace_seconds {
                body["gracePeriodSeconds"] = grace.into();
            }
            if let Some(propagation) = delete.propagation {
                body["propagationPolicy"] = propagation.into();
            }
            ("DELETE", named(None), JSON, body)
        }
        Verb::Sweep => ("GET", named(None), JSON, Value::Null),
    }
}

/// The path of a kind's collection.
fn path(kind: Kind, namespace: &str) -> String {
    let version = kind.api_version();
    let root = if version.contains('/') { "/apis" } else { "/api" };
    match kind.namespaced() {
        true => format!("{root}/{version}/namespaces/{namespace}/{}", kind.plural()),
        false => format!("{root}/{version}/{}", kind.plural()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(path(Kind::Pod, "ns"), "/api/v1/namespaces/ns/pods");
        assert_eq!(path(Kind::Deployment, "ns"), "/apis/apps/v1/namespaces/ns/deployments");
        assert_eq!(path(Kind::Node, ""), "/api/v1/nodes");
        let meta = crate::kinds::Meta {
            name: Some("a".into()),
            uid: Some("u".into()),
            ..Default::default()
        };
        let (method, uri, _, body) = request(&Action::delete(Kind::Node, &meta));
        assert_eq!((method, uri.as_str()), ("DELETE", "/api/v1/nodes/a"));
        assert_eq!(body["preconditions"]["uid"], "u");
    }
}
