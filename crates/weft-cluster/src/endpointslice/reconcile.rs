//! From the slices that are to the endpoints that shall be, with few writes.
//!
//! An endpoint stays in its slice. A slice is written only where its own endpoints change, or
//! where a new endpoint finds no room in one that is written anyway: every write of a slice goes
//! to every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::{first_address, same};
use crate::action::Action;
use crate::kinds::{Kind, Meta};
use crate::targets::{Family, Port};

/// Endpoints in one slice, at most: Kubernetes' --max-endpoints-per-slice.
pub(crate) const ENDPOINTS_MAX: usize = 100;

/// Endpoints by the ports they share.
pub(crate) type Groups = BTreeMap<Vec<Port>, Vec<Endpoint>>;

/// What shall be.
pub(crate) struct Desired {
    /// Labels, owners, namespace and name prefix of every slice.
    pub(crate) meta: Meta,
    pub(crate) groups: BTreeMap<Family, Groups>,
    /// Whether a family without endpoints keeps one empty slice.
    pub(crate) placeholder: bool,
}

/// The writes that lead there.
pub(crate) fn reconcile(held: &[Arc<EndpointSlice>], desired: Desired) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut rest: Vec<&Arc<EndpointSlice>> = held.iter().collect();
    rest.sort_by_key(|slice| slice.metadata.name.clone());
    for (family, mut groups) in desired.groups {
        groups.retain(|_, endpoints| !endpoints.is_empty());
        if groups.is_empty() && desired.placeholder {
            groups.insert(Vec::new(), Vec::new());
        }
        for (ports, endpoints) in groups {
            let wanted = wanted_ports(&ports);
            let (mine, others) = rest.into_iter().partition(|slice| {
                slice.address_type == family.text()
                    && slice.ports.as_deref().unwrap_or_default() == wanted
            });
            rest = others;
            group(family, wanted, endpoints, mine, &desired.meta, &mut actions);
        }
    }
    actions.extend(rest.iter().map(|slice| Action::delete(Kind::EndpointSlice, &slice.metadata)));
    actions
}

struct Draft<'a> {
    before: &'a EndpointSlice,
    after: Vec<Endpoint>,
}

impl Draft<'_> {
    fn changed(&self) -> bool {
        self.before.endpoints != self.after
    }
}

fn group(
    family: Family,
    ports: Vec<EndpointPort>,
    mut endpoints: Vec<Endpoint>,
    held: Vec<&Arc<EndpointSlice>>,
    meta: &Meta,
    actions: &mut Vec<Action>,
) {
    endpoints.sort_by(|one, other| first_address(one).cmp(first_address(other)));
    let mut by_address: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        by_address.entry(first_address(&endpoint).to_owned()).or_default().push(endpoint);
    }
    let mut drafts: Vec<Draft<'_>> = held
        .iter()
        .map(|slice| {
            let kept = slice.endpoints.iter().filter_map(|endpoint| {
                let wanted = by_address.get_mut(first_address(endpoint))?;
                let at = wanted.iter().position(|one| same(one, endpoint))?;
                Some(wanted.swap_remove(at))
            });
            Draft { before: slice, after: kept.collect() }
        })
        .collect();
    let mut new: Vec<Endpoint> = by_address.into_values().flatten().collect();
    new.reverse();
    fill(&mut drafts, &mut new);
    let kept_any = drafts.iter().any(|draft| !draft.after.is_empty()) || !new.is_empty();
    let mut keep_one_empty = !kept_any;
    for draft in &drafts {
        if draft.after.is_empty() && !std::mem::take(&mut keep_one_empty) {
            actions.push(Action::delete(Kind::EndpointSlice, &draft.before.metadata));
        } else if draft.changed() || !meta_fits(&draft.before.metadata, meta) {
            actions.push(replace(draft, meta));
        }
    }
    // Nothing is held and nothing wanted: the placeholder.
    while !new.is_empty() || keep_one_empty {
        keep_one_empty = false;
        let first = new.len().saturating_sub(ENDPOINTS_MAX);
        let slice = EndpointSlice {
            address_type: family.text().into(),
            metadata: meta.clone(),
            ports: Some(ports.clone()),
            endpoints: new.split_off(first).into_iter().rev().collect(),
        };
        actions.push(Action::create(Kind::EndpointSlice, &slice));
    }
}

/// Puts new endpoints (taken from the end) where they cost the fewest writes: first into slices
/// that are written anyway, the fullest first; then into one that has room for all the rest;
/// what is left gets slices of its own.
fn fill(drafts: &mut [Draft<'_>], new: &mut Vec<Endpoint>) {
    let mut order: Vec<usize> = (0..drafts.len()).filter(|at| drafts[*at].changed()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(drafts[*at].after.len()));
    for at in order {
        take(&mut drafts[at].after, new);
    }
    let rest = new.len() % ENDPOINTS_MAX;
    if rest == 0 {
        return;
    }
    let fits = |draft: &&mut Draft<'_>| draft.after.len() + rest <= ENDPOINTS_MAX;
    let roomy = drafts.iter_mut().filter(fits).max_by_key(|draft| draft.after.len());
    if let Some(draft) = roomy {
        let mut part = new.split_off(new.len() - rest);
        take(&mut draft.after, &mut part);
    }
}

fn take(into: &mut Vec<Endpoint>, new: &mut Vec<Endpoint>) {
    while into.len() < ENDPOINTS_MAX
        && let Some(endpoint) = new.pop()
    {
        into.push(endpoint);
    }
}

fn replace(draft: &Draft<'_>, meta: &Meta) -> Action {
    let mut slice = draft.before.clone();
    slice.endpoints.clone_from(&draft.after);
    slice.metadata.labels.clone_from(&meta.labels);
    slice.metadata.owner_references.clone_from(&meta.owner_references);
    slice.metadata.managed_fields = None;
    Action::replace(Kind::EndpointSlice, &slice)
}

fn meta_fits(held: &Meta, wanted: &Meta) -> bool {
    held.labels == wanted.labels && held.owner_references == wanted.owner_references
}

fn wanted_ports(ports: &[Port]) -> Vec<EndpointPort> {
    let of = |port: &Port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: port.number,
        app_protocol: port.app_protocol.clone(),
    };
    ports.iter().map(of).collect()
}
