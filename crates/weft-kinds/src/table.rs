//! The columns of `kubectl get`, the same as the real API prints them.
//!
//! A kind has a row in [`PRINTERS`]: its columns and a function that makes the cells. Columns
//! of priority 1 (`-o wide`) are always sent; kubectl hides them.

mod format;
mod network;
mod pod;
mod rest;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Kind;
use weft_crd::columns::Cell;

pub use format::human_duration;

/// A column definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// Format, such as `name`.
    pub format: &'static str,
    /// Shown always (0) or with `-o wide` (1).
    pub priority: u8,
}

const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0 };
const AGE: Column = text("Age");

const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0 }
}

const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0 }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1 }
}

/// How a kind is printed.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

const DEFAULT: Printer = Printer {
    columns: &[NAME, AGE],
    cells: |object, now| vec![format::name(object), format::age(object, now)],
};

static PRINTERS: &[(&str, Printer)] = &[
    ("core.v1.Pod", pod::POD),
    ("core.v1.PodTemplate", workload::POD_TEMPLATE),
    ("core.v1.ReplicationController", workload::REPLICA_SET),
    ("core.v1.Service", network::SERVICE),
    ("core.v1.Endpoints", network::ENDPOINTS),
    ("core.v1.Node", rest::NODE),
    ("core.v1.Namespace", rest::NAMESPACE),
    ("core.v1.ConfigMap", rest::CONFIG_MAP),
    ("core.v1.Secret", rest::SECRET),
    ("core.v1.ServiceAccount", rest::SERVICE_ACCOUNT),
    ("core.v1.Event", rest::EVENT),
    ("events.v1.Event", rest::EVENT_V1),
    ("core.v1.PersistentVolume", rest::PERSISTENT_VOLUME),
    ("core.v1.PersistentVolumeClaim", rest::PERSISTENT_VOLUME_CLAIM),
    ("core.v1.ResourceQuota", rest::RESOURCE_QUOTA),
    ("core.v1.LimitRange", rest::CREATED_AT),
    ("apps.v1.Deployment", workload::DEPLOYMENT),
    ("apps.v1.ReplicaSet", workload::REPLICA_SET),
    ("apps.v1.DaemonSet", workload::DAEMON_SET),
    ("apps.v1.StatefulSet", workload::STATEFUL_SET),
    ("apps.v1.ControllerRevision", workload::CONTROLLER_REVISION),
    ("batch.v1.Job", workload::JOB),
    ("batch.v1.CronJob", workload::CRON_JOB),
    ("autoscaling.v1.HorizontalPodAutoscaler", workload::AUTOSCALER_V1),
    ("autoscaling.v2.HorizontalPodAutoscaler", workload::AUTOSCALER),
    ("policy.v1.PodDisruptionBudget", workload::DISRUPTION_BUDGET),
    ("discovery.v1.EndpointSlice", network::ENDPOINT_SLICE),
    ("networking.v1.Ingress", network::INGRESS),
    ("networking.v1.IngressClass", network::INGRESS_CLASS),
    ("networking.v1.NetworkPolicy", network::NETWORK_POLICY),
    ("networking.v1.IPAddress", network::IP_ADDRESS),
    ("networking.v1.ServiceCIDR", network::SERVICE_CIDR),
    ("coordination.v1.Lease", rest::LEASE),
    ("apiextensions.v1.CustomResourceDefinition", rest::CREATED_AT),
    ("rbac.v1.Role", rest::CREATED_AT),
    ("rbac.v1.ClusterRole", rest::CREATED_AT),
    ("rbac.v1.RoleBinding", rest::BINDING),
    ("rbac.v1.ClusterRoleBinding", rest::BINDING),
    ("scheduling.v1.PriorityClass", rest::PRIORITY_CLASS),
    ("storage.v1.StorageClass", rest::STORAGE_CLASS),
];

fn printer(kind: &Kind) -> &'static Printer {
    let found = PRINTERS.iter().find(|(name, _)| *name == kind.type_name());
    found.map_or(&DEFAULT, |(_, printer)| printer)
}

/// The columns of a kind.
pub fn columns(kind: &Kind) -> &'static [Column] {
    printer(kind).columns
}

/// `columnDefinitions` of a `meta.k8s.io/v1` Table.
pub fn column_definitions(kind: &Kind) -> Value {
    if let Some(custom) = kind.custom() {
        let own = custom.columns().iter().map(|c| {
            json!({"name": c.name, "type": c.kind, "format": c.format,
                   "description": c.description, "priority": c.priority})
        });
        let name = json!({"name": "Name", "type": "string", "format": "name",
                          "description": "", "priority": 0});
        return std::iter::once(name).chain(own).collect();
    }
    definitions(columns(kind))
}

/// The same of a Table that shows an `autoscaling/v1` Scale, which is no kind of its own.
pub fn scale_definitions() -> Value {
    definitions(rest::SCALE.columns)
}

/// The cells of a Scale.
pub fn scale_cells(scale: &Value, now: Timestamp) -> Vec<Value> {
    (rest::SCALE.cells)(scale, now)
}

fn definitions(columns: &[Column]) -> Value {
    columns
        .iter()
        .map(|c| {
            json!({"name": c.name, "type": c.kind, "format": c.format,
                   "description": "", "priority": c.priority})
        })
        .collect()
}

/// The cells of one object, as many as [`columns`].
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    let Some(custom) = kind.custom() else { return (printer(kind).cells)(object, now) };
    let own = custom.columns().iter().map(|column| match custom.cell(column, object) {
        Cell::Value(value) => value,
        Cell::Date(time) => format::age_of(&time, now).into(),
    });
    std::iter::once(format::name(object)).chain(own).collect()
}

#[cfg(test)]
mod tests;
