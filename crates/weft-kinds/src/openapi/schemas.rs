//! `components.schemas`: typed structs through schemars, extensions from the type table.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling_v1,
    autoscaling::v2 as autoscaling_v2, batch::v1 as batch, coordination::v1 as coordination,
    core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use crate::Kind;
use crate::schema::{self, Field, ListType, Merge, Shape, Type};

pub(super) const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

mod custom;

type Add = fn(&mut SchemaGenerator);

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    let _ = generator.subschema_for::<T>();
}

/// The typed struct of each object type of the type table.
static TYPES: &[(&str, Add)] = &[
    (
        "admissionregistration.v1.ValidatingAdmissionPolicy",
        add::<admission::ValidatingAdmissionPolicy>,
    ),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        add::<admission::ValidatingAdmissionPolicyBinding>,
    ),
    ("apiextensions.v1.CustomResourceDefinition", add::<extensions::CustomResourceDefinition>),
    ("core.v1.Binding", add::<core::Binding>),
    ("core.v1.ConfigMap", add::<core::ConfigMap>),
    ("core.v1.Endpoints", add::<core::Endpoints>),
    ("core.v1.Event", add::<core::Event>),
    ("core.v1.LimitRange", add::<core::LimitRange>),
    ("core.v1.Namespace", add::<core::Namespace>),
    ("core.v1.Node", add::<core::Node>),
    ("core.v1.PersistentVolume", add::<core::PersistentVolume>),
    ("core.v1.PersistentVolumeClaim", add::<core::PersistentVolumeClaim>),
    ("core.v1.Pod", add::<core::Pod>),
    ("core.v1.PodTemplate", add::<core::PodTemplate>),
    ("core.v1.ReplicationController", add::<core::ReplicationController>),
    ("core.v1.ResourceQuota", add::<core::ResourceQuota>),
    ("core.v1.Secret", add::<core::Secret>),
    ("core.v1.Service", add::<core::Service>),
    ("core.v1.ServiceAccount", add::<core::ServiceAccount>),
    ("apps.v1.ControllerRevision", add::<apps::ControllerRevision>),
    ("apps.v1.DaemonSet", add::<apps::DaemonSet>),
    ("apps.v1.Deployment", add::<apps::Deployment>),
    ("apps.v1.ReplicaSet", add::<apps::ReplicaSet>),
    ("apps.v1.StatefulSet", add::<apps::StatefulSet>),
    ("authentication.v1.SelfSubjectReview", add::<authentication::SelfSubjectReview>),
    ("authentication.v1.TokenRequest", add::<authentication::TokenRequest>),
    ("authentication.v1.TokenReview", add::<authentication::TokenReview>),
    ("authorization.v1.LocalSubjectAccessReview", add::<authorization::LocalSubjectAccessReview>),
    ("authorization.v1.SelfSubjectAccessReview", add::<authorization::SelfSubjectAccessReview>),
    ("authorization.v1.SelfSubjectRulesReview", add::<authorization::SelfSubjectRulesReview>),
    ("authorization.v1.SubjectAccessReview", add::<authorization::SubjectAccessReview>),
    ("autoscaling.v1.HorizontalPodAutoscaler", add::<autoscaling_v1::HorizontalPodAutoscaler>),
    ("autoscaling.v1.Scale", add::<autoscaling_v1::Scale>),
    ("autoscaling.v2.HorizontalPodAutoscaler", add::<autoscaling_v2::HorizontalPodAutoscaler>),
    ("batch.v1.CronJob", add::<batch::CronJob>),
    ("batch.v1.Job", add::<batch::Job>),
    ("coordination.v1.Lease", add::<coordination::Lease>),
    ("discovery.v1.EndpointSlice", add::<discovery::EndpointSlice>),
    ("events.v1.Event", add::<events::Event>),
    ("networking.v1.IPAddress", add::<networking::IPAddress>),
    ("networking.v1.Ingress", add::<networking::Ingress>),
    ("networking.v1.IngressClass", add::<networking::IngressClass>),
    ("networking.v1.NetworkPolicy", add::<networking::NetworkPolicy>),
    ("networking.v1.ServiceCIDR", add::<networking::ServiceCIDR>),
    ("policy.v1.Eviction", add::<policy::Eviction>),
    ("policy.v1.PodDisruptionBudget", add::<policy::PodDisruptionBudget>),
    ("rbac.v1.ClusterRole", add::<rbac::ClusterRole>),
    ("rbac.v1.ClusterRoleBinding", add::<rbac::ClusterRoleBinding>),
    ("rbac.v1.Role", add::<rbac::Role>),
    ("rbac.v1.RoleBinding", add::<rbac::RoleBinding>),
    ("scheduling.v1.PriorityClass", add::<scheduling::PriorityClass>),
    ("storage.v1.StorageClass", add::<storage::StorageClass>),
];

