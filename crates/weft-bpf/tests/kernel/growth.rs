//! Maps that become full, and calls that fail.

use crate::{
    events::{Event, Random, this_node},
    traffic::{add, addr, tables, tcp_ask, tcp_server},
    world::World,
};
use aya::maps::{HashMap, Map, MapData};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};
use weft_bpf::{BpfError, SocketLb};
use weft_model::{Protocol::Tcp, Snapshot};
use weft_services::{PlanInput, Planner, ServiceTables, plan};

const FRONTEND: &str = "10.96.0.1:80";
const BACKENDS: [&str; 2] = ["127.0.1.1:8080", "127.0.1.2:8080"];

fn size(world: &World, map: &str) -> u32 {
    MapData::from_pin(world.layout().join("maps").join(map)).unwrap().info().unwrap().max_entries()
}

fn content<const K: usize, const V: usize>(world: &World, map: &str) -> BTreeMap<[u8; K], [u8; V]> {
    let data = MapData::from_pin(world.layout().join("maps").join(map)).unwrap();
    let map: HashMap<_, [u8; K], [u8; V]> = HashMap::try_from(Map::HashMap(data)).unwrap();
    map.iter().map(Result::unwrap).collect()
}

/// The frontend that is asked for, and many that need room.
pub fn crowd(count: u32) -> ServiceTables {
    let mut tables = tables(&[(Tcp, FRONTEND, &BACKENDS)]);
    for n in 0..count {
        let at = Ipv4Addr::from(0x0a61_0000 + n).into();
        let backends = (0..5).map(|b| (Ipv4Addr::from(0x0af4_0000 + n * 5 + b).into(), 8080));
        add(&mut tables, (at, 80), Tcp, &backends.collect::<Vec<_>>());
    }
    tables
}

