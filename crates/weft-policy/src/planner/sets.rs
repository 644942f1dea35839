//! Rule sets: what pods share that are judged by the same rules.

use super::{
    classes::Class,
    lists::{ListId, Lists, Names},
    subjects::{SetKey, Wanted},
};
use crate::{
    Entry, Identity, Key, PolicyId, PortPrefix, Reason, SetId, SetKind, ports::prefixes,
    reasons::Registry,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use weft_model::{Action, Direction, NamedPort, PortMatch, Protocol};

/// Number of a rule set inside the planner: it stays where the set is written anew under another
/// [`SetId`].
pub(super) type SetNo = u32;

/// Protocol and ports of an entry.
pub(super) type Ports = (Option<Protocol>, PortPrefix);

const ALL_PORTS: Ports = (None, PortPrefix::ALL);

/// Whom a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Any,
    List(ListId),
    OwnNode,
}

/// Which ports a rule is about, as far as that is known without the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Fixed(Ports),
    /// What the peer calls so: in egress rules alone.
    Named(Option<Protocol>, Arc<str>),
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It decides so.
    Decides(Action, bool),
    /// It would deny, but its policy is in audit mode: what decides later is marked.
    Marks,
    /// The end of a set with rules that mark: a miss, of which only what is marked is told.
    Ends,
}

/// A rule. Its place is its precedence.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub who: Who,
    pub ports: Vec<Item>,
    pub effect: Effect,
    pub reason: u32,
}

/// What a rule set says, in terms of the planner's numbers.
#[derive(Debug)]
pub(super) struct Spec {
    pub direction: Direction,
    pub kind: SetKind,
    pub rules: Vec<Rule>,
    /// The rules about a list.
    pub by_list: BTreeMap<ListId, Vec<u32>>,
    /// The rules about everybody.
    pub any: Vec<u32>,
    /// Those about everybody who calls a port so.
    pub any_named: Vec<u32>,
    /// The rule about the own node.
    pub own_node: Option<u32>,
    /// Whether a rule marks.
    pub marks: bool,
    pub lengths: u32,
    /// Port names whose meaning is the peer's affair.
    pub names: Vec<Arc<str>>,
    /// References to reasons, one for each use.
    pub reasons: Vec<u32>,
    pub policies: Vec<PolicyId>,
}

/// What is needed to write down a set.
pub(super) struct Pen<'p> {
    pub lists: &'p mut Lists,
    pub reasons: &'p mut Registry,
    pub names: &'p Names,
    pub now: u64,
    /// The lists that are new.
    pub fresh: &'p mut Vec<ListId>,
}

impl Spec {
    /// Writes down what a set says; takes the lists and reasons that it needs.
    pub fn of(wanted: &Wanted, set: SetNo, pen: &mut Pen<'_>) -> Self {
        let Wanted { key, direction, rules, below } = wanted;
        let mut spec = Self {
            direction: *direction,
            kind: key.kind,
            rules: Vec::new(),
            by_list: BTreeMap::new(),
            any: Vec::new(),
            any_named: Vec::new(),
            own_node: None,
            marks: false,
            lengths: 0,
            names: Vec::new(),
            reasons: Vec::new(),
            policies: rules.iter().chain(below).map(|r| r.id.clone()).collect(),
        };
        let network = key.kind == SetKind::Network;
        for step in rules.iter().flat_map(|r| r.steps()) {
            let reason = spec.reason(Reason::Rule(step.rule.clone()), pen);
            let effect = match step.action {
                Action::Deny if step.audit => Effect::Marks,
                action => Effect::Decides(action, false),
            };
            spec.step(step.peers, step.ports, effect, reason, key, set, pen);
        }
        if network {
            spec.isolate(wanted, set, pen);
        } else if spec.marks {
            // Its entries bear the reasons of what marked them.
            let effect = Effect::Ends;
            spec.push(Rule { who: Who::Any, ports: everything(), effect, reason: 0 });
        }
        spec
    }