/// Name of a type's schema: `core.v1.Pod` → `io.k8s.api.core.v1.Pod`.
pub(super) fn schema_name(type_name: &str) -> String {
    if let Some(name) = type_name.strip_prefix("meta.v1.") {
        return format!("{META}{name}");
    }
    match type_name.strip_prefix("apiextensions.v1.") {
        Some(name) => format!("{EXTENSIONS}{name}"),
        None => format!("io.k8s.api.{type_name}"),
    }
}

/// Name of the schema of a kind's objects.
pub(super) fn kind_name(kind: &Kind) -> String {
    match &kind.schema {
        crate::Schema::Builtin(of) => schema_name(of.name),
        crate::Schema::Custom(_) => custom::name(kind),
    }
}

/// Name of the schema of a kind's list.
pub(super) fn list_name(kind: &Kind) -> String {
    let name = kind_name(kind);
    format!("{}{}", name.trim_end_matches(&*kind.kind), kind.list_kind)
}

/// The type of a subresource's body, when it is one of the type table.
pub(super) fn subresource_type(group: &str, version: &str, kind: &str) -> Option<String> {
    let package = if group.is_empty() { "core" } else { group.split('.').next()? };
    let name = format!("{package}.{version}.{kind}");
    schema::find(&name).map(|_| name)
}

/// Every schema that the paths of `rows` refer to.
pub(super) fn of(rows: &[&Kind]) -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| settings.transforms.clear());
    let mut generator = settings.into_generator();
    add::<meta::Status>(&mut generator);
    add::<meta::DeleteOptions>(&mut generator);
    add::<meta::ListMeta>(&mut generator);
    let mut names: Vec<String> = Vec::new();
    for row in rows {
        if row.custom().is_some() {
            add::<meta::ObjectMeta>(&mut generator);
        }
        names.push(row.type_name().to_owned());
        if row.scale.is_some() {
            names.push("autoscaling.v1.Scale".to_owned());
        }
        let bodies = row.subresources.iter();
        names.extend(bodies.filter_map(|s| subresource_type(s.group, s.version, s.kind)));
    }
    for (name, add) in TYPES {
        if names.iter().any(|wanted| wanted == name) {
            add(&mut generator);
        }
    }
    let mut schemas = generator.take_definitions(false);
    for row in rows.iter().filter(|row| !row.list_kind.is_empty()) {
        schemas.insert(list_name(row), list_schema(row));
    }
    schemas.insert(
        format!("{META}Patch"),
        json!({"description": "Patch is provided to give a concrete name and type to the \
                               Kubernetes PATCH request body.", "type": "object"}),
    );
    for row in rows {
        if let Some(custom) = row.custom() {
            schemas.insert(custom::name(row), custom::schema(custom.source()));
        }
    }
    for (name, schema) in &mut schemas {
        tidy(schema);
        extend(name, schema);
    }
    for row in rows {
        set_kind(&mut schemas, &kind_name(row), &row.group, &row.version, &row.kind);
        if !row.list_kind.is_empty() {
            set_kind(&mut schemas, &list_name(row), &row.group, &row.version, &row.list_kind);
        }
        for s in row.subresources {
            if let Some(name) = subresource_type(s.group, s.version, s.kind) {
                set_kind(&mut schemas, &schema_name(&name), s.group, s.version, s.kind);
            }
        }
    }
    set_kind(&mut schemas, "io.k8s.api.autoscaling.v1.Scale", "autoscaling", "v1", "Scale");
    set_kind(&mut schemas, &format!("{META}Status"), "", "v1", "Status");
    set_kind(&mut schemas, &format!("{META}DeleteOptions"), "", "v1", "DeleteOptions");
    schemas.sort_keys();
    schemas
}

