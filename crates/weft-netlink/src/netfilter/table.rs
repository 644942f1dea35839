//! The table as its owner keeps it: what it shall be, and whether the kernel has that.

use super::{
    content::{Content, Edits},
    nat::Delta,
    observe::{self, Remembered, Structure},
    ruleset,
    transaction::Link,
    *,
};
use std::{collections::BTreeSet, time::Instant};

/// What a change did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Whether the whole table was written anew.
    pub whole: bool,
    /// Elements in all maps.
    pub elements: usize,
    /// Elements that somebody else had changed, and that were set right.
    pub repaired: usize,
    /// UDP flows that led to what is no target any more, and were forgotten.
    pub flows: usize,
    /// Why such flows may still be there; the next call tries again. The table is as it shall
    /// be all the same: a kernel without the interface to its connection table never forgets.
    pub not_forgotten: Option<Error>,
}

/// The table of one namespace. All calls must come from threads inside it.
///
/// A change sends what it changes, in one transaction. Where that fails, the kernel has what
/// it had before; then the whole table is written, also in one transaction; and where that
/// fails too, what works goes on working, the error is told, and the next call tries again.
#[derive(Debug)]
pub struct Table {
    /// What shall be.
    rules: Option<Rules>,
    content: Content,
    /// Whether the entrances are known.
    known: bool,
    /// Whether this has written anything, or failed to: a table that is there is no earlier
    /// process's then.
    tried: bool,
    /// Whether the kernel has just that; not before the first time, and after a failure.
    written: bool,
    /// Entrances whose flows are still to be compared with the connection table.
    suspects: BTreeSet<Entrance>,
    /// How many clients are remembered, for each version.
    sticky_max: u32,
    /// [`conntrack::forget`].
    forget: Forget,
    /// Whether the kernel hashes addresses; asked when that is needed for the first time.
    hashes: Option<bool>,
    link: Link,
    /// What was written, beside elements; `None` where it is not known.
    structure: Option<Structure>,
    /// Not before then all elements are listed again.
    listing_due: Instant,
    repairs: Repairs,
}

/// How often somebody else had changed the table, so that it was set right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Elements of maps, each by itself.
    pub elements: u64,
    /// Tables that were written anew, because rules or sets were others, or gone.
    pub tables: u64,
}

/// Of its time, what listing elements may take where others make transactions all the time.
const LISTING_SHARE: u32 = 100;

/// How the table differs from what was written.
enum Drift {
    None,
    /// In these elements.
    Elements(Edits),
    Whole,
}

