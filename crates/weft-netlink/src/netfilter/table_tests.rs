//! Failures of the kernel, in a namespace of the test's own.

use super::{
    content::tests::{Kernel, delta},
    element::Map,
    *,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

const NFT_MSG_GETCHAIN: u16 = 4;

/// Runs `f` in a new namespace that goes away with it, whatever happens.
pub(in super::super) fn alone(role: &str, f: impl FnOnce() + Send) {
    struct Gone(String);
    impl Drop for Gone {
        fn drop(&mut self) {
            netns::delete_named(&self.0).expect("delete namespace");
        }
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {role}: needs root");
        return;
    }
    let name = format!("wefttest-nft-{}-{role}", std::process::id());
    let path = netns::create_named(&name).expect("namespace");
    let _gone = Gone(name);
    netns::run_in(&path, f).expect("entered");
}

fn rules() -> Rules {
    Rules {
        services: vec!["10.96.0.0/16".parse().expect("prefix")],
        masquerade: vec!["10.7.1.0/24".parse().expect("prefix")],
        cluster: vec!["10.7.0.0/16".parse().expect("prefix")],
        ..Rules::default()
    }
}

fn nat() -> Nat {
    let mut nat = Nat::default();
    let at = Entrance { addr: IpAddr::from([192, 0, 2, 1]), port: 53, protocol: 17 };
    nat.entrances.insert(at, Fate::Forward { group: 1, timeout_s: None, sources: None });
    let target = Target { addr: IpAddr::from([10, 7, 1, 2]), port: 53, here: true };
    nat.groups.insert(1, Targets { protocol: 17, all: vec![target], by_client: false });
    nat
}

/// Whether the table has the base chains for masquerade, and for refusal.
fn has() -> (bool, bool) {
    let there = |name: &str| {
        let mut m = message(NFT_MSG_GETCHAIN, NFPROTO_INET, NLM_F_ACK);
        m.attr_str(NFTA_CHAIN_TABLE, TABLE).attr_str(NFTA_CHAIN_NAME, name);
        open().expect("socket").request(m).is_ok()
    };
    (there(MASQUERADE.0), there(REJECT.0))
}

#[test]
fn a_connection_table_that_cannot_be_asked_stops_nothing() {
    alone("forget", || {
        let mut table = Table::new();
        table.forget = |_, _, _| {
            let source = std::io::Error::from_raw_os_error(libc::EINVAL);
            Err(Error::io("list", "connection table", source))
        };
        table.set_nat(nat()).expect("waits for the rules");
        let first = table.set_rules(&rules()).expect("table");
        assert!(first.whole && first.not_forgotten.is_some());
        // What was written is known, and what shall be forgotten is, too.
        let again = table.set_nat(nat()).expect("the same");
        assert!(!again.whole && again.not_forgotten.is_some());
        assert_eq!(has(), (true, true));
        table.forget = |suspects, _, _| Ok(suspects.len());
        let better = table.set_rules(&rules()).expect("the same");
        assert!(!better.whole && better.flows == 1 && better.not_forgotten.is_none());
        assert_eq!(table.set_nat(nat()).expect("the same").flows, 0);
    });
}

/// Without room for the hooks of NAT, services are still refused; with it, all comes back
/// although nothing else changed.
#[test]
fn what_took_the_place_of_the_table_is_replaced() {
    const HOOKS_MAX: usize = 1024;
    let others = |kind: u16| {
        let mut m = message(kind, NFPROTO_INET, NLM_F_CREATE);
        m.attr_str(NFTA_TABLE_NAME, "others");
        m
    };
    alone("fallback", || {
        for nat_first in [true, false] {
            let mut table = Table::new();
            if nat_first {
                table.set_nat(nat()).expect("waits for the rules");
            }
            assert!(table.set_rules(&rules()).expect("table").whole);
            assert_eq!(has(), (true, true));
            // Somebody takes it away, and all room for it.
            delete().expect("deleted");
            let mut messages = vec![others(NFT_MSG_NEWTABLE)];
            messages.extend((0..HOOKS_MAX).map(|n| {
                let mut m = message(NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE);
                m.attr_str(NFTA_CHAIN_TABLE, "others")
                    .attr_str(NFTA_CHAIN_NAME, &format!("c{n}"))
                    .nest(NFTA_CHAIN_HOOK, |h| {
                        h.attr_be32(NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING)
                            .attr_be32(NFTA_HOOK_PRIORITY, 0);
                    })
                    .attr_str(NFTA_CHAIN_TYPE, "filter");
                m
            }));
            Link::default().commit("fill the hooks", messages).expect("room");
            for _ in 0..2 {
                table.set_rules(&rules()).expect_err("no room");
                assert_eq!(has(), (false, true));
            }
            let room = vec![others(NFT_MSG_DELTABLE)];
            Link::default().commit("make room", room).expect("room");
            assert!(table.set_rules(&rules()).expect("room").whole);
            assert_eq!(has(), (true, true));
            assert!(!table.set_nat(nat()).expect("change").whole);
            delete().expect("deleted");
        }
    });
}

/// What the kernel has, with the chains of classes that the table believes in.
fn kernel(table: &Table) -> Kernel {
    let mut link = Link::default();
    let listed = Map::ALL.map(|map| observe::listed(&mut link, map).expect("listed"));
    let elements = listed.into_iter().flat_map(|map| map.expect("nothing else"));
    let chains = table.content.chains().map(|(chain, class)| (chain, class.clone()));
    let kernel = Kernel { elements: elements.collect(), chains: chains.collect() };
    let structure = Structure::observe(&mut link).expect("observed");
    for chain in kernel.chains.keys() {
        assert!(structure.rules.contains_key(&chain.to_string()), "{chain} is not there");
    }
    kernel
}

/// Any history of differences, with transactions that the kernel refuses: what it has is always
/// what the full write of the last state that was taken means.
#[test]
fn histories_with_refusals_end_as_the_full_write() {
    const HISTORIES: usize = 12;
    const CHANGES: usize = 20;
    alone("histories", || {
        let mut runner = TestRunner::deterministic();
        let mut any = |n: usize| (0..n).new_tree(&mut runner).expect("number").current();
        let (mut failed, mut rolled_back) = (0, 0);
        for history in 0..HISTORIES {
            let mut runner = TestRunner::deterministic();
            (0..history * CHANGES).for_each(|_| drop(delta().new_tree(&mut runner)));
            // Not asked: the answer would be refused as well.
            let mut table = Table { hashes: Some(true), ..Table::new() };
            let mut nat = Nat::default();
            table.set_rules(&rules()).expect("table");
            table.set_nat(Nat::default()).expect("none");
            for _ in 0..CHANGES {
                let delta = delta().new_tree(&mut runner).expect("delta").current();
                nat.apply(&delta);
                // The change alone, or the full write after it, too.
                table.link.spoilt = [0, 0, 1, 2][any(4)];
                let before = kernel(&table);
                if let Err(e) = table.change_nat(delta) {
                    assert_eq!(e.errno(), Some(libc::ENOENT), "{e}");
                    let after = kernel(&Table { content: Content::default(), ..Table::new() });
                    assert_eq!(after.elements, before.elements, "as it was");
                    rolled_back += 1;
                    // The next call writes all, whatever it is about.
                    table.link.spoilt = 0;
                    assert!(table.set_rules(&rules()).expect("rules").whole);
                }
                failed += usize::from(table.link.spoilt == 0);
                table.link.spoilt = 0;
                let now = kernel(&table);
                assert_eq!(now.elements, Kernel::written(&table.content).elements);
                assert_eq!(now.elements.len(), table.content.len());
                let mut anew = Content::default();
                anew.apply(Delta::all(nat.clone()));
                assert_eq!(now.meaning(), Kernel::written(&anew).meaning());
                let checked = table.check().expect("checked");
                assert_eq!((checked.whole, checked.repaired), (false, 0));
            }
        }
        assert!(rolled_back > 10 && failed > 10, "{rolled_back} {failed}");
    });
}

/// A table that works stays where another one cannot be written, and the error is told.
#[test]
fn what_works_stays_when_the_kernel_refuses() {
    alone("stays", || {
        let mut table = Table::new();
        table.set_nat(nat()).expect("waits for the rules");
        assert!(table.set_rules(&rules()).expect("table").whole);
        let before = kernel(&table).elements;
        let structure = Structure::observe(&mut Link::default()).expect("observed");
        let others = Rules { tunnel_port: Some(4789), ..rules() };
        for _ in 0..3 {
            table.link.spoilt = 1;
            let error = table.set_rules(&others).expect_err("refused");
            assert_eq!(error.errno(), Some(libc::ENOENT), "{error}");
            let more = Rules { cluster: Vec::new(), ..others.clone() };
            table.link.spoilt = 2;
            table.set_rules(&more).expect_err("refused");
            table.link.spoilt = 2;
            table.set_nat(Nat::default()).expect_err("refused");
            table.link.spoilt = 2;
            table.set_nat(nat()).expect_err("refused");
            assert_eq!(has(), (true, true));
            assert_eq!(kernel(&table).elements, before);
            let now = Structure::observe(&mut Link::default()).expect("observed");
            assert_eq!(now, structure);
        }
        table.link.spoilt = 0;
        assert!(table.set_rules(&others).expect("rules").whole);
        assert!(!table.check().expect("checked").whole);
    });
}

/// Whatever somebody else does to the table is found and set right; what they do elsewhere is
/// not ours.
#[test]
fn what_others_change_is_found_and_set_right() {
    use std::process::Command;
    if Command::new("nft").arg("--version").output().is_err() {
        println!("SKIP what_others_change_is_found_and_set_right: needs nft");
        return;
    }
    alone("drift", || {
        let nft = |words: &str| {
            let out = Command::new("nft").args(words.split(' ')).output().expect("nft");
            assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
        };
        let mut table = Table::new();
        let mut sticky = nat();
        let at = Entrance { addr: IpAddr::from([192, 0, 2, 2]), port: 53, protocol: 17 };
        let fate = Fate::Forward { group: 1, timeout_s: Some(60), sources: None };
        sticky.entrances.insert(at, fate);
        table.set_nat(sticky).expect("waits for the rules");
        table.set_rules(&rules()).expect("table");
        let listed = || {
            let mut link = Link::default();
            let found = Structure::observe(&mut link).expect("observed").rules;
            let found: Vec<_> = found.into_iter().map(|(chain, r)| (chain, r.len())).collect();
            let clusters =
                [IPV4, IPV6].map(|ip| observe::has_cluster(&mut link, ip, &rules().cluster));
            (found, clusters.map(|c| c.expect("listed")))
        };
        let before = listed();
        // (what, whether all is written anew, elements that are set right)
        for (what, whole, repaired) in [
            ("add table inet others", false, 0),
            ("add chain inet others some", false, 0),
            ("flush map inet weft slots4", false, 1),
            ("flush map inet weft frontends4", false, 2),
            ("add element inet weft tracked4 { 10.7.1.9 . tcp . 80 }", false, 1),
            ("delete element inet weft hairpin4 { 10.7.1.2 . 10.7.1.2 }", false, 1),
            ("add element inet weft cluster4 { 10.9.0.0/16 }", true, 0),
            ("flush chain inet weft nat-prerouting", true, 0),
            ("add rule inet weft class-1 accept", true, 0),
            ("insert rule inet weft reject-input accept", true, 0),
            ("flush chain inet weft mark-output", true, 0),
            ("delete table inet weft", true, 0),
            ("flush ruleset", true, 0),
        ] {
            nft(what);
            let checked = table.check().expect(what);
            assert_eq!((checked.whole, checked.repaired), (whole, repaired), "{what}");
            // Otherwise the next look may wait for its share of time.
            table.listing_due = Instant::now();
            let again = table.check().expect(what);
            assert_eq!((again.whole, again.repaired), (false, 0), "{what}");
            assert_eq!(listed(), before, "{what}");
            assert_eq!(kernel(&table).elements, Kernel::written(&table.content).elements);
        }
        let repairs = table.repairs();
        assert_eq!((repairs.elements, repairs.tables), (5, 7), "each was counted");
        // Changes go on while others make transactions.
        for n in 0..5 {
            nft(&format!("add table inet other{n}"));
            let one = if n % 2 == 0 { Nat::default() } else { nat() };
            assert!(!table.set_nat(one).expect("change").whole);
        }
    });
}

/// With the tool that the distribution has: whoever looks into a node's firewall sees the table,
/// and all others behind it.
#[test]
fn the_tool_lists_the_table() {
    use std::process::Command;
    if Command::new("nft").arg("--version").output().is_err() {
        println!("SKIP the_tool_lists_the_table: needs nft");
        return;
    }
    alone("list", || {
        let mut all = nat();
        let v6 = |text: &str| text.parse::<IpAddr>().expect("address");
        let target = Target { addr: v6("fd07:1::2"), port: 53, here: true };
        all.groups.insert(2, Targets { protocol: 17, all: vec![target], by_client: false });
        for (n, addr) in [v6("192.0.2.3"), v6("2001:db8::3")].into_iter().enumerate() {
            let group = n as u32 + 1;
            let sources = Some(vec![IpNet::from(addr)]);
            for (port, timeout_s, sources) in
                [(53, None, None), (54, Some(60), None), (55, Some(60), sources)]
            {
                let at = Entrance { addr, port, protocol: 17 };
                all.entrances.insert(at, Fate::Forward { group, timeout_s, sources });
            }
            let refused = Entrance { addr, port: 56, protocol: 17 };
            all.entrances.insert(refused, Fate::Refuse);
            let table = Targets { by_client: true, ..all.groups[&group].clone() };
            all.groups.insert(group + 10, table);
            for (port, timeout_s) in [(57, None), (58, Some(60))] {
                let at = Entrance { addr, port, protocol: 17 };
                let fate = Fate::Forward { group: group + 10, timeout_s, sources: None };
                all.entrances.insert(at, fate);
            }
        }
        let mut table = Table::new();
        table.set_nat(all).expect("waits for the rules");
        let rules = Rules {
            services: vec!["10.96.0.0/16".parse().expect("p"), "fd00:96::/112".parse().expect("p")],
            masquerade: vec!["10.7.1.0/24".parse().expect("p"), "fd07:1::/64".parse().expect("p")],
            cluster: vec!["10.7.0.0/16".parse().expect("p"), "fd07::/16".parse().expect("p")],
            tunnel_port: Some(4789),
            routers: vec![v6("10.7.1.1"), v6("fd07:1::1")],
            client_ports: Some(61_000..=65_535),
        };
        table.set_rules(&rules).expect("table");
        for words in [
            &["list", "table", "inet", "weft"][..],
            &["list", "ruleset"],
            &["-j", "list", "ruleset"],
        ] {
            let out = Command::new("nft").args(words).output().expect("nft");
            let said = String::from_utf8_lossy(&out.stdout);
            let why = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{words:?}: {} {why}", out.status);
            // It has no JSON for dynamic maps, whoever made them, and warns of that.
            assert!(why.is_empty() || words[0] == "-j", "{words:?}: {why}");
            let parts = [
                "reject-input",
                "sticky6",
                "class-1",
                "refuse",
                "nat-output",
                "slots4[group . numgen",
                "slots6[group . jhash",
            ];
            for part in parts {
                assert!(said.contains(part), "{words:?}: no {part} in {said}");
            }
        }
    });
}

/// A client that is remembered, as the tool tells it.
fn remembered_client(then: impl FnOnce(&mut Table, Nat)) -> Vec<observe::Remembered> {
    let mut sticky = nat();
    let at = Entrance { addr: IpAddr::from([192, 0, 2, 2]), port: 53, protocol: 17 };
    sticky.entrances.insert(at, Fate::Forward { group: 1, timeout_s: Some(60), sources: None });
    let mut table = Table::new();
    table.set_nat(sticky.clone()).expect("waits for the rules");
    table.set_rules(&rules()).expect("table");
    let mut key = vec![198, 51, 100, 9, 192, 0, 2, 2, 17, 0, 0, 0];
    key.extend([0, 53, 0, 0]);
    let target = vec![0, 0, 0, 0, 10, 7, 1, 2, 0, 53, 0, 0];
    let one = observe::Remembered { key, target, timeout_ms: 60_000, left_ms: 30_000 };
    let client = ruleset::remember(IPV4, &[one]);
    Link::default().commit("remember a client", client).expect("there is room");
    then(&mut table, sticky);
    observe::remembered(&mut Link::default(), IPV4).expect("listed")
}

/// Whatever makes the whole table be written anew, and whoever had written it before: clients
/// stay with their targets, and no longer than they would have.
#[test]
fn a_table_that_is_written_anew_remembers_its_clients() {
    alone("remembers", || {
        let clients = remembered_client(|_, sticky| {
            let mut successor = Table::new();
            successor.set_rules(&rules()).expect("waits for the entrances");
            assert!(successor.set_nat(sticky).expect("table").whole);
        });
        let [client] = &clients[..] else { panic!("{clients:?}") };
        assert_eq!(client.key[..8], [198, 51, 100, 9, 192, 0, 2, 2]);
        assert_eq!(client.target[4..], [10, 7, 1, 2, 0, 53, 0, 0]);
        assert_eq!(client.timeout_ms, 60_000);
        assert!((1..=30_000).contains(&client.left_ms), "{client:?}");
        let others = Rules { tunnel_port: Some(4789), ..rules() };
        let clients = remembered_client(|table, _| {
            assert!(table.set_rules(&others).expect("other rules").whole);
        });
        assert_eq!(clients.len(), 1);
        // No more than this one has room for.
        let clients = remembered_client(|_, sticky| {
            let mut small = Table::with_sticky_max(0);
            small.set_rules(&rules()).expect("waits for the entrances");
            assert!(small.set_nat(sticky).expect("table").whole);
        });
        assert_eq!(clients.len(), 0);
    });
}

#[test]
fn a_kernel_without_a_hash_leads_by_chance() {
    alone("hash", || {
        let table_of = || {
            let mut all = nat();
            let targets = all.groups.get_mut(&1).expect("the group");
            let other = Target { addr: IpAddr::from([10, 7, 1, 3]), ..targets.all[0] };
            targets.all = [targets.all[0], other].into_iter().cycle().take(11).collect();
            targets.by_client = true;
            all
        };
        let slots = |table: &Table| {
            let slots = Map::Slots(IPV4);
            kernel(table).elements.keys().filter(|(map, _)| *map == slots).count()
        };
        if let Err(e) = probe_hash() {
            println!("SKIP a_kernel_without_a_hash_leads_by_chance: {e}");
            return;
        }
        assert!(!exists().expect("asked"), "the probe leaves nothing");
        for (hashes, expected) in [(None, 11), (Some(false), 2)] {
            let mut table = Table { hashes, ..Table::new() };
            table.set_nat(table_of()).expect("waits for the rules");
            table.set_rules(&rules()).expect("table");
            assert_eq!(slots(&table), expected);
            assert_eq!(table.hashes, Some(hashes.is_none()));
        }
    });
}