    /// What follows the rules of NetworkPolicies.
    fn isolate(&mut self, wanted: &Wanted, set: SetNo, pen: &mut Pen<'_>) {
        if self.direction == Direction::Egress {
            let reason = self.reason(Reason::OwnNode, pen);
            let effect = Effect::Decides(Action::Accept, false);
            self.push(Rule { who: Who::OwnNode, ports: everything(), effect, reason });
        }
        let audit = wanted.rules.iter().all(|r| r.audit);
        let denying = wanted.rules.iter().filter(|r| audit || !r.audit);
        let policies = denying.filter_map(|r| match &r.id {
            PolicyId::Network(id) => Some(id.clone()),
            PolicyId::Cluster { .. } => None,
        });
        let isolated = Reason::Isolated(policies.collect());
        for step in wanted.below.iter().flat_map(|r| r.steps()) {
            let (effect, reason) = match step.action {
                // It would be marked, but already is.
                Action::Deny if step.audit => continue,
                Action::Deny => {
                    let reason = self.reason(Reason::Rule(step.rule.clone()), pen);
                    (Effect::Decides(Action::Deny, false), reason)
                }
                // NetworkPolicies would not have let it come here.
                Action::Accept | Action::Pass => {
                    (Effect::Decides(Action::Deny, true), self.reason(isolated.clone(), pen))
                }
            };
            self.step(step.peers, step.ports, effect, reason, &wanted.key, set, pen);
        }
        let reason = self.reason(isolated, pen);
        let effect = Effect::Decides(Action::Deny, audit);
        self.push(Rule { who: Who::Any, ports: everything(), effect, reason });
    }

    fn reason(&mut self, reason: Reason, pen: &mut Pen<'_>) -> u32 {
        let number = pen.reasons.acquire(reason, pen.now);
        self.reasons.push(number);
        number
    }

    #[expect(clippy::too_many_arguments)]
    fn step(
        &mut self,
        peers: Option<&[weft_model::Peer]>,
        ports: Option<&[PortMatch]>,
        effect: Effect,
        reason: u32,
        key: &SetKey,
        set: SetNo,
        pen: &mut Pen<'_>,
    ) {
        let who = match peers {
            None => Who::Any,
            Some(peers) => {
                let (id, fresh) = pen.lists.acquire(self.direction, peers, pen.names, pen.now);
                if fresh {
                    pen.fresh.push(id);
                }
                if let Some(list) = pen.lists.get_mut(id) {
                    list.sets.insert(set);
                }
                Who::List(id)
            }
        };
        let ports = match ports {
            None => everything(),
            Some(ports) => ports.iter().flat_map(|p| self.items(p, &key.ports)).collect(),
        };
        self.push(Rule { who, ports, effect, reason });
    }

    fn items(&mut self, port: &PortMatch, own: &[NamedPort]) -> Vec<Item> {
        match port {
            PortMatch::All(protocol) => vec![Item::Fixed((Some(*protocol), PortPrefix::ALL))],
            PortMatch::Range { protocol, first, last } => {
                let all = prefixes(first.get()..=last.get()).into_iter();
                all.map(|ports| Item::Fixed((Some(*protocol), ports))).collect()
            }
            // The destination of ingress is the pod itself; that of egress is the peer.
            PortMatch::Named { protocol, name } => match self.direction {
                Direction::Ingress => {
                    called(own, *protocol, name).into_iter().map(Item::Fixed).collect()
                }
                Direction::Egress => {
                    self.names.push(name.clone());
                    vec![Item::Named(*protocol, name.clone())]
                }
            },
        }
    }

    fn push(&mut self, rule: Rule) {
        let at = self.rules.len() as u32;
        match rule.who {
            Who::Any => {
                self.any.push(at);
                if rule.ports.iter().any(|p| matches!(p, Item::Named(..))) {
                    self.any_named.push(at);
                }
            }
            Who::List(list) => self.by_list.entry(list).or_default().push(at),
            Who::OwnNode => self.own_node = Some(at),
        }
        for item in &rule.ports {
            match item {
                Item::Fixed((Some(_), ports)) => self.lengths |= 1 << ports.bits,
                Item::Fixed((None, _)) => {}
                Item::Named(..) => self.lengths |= 1 << 16,
            }
        }
        self.marks |= rule.effect == Effect::Marks;
        self.rules.push(rule);
    }

