//! `paths`: one per collection, object and subresource, with the verbs that exist.

use serde_json::{Map, Value, json};

use super::schemas::{PREFIX, kind_name, list_name, schema_name, subresource_type};
use crate::{Kind, SubresourceOf};

/// What differs between the versions of OpenAPI.
pub(super) struct Dialect {
    /// A parameter's type.
    parameter: fn(&str, &str, &str) -> Value,
    /// A body (`requestBody` in version 3, a parameter in version 2).
    body: fn(&mut Map<String, Value>, Value, &[&str]),
    /// A response's content.
    response: fn(Value) -> Value,
}

pub(super) const V3: Dialect = Dialect {
    parameter: |name, place, kind| {
        let mut parameter =
            json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}});
        if place == "path" {
            parameter["required"] = true.into();
        }
        parameter
    },
    body: |operation, schema, types| {
        let content: Map<String, Value> =
            types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
        operation.insert("requestBody".into(), json!({"content": content, "required": true}));
    },
    response: |schema| {
        let content: Map<String, Value> = ["application/json", "application/yaml"]
            .map(|media| (media.to_owned(), json!({"schema": schema})))
            .into_iter()
            .collect();
        json!({"description": "OK", "content": content})
    },
};

pub(super) const V2: Dialect = Dialect {
    parameter: |name, place, kind| {
        let mut parameter = json!({"name": name, "in": place, "type": kind, "uniqueItems": true});
        if place == "path" {
            parameter["required"] = true.into();
        }
        parameter
    },
    body: |operation, schema, types| {
        operation.insert("consumes".into(), json!(types));
        let body = json!({"in": "body", "name": "body", "required": true, "schema": schema});
        if let Some(Value::Array(list)) = operation.get_mut("parameters") {
            list.insert(0, body);
        }
    },
    response: |schema| json!({"description": "OK", "schema": schema}),
};

type Parameter = (&'static str, &'static str);

const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[Parameter] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[Parameter] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const DELETE: &[Parameter] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

const ANY: &[&str] = &["*/*"];
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// One resource or subresource while its paths are written.
struct Target<'a> {
    dialect: &'a Dialect,
    kind: &'a Kind,
    /// Group, version and kind of the body.
    body: (&'a str, &'a str, &'a str),
    /// Name of the body's schema; `None` for streams.
    schema: Option<String>,
    /// Suffix of operation ids: `Scale`.
    suffix: String,
}

pub(super) fn of(rows: &[&Kind], dialect: &Dialect) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in rows {
        resource(kind, dialect, &mut paths);
    }
    paths.sort_keys();
    paths
}

fn resource(kind: &Kind, dialect: &Dialect, paths: &mut Map<String, Value>) {
    let root = kind.group_path();
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", kind.plural);
    let object = format!("{collection}/{{name}}");
    let whole = Target {
        dialect,
        kind,
        body: (&kind.group, &kind.version, &kind.kind),
        schema: Some(kind_name(kind)),
        suffix: String::new(),
    };
    let has = |verb: &str| kind.verbs.contains(&verb);
    let mut on_collection = Vec::new();
    let mut on_object = Vec::new();
    for (verb, method, list) in [
        ("list", "get", true),
        ("create", "post", true),
        ("deletecollection", "delete", true),
        ("get", "get", false),
        ("update", "put", false),
        ("patch", "patch", false),
        ("delete", "delete", false),
    ] {
        if has(verb) {
            let place = if list { &mut on_collection } else { &mut on_object };
            place.push((method, whole.operation(verb)));
        }
    }
    insert(paths, dialect, collection, kind.namespaced, false, on_collection);
    insert(paths, dialect, object.clone(), kind.namespaced, true, on_object);
    if kind.namespaced && has("list") {
        let mut all = whole.operation("list");
        if let Some(id) = all.get("operationId").and_then(Value::as_str) {
            let id = id.replace("Namespaced", "") + "ForAllNamespaces";
            all["operationId"] = id.into();
        }
        let path = format!("{root}/{}", kind.plural);
        insert(paths, dialect, path, false, false, vec![("get", all)]);
    }
    subresources(kind, dialect, &object, paths);
}

