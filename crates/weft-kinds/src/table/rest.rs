//! Rows of the other kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, integer, list, name, or, since, string};
use super::{AGE, Column, NAME, Printer, number, text, wide};

pub(super) const NAMESPACE: Printer = Printer {
    columns: &[NAME, text("Status"), AGE],
    cells: |object, now| {
        vec![name(object), string(object, "/status/phase").into(), age(object, now)]
    },
};

pub(super) const NODE: Printer = Printer {
    columns: &[
        NAME,
        text("Status"),
        text("Roles"),
        AGE,
        text("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |object, now| {
        let info = |field: &str| string(object, &format!("/status/nodeInfo/{field}"));
        let address = |kind: &str| {
            let found = list(object, "/status/addresses")
                .iter()
                .find(|address| string(address, "/type") == kind);
            or(found.map_or("", |address| string(address, "/address")), "<none>")
        };
        vec![
            name(object),
            node_status(object).into(),
            node_roles(object).into(),
            age(object, now),
            info("kubeletVersion").into(),
            address("InternalIP"),
            address("ExternalIP"),
            or(info("osImage"), "<unknown>"),
            or(info("kernelVersion"), "<unknown>"),
            or(info("containerRuntimeVersion"), "<unknown>"),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let ready = list(node, "/status/conditions").iter().find(|c| string(c, "/type") == "Ready");
    let mut status = match ready.map(|c| string(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let Some(Value::Object(labels)) = node.pointer("/metadata/labels") else {
        return "<none>".to_owned();
    };
    let mut roles: Vec<&str> = labels
        .iter()
        .filter_map(|(key, value)| match key.as_str() {
            "kubernetes.io/role" => value.as_str(),
            key => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn size(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub(super) const CONFIG_MAP: Printer = Printer {
    columns: &[NAME, number("Data"), AGE],
    cells: |object, now| {
        let entries = size(object, "/data") + size(object, "/binaryData");
        vec![name(object), entries.into(), age(object, now)]
    },
};

pub(super) const SECRET: Printer = Printer {
    columns: &[NAME, text("Type"), number("Data"), AGE],
    cells: |object, now| {
        let kind = string(object, "/type").into();
        vec![name(object), kind, size(object, "/data").into(), age(object, now)]
    },
};

pub(super) const SERVICE_ACCOUNT: Printer = Printer {
    columns: &[NAME, number("Secrets"), AGE],
    cells: |object, now| {
        vec![name(object), list(object, "/secrets").len().into(), age(object, now)]
    },
};

pub(super) const SCALE: Printer = Printer {
    columns: &[NAME, number("Desired"), number("Available"), AGE],
    cells: |object, now| {
        let replicas = |of: &str| integer(object, &format!("/{of}/replicas")).into();
        vec![name(object), replicas("spec"), replicas("status"), age(object, now)]
    },
};

pub(super) const RESOURCE_QUOTA: Printer = Printer {
    columns: &[NAME, text("Request"), text("Limit"), AGE],
    cells: |object, now| {
        let mut hard: Vec<&str> = match object.pointer("/status/hard") {
            Some(Value::Object(hard)) => hard.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        hard.sort_unstable();
        let of = |map: &str, resource: &str| {
            let quantity = object.pointer(&format!("/status/{map}"))?.get(resource)?;
            quantity.as_str().map(str::to_owned)
        };
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for resource in hard {
            let amount = |map: &str| of(map, resource).unwrap_or_else(|| "0".to_owned());
            let part = format!("{resource}: {}/{}", amount("used"), amount("hard"));
            let list = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
            list.push(part);
        }
        vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
    },
};

pub(super) const LEASE: Printer = Printer {
    columns: &[NAME, text("Holder"), AGE],
    cells: |object, now| {
        vec![name(object), string(object, "/spec/holderIdentity").into(), age(object, now)]
    },
};

/// Kinds that show when they were made instead of their age.
pub(super) const CREATED_AT: Printer = Printer {
    columns: &[NAME, text("Created At")],
    cells: |object, _| vec![name(object), string(object, "/metadata/creationTimestamp").into()],
};

const EVENT_COLUMNS: &[Column] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { name: "Name", kind: "string", format: "name", priority: 1 },
];

pub(super) const EVENT: Printer = Printer {
    columns: EVENT_COLUMNS,
    cells: |object, now| {
        let source = [string(object, "/source/component"), string(object, "/source/host")];
        event(
            object,
            now,
            ["firstTimestamp", "lastTimestamp", "count", "involvedObject", "message"],
            source,
        )
    },
};

pub(super) const EVENT_V1: Printer = Printer {
    columns: EVENT_COLUMNS,
    cells: |object, now| {
        let source = [
            string(object, "/deprecatedSource/component"),
            string(object, "/deprecatedSource/host"),
        ];
        let fields = [
            "deprecatedFirstTimestamp",
            "deprecatedLastTimestamp",
            "deprecatedCount",
            "regarding",
            "note",
        ];
        event(object, now, fields, source)
    },
};

fn event(object: &Value, now: Timestamp, fields: [&str; 5], source: [&str; 2]) -> Vec<Value> {
    let [first, last, count, about, message] = fields;
    let at = |field: &str| string(object, &format!("/{field}"));
    let first = match at(first) {
        "" => since(at("eventTime"), now),
        time => since(time, now),
    };
    let mut last = match at(last) {
        "" => first.clone(),
        time => since(time, now),
    };
    let mut count = integer(object, &format!("/{count}")).max(1);
    if object.get("series").is_some() {
        last = since(string(object, "/series/lastObservedTime"), now);
        count = integer(object, "/series/count");
    }
    let kind = string(object, &format!("/{about}/kind")).to_lowercase();
    let target = match string(object, &format!("/{about}/name")) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = match source {
        ["", ""] => at("reportingController").to_owned(),
        [component, ""] => component.to_owned(),
        [component, host] => format!("{component}, {host}"),
    };
    vec![
        last.into(),
        at("type").into(),
        at("reason").into(),
        target.into(),
        string(object, &format!("/{about}/fieldPath")).into(),
        source.into(),
        at(message).trim().into(),
        first.into(),
        count.to_string().into(),
        name(object),
    ]
}

fn modes(object: &Value, pointer: &str) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    list(object, pointer).iter().map(short).collect::<Vec<_>>().join(",")
}

/// The phase, or that the object is going.
fn phase(object: &Value) -> Value {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return "Terminating".into();
    }
    string(object, "/status/phase").into()
}

pub(super) const PERSISTENT_VOLUME: Printer = Printer {
    columns: &[
        NAME,
        text("Capacity"),
        text("Access Modes"),
        text("Reclaim Policy"),
        text("Status"),
        text("Claim"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        text("Reason"),
        AGE,
        wide("VolumeMode"),
    ],
    cells: |object, now| {
        let claim = |field: &str| string(object, &format!("/spec/claimRef/{field}"));
        let claim = match claim("name") {
            "" => String::new(),
            name => format!("{}/{name}", claim("namespace")),
        };
        vec![
            name(object),
            string(object, "/spec/capacity/storage").into(),
            modes(object, "/spec/accessModes").into(),
            string(object, "/spec/persistentVolumeReclaimPolicy").into(),
            phase(object),
            claim.into(),
            string(object, "/spec/storageClassName").into(),
            or(string(object, "/spec/volumeAttributesClassName"), "<unset>"),
            string(object, "/status/reason").into(),
            age(object, now),
            or(string(object, "/spec/volumeMode"), "<unset>"),
        ]
    },
};

pub(super) const PERSISTENT_VOLUME_CLAIM: Printer = Printer {
    columns: &[
        NAME,
        text("Status"),
        text("Volume"),
        text("Capacity"),
        text("Access Modes"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode"),
    ],
    cells: |object, now| {
        let volume = string(object, "/spec/volumeName");
        let (capacity, modes) = if volume.is_empty() {
            ("", String::new())
        } else {
            (string(object, "/status/capacity/storage"), modes(object, "/status/accessModes"))
        };
        vec![
            name(object),
            phase(object),
            volume.into(),
            capacity.into(),
            modes.into(),
            string(object, "/spec/storageClassName").into(),
            or(string(object, "/spec/volumeAttributesClassName"), "<unset>"),
            age(object, now),
            or(string(object, "/spec/volumeMode"), "<unset>"),
        ]
    },
};

pub(super) const BINDING: Printer = Printer {
    columns: &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    cells: |object, now| {
        let role = |field: &str| string(object, &format!("/roleRef/{field}"));
        let of = |kind: &str| {
            let subjects = list(object, "/subjects").iter().filter(|s| string(s, "/kind") == kind);
            let names = subjects.map(|s| match (kind, string(s, "/namespace")) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", string(s, "/name")),
                _ => string(s, "/name").to_owned(),
            });
            Value::from(names.collect::<Vec<_>>().join(", "))
        };
        vec![
            name(object),
            format!("{}/{}", role("kind"), role("name")).into(),
            age(object, now),
            of("User"),
            of("Group"),
            of("ServiceAccount"),
        ]
    },
};

pub(super) const PRIORITY_CLASS: Printer = Printer {
    columns: &[
        NAME,
        number("Value"),
        Column { name: "Global-Default", kind: "boolean", format: "", priority: 0 },
        AGE,
        text("PreemptionPolicy"),
    ],
    cells: |object, now| {
        vec![
            name(object),
            integer(object, "/value").into(),
            (object.get("globalDefault") == Some(&Value::Bool(true))).into(),
            age(object, now),
            string(object, "/preemptionPolicy").into(),
        ]
    },
};

pub(super) const STORAGE_CLASS: Printer = Printer {
    columns: &[
        NAME,
        text("Provisioner"),
        text("ReclaimPolicy"),
        text("VolumeBindingMode"),
        Column { name: "AllowVolumeExpansion", kind: "boolean", format: "", priority: 0 },
        AGE,
    ],
    cells: |object, now| {
        let is_default =
            string(object, "/metadata/annotations/storageclass.kubernetes.io~1is-default-class");
        let mark = if is_default == "true" { " (default)" } else { "" };
        vec![
            format!("{}{mark}", string(object, "/metadata/name")).into(),
            string(object, "/provisioner").into(),
            string(object, "/reclaimPolicy").into(),
            string(object, "/volumeBindingMode").into(),
            (object.get("allowVolumeExpansion") == Some(&Value::Bool(true))).into(),
            age(object, now),
        ]
    },
};
