//! What the kernel has, and how that differs from what was written: for the case that somebody
//! else changed the table.
//!
//! Rules, sets and the table itself are known by their handles, which the kernel gives to each
//! once: whatever is made anew has another one. Elements have none; they are listed.

use super::{
    content::{Content, Edits},
    element::{Bytes, ClassChain, Map, Place, Value},
    expr::{NF_DROP, NFT_GOTO, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE},
    transaction::{Link, NFT_MSG_GETTABLE},
    *,
};
use crate::socket::NLM_F_DUMP;
use std::collections::{BTreeMap, BTreeSet};

const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_GETSET: u16 = 10;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFTA_TABLE_HANDLE: u16 = 4;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_SET_HANDLE: u16 = 16;
const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
pub(super) const NFTA_SET_ELEM_EXPIRATION: u16 = 5;

/// Everything but elements, by handles.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Structure {
    table: Vec<u8>,
    /// By chain, in order; a chain without rules does nothing.
    pub(super) rules: BTreeMap<String, Vec<Vec<u8>>>,
    sets: BTreeMap<String, Vec<u8>>,
}

impl Structure {
    pub(super) fn observe(link: &mut Link) -> Result<Self> {
        let mut found = Self::default();
        for answer in link.get(&table(NFT_MSG_GETTABLE, NLM_F_ACK))? {
            found.table = attr(&answer, NFTA_TABLE_HANDLE);
        }
        let mut rules = message(NFT_MSG_GETRULE, NFPROTO_INET, NLM_F_DUMP);
        rules.attr_str(NFTA_RULE_TABLE, TABLE);
        for rule in link.list(&rules)? {
            let chain = wire::string(&attr(&rule, NFTA_RULE_CHAIN));
            let handle = attr(&rule, NFTA_RULE_HANDLE);
            found.rules.entry(chain).or_default().push(handle);
        }
        let mut sets = message(NFT_MSG_GETSET, NFPROTO_INET, NLM_F_DUMP);
        sets.attr_str(NFTA_SET_TABLE, TABLE);
        for set in link.list(&sets)? {
            let name = wire::string(&attr(&set, NFTA_SET_NAME));
            found.sets.insert(name, attr(&set, NFTA_SET_HANDLE));
        }
        Ok(found)
    }

    /// Whether this is still what was written, with the chains of classes that `content` has
    /// now: those come and go.
    pub(super) fn is_as(&self, written: &Self, content: &Content) -> bool {
        let fixed = |s: &Self| {
            let all = s.rules.iter().filter(|(chain, _)| class_chain(chain).is_none());
            all.map(|(chain, rules)| (chain.clone(), rules.clone())).collect::<Vec<_>>()
        };
        let there = self.rules.keys().filter_map(|chain| class_chain(chain));
        // A number is never used again; the chain of refusal may have gone and come back.
        let same = |(chain, rules): (&String, &Vec<Vec<u8>>)| {
            class_chain(chain) == Some(ClassChain::Refuse)
                || written.rules.get(chain).is_none_or(|before| before == rules)
        };
        (&self.table, &self.sets) == (&written.table, &written.sets)
            && fixed(self) == fixed(written)
            && there.collect::<BTreeSet<_>>() == content.chains().map(|(c, _)| c).collect()
            && self.rules.iter().all(same)
    }
}

/// The elements of one map. `None` where there is something that is never written.
pub(super) fn listed(link: &mut Link, map: Map) -> Result<Option<BTreeMap<Place, Value>>> {
    let mut there = BTreeMap::new();
    let mut foreign = false;
    elements(link, map.name(), |element| {
        let value = match map {
            Map::Frontends(_) | Map::Slots(_) => element.bytes().map(Value::Bytes),
            Map::Classes => element.verdict(),
            Map::Members(_) | Map::Tracked(_) | Map::Hairpin(_) => Some(Value::None),
        };
        match Bytes::read(element.key).zip(value) {
            Some((key, value)) => foreign |= there.insert((map, key), value).is_some(),
            None => foreign = true,
        }
    })?;
    Ok((!foreign).then_some(there))
}

/// The differences of all elements: from those that the kernel has to those of `content`. `None`
/// where there is something that is never written.
pub(super) fn differences(link: &mut Link, content: &Content) -> Result<Option<Edits>> {
    let mut edits = Edits::default();
    for map in Map::ALL {
        let Some(mut there) = listed(link, map)? else { return Ok(None) };
        for (place, value) in content.elements_of(map) {
            let before = there.remove(&place);
            if before != Some(value) {
                edits.edit(place, before, Some(value));
            }
        }
        for (place, value) in there {
            edits.edit(place, Some(value), None);
        }
    }
    Ok(Some(edits))
}