    /// The entries for everybody.
    pub fn entries_of_any(&self) -> Vec<(Key, Entry)> {
        let mut filling = Filling::new(self, &[], None);
        for at in &self.any {
            filling.rule(*at, false);
        }
        filling.finish(Identity::ANY)
    }

    /// The entries for one identity; `any` are those for everybody. They depend on the rules and
    /// on what the identity is, on no other one.
    pub fn entries_of(
        &self,
        identity: Identity,
        class: &Class,
        any: &HashMap<Ports, Entry>,
    ) -> Vec<(Key, Entry)> {
        let mut own: Vec<u32> =
            class.lists.iter().filter_map(|l| self.by_list.get(l)).flatten().copied().collect();
        own.extend(self.own_node.filter(|_| class.own_node));
        let mut all: Vec<(u32, bool)> = own.into_iter().map(|at| (at, true)).collect();
        let marks = |at: &u32| self.rules[*at as usize].effect == Effect::Marks;
        let named = || self.any_named.iter().filter(|_| !class.ports.is_empty());
        if self.marks && (all.iter().any(|(at, _)| marks(at)) || named().any(marks)) {
            // What decides about everybody may be marked for this one alone.
            all.extend(self.any.iter().map(|at| (*at, false)));
        } else {
            let marking = self.any.iter().filter(|at| marks(at));
            all.extend(marking.chain(named()).map(|at| (*at, false)));
        }
        all.sort_unstable();
        all.dedup();
        let mut filling = Filling::new(self, &class.ports, Some(any));
        for (at, own) in all {
            filling.rule(at, own);
        }
        filling.finish(identity)
    }
}

fn everything() -> Vec<Item> {
    vec![Item::Fixed(ALL_PORTS)]
}

/// The ports that are called `name`.
fn called(ports: &[NamedPort], protocol: Option<Protocol>, name: &str) -> Vec<Ports> {
    let meant = ports.iter().filter(|p| *p.name == *name);
    let meant = meant.filter(|p| protocol.is_none_or(|protocol| protocol == p.protocol));
    meant.map(|p| (Some(p.protocol), PortPrefix::around(p.port.get(), 16))).collect()
}

/// The entries of one identity while they are made, the strongest rule first.
struct Filling<'f> {
    spec: &'f Spec,
    /// What the identity calls its ports.
    ports: &'f [NamedPort],
    /// The entries for everybody, where this is not about everybody.
    any: Option<&'f HashMap<Ports, Entry>>,
    /// What would be denied without audit mode, and by what.
    marks: Vec<(Ports, u32)>,
    /// Whether one of them is about this identity alone.
    own_marks: bool,
    found: BTreeMap<Ports, Entry>,
}

impl<'f> Filling<'f> {
    fn new(spec: &'f Spec, ports: &'f [NamedPort], any: Option<&'f HashMap<Ports, Entry>>) -> Self {
        Self { spec, ports, any, marks: Vec::new(), own_marks: false, found: BTreeMap::new() }
    }

    /// Adds a rule; `own` where it is about this identity and not about everybody.
    fn rule(&mut self, at: u32, own: bool) {
        let spec = self.spec;
        let Some(rule) = spec.rules.get(at as usize) else { return };
        for item in &rule.ports {
            let (ports, named) = match item {
                Item::Fixed(ports) => (vec![*ports], false),
                Item::Named(protocol, name) => (called(self.ports, *protocol, name), true),
            };
            for ports in ports {
                // Of what is about everybody, only what this identity calls so is its own affair.
                let here = own || named || self.any.is_none();
                match rule.effect {
                    Effect::Marks => {
                        self.own_marks |= own || named;
                        self.marks.push((ports, rule.reason));
                    }
                    Effect::Decides(action, audit) => {
                        let entry = Entry { precedence: at, action, audit, reason: rule.reason };
                        if here || self.own_marks {
                            self.mark(ports, entry);
                        }
                        if here {
                            self.insert(ports, entry);
                        }
                    }
                    Effect::Ends => {
                        if here || self.own_marks {
                            let action = Action::Pass;
                            self.mark(
                                ports,
                                Entry { precedence: at, action, audit: false, reason: rule.reason },
                            );
                        }
                    }
                }
            }
        }
    }

