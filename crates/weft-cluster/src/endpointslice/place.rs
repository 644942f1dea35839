//! From the slices that are to the endpoints that shall be, with few writes.
//!
//! An endpoint stays in its slice. A slice is written only where its own endpoints change, or
//! where a new endpoint finds no room in one that is written anyway: every write of a slice goes
//! to every node. A slice that would go takes the place of one that would be made.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::{alike, identity};
use crate::action::{Action, Verb};
use crate::kinds::{Kind, Meta};
use crate::store::Object;
use crate::targets::{Family, Port};

/// Endpoints by the ports they share.
pub(crate) type Groups = BTreeMap<Vec<Port>, Vec<Endpoint>>;

/// Annotation of a slice or of Endpoints: since when what it says is true of the cluster.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What the annotations of a slice shall be.
#[derive(Clone, Debug)]
pub(crate) enum Annotations {
    /// Others' stay; ours tells the time of the change, where one is known.
    Trigger(Option<String>),
    /// These and no others.
    Exactly(BTreeMap<String, String>),
}

/// What shall be.
pub(crate) struct Desired {
    /// Labels, owners, namespace and name prefix of every slice.
    pub(crate) meta: Meta,
    pub(crate) annotations: Annotations,
    pub(crate) groups: BTreeMap<Family, Groups>,
    /// Whether a family without endpoints keeps one empty slice.
    pub(crate) placeholder: bool,
    /// Endpoints in one slice, at most.
    pub(crate) per_slice: usize,
}

/// One slice as it shall be.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The slice as it is, where there is one.
    pub(crate) before: Option<Arc<EndpointSlice>>,
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Whether it is to be written.
    pub(crate) changed: bool,
}

/// Which endpoint goes where.
pub(crate) struct Placed {
    pub(crate) drafts: BTreeMap<Family, Vec<Draft>>,
    surplus: Vec<Arc<EndpointSlice>>,
}

/// Places every endpoint.
pub(crate) fn place(held: &[Arc<EndpointSlice>], desired: &mut Desired) -> Placed {
    let mut rest: Vec<Arc<EndpointSlice>> = held.to_vec();
    rest.sort_by_key(|slice| slice.metadata.name.clone());
    let mut drafts: BTreeMap<Family, Vec<Draft>> = BTreeMap::new();
    for (family, mut groups) in std::mem::take(&mut desired.groups) {
        groups.retain(|_, endpoints| !endpoints.is_empty());
        if groups.is_empty() && desired.placeholder {
            groups.insert(Vec::new(), Vec::new());
        }
        for (ports, endpoints) in groups {
            let wanted = wanted_ports(&ports);
            let (mine, others) = rest.into_iter().partition(|slice| {
                slice.address_type == family.text()
                    && same_ports(slice.ports.as_deref().unwrap_or_default(), &wanted)
            });
            rest = others;
            let of_group = group(wanted, endpoints, mine, desired, &mut rest);
            drafts.entry(family).or_default().extend(of_group);
        }
    }
    Placed { drafts, surplus: rest }
}

/// The slices of one family and set of ports. What is not needed any more goes to `surplus`.
fn group(
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
    held: Vec<Arc<EndpointSlice>>,
    desired: &Desired,
    surplus: &mut Vec<Arc<EndpointSlice>>,
) -> Vec<Draft> {
    let mut missing: BTreeMap<_, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut drafts: Vec<Draft> =
        held.into_iter().map(|slice| keep(slice, &ports, &mut missing, desired)).collect();
    let mut new: Vec<Endpoint> = missing.into_values().rev().collect();
    fill(&mut drafts, &mut new, desired.per_slice);
    let kept_any = drafts.iter().any(|draft| !draft.endpoints.is_empty()) || !new.is_empty();
    let mut keep_one_empty = !kept_any;
    drafts.retain(|draft| {
        let needed = !draft.endpoints.is_empty() || std::mem::take(&mut keep_one_empty);
        if !needed {
            surplus.extend(draft.before.clone());
        }
        needed
    });
    while !new.is_empty() || keep_one_empty {
        keep_one_empty = false;
        let first = new.len().saturating_sub(desired.per_slice);
        let endpoints = new.split_off(first).into_iter().rev().collect();
        drafts.push(Draft { before: None, ports: ports.clone(), endpoints, changed: true });
    }
    drafts
}

/// What stays in one slice.
fn keep(
    slice: Arc<EndpointSlice>,
    ports: &[EndpointPort],
    missing: &mut BTreeMap<super::Identity, Endpoint>,
    desired: &Desired,
) -> Draft {
    let mut changed = false;
    let mut kept = Vec::with_capacity(slice.endpoints.len());
    for endpoint in &slice.endpoints {
        match missing.remove(&identity(endpoint)) {
            Some(wanted) => {
                changed |= !alike(&wanted, endpoint);
                kept.push(wanted);
            }
            None => changed = true,
        }
    }
    // Hints are not the business of placing: an unchanged slice keeps them for now.
    let endpoints = if changed { kept } else { slice.endpoints.clone() };
    changed |= !desired.fits(&slice.metadata);
    Draft { before: Some(slice), ports: ports.to_vec(), endpoints, changed }
}

