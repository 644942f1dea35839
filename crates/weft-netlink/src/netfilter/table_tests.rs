//! Failures of the kernel, in a namespace of the test's own.

use super::*;

const NFT_MSG_GETCHAIN: u16 = 4;

/// Runs `f` in a new namespace that goes away with it, whatever happens.
fn alone(role: &str, f: impl FnOnce() + Send) {
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
    nat.groups.insert(1, Targets { protocol: 17, all: vec![target] });
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
