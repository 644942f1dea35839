//! ClusterIPs and NodePorts, given inside the transaction that stores the Service.

mod pool;
mod service;
#[cfg(test)]
mod tests;

use crate::{Error, error::ApiError, server::State, store::Write};
use ipnet::IpNet;
use pool::{IpPool, PortPool};
use serde_json::Value;
use service::{AllocError, Delta, Source};
use std::ops::RangeInclusive;
use weft_kinds::{Kind, status};

/// Everything that Services hold.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    /// Primary family first.
    ips: Vec<IpPool>,
    ports: PortPool,
}

impl Pools {
    pub(crate) fn new(cidrs: &[IpNet], ports: RangeInclusive<u16>) -> Result<Self, Error> {
        let ips: Vec<IpPool> = cidrs.iter().map(|c| IpPool::new(*c)).collect();
        if ips.iter().filter(|p| p.is_ipv4()).count() > 1
            || ips.iter().filter(|p| !p.is_ipv4()).count() > 1
        {
            return Err(Error::Config("at most one service range of each family".into()));
        }
        Ok(Self { ips, ports: PortPool::new(ports) })
    }

    /// Takes over what a stored Service holds.
    pub(crate) fn restore(&mut self, service: &Value) {
        self.apply(Delta {
            take_ips: service::held_ips(service),
            take_ports: service::held_ports(service),
            ..Delta::default()
        });
    }

    fn plan(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        random: &mut dyn FnMut() -> u128,
    ) -> Result<Delta, AllocError> {
        service::plan(&mut Source { ips: &self.ips, ports: &self.ports, random }, new, old)
    }

    fn apply(&mut self, delta: Delta) {
        for ip in &delta.release_ips {
            self.ips.iter_mut().for_each(|p| p.release(*ip));
        }
        for ip in &delta.take_ips {
            self.ips.iter_mut().for_each(|p| p.take(*ip));
        }
        delta.release_ports.iter().for_each(|p| self.ports.release(*p));
        delta.take_ports.iter().for_each(|p| self.ports.take(*p));
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.kind == "Service" && kind.group.is_empty()
}

/// Before validation: what a Service's fields say about each other.
pub(crate) fn prepare(kind: &Kind, new: &mut Value, old: Option<&Value>) {
    if is_service(kind) {
        service::prepare(new, old);
    }
}

impl State {
    /// Inside the transaction: completes a Service with what it is given. Nothing is taken until
    /// [`allocated`](Self::allocated).
    pub(crate) fn allocate(
        &self,
        kind: &Kind,
        old: Option<&Value>,
        write: &mut Write,
    ) -> Result<Option<Delta>, ApiError> {
        if !is_service(kind) {
            return Ok(None);
        }
        let planned = match write {
            Write::Delete(v) => return Ok(Some(service::release(old.unwrap_or(v)))),
            Write::Put(new) => {
                let planned = self.pools().plan(new, old, &mut rand::random::<u128>);
                planned.map_err(|e| (e, new["metadata"]["name"].as_str().unwrap_or_default()))
            }
        };
        planned.map(Some).map_err(|(e, name)| match e {
            AllocError::Invalid(errors) => status::invalid(kind, name, &errors).into(),
            AllocError::Exhausted(why) => status::internal(why).into(),
        })
    }

    /// The transaction is certain.
    pub(crate) fn allocated(&self, delta: Option<Delta>) {
        if let Some(delta) = delta {
            self.pools().apply(delta);
        }
    }
}
