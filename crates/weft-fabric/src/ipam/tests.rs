use super::*;
use proptest::prelude::*;
use std::{collections::BTreeMap, fs};

fn key(n: u8) -> Key {
    Key { container_id: format!("c{n}"), ifname: "eth0".to_owned() }
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|s| s.parse().expect("prefix")).collect()
}

fn open(dir: &tempfile::TempDir, cidrs: &[&str]) -> Ipam {
    let mut ipam = Ipam::open(&dir.path().join("ipam.journal")).expect("journal");
    ipam.set_cidrs(&nets(cidrs));
    ipam
}

fn texts(ips: &[IpAddr]) -> Vec<String> {
    ips.iter().map(ToString::to_string).collect()
}

#[test]
fn one_address_of_each_family_and_the_same_when_asked_again() {
    let dir = tempfile::tempdir().expect("folder");
    let cidrs = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    let mut ipam = open(&dir, &cidrs);
    let first = ipam.allocate(&key(1), 0).expect("free");
    assert_eq!(texts(&first), ["10.244.1.2", "fd00:10:244:1::2"]);
    assert_eq!(ipam.allocate(&key(1), 0).expect("same"), first);
    let other = Key { ifname: "eth1".to_owned(), ..key(1) };
    assert_ne!(ipam.allocate(&other, 0).expect("free"), first);
    drop(ipam);
    let mut ipam = open(&dir, &cidrs);
    assert_eq!(ipam.allocate(&key(1), 0).expect("restored"), first);
    assert_eq!(ipam.release(&key(1), 5).expect("freed"), first);
    assert_eq!(ipam.release(&key(1), 5).expect("again"), Vec::<IpAddr>::new());
}

#[test]
fn reserved_addresses_are_never_given_and_exhaustion_says_so() {
    let dir = tempfile::tempdir().expect("folder");
    let mut ipam = open(&dir, &["10.0.0.0/29"]);
    let mut got: Vec<String> = Vec::new();
    for n in 0..5 {
        got.extend(texts(&ipam.allocate(&key(n), 0).expect("free")));
    }
    assert_eq!(got, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    let e = ipam.allocate(&key(9), 0).expect_err("full").to_string();
    assert!(e.contains("no free address in 10.0.0.0/29: 5 in use"), "{e}");
    // Freed addresses rest, and come back oldest first.
    ipam.release(&key(3), 100).expect("freed");
    ipam.release(&key(0), 101).expect("freed");
    assert!(ipam.allocate(&key(9), 101 + REST_S - 2).is_err());
    let now = 101 + REST_S;
    assert_eq!(texts(&ipam.allocate(&key(9), now).expect("rested")), ["10.0.0.5"]);
    assert_eq!(texts(&ipam.allocate(&key(8), now).expect("rested")), ["10.0.0.2"]);
    assert!(ipam.allocate(&key(7), now).is_err());
}

#[test]
fn both_families_or_none() {
    let dir = tempfile::tempdir().expect("folder");
    let mut ipam = open(&dir, &["fd00::/64", "10.0.0.0/30"]);
    assert_eq!(ipam.allocate(&key(0), 0).expect("free").len(), 2);
    assert!(matches!(ipam.allocate(&key(1), 0), Err(IpamError::Exhausted { .. })));
    assert_eq!(ipam.usage()[0].used, 1, "no IPv6 address is lost on the way");
    assert!(matches!(open(&dir, &[]).allocate(&key(1), 0), Err(IpamError::NoPools)));
}

#[test]
fn damage_before_sound_lines_is_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let mut ipam = open(&dir, &["10.0.0.0/24"]);
    for n in 0..3 {
        ipam.allocate(&key(n), 0).expect("free");
    }
    let path = dir.path().join("ipam.journal");
    let mut bytes = fs::read(&path).expect("journal");
    bytes[20] ^= 1;
    fs::write(&path, bytes).expect("damaged");
    let e = Ipam::open(&path).expect_err("damaged").to_string();
    assert!(e.contains("line 1"), "{e}");
}

#[test]
fn compaction_keeps_everything() {
    let dir = tempfile::tempdir().expect("folder");
    let mut ipam = open(&dir, &["10.0.0.0/24"]);
    let kept = ipam.allocate(&key(200), 0).expect("free");
    for n in 0..2000u64 {
        ipam.allocate(&key(1), n * 100).expect("free");
        ipam.release(&key(1), n * 100 + 1).expect("freed");
    }
    let len = fs::metadata(dir.path().join("ipam.journal")).expect("journal").len();
    assert!(len < 300_000, "{len}");
    let before = ipam.pools.clone();
    drop(ipam);
    let ipam = open(&dir, &["10.0.0.0/24"]);
    assert_eq!(ipam.pools, before);
    assert_eq!(ipam.get(&key(200)), Some(kept.as_slice()));
}

