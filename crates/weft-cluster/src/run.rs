//! The thin edge: watches and writes. All decisions are in [`crate::core`].

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use kube::Client;
use kube::core::Status;
use kube::core::response::StatusDetails;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::action::{Action, Verb};
use crate::config::Config;
use crate::core::{Core, Outcome};
use crate::error::Error;
use crate::key::{Controller, Key};
use crate::kinds::{Change, Kind};
use crate::watch::discover;

/// Changes and answers that wait for the core. Answers must not overtake changes (see
/// [`crate::store`]), so both take this one queue.
const QUEUE_MAX: usize = 4096;
/// Messages taken in before the planners run: coalesces a burst, bounds the delay.
const BATCH_MAX: usize = 1024;
/// A write that takes longer than this has failed; the watch tells what became of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) enum Message {
    Change(Box<Change>),
    Answer { key: Key, action: Box<Action>, outcome: Outcome },
}

/// Runs every controller until `cancel` fires. Waits for an API that is not there yet.
pub async fn run(client: Client, config: Config, cancel: CancellationToken) -> Result<(), Error> {
    crate::cidr::check(&config)?;
    let requests = Arc::new(Semaphore::new(config.requests_max.max(1)));
    let (sender, mut receiver) = mpsc::channel(QUEUE_MAX);
    let mut watches = JoinSet::new();
    crate::watch::spawn(&client, &sender, &mut watches);
    let mut writes: JoinSet<()> = JoinSet::new();
    let mut core = Core::new(config);
    let mut synced = false;
    loop {
        let timer = sleep_until(core.next_timer());
        tokio::select! {
            // First: a runtime that ends may end the watches before this.
            biased;
            () = cancel.cancelled() => return Ok(()),
            Some(ended) = watches.join_next() => {
                if ended.as_ref().is_err_and(JoinError::is_cancelled) {
                    // Nobody cancels a watch but the runtime at its own end.
                    return Ok(());
                }
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
        if !synced && core.world.synced() {
            synced = true;
            core.begin();
            tracing::info!("every first list is complete, the controllers act");
        } else if !synced {
            tracing::trace!(missing = ?core.world.missing());
        }
        for work in core.poll(Timestamp::now()) {
            for action in work.actions {
                let (client, sender) = (client.clone(), sender.clone());
                let (requests, key) = (requests.clone(), work.key.clone());
                writes.spawn(async move {
                    let Ok(_permit) = requests.acquire_owned().await else { return };
                    let caller = Caller { client: &client, agent: agent(&key) };
                    let outcome = execute(&caller, &action).await;
                    if !action.is_event() {
                        let message = Message::Answer { key, action: Box::new(action), outcome };
                        // A closed queue means that the controllers are stopping.
                        let _ = sender.send(message).await;
                    }
                });
            }
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
fn propagate(ended: Result<(), JoinError>) {
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

/// Who asks, and with what.
struct Caller<'a> {
    client: &'a Client,
    agent: &'static str,
}

/// The program that does this in Kubernetes, as it calls itself: what is before the slash becomes
/// the manager of the fields that it writes.
fn agent(key: &Key) -> &'static str {
    match key.controller {
        Controller::Scheduler => "kube-scheduler/v1.35.0",
        _ => "kube-controller-manager/v1.35.0",
    }
}

async fn execute(client: &Caller<'_>, action: &Action) -> Outcome {
    match &action.verb {
        Verb::Sweep => match sweep(client, &action.name).await {
            Ok(true) => Outcome::Done(Value::Null),
            Ok(false) => Outcome::Conflict,
            Err(error) => Outcome::Failed(error.to_string()),
        },
        Verb::IfGone { missing, then } => {
            for owner in missing {
                let base = path(owner.kind, &owner.namespace);
                let uri = format!("{base}/{}", segment(&owner.name));
                let of = (owner.kind.plural(), owner.name.as_str());
                match call(client, "GET", uri, of, "application/json", None).await {
                    Outcome::NotFound => {}
                    Outcome::Done(held) if held["metadata"]["uid"] != owner.uid => {}
                    Outcome::Done(_) => return Outcome::Conflict,
                    other => return other,
                }
            }
            let then = Action { verb: then.as_ref().clone(), ..action.clone() };
            write(client, &then).await
        }
        _ => write(client, action).await,
    }
}

/// Deletes everything that a namespace holds, of every kind the API serves, and gives up the
/// namespace's finalizer once nothing is left. Says whether it did.
async fn sweep(client: &Caller<'_>, namespace: &str) -> Result<bool, kube::Error> {
    let mut left = 0;
    for found in discover(client.client).await? {
        let resource = &found.resource;
        if !resource.namespaced || !found.has("list") || !found.has("delete") {
            continue;
        }
        let version = &resource.api_version;
        let root = if version.contains('/') { "/apis" } else { "/api" };
        let uri = format!("{root}/{version}/namespaces/{namespace}/{}", resource.plural);
        let list = get(client.client, &uri).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        left += items.len();
        for item in &items {
            if item["metadata"]["deletionTimestamp"].is_null() {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                let uri = format!("{uri}/{}", segment(name));
                let of = (resource.plural.as_str(), name);
                if let Outcome::Done(answer) =
                    call(client, "DELETE", uri, of, "application/json", None).await
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
    let of = ("namespaces", namespace);
    let mut held = match call(client, "GET", uri.clone(), of, "application/json", None).await {
        Outcome::Done(held) => held,
        Outcome::NotFound => return Ok(true),
        _ => return Ok(false),
    };
    if let Some(finalizers) = held["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|one| one != "kubernetes");
    }
    let uri = format!("{uri}/finalize");
    let outcome = call(client, "PUT", uri, of, "application/json", Some(held)).await;
    Ok(matches!(outcome, Outcome::Done(_) | Outcome::NotFound))
}

async fn get(client: &Client, uri: &str) -> Result<Value, kube::Error> {
    let request = Request::get(uri).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

async fn write(client: &Caller<'_>, action: &Action) -> Outcome {
    let (method, uri, content, body) = request(action);
    let of = (action.kind.plural(), action.name.as_str());
    call(client, method, uri, of, content, Some(body)).await
}

/// One request about the object `of` this resource and name.
async fn call(
    client: &Caller<'_>,
    method: &str,
    uri: String,
    of: (&str, &str),
    content: &str,
    body: Option<Value>,
) -> Outcome {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", content)
        .header("user-agent", client.agent)
        .body(body);
    let request = match request {
        Ok(request) => request,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, client.client.request::<Value>(request)).await {
        Err(_) => Outcome::Failed("the API did not answer in time".into()),
        Ok(Ok(answer)) => Outcome::Done(answer),
        Ok(Err(kube::Error::Api(status))) => match status.code {
            404 if says_gone(&status, of) => Outcome::NotFound,
            // Not this object but its kind is not there, for now.
            404 => Outcome::Conflict,
            409 => Outcome::Conflict,
            _ => Outcome::Failed(status.message.clone()),
        },
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
    }
}

/// Whether an answer says that this very object is not there. A kind that is not served answers
/// 404 as well, while its objects may be stored.
fn says_gone(status: &Status, (plural, name): (&str, &str)) -> bool {
    let of = |details: &StatusDetails| details.kind == plural && details.name == name;
    status.reason == "NotFound" && status.details.as_ref().is_some_and(of)
}

/// A name as one segment of a path: those of some kinds (RBAC) may hold nearly anything.
fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'$' | b'&' | b'+' | b'=' => {
                out.push(byte.into());
            }
            _ if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Method, path, content type and body of a plain write.
fn request(action: &Action) -> (&'static str, String, &'static str, Value) {
    const JSON: &str = "application/json";
    let base = path(action.kind, &action.namespace);
    let name = segment(&action.name);
    let named = |sub: Option<&str>| match sub {
        Some(sub) => format!("{base}/{name}/{sub}"),
        None => format!("{base}/{name}"),
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
        Verb::Delete(delete) => {
            let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
            if let Some(uid) = &delete.uid {
                body["preconditions"]["uid"] = uid.as_str().into();
            }
            if let Some(version) = &delete.version {
                body["preconditions"]["resourceVersion"] = version.as_str().into();
            }
            if let Some(grace) = delete.grace_seconds {
                body["gracePeriodSeconds"] = grace.into();
            }
            if let Some(propagation) = delete.propagation {
                body["propagationPolicy"] = propagation.into();
            }
            ("DELETE", named(None), JSON, body)
        }
        // Both are taken apart before.
        Verb::Sweep | Verb::IfGone { .. } => ("GET", named(None), JSON, Value::Null),
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

    #[test]
    fn any_name_is_one_segment() {
        for (name, wanted) in [
            ("system:node", "system:node"),
            ("a b?c#d%2f", "a%20b%3Fc%23d%252f"),
            ("\u{fc}/x", "%C3%BC%2Fx"),
        ] {
            let meta = crate::kinds::Meta { name: Some(name.into()), ..Default::default() };
            let (_, uri, ..) = request(&Action::delete(Kind::Node, &meta));
            assert_eq!(uri, format!("/api/v1/nodes/{wanted}"));
            assert!(uri.parse::<http::Uri>().is_ok_and(|uri| uri.query().is_none()));
        }
    }

    #[test]
    fn only_the_object_itself_can_be_said_to_be_gone() {
        let status = |details: Value| -> Status {
            let body = json!({"code": 404, "reason": "NotFound", "details": details});
            serde_json::from_value(body).expect("a status")
        };
        let of = ("widgets", "w");
        assert!(says_gone(&status(json!({"name": "w", "kind": "widgets"})), of));
        assert!(!says_gone(&status(json!({})), of), "the kind is not served");
        assert!(!says_gone(&status(json!({"name": "ns", "kind": "namespaces"})), of));
        assert!(!says_gone(&Status { code: 404, ..Status::default() }, of));
    }
}
