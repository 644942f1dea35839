//! Node ports and the port of the health check. Pure.

use super::pool::{PoolError, PortPool};
use super::service::{AllocError, Delta, Source, invalid, restore, set, text};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What a dry run shows is above this.
const DRY_RUN_BASE: i64 = 32_768;

/// Types that may carry node ports, whether or not they are allocated.
fn may_have(service: &Value) -> bool {
    matches!(text(service, "type"), "NodePort" | "LoadBalancer")
}

fn is_given(service: &Value) -> bool {
    match text(service, "type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    }
}

fn is_health_checked(service: &Value) -> bool {
    text(service, "type") == "LoadBalancer" && text(service, "externalTrafficPolicy") == "Local"
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}

fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    // Not by index, which would put a null where there is nothing.
    let ports = service.get_mut("spec").and_then(|spec| spec.get_mut("ports"));
    ports.and_then(Value::as_array_mut).into_iter().flatten()
}

fn node_port(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or(0)
}

fn name(port: &Value) -> &str {
    port["name"].as_str().unwrap_or_default()
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

fn node_ports(service: &Value) -> Vec<i64> {
    ports(service).iter().map(node_port).filter(|port| *port != 0).collect()
}

/// Those of the node ports that are taken: an ExternalName may name some without having them.
fn taken_ports(service: &Value) -> Vec<i64> {
    if may_have(service) { node_ports(service) } else { Vec::new() }
}

fn health_port(service: &Value) -> i64 {
    service["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0)
}

/// The node ports that a stored Service holds, the health check's too.
pub(crate) fn held(service: &Value) -> Vec<u16> {
    let mut all = taken_ports(service);
    if is_health_checked(service) {
        all.push(health_port(service));
    }
    all.retain(|port| *port != 0);
    all.sort_unstable();
    all.dedup();
    all.into_iter().filter_map(|port| u16::try_from(port).ok()).collect()
}

/// Brings back the ports that an update left out, by the names of its ports.
pub(super) fn carry_over(new: &mut Value, old: &Value) {
    if is_given(old) && is_given(new) {
        let kept = node_ports(new);
        let used: Vec<i64> = node_ports(old).into_iter().filter(|p| kept.contains(p)).collect();
        let by_name: HashMap<&str, i64> =
            ports(old).iter().map(|port| (name(port), node_port(port))).collect();
        for port in ports_mut(new).filter(|port| node_port(port) == 0) {
            let before = by_name.get(name(port)).copied().unwrap_or(0);
            if before != 0 && !used.contains(&before) {
                port["nodePort"] = before.into();
            }
        }
    }
    if is_health_checked(old) && is_health_checked(new) && health_port(new) == 0 {
        restore(new, old, "healthCheckNodePort");
    }
}

/// What the new type cannot have goes, unless the user changed it.
pub(super) fn drop_type_dependent(new: &mut Value, old: &Value) {
    if may_have(old) && !may_have(new) {
        let before = node_ports(old);
        if node_ports(new).iter().all(|port| before.contains(port)) {
            for port in ports_mut(new).filter_map(Value::as_object_mut) {
                port.shift_remove("nodePort");
            }
        }
    }
    if is_health_checked(old)
        && !is_health_checked(new)
        && health_port(old) == health_port(new)
        && let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.shift_remove("healthCheckNodePort");
    }
}

/// What one Service takes, on top of what is taken.
struct Operation<'a, 'b> {
    source: &'a mut Source<'b>,
    taken: Vec<u16>,
    /// Of a dry run: any number, and any number of them.
    shown: BTreeSet<i64>,
}

impl Operation<'_, '_> {
    fn pool(&self) -> &PortPool {
        self.source.ports
    }

    fn allocate(&mut self, port: i64) -> Result<(), PoolError> {
        if self.source.dry_run {
            let held = u16::try_from(port).is_ok_and(|port| self.pool().contains(port));
            if held || !self.shown.insert(port) {
                return Err(PoolError::PortTaken);
            }
            return Ok(());
        }
        let port = self.pool().covers(port).ok_or_else(|| self.pool().outside())?;
        if self.pool().contains(port) || self.taken.contains(&port) {
            return Err(PoolError::PortTaken);
        }
        self.taken.push(port);
        Ok(())
    }

    fn next(&mut self) -> Result<i64, PoolError> {
        if self.source.dry_run {
            // A stand-in: nothing is looked for.
            let next = self.shown.last().map_or(DRY_RUN_BASE, |port| *port).saturating_add(1);
            self.shown.insert(next);
            return Ok(next);
        }
        let random = (self.source.random)();
        let port = self.pool().next(random, &self.taken).ok_or(PoolError::Full)?;
        self.taken.push(port);
        Ok(port.into())
    }

    fn next_node_port(&mut self) -> Result<i64, AllocError> {
        self.next()
            .map_err(|e| AllocError::Exhausted(format!("failed to allocate a nodePort: {e}")))
    }
}

fn refused(index: usize, port: i64, why: &PoolError) -> AllocError {
    let field = format!("spec.ports[{index}].nodePort");
    AllocError::Invalid(vec![invalid(field, json!(port), why.to_string())])
}

pub(super) fn plan(
    source: &mut Source<'_>,
    new: &mut Value,
    old: Option<&Value>,
    delta: &mut Delta,
) -> Result<(), AllocError> {
    let mut operation = Operation { source, taken: Vec::new(), shown: BTreeSet::new() };
    let before = old.map(taken_ports).unwrap_or_default();
    match old {
        None if may_have(new) => create(&mut operation, new)?,
        Some(_) if may_have(new) => update(&mut operation, new, &before)?,
        _ => {}
    }
    let checked = old.is_some_and(is_health_checked);
    if is_health_checked(new) && !checked {
        health(&mut operation, new)?;
    }
    delta.take_ports = operation.taken;
    if let Some(old) = old {
        let now = held(new);
        delta.release_ports = held(old).into_iter().filter(|port| !now.contains(port)).collect();
    }
    Ok(())
}

/// A port over several protocols (DNS) gets one node port.
fn create(operation: &mut Operation<'_, '_>, new: &mut Value) -> Result<(), AllocError> {
    let given = is_given(new);
    // The first that is asked for counts.
    let mut asked: HashMap<i64, i64> = HashMap::new();
    for port in ports(new).iter().filter(|port| node_port(port) != 0) {
        asked.entry(port["port"].as_i64().unwrap_or(0)).or_insert(node_port(port));
    }
    let mut by_port: BTreeMap<i64, i64> = BTreeMap::new();
    for (index, port) in ports_mut(new).enumerate() {
        let (number, wanted) = (port["port"].as_i64().unwrap_or(0), node_port(port));
        if wanted == 0 && !given {
            continue;
        }
        match by_port.get(&number) {
            None => {
                let node_port = match asked.get(&number) {
                    Some(&asked) => {
                        operation.allocate(asked).map_err(|e| refused(index, asked, &e))?;
                        asked
                    }
                    None => operation.next_node_port()?,
                };
                port["nodePort"] = node_port.into();
                by_port.insert(number, node_port);
            }
            Some(shared) if wanted == 0 => port["nodePort"] = (*shared).into(),
            Some(shared) if *shared != wanted => {
                operation.allocate(wanted).map_err(|e| refused(index, wanted, &e))?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn update(
    operation: &mut Operation<'_, '_>,
    new: &mut Value,
    before: &[i64],
) -> Result<(), AllocError> {
    let given = is_given(new);
    let mut own: HashSet<i64> = HashSet::new();
    let mut seen: HashSet<(String, i64)> = HashSet::new();
    for (index, port) in ports_mut(new).enumerate() {
        let mut wanted = node_port(port);
        if wanted == 0 {
            if !given {
                continue;
            }
            wanted = operation.next_node_port()?;
            port["nodePort"] = wanted.into();
        } else if !before.contains(&wanted) && !own.contains(&wanted) {
            operation.allocate(wanted).map_err(|e| refused(index, wanted, &e))?;
            own.insert(wanted);
        }
        let entry = (protocol(port).to_owned(), wanted);
        if seen.contains(&entry) {
            let why = format!("duplicate nodePort: {{{} {}}}", entry.0, entry.1);
            return Err(AllocError::Plain(why));
        }
        seen.insert(entry);
    }
    Ok(())
}

fn health(operation: &mut Operation<'_, '_>, new: &mut Value) -> Result<(), AllocError> {
    match health_port(new) {
        0 => {
            let port = operation.next().map_err(|e| {
                AllocError::Exhausted(format!("failed to allocate a HealthCheck NodePort 0: {e}"))
            })?;
            set(new, "healthCheckNodePort", port.into());
            Ok(())
        }
        asked => operation.allocate(asked).map_err(|e| {
            AllocError::Exhausted(format!(
                "failed to allocate requested HealthCheck NodePort {asked}: {e}"
            ))
        }),
    }
}