fn list_schema(kind: &Kind) -> Value {
    let described = |text: &str| json!({"description": text, "type": "string"});
    json!({
        "description": format!("{} is a list of {}.", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": described("APIVersion defines the versioned schema of this representation of an object."),
            "items": {
                "description": format!("Items is the list of {}.", kind.plural),
                "type": "array",
                "items": {"$ref": format!("{PREFIX}{}", kind_name(kind))},
            },
            "kind": described("Kind is a string value representing the REST resource this object represents."),
            "metadata": {"description": "Standard list metadata.", "$ref": format!("{PREFIX}{META}ListMeta")},
        },
    })
}

fn set_kind(schemas: &mut Map<String, Value>, name: &str, group: &str, version: &str, kind: &str) {
    if let Some(schema) = schemas.get_mut(name).and_then(Value::as_object_mut) {
        schema.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!([{"group": group, "kind": kind, "version": version}]),
        );
    }
}

/// OpenAPI 3.0 ignores what stands beside `$ref`: Kubernetes wraps such references in `allOf`.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(tidy);
            if members.len() > 1
                && let Some(target @ Value::String(_)) = members.get("$ref").cloned()
            {
                members.shift_remove("$ref");
                members.insert("allOf".to_owned(), json!([{"$ref": target}]));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Adds merge keys, list types and values of the type table.
fn extend(name: &str, schema: &mut Value) {
    match name {
        INT_OR_STRING => {
            schema["format"] = "int-or-string".into();
            schema["oneOf"] = json!([{"type": "integer"}, {"type": "string"}]);
            return;
        }
        QUANTITY => {
            schema["oneOf"] = json!([{"type": "string"}, {"type": "number"}]);
            return;
        }
        _ => {}
    }
    let Some(of) = type_of(name) else { return };
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (key, property) in properties {
        if let (Some(field), Some(property)) = (of.member(key), property.as_object_mut()) {
            extensions(field, property);
        }
    }
}

fn type_of(name: &str) -> Option<&'static Type> {
    match (name.strip_prefix(META), name.strip_prefix(EXTENSIONS)) {
        (Some(name), _) => schema::find(&format!("meta.v1.{name}")),
        (_, Some(name)) => schema::find(&format!("apiextensions.v1.{name}")),
        (None, None) => schema::find(name.strip_prefix("io.k8s.api.")?),
    }
}

fn extensions(field: &Field, property: &mut Map<String, Value>) {
    if !field.values.is_empty() {
        let values: Vec<&str> = field.values.split('|').collect();
        let at = match field.shape {
            Shape::One => Some(&mut *property),
            Shape::List => property.get_mut("items").and_then(Value::as_object_mut),
            Shape::Map => property.get_mut("additionalProperties").and_then(Value::as_object_mut),
        };
        if let Some(at) = at {
            at.insert("enum".into(), json!(values));
        }
    }
    let mut strategies = Vec::new();
    match field.merge {
        Merge::Replace => {}
        Merge::Union => strategies.push("merge"),
        Merge::ByKey(key) => {
            strategies.push("merge");
            property.insert("x-kubernetes-patch-merge-key".into(), key.into());
        }
    }
    if field.retain_keys {
        strategies.push("retainKeys");
    }
    if !strategies.is_empty() {
        property.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
    if field.shape == Shape::List {
        let list = match &field.list {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map(keys) => {
                property.insert("x-kubernetes-list-map-keys".into(), json!(keys));
                "map"
            }
        };
        property.insert("x-kubernetes-list-type".into(), list.into());
    } else if field.atomic {
        property.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
}

/// Version 3 to version 2: where the references point, and no `oneOf`.
pub(super) fn downgrade(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.shift_remove("oneOf");
            // Version 2 knows a reference beside a description.
            if let Some(Value::Array(all)) = members.get("allOf")
                && let [one] = all.as_slice()
                && let Some(target) = one.get("$ref").cloned()
            {
                members.shift_remove("allOf");
                members.insert("$ref".to_owned(), target);
            }
            if let Some(Value::String(target)) = members.get_mut("$ref") {
                *target = target.replace(PREFIX, "#/definitions/");
            }
            members.values_mut().for_each(downgrade);
        }
        Value::Array(items) => items.iter_mut().for_each(downgrade),
        _ => {}
    }
}