#[derive(Clone, Debug)]
enum Step {
    Give(u8),
    Free(u8),
    Wait(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..9).prop_map(Step::Give),
        3 => (0u8..9).prop_map(Step::Free),
        1 => (0u64..40).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_address_is_given_twice_nor_before_it_rested(steps in steps()) {
        let dir = tempfile::tempdir().expect("folder");
        let cidrs = ["10.0.0.0/29", "fd00::/125"];
        let mut ipam = open(&dir, &cidrs);
        let mut now = 1000;
        let mut held: BTreeMap<u8, Vec<IpAddr>> = BTreeMap::new();
        let mut freed: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Give(n) => match ipam.allocate(&key(n), now) {
                    Ok(ips) => {
                        if let Some(had) = held.get(&n) {
                            prop_assert_eq!(had, &ips);
                        } else {
                            for ip in &ips {
                                prop_assert!(!held.values().flatten().any(|h| h == ip));
                                prop_assert!(freed.get(ip).is_none_or(|at| now - at >= REST_S));
                            }
                            held.insert(n, ips);
                        }
                    }
                    Err(_) => {
                        let resting = freed.values().filter(|at| now - **at < REST_S).count();
                        prop_assert!(held.len() * 2 + resting >= 5, "refused too early");
                    }
                },
                Step::Free(n) => {
                    let ips = ipam.release(&key(n), now).expect("freed");
                    prop_assert_eq!(&ips, &held.remove(&n).unwrap_or_default());
                    freed.extend(ips.into_iter().map(|ip| (ip, now)));
                }
                Step::Wait(s) => now += s,
                Step::Restart => {
                    let before = ipam.pools.clone();
                    drop(ipam);
                    ipam = open(&dir, &cidrs);
                    prop_assert_eq!(&ipam.pools, &before);
                }
            }
        }
    }

    /// Whatever byte a crash cuts the journal at (and whatever garbage stands after it),
    /// what had been acknowledged by then is restored, and the journal can go on.
    #[test]
    fn a_crash_at_any_byte_loses_only_what_was_not_acknowledged(
        steps in steps(),
        garbage in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("ipam.journal");
        let mut ipam = open(&dir, &["10.0.0.0/28"]);
        let mut acknowledged = vec![(0u64, ipam.pools.clone())];
        for step in steps {
            match step {
                Step::Give(n) => drop(ipam.allocate(&key(n), 0)),
                Step::Free(n) => drop(ipam.release(&key(n), 0)),
                Step::Wait(_) | Step::Restart => {}
            }
            let len = fs::metadata(&path).expect("journal").len();
            acknowledged.push((len, ipam.pools.clone()));
        }
        drop(ipam);
        let bytes = fs::read(&path).expect("journal");
        for cut in 0..=bytes.len() {
            let mut torn = bytes[..cut].to_vec();
            let (len, expected) =
                acknowledged.iter().rev().find(|(len, _)| *len <= cut as u64).expect("first");
            if *len != cut as u64 {
                // Not a line end at once: that would make the last line whole.
                torn.extend(garbage.first().map(|_| b'#'));
                torn.extend(&garbage);
            }
            let (records, sound) = journal::parse(&torn).expect("no sound line follows");
            prop_assert_eq!(sound as u64, *len, "cut at {}", cut);
            let mut restored = Pools::default();
            restored.set_cidrs(&nets(&["10.0.0.0/28"]));
            records.into_iter().for_each(|r| restored.restore(r));
            prop_assert_eq!(&restored, expected, "cut at {}", cut);
        }
        // The same through the file, once: the tail is cut off and the journal goes on.
        fs::write(&path, &bytes[..bytes.len().saturating_sub(3)]).expect("torn");
        let mut ipam = open(&dir, &["10.0.0.0/28"]);
        ipam.allocate(&key(77), 1000).expect("room for one more");
        let before = ipam.pools.clone();
        drop(ipam);
        prop_assert_eq!(&open(&dir, &["10.0.0.0/28"]).pools, &before);
    }

    #[test]
    fn no_journal_panics(bytes: Vec<u8>) {
        let _ = journal::parse(&bytes);
    }
}
