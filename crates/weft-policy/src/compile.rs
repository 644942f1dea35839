//! From rules to the tables of one node.

use crate::{
    Diagnostic, Entry, Hooks, Identity, Key, PolicyId, PolicyInput, PolicyTables, PortPrefix,
    Program, Reason, RuleId, RuleSet, SetId, SetKind, Step, World,
    identity::{Identities, ListId, Lists, identify},
    ports::prefixes,
    program::Rest,
    world::has_own_network,
};
use std::{
    collections::{BTreeMap, HashMap, btree_map},
    sync::Arc,
};
use weft_model::{Action, Direction, NamedPort, NodeName, Pod, PortMatch};

/// Bounds of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one rule set.
    pub set_entries_max: usize,
    /// Entries of all sets of a node.
    pub entries_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { set_entries_max: 1 << 17, entries_max: 1 << 20 }
    }
}

/// The tables of `node`.
pub fn compile(input: &PolicyInput, node: &NodeName) -> PolicyTables {
    compile_within(input, node, Limits::default())
}

/// As [`compile`], with bounds of one's own.
pub fn compile_within(input: &PolicyInput, node: &NodeName, limits: Limits) -> PolicyTables {
    let world = World::new(input);
    let pods = input.pods.values().map(Arc::as_ref);
    let local = pods.filter(|p| has_own_network(p) && p.node.as_ref() == Some(node));
    let mut wanted = Wanted::default();
    for pod in local {
        wanted.add(&world, pod);
    }
    let mut compiler = Compiler {
        limits,
        reasons: Vec::new(),
        numbers: HashMap::new(),
        total: 0,
        diagnostics: world.diagnostics().to_vec(),
    };
    let identities = identify(&world, &wanted.lists, node);
    let sets =
        wanted.sets.iter().map(|(key, want)| (want.id, compiler.set(key, want, &identities)));
    let sets = sets.collect();
    PolicyTables {
        generation: input.generation,
        node: node.clone(),
        prefixes: identities.prefixes,
        pods: wanted.pods,
        sets,
        reasons: compiler.reasons,
        diagnostics: compiler.diagnostics,
    }
}

/// What a rule set is made of: pods with equal keys share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SetKey {
    direction: Direction,
    kind: SetKind,
    policies: Vec<PolicyId>,
    /// What the pod calls its ports, where it is the destination and rules use these names.
    ports: Vec<NamedPort>,
}

/// A rule set to be made.
struct Want<'a> {
    id: SetId,
    pods: usize,
    rules: Vec<WantedRule<'a>>,
}

struct WantedRule<'a> {
    rule: RuleId,
    action: Action,
    peers: Option<ListId>,
    ports: Option<&'a [PortMatch]>,
}

/// The rule sets that the node's pods need.
#[derive(Default)]
struct Wanted<'a> {
    lists: Lists<'a>,
    sets: BTreeMap<SetKey, Want<'a>>,
    pods: BTreeMap<weft_model::NamespacedName, [Hooks; 2]>,
}

impl<'a> Wanted<'a> {
    fn add(&mut self, world: &World<'a>, pod: &Pod) {
        let hooks = Direction::ALL.map(|direction| {
            let program = Program::of(world, pod, direction);
            let (kind, policies, steps) = match program.rest {
                Rest::Network { policies, steps } => {
                    let policies = policies.into_iter().map(PolicyId::Network).collect();
                    (SetKind::Network, policies, steps)
                }
                Rest::Baseline(steps) => (SetKind::Baseline, policies_of(&steps), steps),
            };
            if kind == SetKind::Network && direction == Direction::Egress {
                self.lists.note_own_node();
            }
            Hooks {
                admin: self.want(
                    SetKind::Admin,
                    policies_of(&program.admin),
                    program.admin,
                    direction,
                    pod,
                ),
                rest: self.want(kind, policies, steps, direction, pod),
            }
        });
        self.pods.insert(pod.id.clone(), hooks);
    }

