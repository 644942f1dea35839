//! Validation with the messages of the real API.
//!
//! A kind's rules are a function in [`RULES`]; metadata is checked for every kind. Rules about
//! what is allocated (is this ClusterIP free?) are the server's. Updates through a subresource
//! are validated like any other, so that the rules allow what `binding` and
//! `ephemeralcontainers` may do.

mod config;
mod container;
mod ingress;
mod meta;
mod network;
mod pod;
mod pod_update;
mod rest;
mod selector;
mod service;
mod service_ips;
mod service_status;
mod text;
mod workload;

use std::fmt;

use serde_json::Value;

use crate::Kind;

/// One refused field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Path such as `spec.ports[0].port`.
    pub field: String,
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// The refused value; shown for Invalid, NotSupported, NotFound, Duplicate and TooMany.
    pub bad_value: Option<Value>,
    /// Explanation; may be empty.
    pub detail: String,
}

/// The classes of `k8s.io/apimachinery` field errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value is missing.
    Required,
    /// A value is malformed or contradicts another.
    Invalid,
    /// A value is not one of the enumerated ones.
    NotSupported,
    /// The field may not be set here or not be changed.
    Forbidden,
    /// The value must be unique.
    Duplicate,
    /// The text is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The object that the field names does not exist.
    NotFound,
    /// The value has the wrong type.
    TypeInvalid,
    /// The server failed.
    Internal,
}

impl FieldErrorKind {
    /// `reason` of a `metav1.StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::TypeInvalid => "Invalid value",
            Self::Internal => "Internal error",
        }
    }
}

impl FieldError {
    /// The message without the field's path, as a `StatusCause` carries it.
    pub fn body(&self) -> String {
        use FieldErrorKind as K;
        let mut text = self.kind.text().to_owned();
        let shows_value =
            !matches!(self.kind, K::Required | K::Forbidden | K::TooLong | K::Internal);
        if let (true, Some(value)) = (shows_value, &self.bad_value) {
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// What is wrong with the addresses and families of a Service; allocation asks for this before it
/// completes them.
pub fn service_addresses(service: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = |service: &Value| service.get("spec").cloned().unwrap_or_default();
    service_ips::related(&spec(service), old.map(spec).as_ref())
}

/// All that is wrong with `new`, as a create (`old` is `None`) or as an update of `old`.
///
/// Both are expected conformed and defaulted.
pub fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::metadata(&mut errors, kind, new, old);
    if let Some(custom) = kind.custom() {
        errors.list.extend(custom.validate(new, old));
    }
    if let Some((_, rule)) = RULES.iter().find(|(name, _)| *name == kind.type_name()) {
        rule(&mut errors, new, old);
    }
    errors.list
}

type Rule = fn(&mut Errors, &Value, Option<&Value>);

static RULES: &[(&str, Rule)] = &[
    ("apiextensions.v1.CustomResourceDefinition", |e, new, old| {
        let found = weft_crd::definition::validate(new, old);
        e.list.extend(found.into_iter().map(FieldError::from));
    }),
    ("core.v1.Service", service::service),
    ("core.v1.Endpoints", network::endpoints),
    ("core.v1.Pod", pod::pod),
    ("core.v1.PodTemplate", |e, new, _| pod::template(e, &new["template"], "template")),
    ("core.v1.ConfigMap", config::config_map),
    ("core.v1.Secret", config::secret),
    ("core.v1.Namespace", rest::namespace),
    ("core.v1.Node", rest::node),
    ("apps.v1.Deployment", workload::deployment),
    ("apps.v1.ReplicaSet", workload::replica_set),
    ("apps.v1.DaemonSet", workload::daemon_set),
    ("apps.v1.StatefulSet", workload::stateful_set),
    ("batch.v1.Job", workload::job),
    ("batch.v1.CronJob", workload::cron_job),
    ("autoscaling.v2.HorizontalPodAutoscaler", workload::autoscaler),
    ("policy.v1.PodDisruptionBudget", workload::disruption_budget),
    ("discovery.v1.EndpointSlice", network::endpoint_slice),
    ("networking.v1.Ingress", ingress::ingress),
    ("networking.v1.IngressClass", ingress::ingress_class),
    ("networking.v1.NetworkPolicy", network::network_policy),
    ("networking.v1.IPAddress", network::ip_address),
    ("networking.v1.ServiceCIDR", network::service_cidr),
    ("coordination.v1.Lease", rest::lease),
    ("rbac.v1.Role", rest::role),
    ("rbac.v1.ClusterRole", rest::role),
    ("rbac.v1.RoleBinding", rest::role_binding),
    ("rbac.v1.ClusterRoleBinding", rest::role_binding),
];

/// What a rule writes to.
#[derive(Default)]
struct Errors {
    list: Vec<FieldError>,
}

impl Errors {
    fn push(
        &mut self,
        kind: FieldErrorKind,
        field: impl Into<String>,
        bad_value: Option<Value>,
        detail: impl Into<String>,
    ) {
        let (field, detail) = (field.into(), detail.into());
        self.list.push(FieldError { field, kind, bad_value, detail });
    }

    fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.push(FieldErrorKind::Required, field, None, detail);
    }

    fn invalid(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldErrorKind::Invalid, field, Some(value.into()), detail);
    }

    /// One error for each message.
    fn each(&mut self, field: &str, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(field, value, message);
        }
    }

    fn forbidden(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Forbidden, field, None, detail);
    }

    fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.push(FieldErrorKind::Duplicate, field, Some(value.into()), "");
    }

    fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.push(FieldErrorKind::NotFound, field, Some(value.into()), "");
    }

    fn too_many(&mut self, field: impl Into<String>, count: usize, most: usize) {
        let detail =
            format!("must have at most {most} {}", if most == 1 { "item" } else { "items" });
        self.push(FieldErrorKind::TooMany, field, Some(count.into()), detail);
    }

    fn too_long(&mut self, field: impl Into<String>, most_bytes: usize) {
        let detail = format!("may not be more than {most_bytes} bytes");
        self.push(FieldErrorKind::TooLong, field, None, detail);
    }

    fn not_supported(&mut self, field: impl Into<String>, value: impl Into<Value>, known: &[&str]) {
        let known: Vec<String> = known.iter().map(|text| format!("{text:?}")).collect();
        let detail = format!("supported values: {}", known.join(", "));
        self.push(FieldErrorKind::NotSupported, field, Some(value.into()), detail);
    }

    /// Required when empty, NotSupported when not one of `known`.
    fn one_of(&mut self, field: impl Into<String>, value: &str, known: &[&str]) {
        if value.is_empty() {
            self.required(field, "");
        } else if !known.contains(&value) {
            self.not_supported(field, value, known);
        }
    }

    fn not_negative(&mut self, field: impl Into<String>, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_i64)
            && number < 0
        {
            self.invalid(field, number, "must be greater than or equal to 0");
        }
    }

    /// Invalid when an update changes the value.
    fn immutable(&mut self, field: &str, new: Option<&Value>, old: Option<&Value>) {
        if new != old {
            self.invalid(field, new.cloned().unwrap_or_default(), "field is immutable");
        }
    }
}

/// The string at `key`, empty if there is none.
fn string<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at `key`, 0 if there is none.
fn integer(object: &Value, key: &str) -> i64 {
    object.get(key).and_then(Value::as_i64).unwrap_or_default()
}

/// The list at `key`, empty if there is none.
fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The strings of the list at `key`.
fn strings<'a>(object: &'a Value, key: &str) -> Vec<&'a str> {
    list(object, key).iter().filter_map(Value::as_str).collect()
}

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

#[cfg(test)]
mod tests;