type Forget = fn(&BTreeSet<Entrance>, &Content, &[IpAddr]) -> Result<usize>;

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
            content: Content::default(),
            known: false,
            tried: false,
            written: false,
            suspects: BTreeSet::new(),
            sticky_max,
            forget: conntrack::forget,
            hashes: None,
            link: Link::default(),
            structure: None,
            listing_due: Instant::now(),
            repairs: Repairs::default(),
        }
    }

    /// What was repaired since this was made.
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }

    /// Sets the rules. Writes the whole table where more of them than the cluster's addresses
    /// differs from those written, or where the table is not as it was written. One that an
    /// earlier process left serves on until the entrances are known, too.
    ///
    /// Where there is no table and the whole one cannot be written, one that only refuses takes
    /// its place until the next call: a kernel without NAT can still refuse.
    pub fn set_rules(&mut self, rules: &Rules) -> Result<Applied> {
        let old = self.rules.replace(rules.clone());
        if !self.tried && !self.known && self.link.exists()? {
            return Ok(Applied::default());
        }
        match old {
            Some(old) if old == *rules => self.check(),
            Some(old) if old.differs_in_cluster_only(rules) => {
                let of = |ip: &Ip| change_cluster(*ip, &old.cluster, &rules.cluster);
                let messages = [IPV4, IPV6].iter().flat_map(of).collect();
                self.bring_up(messages)
            }
            _ => {
                self.written = false;
                self.bring_up(Vec::new())
            }
        }
    }

    /// Sets the entrances: all of them. What differs is what is sent. Before the first rules
    /// there is no table: they wait for it.
    pub fn set_nat(&mut self, nat: Nat) -> Result<Applied> {
        let delta = self.content.until(nat);
        self.change_nat(delta)
    }

    /// Changes some of the entrances. Costs what is changed, whatever the number of all. Where
    /// nothing is, the table is checked. A kernel that does not hash leads clients by chance.
    pub fn change_nat(&mut self, mut delta: Delta) -> Result<Applied> {
        self.known = true;
        if delta.groups.values().flatten().any(|t| t.by_client) {
            let hashes = self.hashes();
            delta.groups.values_mut().flatten().filter(|_| !hashes).for_each(Targets::by_chance);
        }
        if delta.is_empty() {
            return self.check();
        }
        let edits = self.content.apply(delta);
        self.suspects.extend(&edits.suspects);
        let messages = match &self.rules {
            Some(rules) if self.written => ruleset::change(&edits, &refuge(rules)),
            _ => Vec::new(),
        };
        self.bring_up(messages)
    }

    /// Whether the kernel hashes. A failure that says nothing of that leaves it to the change.
    fn hashes(&mut self) -> bool {
        if self.hashes.is_none() {
            self.hashes = match can_hash(&mut self.link) {
                Ok(()) => Some(true),
                Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Some(false),
                Err(_) => None,
            };
        }
        self.hashes.unwrap_or(true)
    }

    /// Looks whether the table is as it was written, and writes what is not. Costs one small
    /// request where nobody else made a transaction in any table of the namespace. Where
    /// somebody did, rules and sets are compared; elements, too, though not so often that it
    /// takes more than a hundredth of the time.
    pub fn check(&mut self) -> Result<Applied> {
        if !self.written || self.link.is_alone()? {
            return self.bring_up(Vec::new());
        }
        match self.drift()? {
            Drift::None => self.bring_up(Vec::new()),
            Drift::Elements(edits) => {
                let refuge = self.rules.as_ref().map(refuge).unwrap_or_default();
                let applied = self.bring_up(ruleset::change(&edits, &refuge))?;
                self.repairs.elements += edits.len() as u64;
                Ok(Applied { repaired: edits.len(), ..applied })
            }
            Drift::Whole => {
                let was_known = self.structure.is_some();
                self.written = false;
                let applied = self.bring_up(Vec::new())?;
                self.repairs.tables += u64::from(was_known);
                Ok(applied)
            }
        }
    }

    fn drift(&mut self) -> Result<Drift> {
        let Some(rules) = &self.rules else { return Ok(Drift::Whole) };
        let (content, written) = (&self.content, self.structure.as_ref());
        let begin = Instant::now();
        let due = begin >= self.listing_due;
        let looked = self.link.look(|link| {
            let same = |now: Structure| written.is_some_and(|then| now.is_as(then, content));
            if !same(Structure::observe(link)?) {
                return Ok(Some(Drift::Whole));
            }
            if rules.masquerade.is_empty() {
                return Ok(Some(Drift::None));
            }
            if !due {
                return Ok(None);
            }
            for ip in [IPV4, IPV6] {
                if !observe::has_cluster(link, ip, &rules.cluster)? {
                    return Ok(Some(Drift::Whole));
                }
            }
            let edits = observe::differences(link, content)?;
            Ok(Some(edits.map_or(Drift::Whole, |edits| match edits.len() {
                0 => Drift::None,
                _ => Drift::Elements(edits),
            })))
        });
        match looked {
            Ok(Some((generation, Some(drift)))) => {
                self.listing_due = begin + begin.elapsed() * LISTING_SHARE;
                // What is repaired is repaired in this generation, or looked at again.
                self.link.trust(Some(generation));
                Ok(drift)
            }
            // Not yet, or not in one moment: the next call looks again.
            Ok(Some((_, None)) | None) => Ok(Drift::None),
            // What should be listed is gone.
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(Drift::Whole),
            Err(e) => Err(e),
        }
    }

    /// Makes the kernel have what shall be: by these changes where it has what was before.
    fn bring_up(&mut self, changes: Vec<Message>) -> Result<Applied> {
        let Some(rules) = &self.rules else { return Ok(Applied::default()) };
        self.tried = true;
        // Without masquerade there are neither maps nor sets.
        let nothing = changes.is_empty() || rules.masquerade.is_empty();
        if self.written && !nothing {
            self.written = self.link.commit("change nf_tables table", changes).is_ok();
        }
        let whole = !self.written;
        if whole {
            self.write()?;
        }
        let mut applied = Applied { whole, elements: self.content.len(), ..Applied::default() };
        if !self.suspects.is_empty() {
            let refuge = self.rules.as_ref().map(refuge).unwrap_or_default();
            match (self.forget)(&self.suspects, &self.content, &refuge) {
                Ok(flows) => {
                    applied.flows = flows;
                    self.suspects.clear();
                }
                Err(e) => applied.not_forgotten = Some(e),
            }
        }
        Ok(applied)
    }

    fn write(&mut self) -> Result<()> {
        let Some(rules) = &self.rules else { return Ok(()) };
        let messages = |clients: &Clients| whole(rules, &self.content, clients, self.sticky_max);
        const OPERATION: &str = "replace nf_tables table";
        // The table of before may be an earlier process's, or not ours any more in some part: the
        // clients that it remembers stay with their targets all the same.
        let clients = remembered_clients(&mut self.link, rules, self.sticky_max);
        let mut result = self.link.commit(OPERATION, messages(&clients));
        if result.is_err() && clients.iter().any(|(_, all)| !all.is_empty()) {
            result = self.link.commit(OPERATION, messages(&Clients::default()));
        }
        self.written = result.is_ok();
        if self.written {
            let ours = self.link.generation();
            self.link.trust(ours);
            // Without it, a later look finds that it does not know, and writes all again.
            let observed = self.link.look(Structure::observe).ok().flatten();
            let observed = observed.filter(|(generation, _)| Some(*generation) == ours);
            self.structure = observed.map(|(_, structure)| structure);
        }
        if result.is_err() && !self.link.exists()? {
            let services = rules.services.clone();
            let least = Rules { services, ..Rules::default() };
            let least = whole(&least, &Content::default(), &Clients::default(), self.sticky_max);
            self.link.commit(OPERATION, least)?;
        }
        result
    }
}

