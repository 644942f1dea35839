//! Everything that one end may send to another: the answer for all ports at once.
//!
//! Rules change their mind at few ports only. Between two neighbouring ones of those every port
//! has the same answer, so that asking for one of them is asking for all.

use crate::{Evaluator, Flow, PolicyInput, Transport};
use std::{collections::BTreeSet, fmt};
use weft_model::{Direction, Port, PortMatch, Protocol};

/// The protocols with ports, in the order in which they are shown.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The ports at which an answer may change: the first of each stretch that is alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretches(BTreeSet<u16>);

impl Stretches {
    /// Those of these inputs together.
    pub fn of<'a>(inputs: impl IntoIterator<Item = &'a PolicyInput>) -> Self {
        let mut firsts = BTreeSet::from([1, DNS, DNS + 1]);
        let mut add = |first: u16, last: u16| {
            firsts.insert(first);
            firsts.extend(last.checked_add(1));
        };
        for input in inputs {
            for pod in input.pods.values() {
                pod.ports.iter().for_each(|p| add(p.port.get(), p.port.get()));
            }
            for direction in Direction::ALL {
                let network = input.network_policies.values();
                let network = network.flat_map(|p| p.rules(direction).into_iter().flatten());
                let cluster = input.cluster_policies.values().flat_map(|p| p.rules(direction));
                let ports = network.map(|r| &r.ports).chain(cluster.map(|r| &r.ports));
                for port in ports.flatten().flatten() {
                    if let PortMatch::Range { first, last, .. } = port {
                        add(first.get(), last.get());
                    }
                }
            }
        }
        Self(firsts)
    }
}

/// Port of DNS, which has a name wherever it is answered.
const DNS: u16 = 53;

/// What may pass between two ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reach {
    /// First and last ports of each protocol of [`PROTOCOLS`], in order, never adjacent.
    pub ports: [Vec<(u16, u16)>; 3],
    /// Protocols without ports, such as ICMP.
    pub other: bool,
}

impl Reach {
    /// Asks for every port. `flow` gives the ends; what it carries is not looked at.
    pub fn of(evaluator: &Evaluator<'_>, flow: &Flow, stretches: &Stretches) -> Self {
        let asks = |transport| evaluator.evaluate(&Flow { transport, ..flow.clone() }).allowed();
        let ports = PROTOCOLS.map(|protocol| {
            let mut open: Vec<(u16, u16)> = Vec::new();
            let firsts: Vec<u16> = stretches.0.iter().copied().collect();
            for (i, first) in firsts.iter().enumerate() {
                let last = firsts.get(i + 1).map_or(u16::MAX, |next| next - 1);
                let port = Port::try_from(i32::from(*first));
                if !port.is_ok_and(|p| asks(Transport::Port(protocol, p))) {
                    continue;
                }
                match open.last_mut() {
                    Some(before) if before.1 + 1 == *first => before.1 = last,
                    _ => open.push((*first, last)),
                }
            }
            open
        });
        Self { ports, other: asks(Transport::Other) }
    }

    /// Everything.
    pub fn everything() -> Self {
        Self { ports: [vec![(1, u16::MAX)], vec![(1, u16::MAX)], vec![(1, u16::MAX)]], other: true }
    }

    /// Whether nothing passes.
    pub fn is_nothing(&self) -> bool {
        !self.other && self.ports.iter().all(Vec::is_empty)
    }

    /// What is in both.
    pub fn and(&self, with: &Self) -> Self {
        let mut ports = <[Vec<(u16, u16)>; 3]>::default();
        for (both, (a, b)) in ports.iter_mut().zip(self.ports.iter().zip(&with.ports)) {
            for (first, last) in a {
                let overlaps = b.iter().filter(|(f, l)| f <= last && l >= first);
                both.extend(overlaps.map(|(f, l)| (*f.max(first), *l.min(last))));
            }
        }
        Self { ports, other: self.other && with.other }
    }

    /// What is in this one and not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        let mut ports = <[Vec<(u16, u16)>; 3]>::default();
        for (rest, (a, b)) in ports.iter_mut().zip(self.ports.iter().zip(&other.ports)) {
            for &(first, last) in a {
                let mut at = Some(first);
                for &(f, l) in b.iter().filter(|(f, l)| *f <= last && *l >= first) {
                    let Some(from) = at else { break };
                    if f > from {
                        rest.push((from, f - 1));
                    }
                    at = l.checked_add(1).filter(|n| *n <= last);
                }
                rest.extend(at.map(|from| (from, last)));
            }
        }
        Self { ports, other: self.other && !other.other }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::everything() {
            return f.write_str("everything");
        }
        if self.is_nothing() {
            return f.write_str("nothing");
        }
        let mut parts: Vec<String> = Vec::new();
        for (protocol, ports) in PROTOCOLS.iter().zip(&self.ports) {
            parts.extend(ports.iter().map(|(first, last)| match (first, last) {
                (1, &u16::MAX) => protocol.to_string(),
                (a, b) if a == b => format!("{protocol}/{a}"),
                (a, b) => format!("{protocol}/{a}-{b}"),
            }));
        }
        parts.extend(self.other.then(|| "ICMP".to_owned()));
        f.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(ports: &[(u16, u16)]) -> Reach {
        Reach { ports: [ports.to_vec(), vec![], vec![]], other: false }
    }

    #[test]
    fn sets_of_ports_are_cut_and_joined_at_the_right_port() {
        let a = tcp(&[(1, 100), (200, 300)]);
        let b = tcp(&[(50, 60), (100, 250), (300, 65535)]);
        assert_eq!(a.and(&b), tcp(&[(50, 60), (100, 100), (200, 250), (300, 300)]));
        assert_eq!(a.without(&b), tcp(&[(1, 49), (61, 99), (251, 299)]));
        assert_eq!(b.without(&Reach::everything()), Reach::default());
        assert_eq!(Reach::everything().without(&b).ports[0], [(1, 49), (61, 99), (251, 299)]);
        assert_eq!(a.to_string(), "TCP/1-100 TCP/200-300");
        assert_eq!(Reach::everything().to_string(), "everything");
        assert_eq!(Reach::default().to_string(), "nothing");
    }
}
