//! What an update of a Service keeps of its allocations, and what its new type drops.
//!
//! Reference: `patchAllocatedValues` and `dropTypeDependentFields` of the real API. Allocation
//! itself is the server's.

use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Whether a Service of this spec has cluster IPs (`None` counts: it is a value).
pub fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer" | "")
}

/// Whether the ports of a Service of this spec get node ports.
pub fn needs_node_port(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn needs_health_check_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn externally_accessible(spec: &Value) -> bool {
    let external = spec.get("externalIPs").and_then(Value::as_array);
    match text(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => external.is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

fn text<'a>(spec: &'a Value, key: &str) -> &'a str {
    spec.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn on_update(new: &mut Value, old: &Value) {
    let (Some(spec), Some(old)) = (new.get_mut("spec"), old.get("spec")) else { return };
    keep_allocated(spec, old);
    drop_by_type(spec, old);
}

/// A client that leaves allocated fields empty means: as they are.
fn keep_allocated(spec: &mut Value, old: &Value) {
    let both = |test: fn(&Value) -> bool| test(spec) && test(old);
    let (ip, port, health) =
        (both(needs_cluster_ip), both(needs_node_port), both(needs_health_check_port));
    let Some(map) = spec.as_object_mut() else { return };
    if ip {
        copy_if_empty(map, old, "clusterIP");
        if map.get("clusterIP") == old.get("clusterIP") {
            copy_if_empty(map, old, "clusterIPs");
        }
    }
    if health {
        copy_if_empty(map, old, "healthCheckNodePort");
    }
    if port {
        let old_ports = old.get("ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let Some(ports) = map.get_mut("ports").and_then(Value::as_array_mut) else { return };
        let taken: Vec<Value> = ports.iter().filter_map(|p| p.get("nodePort").cloned()).collect();
        for entry in ports.iter_mut().filter_map(Value::as_object_mut) {
            if entry.contains_key("nodePort") {
                continue;
            }
            let same = old_ports.iter().find(|p| p.get("name") == entry.get("name"));
            if let Some(number) = same.and_then(|p| p.get("nodePort"))
                && !taken.contains(number)
            {
                entry.insert("nodePort".into(), number.clone());
            }
        }
    }
}

fn copy_if_empty(map: &mut Object, old: &Value, key: &str) {
    let empty = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(other) => other == &Value::from(0),
    };
    if empty && let Some(value) = old.get(key) {
        map.insert(key.to_owned(), value.clone());
    }
}

/// Fields that the old type had and the new one has not go, unless the client changed them
/// (then validation has its say).
fn drop_by_type(spec: &mut Value, old: &Value) {
    let lost = |test: fn(&Value) -> bool| test(old) && !test(spec);
    let groups: [(bool, &[&str]); 4] = [
        (lost(needs_cluster_ip), &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]),
        (lost(needs_health_check_port), &["healthCheckNodePort"]),
        (
            lost(|s| text(s, "type") == "LoadBalancer"),
            &["allocateLoadBalancerNodePorts", "loadBalancerClass"],
        ),
        (lost(externally_accessible), &["externalTrafficPolicy"]),
    ];
    let node_ports = lost(needs_node_port);
    let Some(map) = spec.as_object_mut() else { return };
    for (lost, keys) in groups {
        for key in keys.iter().filter(|_| lost) {
            if map.get(*key) == old.get(key) {
                map.shift_remove(*key);
            }
        }
    }
    if node_ports {
        let numbers = |ports: Option<&Value>| -> Vec<Value> {
            let list = ports.and_then(Value::as_array).into_iter().flatten();
            list.map(|p| p.get("nodePort").cloned().unwrap_or_default()).collect()
        };
        if numbers(map.get("ports")) == numbers(old.get("ports"))
            && let Some(ports) = map.get_mut("ports").and_then(Value::as_array_mut)
        {
            for entry in ports.iter_mut().filter_map(Value::as_object_mut) {
                entry.shift_remove("nodePort");
            }
        }
    }
}