    /// The set of these steps; `None` where it would be empty.
    fn want(
        &mut self,
        kind: SetKind,
        policies: Vec<PolicyId>,
        steps: Vec<Step<'a>>,
        direction: Direction,
        pod: &Pod,
    ) -> Option<SetId> {
        if policies.is_empty() {
            return None;
        }
        let key = SetKey { direction, kind, policies, ports: own_ports(&steps, direction, pod) };
        let next = SetId(self.sets.len() as u32);
        match self.sets.entry(key) {
            btree_map::Entry::Occupied(mut known) => {
                known.get_mut().pods += 1;
                Some(known.get().id)
            }
            btree_map::Entry::Vacant(free) => {
                let mut rules = Vec::with_capacity(steps.len());
                for step in steps {
                    if direction == Direction::Egress {
                        for name in names(step.ports) {
                            self.lists.note_name(name);
                        }
                    }
                    let peers = step.peers.map(|p| self.lists.number(direction, p));
                    let Step { rule, action, ports, .. } = step;
                    rules.push(WantedRule { rule, action, peers, ports });
                }
                free.insert(Want { id: next, pods: 1, rules });
                Some(next)
            }
        }
    }
}

/// The policies that these steps come from, in order.
fn policies_of(steps: &[Step<'_>]) -> Vec<PolicyId> {
    let mut policies: Vec<PolicyId> = steps.iter().map(|s| s.rule.policy.clone()).collect();
    policies.dedup();
    policies
}

/// The names in a rule's ports.
fn names(ports: Option<&[PortMatch]>) -> impl Iterator<Item = &str> {
    ports.into_iter().flatten().filter_map(|p| match p {
        PortMatch::Named { name, .. } => Some(&**name),
        _ => None,
    })
}

/// What `pod` calls the ports that ingress rules name.
fn own_ports(steps: &[Step<'_>], direction: Direction, pod: &Pod) -> Vec<NamedPort> {
    if direction == Direction::Egress || pod.ports.is_empty() {
        return Vec::new();
    }
    let used = |p: &&NamedPort| steps.iter().flat_map(|s| names(s.ports)).any(|n| n == &*p.name);
    let mut ports: Vec<NamedPort> = pod.ports.iter().filter(used).cloned().collect();
    ports.sort();
    ports.dedup();
    ports
}

struct Compiler {
    limits: Limits,
    reasons: Vec<Reason>,
    numbers: HashMap<Reason, u32>,
    total: usize,
    diagnostics: Vec<Diagnostic>,
}

/// A set holds too many entries.
struct Full;

impl Compiler {
    fn reason(&mut self, reason: Reason) -> u32 {
        let next = self.reasons.len() as u32;
        *self.numbers.entry(reason).or_insert_with_key(|r| {
            self.reasons.push(r.clone());
            next
        })
    }

    fn set(&mut self, key: &SetKey, want: &Want<'_>, identities: &Identities) -> RuleSet {
        let room = self.limits.entries_max.saturating_sub(self.total);
        let limit = self.limits.set_entries_max.min(room);
        let mut set = Filling { entries: HashMap::new(), precedence: 0, limit };
        if self.fill(&mut set, key, want, identities).is_err() {
            self.diagnostics.push(Diagnostic::TooLarge {
                direction: key.direction,
                pods: want.pods,
                limit,
                policies: key.policies.clone(),
            });
            set = Filling { entries: HashMap::new(), precedence: 0, limit: usize::MAX };
            let reason = self.reason(Reason::TooLarge);
            let entry = Entry { precedence: 0, action: Action::Deny, reason };
            let all = Key { identity: Identity::ANY, protocol: None, ports: PortPrefix::ALL };
            set.entries.insert(all, entry);
        }
        self.total += set.entries.len();
        let with_protocol = set.entries.keys().filter(|k| k.protocol.is_some());
        let lengths = with_protocol.fold(0, |all, k| all | 1 << k.ports.bits);
        RuleSet { kind: key.kind, entries: set.entries, lengths }
    }

    fn fill(
        &mut self,
        set: &mut Filling,
        key: &SetKey,
        want: &Want<'_>,
        identities: &Identities,
    ) -> Result<(), Full> {
        for rule in &want.rules {
            let reason = self.reason(Reason::Rule(rule.rule.clone()));
            let entry = Entry { precedence: set.precedence, action: rule.action, reason };
            let peers = match rule.peers {
                Some(list) => identities.of(list),
                None => &[Identity::ANY],
            };
            match rule.ports {
                None => {
                    for identity in peers {
                        set.insert(*identity, None, PortPrefix::ALL, entry)?;
                    }
                }
                Some(ports) => {
                    for port in ports {
                        set.port(port, rule.peers.is_some(), peers, key, identities, entry)?;
                    }
                }
            }
            set.precedence += 1;
        }
        if key.kind == SetKind::Network {
            if key.direction == Direction::Egress {
                let reason = self.reason(Reason::OwnNode);
                let entry = Entry { precedence: set.precedence, action: Action::Accept, reason };
                for identity in &identities.own_node {
                    set.insert(*identity, None, PortPrefix::ALL, entry)?;
                }
            }
            let policies = key.policies.iter().filter_map(|p| match p {
                PolicyId::Network(id) => Some(id.clone()),
                PolicyId::Cluster { .. } => None,
            });
            let reason = self.reason(Reason::Isolated(policies.collect()));
            let last = Entry { precedence: set.precedence + 1, action: Action::Deny, reason };
            set.insert(Identity::ANY, None, PortPrefix::ALL, last)?;
        }
        Ok(())
    }
}

/// A set that is being filled, the strongest rule first.
struct Filling {
    entries: HashMap<Key, Entry>,
    precedence: u32,
    limit: usize,
}

impl Filling {
    /// Adds one item of a rule's ports.
    fn port(
        &mut self,
        port: &PortMatch,
        restricted: bool,
        peers: &[Identity],
        key: &SetKey,
        identities: &Identities,
        entry: Entry,
    ) -> Result<(), Full> {
        match port {
            PortMatch::All(protocol) => {
                for identity in peers {
                    self.insert(*identity, Some(*protocol), PortPrefix::ALL, entry)?;
                }
            }
            PortMatch::Range { protocol, first, last } => {
                let ports = prefixes(first.get()..=last.get());
                for identity in peers {
                    for ports in &ports {
                        self.insert(*identity, Some(*protocol), *ports, entry)?;
                    }
                }
            }
            PortMatch::Named { protocol, name } => {
                let meant = |p: &&NamedPort| {
                    p.name == *name && protocol.is_none_or(|protocol| protocol == p.protocol)
                };
                // The destination of ingress is the pod itself; that of egress is the peer, and
                // everybody is then everybody who has such a port.
                let mut add = |identity: Identity, p: &NamedPort| {
                    let ports = PortPrefix::around(p.port.get(), 16);
                    self.insert(identity, Some(p.protocol), ports, entry)
                };
                match key.direction {
                    Direction::Ingress => {
                        for p in key.ports.iter().filter(meant) {
                            for identity in peers {
                                add(*identity, p)?;
                            }
                        }
                    }
                    Direction::Egress if restricted => {
                        for identity in peers {
                            let ports = identities.ports.get(identity).into_iter().flatten();
                            for p in ports.filter(meant) {
                                add(*identity, p)?;
                            }
                        }
                    }
                    Direction::Egress => {
                        for (identity, ports) in &identities.ports {
                            for p in ports.iter().filter(meant) {
                                add(*identity, p)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds an entry unless a stronger one covers it, for this identity or for everybody. What is
    /// inserted later is never stronger, so that this is all that shadowing asks for.
    fn insert(
        &mut self,
        identity: Identity,
        protocol: Option<weft_model::Protocol>,
        ports: PortPrefix,
        entry: Entry,
    ) -> Result<(), Full> {
        if self.covered(identity, protocol, ports)
            || (identity != Identity::ANY && self.covered(Identity::ANY, protocol, ports))
        {
            return Ok(());
        }
        self.entries.insert(Key { identity, protocol, ports }, entry);
        if self.entries.len() > self.limit { Err(Full) } else { Ok(()) }
    }

    fn covered(
        &self,
        identity: Identity,
        protocol: Option<weft_model::Protocol>,
        ports: PortPrefix,
    ) -> bool {
        let has = |protocol, ports| self.entries.contains_key(&Key { identity, protocol, ports });
        has(None, PortPrefix::ALL)
            || protocol.is_some_and(|p| {
                (0..=ports.bits).any(|b| has(Some(p), PortPrefix::around(ports.port, b)))
            })
    }
}