pub fn full_maps_grow_under_load(world: &World) {
    BACKENDS.iter().for_each(|b| tcp_server(b));
    let mut options = world.options();
    (options.sizes.services, options.sizes.slots) = (4, 16);
    let mut lb = SocketLb::open(options).unwrap();
    lb.apply(&crowd(0)).unwrap();
    assert_eq!((size(world, "WEFT_SERVICES"), size(world, "WEFT_SLOTS")), (4, 16));
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    tcp_ask(addr(FRONTEND)).expect("translated all the while");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let at_least = |count| {
            while asked.load(Ordering::Relaxed) < count && !stop.load(Ordering::Relaxed) {
                thread::yield_now();
            }
        };
        at_least(10);
        for count in [10, 100, 1000] {
            let done = lb.apply(&crowd(count));
            let before = asked.load(Ordering::Relaxed);
            at_least(before + 10);
            assert_eq!(
                done.unwrap().unchanged,
                if count == 10 { 1 } else { count as usize / 10 + 1 }
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(size(world, "WEFT_SERVICES") >= 1001 && size(world, "WEFT_SLOTS") >= 5002);
    assert_eq!(content::<28, 20>(world, "WEFT_SLOTS").len(), 5002);
    // As large as they are now, for whoever comes next; and nothing shrinks.
    drop(lb);
    let mut lb = world.open();
    assert_eq!(lb.attached().adopted, 9);
    assert_eq!(lb.apply(&crowd(1000)).unwrap().unchanged, 1001);
    tcp_ask(addr(FRONTEND)).unwrap();
}

pub fn an_agent_that_ends_while_maps_grow(world: &World) {
    tcp_server(BACKENDS[0]);
    let mut lb = world.open();
    let one = tables(&[(Tcp, FRONTEND, &BACKENDS[..1])]);
    lb.apply(&one).unwrap();
    drop(lb);
    // The pin is the larger map already, the programs still use the other one.
    let maps = world.layout().join("maps");
    let old = MapData::from_pin(maps.join("WEFT_SLOTS")).unwrap();
    std::fs::remove_file(maps.join("WEFT_SLOTS")).unwrap();
    let mut options = world.options();
    options.bpf_dir = world.bpf_dir.with_file_name("other");
    drop(SocketLb::open(options.clone()).unwrap());
    let other = options.bpf_dir.join(world.layout().file_name().unwrap()).join("maps/WEFT_SLOTS");
    MapData::from_pin(&other).unwrap().pin(maps.join("WEFT_SLOTS")).unwrap();
    // And one that was not there yet.
    old.pin(maps.join("WEFT_MEMBERS_NEW")).unwrap();
    SocketLb::open(options).unwrap().close_and_unpin().unwrap();

    let mut lb = world.open();
    assert!(lb.attached().replaced > 0, "{:?}", lb.attached());
    assert!(!maps.join("WEFT_MEMBERS_NEW").exists());
    lb.apply(&one).unwrap();
    assert_eq!(tcp_ask(addr(FRONTEND)).unwrap().0, BACKENDS[0]);
    assert_eq!(content::<28, 20>(world, "WEFT_SLOTS").len(), 1);
}

pub fn smaller_maps_of_an_earlier_agent_grow(world: &World) {
    tcp_server(BACKENDS[0]);
    let mut options = world.options();
    options.sizes.slots = 8;
    let mut lb = SocketLb::open(options).unwrap();
    lb.apply(&tables(&[(Tcp, FRONTEND, &BACKENDS[..1])])).unwrap();
    drop(lb);
    let wanted = world.options().sizes.slots;
    let lb = world.open();
    assert_eq!(size(world, "WEFT_SLOTS"), wanted);
    assert_eq!(tcp_ask(addr(FRONTEND)).unwrap().0, BACKENDS[0], "nothing was applied since");
    drop(lb);
}

thread_local! {
    /// What fails, and how often.
    static FAULTS: RefCell<(Random, u64)> = const { RefCell::new((Random(1), 0)) };
}

fn faults() -> bool {
    FAULTS.with_borrow_mut(|(random, chance)| random.percent(*chance))
}

/// The same as the engine's test on a model, with the maps of the kernel.
pub fn any_history_with_faults_ends_in_the_last_tables(world: &World) {
    const HISTORIES: u64 = 20;
    let mut options = world.options();
    options.faults = Some(faults);
    let mut failures = 0;
    for seed in 1..=HISTORIES {
        let mut random = Random(seed << 32 | 0x9e37_79b9);
        FAULTS.set((random, 0));
        let mut lb = SocketLb::open(options.clone()).unwrap();
        FAULTS.set((random, 10));
        let (mut snapshot, input) = (Snapshot::default(), PlanInput::default());
        let mut planner = Planner::new(this_node());
        for _ in 0..40 {
            let [a, b, c, act, ..] = random.next().to_le_bytes();
            Event::of([a, b, c]).apply(&mut snapshot);
            // Opening takes a hundred milliseconds: rarely.
            match act {
                0..60 => {}
                60..180 => {
                    failures += usize::from(lb.switch(planner.plan(&snapshot, &input)).is_err())
                }
                180..252 => failures += usize::from(lb.sweep().is_err()),
                _ => {
                    drop(lb);
                    FAULTS.with_borrow_mut(|(_, chance)| *chance = 0);
                    lb = SocketLb::open(options.clone()).unwrap();
                    FAULTS.with_borrow_mut(|(_, chance)| *chance = 10);
                }
            }
        }
        FAULTS.set((random, 0));
        lb.apply(planner.plan(&snapshot, &input)).unwrap();
        assert_holds(world, &plan(&snapshot, &this_node(), &input));
    }
    assert!(failures > HISTORIES as usize, "{failures} failures");
}

/// The kernel's maps hold these tables and nothing else.
fn assert_holds(world: &World, tables: &ServiceTables) {
    let services = content::<20, 16>(world, "WEFT_SERVICES");
    let slots = content::<28, 20>(world, "WEFT_SLOTS");
    let members = content::<40, 4>(world, "WEFT_MEMBERS");
    assert_eq!(services.len(), tables.frontends.len());
    let (mut slot_count, mut member_count) = (0, 0);
    for (frontend, lb) in &tables.frontends {
        let number = frontend.protocol.number();
        let key = |ip, port: weft_model::Port| {
            let a = weft_bpf_abi::Addr::from_socket((ip, port.get()).into(), number);
            let mut bytes = [0u8; 20];
            for (to, word) in bytes.chunks_exact_mut(4).zip(a.ip) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            bytes[16..18].copy_from_slice(&a.port.to_ne_bytes());
            bytes[18] = number;
            bytes
        };
        let at = key(frontend.addr, frontend.port);
        let value = services.get(&at).unwrap_or_else(|| panic!("{frontend} is missing"));
        let (generation, count) =
            (&value[0..4], u32::from_ne_bytes(value[4..8].try_into().unwrap()));
        let found: BTreeSet<[u8; 20]> = (0..count)
            .map(|index| {
                let mut slot = [0; 28];
                slot[..20].copy_from_slice(&at);
                slot[20..24].copy_from_slice(generation);
                slot[24..].copy_from_slice(&index.to_ne_bytes());
                slots[&slot]
            })
            .collect();
        let wanted: BTreeSet<_> = lb.backends.iter().map(|b| key(b.addr, b.port)).collect();
        assert_eq!(found, wanted, "{frontend}");
        slot_count += wanted.len();
        if frontend.protocol != Tcp || lb.affinity_timeout_s.is_some() {
            member_count += wanted.len();
        }
    }
    assert_eq!((slots.len(), members.len()), (slot_count, member_count), "orphans");
}

/// Without room to grow the error names who was left out, and nobody else is.
pub fn a_limit_is_kept(world: &World) {
    let mut options = world.options();
    (options.sizes.slots, options.limit_entries) = (64, 300);
    let mut lb = SocketLb::open(options).unwrap();
    match lb.apply(&crowd(100)) {
        Err(BpfError::MapFull { map: "WEFT_SLOTS", max_entries: 300, left_out }) => {
            assert_eq!(left_out.0.len(), 41, "59 or 60 others fit");
        }
        other => panic!("{other:?}"),
    }
    lb.apply(&crowd(50)).unwrap();
    assert_eq!(content::<28, 20>(world, "WEFT_SLOTS").len(), 252);
}
