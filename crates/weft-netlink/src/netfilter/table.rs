//! The table as its owner keeps it: what was written last, and the difference to what shall be.

use super::{
    Nat, Rules, conntrack,
    nat::Content,
    ruleset::{self, change},
    *,
};
use std::collections::BTreeSet;

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether the whole table was written anew.
    pub whole: bool,
    /// Elements in all maps.
    pub elements: usize,
    /// UDP flows that led to what is no target any more, and were forgotten.
    pub flows: usize,
}

/// The table of one namespace. All calls must come from threads inside it.
#[derive(Debug, Default)]
pub struct Table {
    /// What was asked for last.
    rules: Option<Rules>,
    nat: Option<Nat>,
    /// What the kernel has; `None` before the first time, and after a failure.
    written: Option<(Rules, Content)>,
    /// The entrances that the connection table was last compared with.
    compared: Nat,
    /// Entrances whose flows are still to be compared.
    suspects: BTreeSet<Entrance>,
}

impl Table {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the rules. Writes the whole table where they differ from those written, or where
    /// the table is gone. One that an earlier process left serves on until the entrances are
    /// known, too.
    pub fn set_rules(&mut self, rules: &Rules) -> Result<Applied> {
        self.rules = Some(rules.clone());
        if self.nat.is_none() && exists()? {
            return Ok(Applied::default());
        }
        self.bring_up()
    }

    /// Sets the entrances. Before the first rules there is no table: they wait for it.
    pub fn set_nat(&mut self, nat: Nat) -> Result<Applied> {
        self.nat = Some(nat);
        self.bring_up()
    }

    fn bring_up(&mut self) -> Result<Applied> {
        let Some(rules) = self.rules.clone() else { return Ok(Applied::default()) };
        let none = Nat::default();
        let nat = self.nat.as_ref().unwrap_or(&none);
        // Gone until it is written: whatever fails on the way makes the next call write all.
        let written = self.written.take().filter(|(old, _)| *old == rules);
        let (content, whole) = match written {
            Some((_, old)) if exists()? => {
                let new = Content::of(nat, &old);
                let messages = change(&old, &new, &refuge(&rules));
                if !messages.is_empty() {
                    commit("change nf_tables table", messages)?;
                }
                (new, false)
            }
            _ => {
                let new = Content::of(nat, &Content::default());
                write(&rules, &new)?;
                (new, true)
            }
        };
        let elements = content.elements.len();
        let refuge = refuge(&rules);
        self.written = Some((rules, content));
        self.suspects.extend(conntrack::suspects(&self.compared, nat));
        self.compared.clone_from(nat);
        let mut flows = 0;
        if !self.suspects.is_empty() {
            flows = conntrack::forget(&self.suspects, nat, &refuge)?;
            self.suspects.clear();
        }
        Ok(Applied { whole, elements, flows })
    }
}

/// One address of each Service range: refused there.
pub(super) fn refuge(rules: &Rules) -> Vec<IpAddr> {
    rules.services.iter().map(IpNet::network).collect()
}

/// Writes the whole table, in place of what was there; one atomic transaction.
pub(super) fn write(rules: &Rules, content: &Content) -> Result<()> {
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
        messages.extend(ruleset::sets());
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