/// Puts new endpoints (taken from the end) where they cost the fewest writes: first into slices
/// that are written anyway, the fullest first; then into one that has room for all the rest;
/// what is left gets slices of its own.
fn fill(drafts: &mut [Draft], new: &mut Vec<Endpoint>, per_slice: usize) {
    let mut order: Vec<usize> = (0..drafts.len()).filter(|at| drafts[*at].changed).collect();
    order.sort_by_key(|at| std::cmp::Reverse(drafts[*at].endpoints.len()));
    for at in order {
        take(&mut drafts[at].endpoints, new, per_slice);
    }
    let rest = new.len() % per_slice;
    if rest == 0 {
        return;
    }
    let fits = |draft: &&mut Draft| draft.endpoints.len() + rest <= per_slice;
    let roomy = drafts.iter_mut().filter(fits).max_by_key(|draft| draft.endpoints.len());
    if let Some(draft) = roomy {
        let mut part = new.split_off(new.len() - rest);
        // Its own endpoints are written with it, so their hints are decided anew.
        draft.endpoints.iter_mut().for_each(|endpoint| endpoint.hints = None);
        take(&mut draft.endpoints, &mut part, per_slice);
        draft.changed = true;
    }
}

fn take(into: &mut Vec<Endpoint>, new: &mut Vec<Endpoint>, per_slice: usize) {
    while into.len() < per_slice
        && let Some(endpoint) = new.pop()
    {
        into.push(endpoint);
    }
}

impl Desired {
    /// Whether a slice's metadata says what it shall.
    fn fits(&self, held: &Meta) -> bool {
        held.labels == self.meta.labels
            && match &self.annotations {
                Annotations::Trigger(_) => true,
                Annotations::Exactly(wanted) => {
                    held.annotations.as_ref().map_or(wanted.is_empty(), |held| held == wanted)
                        && held.owner_references == self.meta.owner_references
                }
            }
    }

    fn annotated(&self, held: Option<&Meta>) -> Option<BTreeMap<String, String>> {
        let all = match &self.annotations {
            Annotations::Exactly(wanted) => wanted.clone(),
            Annotations::Trigger(time) => {
                let mut all = held.and_then(|held| held.annotations.clone()).unwrap_or_default();
                all.remove(TRIGGER_TIME);
                all.extend(time.iter().map(|time| (TRIGGER_TIME.to_owned(), time.clone())));
                all
            }
        };
        (!all.is_empty()).then_some(all)
    }
}

impl Placed {
    /// The writes that lead there: what is made first, then what changes, then what goes.
    pub(crate) fn writes(mut self, desired: &Desired) -> Vec<Action> {
        let (mut creates, mut updates) = (Vec::new(), Vec::new());
        for (family, drafts) in &mut self.drafts {
            for draft in drafts.iter_mut().filter(|draft| draft.changed) {
                // Hints may have been decided anew and come out the same.
                let same = |before: &Arc<EndpointSlice>| {
                    before.endpoints == draft.endpoints && desired.fits(&before.metadata)
                };
                if draft.before.as_ref().is_some_and(same) {
                    continue;
                }
                if draft.before.is_none() {
                    let same = |slice: &Arc<EndpointSlice>| slice.address_type == family.text();
                    let recycled = self.surplus.iter().position(same);
                    draft.before = recycled.map(|at| self.surplus.remove(at));
                }
                match &draft.before {
                    Some(before) => updates.push(replace(before, draft, desired)),
                    None => creates.push(create(*family, draft, desired)),
                }
            }
        }
        let deletions =
            self.surplus.iter().map(|slice| Action::delete(Kind::EndpointSlice, &slice.metadata));
        creates.into_iter().chain(updates).chain(deletions).collect()
    }
}

/// The writes of one round. They run at the same time, so an endpoint that moves to another slice
/// must be there before it leaves the old one.
pub(crate) fn first_phase(mut actions: Vec<Action>) -> Vec<Action> {
    let phase = |action: &Action| match action.verb {
        Verb::Create(_) => 0,
        Verb::Replace(..) => 1,
        _ => 2,
    };
    let Some(first) = actions.iter().map(phase).min() else { return actions };
    actions.retain(|action| phase(action) == first);
    actions
}

fn create(family: Family, draft: &Draft, desired: &Desired) -> Action {
    let slice = EndpointSlice {
        address_type: family.text().into(),
        metadata: Meta { annotations: desired.annotated(None), ..desired.meta.clone() },
        ports: Some(draft.ports.clone()),
        endpoints: draft.endpoints.clone(),
    };
    Action::create(Kind::EndpointSlice, &slice)
}

fn replace(before: &EndpointSlice, draft: &Draft, desired: &Desired) -> Action {
    let mut slice = before.clone();
    slice.endpoints.clone_from(&draft.endpoints);
    slice.ports = Some(draft.ports.clone());
    slice.metadata.labels.clone_from(&desired.meta.labels);
    slice.metadata.annotations = desired.annotated(Some(&before.metadata));
    slice.metadata.owner_references.clone_from(&desired.meta.owner_references);
    slice.metadata.managed_fields = None;
    debug_assert!(!slice.name().is_empty());
    Action::replace(Kind::EndpointSlice, &slice)
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

/// Whether both are the same set of ports, in whatever order.
fn same_ports(one: &[EndpointPort], other: &[EndpointPort]) -> bool {
    one.len() == other.len() && one.iter().all(|port| other.contains(port))
}
