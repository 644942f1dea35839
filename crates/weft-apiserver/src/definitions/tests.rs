//! Requests that began before a definition changed.

use super::*;
use crate::{ApiServer, Config, error::ApiError, verbs::Part};
use http::Request;
use http_body_util::BodyExt;
use tower::Service;
use weft_kinds::decode::Decoded;

const NAME: &str = "widgets.example.com";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// The definition of widgets; `color` has this default.
fn widgets(color: &str) -> Value {
    let spec = json!({"type": "object",
        "properties": {"color": {"type": "string", "default": color}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}})
}

fn widget(name: &str, metadata: Value) -> Value {
    let mut object = json!({"apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": metadata, "spec": {}});
    object["metadata"]["name"] = name.into();
    object
}

fn server() -> ApiServer {
    let api = ApiServer::new(Config::default()).unwrap();
    let made = api.0.create(&mut Ctx::internal(), definitions(), None, decoded(widgets("red")));
    made.unwrap();
    api.0.sync_definitions();
    api
}

fn decoded(object: Value) -> Decoded {
    Decoded { object, strict: Vec::new() }
}

fn kind(api: &ApiServer) -> Arc<Kind> {
    api.0.registry().lookup("example.com", "v1", "widgets").unwrap().clone()
}

fn create(api: &ApiServer, kind: &Kind, object: Value) -> Result<Value, ApiError> {
    let made = api.0.create(&mut Ctx::internal(), kind, Some("default"), decoded(object))?;
    Ok(serde_json::from_slice(&made.object).unwrap())
}

/// Changes the definition in the store; the registry does not know yet.
fn repaint(api: &ApiServer, color: &str) {
    let (key, mut ctx) = (Key::new("", NAME), Ctx::internal());
    let mut next = api.0.existing(definitions(), &key).unwrap().value();
    next["spec"] = widgets(color)["spec"].clone();
    api.0.update(&mut ctx, definitions(), &key, Part::Main, next).unwrap();
}

fn delete_definition(api: &ApiServer) {
    let options = DeleteOptions::default();
    api.0.delete(&Ctx::internal(), definitions(), &Key::new("", NAME), &options).unwrap();
}

async fn send(api: &ApiServer, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(bytes::Bytes::from(body.to_string())))
        .unwrap();
    let response = api.service().call(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn no_write_outlives_the_definition_that_it_began_with() {
    let api = server();
    let old = kind(&api);
    let first = create(&api, &old, widget("a", json!({}))).unwrap();
    let key = Key::new("default", "a");
    let mut ctx = Ctx::internal();
    let mut refused = |kind: &Kind| {
        let mut next = first.clone();
        next["spec"]["color"] = "green".into();
        let options = DeleteOptions::default();
        let all = [
            create(&api, kind, widget("b", json!({}))).map(drop),
            api.0.update(&mut ctx, kind, &key, Part::Main, next).map(drop),
            api.0.delete(&ctx, kind, &key, &options).map(drop),
        ];
        for done in all {
            assert!(done.unwrap_err().is_stale_kind());
        }
    };
    repaint(&api, "blue");
    // The definition is there, its kind is not yet.
    refused(&old);
    api.0.sync_definitions();
    refused(&old);
    let now = kind(&api);
    assert_eq!(create(&api, &now, widget("c", json!({}))).unwrap()["spec"]["color"], "blue");
    delete_definition(&api);
    refused(&now);
    api.0.sync_definitions();
    assert!(api.0.registry().lookup("example.com", "v1", "widgets").is_none());
    let late = create(&api, &now, widget("d", json!({}))).unwrap_err();
    assert!(late.is_stale_kind());
    let left = api.0.store.list(api.0.table(&now), &Scope::default(), None, None, 0).unwrap();
    assert!(left.items.is_empty());
}

#[tokio::test]
async fn a_request_begins_again_with_the_kind_of_now() {
    let api = server();
    repaint(&api, "blue");
    let (code, made) = send(&api, "POST", WIDGETS, &widget("a", json!({}))).await;
    assert_eq!((code, &made["spec"]["color"]), (201, &json!("blue")));
    repaint(&api, "green");
    let (code, gone) = send(&api, "DELETE", &format!("{WIDGETS}/a"), &json!({})).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")));
    let held = widget("held", json!({"finalizers": ["example.com/hold"]}));
    assert_eq!(send(&api, "POST", WIDGETS, &held).await.0, 201);
    delete_definition(&api);
    assert_eq!(send(&api, "POST", WIDGETS, &widget("b", json!({}))).await.0, 405);
    let (code, mut freed) = send(&api, "GET", &format!("{WIDGETS}/held"), &json!({})).await;
    assert_eq!(code, 200);
    freed["metadata"]["finalizers"] = json!([]);
    assert_eq!(send(&api, "PUT", &format!("{WIDGETS}/held"), &freed).await.0, 200);
    assert_eq!(send(&api, "POST", WIDGETS, &widget("b", json!({}))).await.0, 404);
    let api = server();
    delete_definition(&api);
    assert_eq!(send(&api, "POST", WIDGETS, &widget("a", json!({}))).await.0, 404);
}

#[test]
fn nothing_is_created_while_the_definition_goes() {
    let api = server();
    let kind = kind(&api);
    create(&api, &kind, widget("a", json!({"finalizers": ["example.com/hold"]}))).unwrap();
    delete_definition(&api);
    api.0.sync_definitions();
    // The kind is still the same: a request that looked before is refused by its transaction.
    assert!(api.0.registry().serves(&kind));
    assert_eq!(create(&api, &kind, widget("b", json!({}))).unwrap_err().code(), 405);
}

#[test]
fn a_definition_stays_as_long_as_its_table_is_not_empty() {
    let api = server();
    let kind = kind(&api);
    create(&api, &kind, widget("a", json!({}))).unwrap();
    let key = Key::new("", NAME);
    let table = api.0.table(&kind);
    assert_eq!(api.0.revise(&key, Some(table), |_| Some(true)), None);
    assert!(api.0.existing(definitions(), &key).is_ok());
    let options = DeleteOptions::default();
    api.0.delete(&Ctx::internal(), &kind, &Key::new("default", "a"), &options).unwrap();
    assert_eq!(api.0.revise(&key, Some(table), |_| Some(true)), Some(true));
    assert!(api.0.existing(definitions(), &key).is_err());
}

#[test]
fn what_is_being_deleted_is_not_deleted_again() {
    let api = server();
    let kind = kind(&api);
    for name in ["a", "b"] {
        create(&api, &kind, widget(name, json!({"finalizers": ["example.com/hold"]}))).unwrap();
    }
    let options = DeleteOptions::default();
    api.0.delete(&Ctx::internal(), &kind, &Key::new("default", "a"), &options).unwrap();
    assert_eq!(api.0.staying(&kind), [Key::new("default", "b")]);
    delete_definition(&api);
    api.0.sync_definitions();
    assert!(api.0.staying(&kind).is_empty());
}
