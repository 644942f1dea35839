//! The table as its owner keeps it: what was written last, and the difference to what shall be.

use super::{
    Nat, Rules, conntrack,
    nat::Content,
    ruleset::{self, change},
    *,
};
use std::collections::BTreeSet;

/// What a change did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Whether the whole table was written anew.
    pub whole: bool,
    /// Elements in all maps.
    pub elements: usize,
    /// UDP flows that led to what is no target any more, and were forgotten.
    pub flows: usize,
    /// Why such flows may still be there; the next call tries again. The table is as it shall
    /// be all the same: a kernel without the interface to its connection table never forgets.
    pub not_forgotten: Option<Error>,
}

/// The table of one namespace. All calls must come from threads inside it.
#[derive(Debug)]
pub struct Table {
    /// What was asked for last.
    rules: Option<Rules>,
    nat: Option<Nat>,
    /// Whether this has written anything, or failed to: a table that is there is no earlier
    /// process's then.
    tried: bool,
    /// What the kernel has; `None` before the first time, and after a failure.
    written: Option<(Rules, Content)>,
    /// The entrances that the connection table was last compared with.
    compared: Nat,
    /// Entrances whose flows are still to be compared.
    suspects: BTreeSet<Entrance>,
    /// How many clients are remembered, for each version.
    sticky_max: u32,
    /// [`conntrack::forget`].
    forget: Forget,
}

type Forget = fn(&BTreeSet<Entrance>, &Nat, &[IpAddr]) -> Result<usize>;

impl Default for Table {
    fn default() -> Self {
        Self::with_sticky_max(ruleset::STICKY_MAX)
    }
}

impl Table {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that remembers the targets of at most so many clients × entrances of each version.
    pub fn with_sticky_max(sticky_max: u32) -> Self {
        Self {
            rules: None,
            nat: None,
            tried: false,
            written: None,
            compared: Nat::default(),
            suspects: BTreeSet::new(),
            sticky_max,
            forget: conntrack::forget,
        }
    }

    /// Sets the rules. Writes the whole table where more of them than the cluster's addresses
    /// differs from those written, or where the table is gone. One that an earlier process left
    /// serves on until the entrances are known, too.
    ///
    /// Where that fails, a table that only refuses takes its place until the next call: a kernel
    /// without NAT can still refuse.
    pub fn set_rules(&mut self, rules: &Rules) -> Result<Applied> {
        self.rules = Some(rules.clone());
        if !self.tried && self.nat.is_none() && exists()? {
            return Ok(Applied::default());
        }
        let result = self.bring_up();
        if result.is_err() {
            self.written = None;
            let services = rules.services.clone();
            replace(&Rules { services, ..Rules::default() })?;
        }
        result
    }

    /// Sets the entrances. Before the first rules there is no table: they wait for it.
    pub fn set_nat(&mut self, nat: Nat) -> Result<Applied> {
        self.nat = Some(nat);
        self.bring_up()
    }

    fn bring_up(&mut self) -> Result<Applied> {
        let Some(rules) = self.rules.clone() else { return Ok(Applied::default()) };
        self.tried = true;
        let none = Nat::default();
        let nat = self.nat.as_ref().unwrap_or(&none);
        // Gone until it is written: whatever fails on the way makes the next call write all.
        let changed = match self.written.take() {
            Some(old) if old.0.differs_in_cluster_only(&rules) && exists()? => {
                alter(&old, &rules, nat)
            }
            _ => None,
        };
        let whole = changed.is_none();
        let content = match changed {
            Some(content) => content,
            None => {
                let new = Content::of(nat, &Content::default());
                write(&rules, &new, self.sticky_max)?;
                new
            }
        };
        let elements = content.elements.len();
        let refuge = refuge(&rules);
        self.written = Some((rules, content));
        self.suspects.extend(conntrack::suspects(&self.compared, nat));
        self.compared.clone_from(nat);
        let mut applied = Applied { whole, elements, ..Applied::default() };
        if !self.suspects.is_empty() {
            match (self.forget)(&self.suspects, nat, &refuge) {
                Ok(flows) => {
                    applied.flows = flows;
                    self.suspects.clear();
                }
                Err(e) => applied.not_forgotten = Some(e),
            }
        }
        Ok(applied)
    }
}

/// Changes the elements that differ, which leaves alone what the kernel remembers of clients.
/// `None` where that fails: somebody else changed the table, and it has to be written anew.
fn alter((old_rules, old): &(Rules, Content), rules: &Rules, nat: &Nat) -> Option<Content> {
    let new = Content::of(nat, old);
    let mut messages = Vec::new();
    // Without masquerade there are neither maps nor sets.
    if !rules.masquerade.is_empty() {
        for ip in [IPV4, IPV6] {
            messages.extend(change_cluster(ip, &old_rules.cluster, &rules.cluster));
        }
        messages.extend(change(old, &new, &refuge(rules)));
    }
    if !messages.is_empty() {
        commit("change nf_tables table", messages).ok()?;
    }
    Some(new)
}

/// One address of each Service range: refused there.
pub(super) fn refuge(rules: &Rules) -> Vec<IpAddr> {
    rules.services.iter().map(IpNet::network).collect()
}

/// Writes the whole table, in place of what was there; one atomic transaction.
pub(super) fn write(rules: &Rules, content: &Content, sticky_max: u32) -> Result<()> {
    // "Add, delete, add" is the idiom for "replace": the first makes the second succeed.
    let mut messages = vec![
        table(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK),
        table(NFT_MSG_DELTABLE, NLM_F_ACK),
        table(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK),
    ];
    messages.push(chain(&REJECT));
    for net in &rules.services {
        messages.push(reject(net, true));
        messages.push(reject(net, false));
    }
    // Without masquerade nothing needs tracking, and these hooks would only cost.
    if !rules.masquerade.is_empty() {
        let versions = [IPV4, IPV6];
        messages.extend(versions.iter().flat_map(|ip| cluster_set(*ip, &rules.cluster)));
        messages.extend(ruleset::sets(sticky_max));
        messages.extend(change(&Content::default(), content, &refuge(rules)));
        messages.extend(ruleset::entrances());
        messages.push(chain(&MASQUERADE));
        messages.extend(ruleset::sources(rules));
        messages.extend(rules.masquerade.iter().map(masquerade));
        messages.extend(ruleset::inside(rules));
        for base in &UNTRACKED {
            messages.push(chain(base));
            messages.extend(rules.tunnel_port.map(|port| untracked_tunnel(base, port)));
            messages.extend(versions.iter().map(|ip| untracked(base, *ip)));
        }
    }
    commit("replace nf_tables table", messages)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