/// Whether the kernel has `nft_hash`, which leads clients by their address.
pub(super) fn can_hash(link: &mut Link) -> Result<()> {
    link.commit("probe nf_tables hash", ruleset::hash_probe())
}

/// One address of each Service range: refused there.
fn refuge(rules: &Rules) -> Vec<IpAddr> {
    rules.services.iter().map(IpNet::network).collect()
}

/// Clients that are remembered, by IP version.
pub(super) type Clients = Vec<(Ip, Vec<Remembered>)>;

/// Those of the table that is there; none where it has none, or cannot be asked.
fn remembered_clients(link: &mut Link, rules: &Rules, sticky_max: u32) -> Clients {
    if rules.masquerade.is_empty() {
        return Clients::default();
    }
    let of = |ip| {
        let mut all = observe::remembered(link, ip).unwrap_or_default();
        all.truncate(sticky_max as usize);
        (ip, all)
    };
    [IPV4, IPV6].map(of).into()
}

/// The whole table, in place of what was there.
pub(super) fn whole(
    rules: &Rules,
    content: &Content,
    clients: &Clients,
    sticky_max: u32,
) -> Vec<Message> {
    // "Add, delete, add" is the idiom for "replace": the first makes the second succeed.
    let mut messages = vec![
        table(NFT_MSG_NEWTABLE, NLM_F_CREATE),
        table(NFT_MSG_DELTABLE, 0),
        table(NFT_MSG_NEWTABLE, NLM_F_CREATE),
    ];
    messages.push(chain(&MARK));
    messages.push(mark_own());
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
        messages.extend(clients.iter().flat_map(|(ip, all)| ruleset::remember(*ip, all)));
        messages.extend(ruleset::everything(content, &refuge(rules)));
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
    messages
}

#[cfg(test)]
#[path = "table_tests.rs"]
pub(super) mod tests;
