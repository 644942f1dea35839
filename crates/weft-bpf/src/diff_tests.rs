//! The diff against a model of the kernel: maps, and a reader that looks between any two
//! steps.

use super::*;
use proptest::prelude::*;
use weft_bpf_abi::PROTO_TCP;

type Desired = BTreeMap<Addr, Wanted>;

fn frontend(n: u8) -> Addr {
    let protocol = if n.is_multiple_of(2) { PROTO_TCP } else { PROTO_UDP };
    Addr::from_socket(([10, 96, 0, n], 80).into(), protocol)
}

fn backend(n: u8, protocol: u8) -> Addr {
    Addr::from_socket(([10, 244, 0, n], 8080).into(), protocol)
}

fn desired() -> impl Strategy<Value = Desired> {
    let timeout_s = prop::sample::select(vec![0u32, 0, 60]);
    let set = (prop::collection::btree_set(0u8..8, 1..6), timeout_s, prop::bool::weighted(0.3));
    prop::collection::btree_map(0u8..6, set, 0..6).prop_map(|m| {
        m.into_iter()
            .map(|(f, (backends, affinity_timeout_s, by_client))| {
                let f = frontend(f);
                let mut backends: Vec<Addr> =
                    backends.into_iter().map(|b| backend(b, f.protocol)).collect();
                if by_client {
                    // A table, in which each is more than once.
                    backends.extend(backends.clone().into_iter().rev());
                }
                let flags = if by_client { ServiceValue::BY_CLIENT } else { 0 };
                (f, Wanted { backends, affinity_timeout_s, flags })
            })
            .collect()
    })
}

/// What a program would choose from for each frontend, or why it could not.
pub(crate) fn read(kernel: &Observed, frontend: &Addr) -> Option<BTreeSet<Addr>> {
    let value = kernel.services.get(frontend)?;
    let set = (0..value.count())
        .map(|index| {
            let key = SlotKey { frontend: *frontend, generation: value.generation(), index };
            kernel.slots.get(&key).copied().expect("a slot is missing")
        })
        .collect();
    Some(set)
}

/// Whether an unconnected UDP socket would stay on a backend.
fn stays(kernel: &Observed, frontend: &Addr, backend: &Addr) -> bool {
    let key = MemberKey { frontend: *frontend, backend: *backend };
    let generation = kernel.services[frontend].generation();
    kernel.members.get(&key).is_some_and(|&g| g >= generation)
}

/// Carries `change` out one element at a time, looking after each; stops after `limit`
/// elements, as an agent that is killed does.
fn carry_out(
    kernel: &mut Observed,
    change: &Change,
    limit: usize,
    mut look: impl FnMut(&Observed),
) {
    let mut left = limit;
    let mut step = |kernel: &mut Observed, apply: &mut dyn FnMut(&mut Observed)| {
        if left > 0 {
            left -= 1;
            apply(kernel);
            look(kernel);
        }
    };
    for (k, v) in &change.slots {
        step(kernel, &mut |o| {
            o.slots.insert(*k, *v);
        });
    }
    for (k, v) in &change.members {
        step(kernel, &mut |o| {
            o.members.insert(*k, *v);
        });
    }
    for (k, v) in &change.services {
        step(kernel, &mut |o| {
            o.services.insert(*k, *v);
        });
    }
    for k in &change.gone_services {
        step(kernel, &mut |o| {
            o.services.remove(k);
        });
    }
    for k in &change.gone_slots {
        step(kernel, &mut |o| {
            o.slots.remove(k);
        });
    }
    for k in &change.gone_members {
        step(kernel, &mut |o| {
            o.members.remove(k);
        });
    }
}

/// The kernel holds exactly `desired`: nothing is missing and nothing is left over.
pub(crate) fn assert_holds(kernel: &Observed, desired: &Desired) {
    assert_eq!(kernel.services.keys().collect::<Vec<_>>(), desired.keys().collect::<Vec<_>>());
    let (mut slots, mut members) = (0, 0);
    for (frontend, wanted) in desired {
        let set: BTreeSet<Addr> = wanted.backends.iter().copied().collect();
        assert_eq!(read(kernel, frontend).as_ref(), Some(&set));
        assert_eq!(kernel.services[frontend].flags, wanted.flags);
        slots += wanted.backends.len();
        if needs_members(frontend, wanted.affinity_timeout_s) {
            members += set.len();
            assert!(set.iter().all(|b| stays(kernel, frontend, b)));
        }
    }
    assert_eq!((kernel.slots.len(), kernel.members.len()), (slots, members), "orphans");
}

fn old_and_new(old: &Desired, new: &Desired, frontend: &Addr) -> Vec<Option<BTreeSet<Addr>>> {
    [old, new].map(|d| d.get(frontend).map(|w| w.backends.iter().copied().collect())).to_vec()
}