/// Whether the set of the cluster's addresses has just these.
pub(super) fn has_cluster(link: &mut Link, ip: Ip, nets: &[IpNet]) -> Result<bool> {
    let mut there = BTreeSet::new();
    elements(link, ip.set.0, |element| {
        there.insert((element.key.to_vec(), element.flags & NFT_SET_ELEM_INTERVAL_END != 0));
    })?;
    let key = |number: u128| number.to_be_bytes()[16 - ip.len as usize..].to_vec();
    let expected = ranges(ip, nets).into_iter().flat_map(|(from, end)| {
        [Some((key(from), false)), end.map(|end| (key(end), true))].into_iter().flatten()
    });
    Ok(there == expected.collect())
}

/// A client with its target, as the kernel remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) key: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) timeout_ms: u64,
    /// Until it is forgotten.
    pub(super) left_ms: u64,
}

/// The clients that the table remembers, of one IP version; none of what another version of
/// this program wrote in another form.
pub(super) fn remembered(link: &mut Link, ip: Ip) -> Result<Vec<Remembered>> {
    let ((_, key_len), (_, target_len)) = ruleset::sticky_types(ip);
    let mut all = Vec::new();
    elements(link, ruleset::sticky_name(ip), |element| {
        let one = Remembered {
            key: element.key.to_vec(),
            target: inner(element.data, NFTA_DATA_VALUE).to_vec(),
            timeout_ms: element.timeout_ms,
            // The kernel rounds each to its clock's ticks.
            left_ms: element.left_ms.min(element.timeout_ms),
        };
        let fits = [(&one.key, key_len), (&one.target, target_len)]
            .into_iter()
            .all(|(bytes, len)| bytes.len() == len as usize);
        if fits && one.left_ms > 0 {
            all.push(one);
        }
    })?;
    Ok(all)
}

/// One element, as the kernel lists it.
struct Element<'a> {
    key: &'a [u8],
    /// Attributes of its data.
    data: &'a [u8],
    flags: u32,
    /// 0 for one that stays.
    timeout_ms: u64,
    left_ms: u64,
}

impl Element<'_> {
    fn of(attrs: &[u8]) -> Element<'_> {
        let mut element = Element { key: &[], data: &[], flags: 0, timeout_ms: 0, left_ms: 0 };
        for (kind, data) in wire::attrs(attrs) {
            match kind {
                NFTA_SET_ELEM_KEY => element.key = inner(data, NFTA_DATA_VALUE),
                NFTA_SET_ELEM_DATA => element.data = data,
                NFTA_SET_ELEM_FLAGS => element.flags = be32(data),
                NFTA_SET_ELEM_TIMEOUT => element.timeout_ms = be64(data),
                NFTA_SET_ELEM_EXPIRATION => element.left_ms = be64(data),
                _ => {}
            }
        }
        element
    }

    fn bytes(&self) -> Option<Bytes> {
        Bytes::read(inner(self.data, NFTA_DATA_VALUE))
    }

    fn verdict(&self) -> Option<Value> {
        let verdict = inner(self.data, NFTA_DATA_VERDICT);
        let chain = wire::string(inner(verdict, NFTA_VERDICT_CHAIN));
        match be32(inner(verdict, NFTA_VERDICT_CODE)) as i32 {
            NF_DROP => Some(Value::Drop),
            NFT_GOTO => class_chain(&chain).map(Value::Goto),
            _ => None,
        }
    }
}

fn elements(link: &mut Link, set: &str, mut each: impl FnMut(Element<'_>)) -> Result<()> {
    let mut request = message(NFT_MSG_GETSETELEM, NFPROTO_INET, NLM_F_DUMP);
    request.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE).attr_str(NFTA_SET_ELEM_LIST_SET, set);
    for part in link.list(&request)? {
        let lists = wire::attrs_after(&part.payload, 4);
        for (_, list) in lists.filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS) {
            wire::attrs(list).for_each(|(_, element)| each(Element::of(element)));
        }
    }
    Ok(())
}

/// The chain of that name where it is one of a class.
fn class_chain(name: &str) -> Option<ClassChain> {
    if name == ClassChain::Refuse.to_string() {
        return Some(ClassChain::Refuse);
    }
    name.strip_prefix("class-")?.parse().ok().map(ClassChain::Numbered)
}

fn attr(answer: &Received, wanted: u16) -> Vec<u8> {
    inner(answer.payload.get(4..).unwrap_or(&[]), wanted).to_vec()
}

fn inner(attrs: &[u8], wanted: u16) -> &[u8] {
    wire::attrs(attrs).find(|(kind, _)| *kind == wanted).map_or(&[], |(_, data)| data)
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_be_bytes)
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn elements_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let element = Element::of(&bytes);
            let _ = (element.bytes(), element.verdict(), element.flags);
        }
    }
}