fn subresources(kind: &Kind, dialect: &Dialect, object: &str, paths: &mut Map<String, Value>) {
    for SubresourceOf { name, group, version, kind: body_kind, verbs } in kind.all_subresources() {
        let body = (group, version, body_kind);
        let schema = match subresource_type(body.0, body.1, body.2) {
            Some(name) => Some(schema_name(&name)),
            // The status of a custom resource.
            None => (body_kind == kind.kind).then(|| kind_name(kind)),
        };
        let mut suffix = name.to_owned();
        suffix[..1].make_ascii_uppercase();
        let target = Target { dialect, kind, body, schema, suffix };
        let operations = verbs
            .iter()
            .filter_map(|verb| {
                let method = match *verb {
                    "get" => "get",
                    "create" => "post",
                    "update" => "put",
                    "patch" => "patch",
                    _ => return None,
                };
                Some((method, target.operation(verb)))
            })
            .collect();
        insert(paths, dialect, format!("{object}/{name}"), kind.namespaced, true, operations);
    }
}

fn insert(
    paths: &mut Map<String, Value>,
    dialect: &Dialect,
    path: String,
    namespaced: bool,
    named: bool,
    operations: Vec<(&str, Value)>,
) {
    if operations.is_empty() {
        return;
    }
    let mut item = Map::new();
    for (method, operation) in operations {
        item.insert(method.to_owned(), operation);
    }
    let mut parameters = Vec::new();
    if named {
        parameters.push((dialect.parameter)("name", "path", "string"));
    }
    if namespaced {
        parameters.push((dialect.parameter)("namespace", "path", "string"));
    }
    parameters.push((dialect.parameter)("pretty", "query", "string"));
    item.insert("parameters".to_owned(), parameters.into());
    paths.insert(path, item.into());
}

impl Target<'_> {
    fn operation(&self, verb: &str) -> Value {
        let kind = self.kind;
        let (id_verb, action, parameters) = match verb {
            "list" => ("list", "list", LIST),
            "create" => ("create", "post", WRITE),
            "deletecollection" => ("deleteCollection", "deletecollection", LIST),
            "get" => ("read", "get", &[][..]),
            "update" => ("replace", "put", WRITE),
            "patch" => ("patch", "patch", PATCH),
            _ => ("delete", "delete", DELETE),
        };
        let scope = if kind.namespaced { "Namespaced" } else { "" };
        let id = format!(
            "{id_verb}{}{scope}{}{}",
            group_word(&kind.group, &kind.version),
            kind.kind,
            self.suffix
        );
        let mut list: Vec<Value> =
            parameters.iter().map(|(n, t)| (self.dialect.parameter)(n, "query", t)).collect();
        if verb == "deletecollection" {
            let own = DELETE.iter().map(|(n, t)| (self.dialect.parameter)(n, "query", t));
            list.extend(own);
        }
        let mut operation = Map::new();
        let tag = if kind.group.is_empty() { "core" } else { &kind.group };
        let tag = tag.trim_end_matches(".k8s.io").replace('.', "_");
        operation.insert("tags".into(), json!([format!("{}_{}", tag, kind.version)]));
        operation.insert("operationId".into(), id.into());
        operation.insert("parameters".into(), list.into());
        let reference = |name: &str| json!({"$ref": format!("{PREFIX}{name}")});
        let meta = |name: &str| reference(&schema_name(&format!("meta.v1.{name}")));
        let own = self.schema.as_deref().map_or(json!({"type": "string"}), reference);
        match verb {
            "create" | "update" if self.schema.is_some() => {
                (self.dialect.body)(&mut operation, own.clone(), ANY);
            }
            // From here kubectl learns that custom resources have no strategic merge.
            "patch" if kind.custom().is_some() => {
                (self.dialect.body)(&mut operation, meta("Patch"), &PATCH_TYPES[..3]);
            }
            "patch" => (self.dialect.body)(&mut operation, meta("Patch"), PATCH_TYPES),
            "delete" | "deletecollection" => {
                (self.dialect.body)(&mut operation, meta("DeleteOptions"), ANY);
            }
            _ => {}
        }
        let answer = match verb {
            "list" => reference(&list_name(kind)),
            "delete" | "deletecollection" => meta("Status"),
            _ => own,
        };
        operation.insert("responses".into(), json!({"200": (self.dialect.response)(answer)}));
        operation.insert("x-kubernetes-action".into(), action.into());
        let (group, version, kind) = self.body;
        operation.insert(
            "x-kubernetes-group-version-kind".into(),
            json!({"group": group, "kind": kind, "version": version}),
        );
        Value::Object(operation)
    }
}

/// `CoreV1`, `NetworkingV1`, `RbacAuthorizationV1`.
fn group_word(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    let mut word = String::new();
    for part in group.split('.').chain([version]) {
        let mut part = part.to_owned();
        part[..1].make_ascii_uppercase();
        word.push_str(&part);
    }
    word
}