    /// Adds, of an entry that lets something through, the part that would have been denied
    /// before. Its precedence stays: audit mode changes nobody's order.
    fn mark(&mut self, ports: Ports, entry: Entry) {
        let action = match (entry.action, self.spec.kind) {
            (Action::Deny, _) => return,
            (Action::Pass, SetKind::Admin) => Action::Pass,
            _ => Action::Deny,
        };
        for (marked, reason) in self.marks.clone() {
            if let Some(both) = intersection(marked, ports) {
                self.insert(both, Entry { action, audit: true, reason, ..entry });
            }
        }
    }

    /// Adds an entry unless a stronger one covers it, of this identity or of everybody. What is
    /// inserted later is never stronger, so that this is all that shadowing asks for.
    fn insert(&mut self, ports: Ports, entry: Entry) {
        let own = |ports: &Ports| self.found.contains_key(ports);
        let any = |ports: &Ports| {
            let any = self.any.and_then(|any| any.get(ports));
            any.is_some_and(|any| any.precedence < entry.precedence)
        };
        let covers = |ports: Ports| own(&ports) || any(&ports);
        let (protocol, prefix) = ports;
        let covered = covers(ALL_PORTS)
            || protocol.is_some_and(|p| {
                let lengths = (0..=prefix.bits).filter(|b| self.spec.lengths & (1 << b) != 0);
                lengths.into_iter().any(|b| covers((Some(p), PortPrefix::around(prefix.port, b))))
            });
        if !covered {
            self.found.insert(ports, entry);
        }
    }

    fn finish(self, identity: Identity) -> Vec<(Key, Entry)> {
        let key = |(protocol, ports)| Key { identity, protocol, ports };
        self.found.into_iter().map(|(ports, entry)| (key(ports), entry)).collect()
    }
}

/// What is in both: one of them, or nothing.
fn intersection(a: Ports, b: Ports) -> Option<Ports> {
    let (narrow, wide) = match (a.0, b.0) {
        (None, _) => return Some(b),
        (_, None) => return Some(a),
        (Some(p), Some(q)) if p != q => return None,
        _ if a.1.bits >= b.1.bits => (a, b),
        _ => (b, a),
    };
    (PortPrefix::around(narrow.1.port, wide.1.bits) == wide.1).then_some(narrow)
}

/// Why a set is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// It alone, or all together, have too many entries.
    Entries,
    /// The blocks of its lists are left out.
    Prefixes,
    /// There are too many peers.
    Peers,
}

/// A rule set.
#[derive(Debug)]
pub(super) struct Set {
    pub key: Arc<SetKey>,
    pub id: SetId,
    pub spec: Arc<Spec>,
    /// The pods here that it judges, counted once for each direction.
    pub users: usize,
    pub closed: Option<Closed>,
    /// Not yet written under this number.
    pub fresh: bool,
    pub any: HashMap<Ports, Entry>,
    pub of: BTreeMap<Identity, Vec<(Key, Entry)>>,
    pub size: usize,
}

impl Set {
    /// What it holds, by key.
    pub fn entries(&self) -> HashMap<Key, Entry> {
        let any = self.any.iter().map(|((protocol, ports), entry)| {
            (Key { identity: Identity::ANY, protocol: *protocol, ports: *ports }, *entry)
        });
        any.chain(self.of.values().flatten().copied()).collect()
    }

    /// Makes it hold nothing but a last word.
    pub fn close(&mut self, why: Closed, reason: u32) {
        let entry = Entry { precedence: 0, action: Action::Deny, audit: false, reason };
        self.closed = Some(why);
        self.any = [(ALL_PORTS, entry)].into();
        self.of.clear();
        self.size = 1;
    }

    /// Prefix lengths of its entries.
    pub fn lengths(&self) -> u32 {
        if self.closed.is_some() { 0 } else { self.spec.lengths }
    }
}