proptest! {
    /// A reader sees the old set of a frontend or the new one at every moment, and the end is
    /// what was asked for.
    #[test]
    fn a_reader_sees_old_or_new(history in prop::collection::vec(desired(), 1..6)) {
        let mut kernel = Observed::default();
        let mut mirror = Mirror::default();
        let mut old = Desired::new();
        for new in history {
            let change = mirror.plan(&new);
            carry_out(&mut kernel, &change, usize::MAX, |o| {
                for n in 0..6 {
                    let f = frontend(n);
                    let seen = read(o, &f);
                    assert!(old_and_new(&old, &new, &f).contains(&seen), "{f:?}: {seen:?}");
                }
            });
            mirror.commit(&change, &new);
            assert_holds(&kernel, &new);
            old = new;
        }
    }

    /// An unconnected UDP socket stays while its backend is in both sets, and moves as soon
    /// as the new set, without its backend, is seen.
    #[test]
    fn udp_stays_or_moves(old in desired(), new in desired()) {
        let mut kernel = Observed::default();
        let mut mirror = Mirror::default();
        let change = mirror.plan(&old);
        carry_out(&mut kernel, &change, usize::MAX, |_| {});
        mirror.commit(&change, &old);
        let change = mirror.plan(&new);
        carry_out(&mut kernel, &change, usize::MAX, |o| {
            for (f, before) in old.iter().filter(|(f, _)| f.protocol == PROTO_UDP) {
                let (Some(after), Some(seen)) = (new.get(f), read(o, f)) else { continue };
                for b in &before.backends {
                    if after.backends.contains(b) {
                        assert!(stays(o, f, b), "moved without need");
                    } else if !seen.contains(b) {
                        assert!(!stays(o, f, b), "stays on a backend that left");
                    }
                }
            }
        });
    }

    /// Whatever moment an agent is killed in, the next one ends with what is desired, and
    /// readers see complete sets all the while.
    #[test]
    fn a_killed_agent_leaves_no_orphans(
        first in desired(),
        second in desired(),
        third in desired(),
        limit in 0usize..60,
    ) {
        let mut kernel = Observed::default();
        let mut mirror = Mirror::default();
        let change = mirror.plan(&first);
        carry_out(&mut kernel, &change, usize::MAX, |_| {});
        mirror.commit(&change, &first);
        carry_out(&mut kernel, &mirror.plan(&second), limit, |_| {});

        let (mut mirror, orphans) = Mirror::new(kernel.clone());
        let sweep = Change {
            gone_slots: orphans.slots,
            gone_members: orphans.members,
            ..Default::default()
        };
        carry_out(&mut kernel, &sweep, usize::MAX, |o| {
            for n in 0..6 {
                read(o, &frontend(n));
            }
        });
        let change = mirror.plan(&third);
        carry_out(&mut kernel, &change, usize::MAX, |o| {
            for n in 0..6 {
                read(o, &frontend(n));
            }
        });
        mirror.commit(&change, &third);
        assert_holds(&kernel, &third);
        let again = mirror.plan(&third);
        prop_assert_eq!(again, Change { unchanged: third.len(), ..Default::default() });
    }

    /// What is read back equals what was committed: the next change is planned alike.
    #[test]
    fn mirror_equals_observation(history in prop::collection::vec(desired(), 1..4), next in desired()) {
        let mut kernel = Observed::default();
        let mut mirror = Mirror::default();
        for d in &history {
            let change = mirror.plan(d);
            carry_out(&mut kernel, &change, usize::MAX, |_| {});
            mirror.commit(&change, d);
            mirror.forget_retired();
        }
        let (observed, orphans) = Mirror::new(kernel);
        prop_assert_eq!(orphans, Orphans::default());
        prop_assert_eq!(observed.plan(&next), mirror.plan(&next));
    }
}

#[test]
fn parts_are_small_and_complete() {
    let wanted = |count: u8| Wanted {
        backends: (0..count).map(|n| backend(n, PROTO_TCP)).collect(),
        affinity_timeout_s: 0,
        flags: 0,
    };
    let frontend = |n: u32| {
        Addr::from_socket((std::net::Ipv4Addr::from(0x0a60_0000 + n), 80).into(), PROTO_TCP)
    };
    let old: Desired = (0..100).map(|n| (frontend(n), wanted(10))).collect();
    let mut mirror = Mirror::default();
    let change = mirror.plan(&old);
    mirror.commit(&change, &old);
    let new: Desired = (50..2000).map(|n| (frontend(n), wanted(20))).collect();
    let (parts, unchanged) = mirror.parts(&new);
    assert_eq!((unchanged, parts[0].len()), (0, 50), "those that are there come first");
    for part in &parts {
        let change = mirror.plan_part(part.iter().map(|f| (*f, &new[f])));
        assert!(change.slots.len() <= STEP_SLOTS);
        assert!(change.added == 0 || change.changed == 0);
        let undo = mirror.undo(&change);
        assert_eq!(undo.gone_services.len(), change.added);
        assert_eq!(undo.gone_slots.len(), change.slots.len());
    }
    let all: BTreeSet<Addr> = parts.iter().flatten().copied().collect();
    assert_eq!(all, new.keys().copied().collect());
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), new.len());
    assert_eq!(mirror.plan_gone(mirror.others(&new)).gone_services.len(), 50);
}

#[test]
fn a_missing_slot_is_written_anew() {
    let f = frontend(1);
    let wanted = Wanted {
        backends: (0..3).map(|n| backend(n, f.protocol)).collect(),
        affinity_timeout_s: 0,
        flags: 0,
    };
    let desired = Desired::from([(f, wanted)]);
    let mut kernel = Observed::default();
    carry_out(&mut kernel, &Mirror::default().plan(&desired), usize::MAX, |_| {});
    kernel.slots.remove(&SlotKey { frontend: f, generation: 1, index: 1 });
    let (mirror, orphans) = Mirror::new(kernel.clone());
    assert_eq!(orphans.slots.len(), 1, "what comes after the hole");
    kernel.slots.retain(|k, _| !orphans.slots.contains(k));
    let change = mirror.plan(&desired);
    assert_eq!(change.changed, 1);
    carry_out(&mut kernel, &change, usize::MAX, |_| {});
    assert_holds(&kernel, &desired);
}
