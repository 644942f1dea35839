//! Opening, changing, adopting, removing.

use crate::{
    traffic::{add, addr, shrink, tables, tcp_ask, tcp_server},
    world::World,
};
use aya::maps::{HashMap, Map, MapData};
use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};
use weft_bpf::{ApplyStats, BpfError, MapSizes, SocketLb};
use weft_model::Protocol::{Tcp, Udp};
use weft_services::ServiceTables;

const FRONTEND: &str = "10.96.0.1:80";
const OTHER: &str = "10.96.0.2:80";
const BACKENDS: [&str; 4] =
    ["127.0.1.1:8080", "127.0.1.2:8080", "127.0.1.3:8080", "127.0.1.4:8080"];

fn one(backends: &[&str]) -> ServiceTables {
    tables(&[(Tcp, FRONTEND, backends)])
}

/// How many elements a pinned hash map holds.
fn elements<const K: usize, const V: usize>(world: &World, map: &str) -> usize {
    pinned::<K, V>(world, map).keys().count()
}

fn pinned<const K: usize, const V: usize>(
    world: &World,
    map: &str,
) -> HashMap<MapData, [u8; K], [u8; V]> {
    let path = world.layout().join("maps").join(map);
    let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    map.try_into().unwrap()
}

/// Frontends, slots, members.
fn sizes(world: &World) -> (usize, usize, usize) {
    (
        elements::<20, 16>(world, "WEFT_SERVICES"),
        elements::<28, 20>(world, "WEFT_SLOTS"),
        elements::<40, 4>(world, "WEFT_MEMBERS"),
    )
}

pub fn sets_flip_under_load(world: &World) {
    BACKENDS.iter().for_each(|b| tcp_server(b));
    let mut lb = world.open();
    let sets = [one(&BACKENDS[..1]), one(&BACKENDS[1..])];
    lb.apply(&sets[0]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, asked) = (stop.clone(), asked.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let (name, _) = tcp_ask(addr(FRONTEND)).expect("always a backend");
                    assert!(BACKENDS.contains(&name.as_str()), "{name}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let start = Instant::now();
    for round in 1..=200 {
        let stats = lb.apply(&sets[round % 2]).unwrap();
        assert_eq!(stats, ApplyStats { changed: 1, ..Default::default() });
    }
    let spent = start.elapsed() / 200;
    while asked.load(Ordering::Relaxed) < 200 && clients.iter().all(|c| !c.is_finished()) {
        thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|c| c.join().expect("a client failed"));
    println!("{} connections, {spent:?} a flip", asked.load(Ordering::Relaxed));
    assert_eq!(lb.stats().unwrap().races, 0);
    assert_eq!(sizes(world), (1, 1, 0), "only the last set is left");
    // New connections see the new set at once.
    assert!((0..16).all(|_| tcp_ask(addr(FRONTEND)).unwrap().0 == BACKENDS[0]));
}

pub fn a_restarted_agent_adopts(world: &World) {
    BACKENDS.iter().for_each(|b| tcp_server(b));
    let mut lb = world.open();
    assert_eq!(lb.attached().attached, 9, "{:?}", lb.attached());
    lb.apply(&one(&BACKENDS)).unwrap();
    drop(lb);
    // While no agent runs, Services work.
    assert!(BACKENDS.contains(&tcp_ask(addr(FRONTEND)).unwrap().0.as_str()));

    let mut lb = world.open();
    assert_eq!(lb.attached().adopted, 9, "{:?}", lb.attached());
    assert_eq!(lb.stats().unwrap().tcp_connects, 1, "the maps are the same");
    let unchanged = ApplyStats { unchanged: 1, ..Default::default() };
    assert_eq!(lb.apply(&one(&BACKENDS)).unwrap(), unchanged);
    assert_eq!(lb.apply(&one(&BACKENDS)).unwrap(), unchanged);
    let stats = lb.apply(&tables(&[(Tcp, OTHER, &BACKENDS[..2])])).unwrap();
    assert_eq!(stats, ApplyStats { added: 1, removed: 1, ..Default::default() });
    assert_eq!(sizes(world), (1, 2, 0));
    tcp_ask(addr(OTHER)).unwrap();
}

pub fn another_program_is_replaced(world: &World) {
    BACKENDS.iter().for_each(|b| tcp_server(b));
    let mut lb = world.open();
    lb.apply(&one(&BACKENDS)).unwrap();
    drop(lb);
    // As a version would whose connect4 does nothing.
    raw::replace_with_noop(&world.layout().join("links/connect4"));
    assert!(tcp_ask(addr(FRONTEND)).is_err(), "the other program does not translate");
    let lb = world.open();
    assert_eq!((lb.attached().replaced, lb.attached().adopted), (1, 8), "{:?}", lb.attached());
    tcp_ask(addr(FRONTEND)).unwrap();
}

pub fn orphans_go(world: &World) {
    let mut lb = world.open();
    lb.apply(&one(&BACKENDS)).unwrap();
    drop(lb);
    // An agent that was killed: a set that no frontend points at, a frontend that nobody
    // wants, and a frontend whose set is incomplete.
    let mut slots = pinned::<28, 20>(world, "WEFT_SLOTS");
    let (key, value) = slots.iter().next().unwrap().unwrap();
    let mut orphan = key;
    orphan[20..24].copy_from_slice(&77u32.to_ne_bytes());
    slots.insert(orphan, value, 0).unwrap();
    slots.remove(&key).unwrap();
    let mut services = pinned::<20, 16>(world, "WEFT_SERVICES");
    services.insert([1; 20], [1; 16], 0).unwrap();
    pinned::<40, 4>(world, "WEFT_MEMBERS").insert([2; 40], [1; 4], 0).unwrap();
    assert_eq!(sizes(world), (2, 4, 1));

    let mut lb = world.open();
    let stats = lb.apply(&one(&BACKENDS)).unwrap();
    assert_eq!(stats, ApplyStats { changed: 1, removed: 1, ..Default::default() });
    assert_eq!(sizes(world), (1, 4, 0));
    assert_eq!(lb.apply(&one(&BACKENDS)).unwrap().unchanged, 1);
    lb.apply(&ServiceTables::default()).unwrap();
    assert_eq!(sizes(world), (0, 0, 0));
}

pub fn a_lost_cgroup_is_attached_again(world: &World) {
    tcp_server(BACKENDS[0]);
    let child = world.cgroup.join("node");
    fs::create_dir(&child).unwrap();
    let mut options = world.options();
    options.cgroup = child.clone();
    drop(SocketLb::open(options.clone()).unwrap());
    fs::remove_dir(&child).unwrap();
    // The kernel detaches from a removed cgroup in the background; the links are dead
    // either way, since the new directory is another cgroup.
    options.cgroup = world.cgroup.clone();
    let mut lb = SocketLb::open(options).unwrap();
    assert_eq!(lb.attached().attached, 9, "{:?}", lb.attached());
    lb.apply(&one(&BACKENDS[..1])).unwrap();
    tcp_ask(addr(FRONTEND)).unwrap();
}

pub fn only_one_agent(world: &World) {
    let lb = world.open();
    match SocketLb::open(world.options()) {
        Err(BpfError::Busy { .. }) => {}
        other => panic!("{other:?}"),
    }
    drop(lb);
    world.open();
}

pub fn a_full_map_keeps_the_old_set(world: &World) {
    BACKENDS.iter().for_each(|b| tcp_server(b));
    let mut options = world.options();
    options.sizes.slots = 4;
    options.limit_entries = 0;
    let mut lb = SocketLb::open(options).unwrap();
    lb.apply(&one(&BACKENDS[..2])).unwrap();
    match lb.apply(&one(&BACKENDS)) {
        Err(error @ BpfError::MapFull { map: "WEFT_SLOTS", max_entries: 4, .. }) => {
            assert!(error.to_string().contains(FRONTEND), "{error}");
        }
        other => panic!("{other:?}"),
    }
    for _ in 0..8 {
        let (name, _) = tcp_ask(addr(FRONTEND)).unwrap();
        assert!(BACKENDS[..2].contains(&name.as_str()), "{name}");
    }
    // What fits is applied, and what the failure left is gone.
    lb.apply(&one(&BACKENDS[2..3])).unwrap();
    assert_eq!(tcp_ask(addr(FRONTEND)).unwrap().0, BACKENDS[2]);
    assert_eq!(sizes(world), (1, 1, 0));
}

pub fn a_full_map_hinders_nobody_else(world: &World) {
    BACKENDS.iter().for_each(|b| tcp_server(b));
    let mut options = world.options();
    options.sizes.slots = 4;
    options.sizes.services = 2;
    options.limit_entries = 0;
    let mut lb = SocketLb::open(options).unwrap();
    let third = "10.96.0.3:80";
    lb.apply(&tables(&[(Tcp, FRONTEND, &BACKENDS[..2]), (Tcp, OTHER, &BACKENDS[..2])])).unwrap();
    // What is gone makes room, what does not fit keeps its old set, the rest is applied.
    let next = [(Tcp, OTHER, &BACKENDS[..]), (Tcp, third, &BACKENDS[2..3])];
    let left_out = |result| match result {
        Err(BpfError::MapFull { left_out, .. }) => left_out.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(left_out(lb.apply(&tables(&next))), [addr(OTHER)]);
    assert_eq!(tcp_ask(addr(third)).unwrap().0, BACKENDS[2]);
    assert!(BACKENDS[..2].contains(&tcp_ask(addr(OTHER)).unwrap().0.as_str()));
    assert_eq!(sizes(world), (2, 3, 0));
    // No room for a third frontend, though for its slot.
    let next = [
        (Tcp, OTHER, &BACKENDS[3..]),
        (Tcp, third, &BACKENDS[2..3]),
        (Tcp, "10.96.0.4:80", &BACKENDS[..1]),
        (Tcp, "10.96.0.5:80", &BACKENDS[..1]),
    ];
    let out = left_out(lb.apply(&tables(&next)));
    assert_eq!(out, [addr("10.96.0.4:80"), addr("10.96.0.5:80")]);
    assert_eq!(tcp_ask(addr(OTHER)).unwrap().0, BACKENDS[3]);
    assert_eq!(sizes(world), (2, 2, 0));
    lb.apply(&tables(&next[..2])).unwrap();
    assert_eq!(sizes(world), (2, 2, 0));
}

pub fn closed_sockets_leave_no_records(world: &World) {
    tcp_server(BACKENDS[0]);
    let mut lb = world.open();
    lb.apply(&one(&BACKENDS[..1])).unwrap();
    let open: Vec<_> = (0..8).map(|_| tcp_ask(addr(FRONTEND)).unwrap().1).collect();
    assert_eq!(elements::<32, 32>(world, "WEFT_REVERSE"), 8);
    drop(open);
    assert_eq!(elements::<32, 32>(world, "WEFT_REVERSE"), 0);
}

pub fn teardown_leaves_nothing(world: &World) {
    tcp_server(BACKENDS[0]);
    let mut lb = world.open();
    lb.apply(&tables(&[(Tcp, "127.96.0.1:80", &BACKENDS[..1])])).unwrap();
    tcp_ask(addr("127.96.0.1:80")).unwrap();
    assert_eq!(world.pins().len(), 9 + 26 + 2, "{:?}", world.pins());
    lb.close_and_unpin().unwrap();
    assert!(!world.bpf_dir.exists(), "{:?}", world.pins());
    let error = tcp_ask(addr("127.96.0.1:80")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "not translated any more");
    // And all of it can begin again.
    let mut lb = world.open();
    assert_eq!(lb.attached().attached, 9);
    lb.apply(&tables(&[(Tcp, "127.96.0.1:80", &BACKENDS[..1])])).unwrap();
    tcp_ask(addr("127.96.0.1:80")).unwrap();
    lb.close_and_unpin().unwrap();
}

pub fn another_layout_ends_with_the_first_tables(world: &World) {
    BACKENDS.iter().for_each(|b| tcp_server(b));
    let mut lb = world.open();
    lb.apply(&one(&BACKENDS[..1])).unwrap();
    drop(lb);
    // As an agent of another version left it: its programs and maps, under its own number.
    let older = world.bpf_dir.join("v0");
    fs::rename(world.layout(), &older).unwrap();
    let mut lb = world.open();
    assert_eq!(lb.attached().attached, 9, "{:?}", lb.attached());
    assert_eq!(tcp_ask(addr(FRONTEND)).unwrap().0, BACKENDS[0], "until then the old one serves");
    lb.apply(&one(&BACKENDS[1..2])).unwrap();
    assert!((0..8).all(|_| tcp_ask(addr(FRONTEND)).unwrap().0 == BACKENDS[1]));
    assert!(!older.exists());
    assert_eq!(world.pins().len(), 9 + 26 + 2, "{:?}", world.pins());
}

pub fn a_foreign_layout_is_refused(world: &World) {
    drop(world.open());
    let slots = world.layout().join("maps/WEFT_SLOTS");
    fs::remove_file(&slots).unwrap();
    let services = MapData::from_pin(world.layout().join("maps/WEFT_SERVICES")).unwrap();
    services.pin(&slots).unwrap();
    match SocketLb::open(world.options()) {
        Err(error @ BpfError::Layout { .. }) => assert!(error.to_string().contains("WEFT_SLOTS")),
        other => panic!("{other:?}"),
    }
}

/// More than one batch of everything, with the default sizes; a change touches only itself.
pub fn ten_thousand_services(world: &World) {
    const SERVICES: u32 = 10_000;
    let mut tables = ServiceTables::default();
    for n in 0..SERVICES {
        let at = Ipv4Addr::from(0x0a60_0000 + n);
        let protocol = if n % 4 == 0 { Udp } else { Tcp };
        let backends = (0..10).map(|b| Ipv4Addr::from(0x0af4_0000 + (n * 7 + b) % 5000));
        let backends: Vec<_> = backends.map(|ip| (ip.into(), 8080)).collect();
        add(&mut tables, (at.into(), 80), protocol, &backends);
        let backends = (0..10).map(|b| (0xfd00 << 112) + u128::from((n * 7 + b) % 5000));
        let backends: Vec<_> = backends.map(|ip| (Ipv6Addr::from(ip).into(), 8080)).collect();
        let at = Ipv6Addr::from((0xfd01 << 112) + u128::from(n));
        add(&mut tables, (at.into(), 80), protocol, &backends);
    }
    let mut options = world.options();
    options.sizes = MapSizes { slots: 262_144, members: 65_536, ..MapSizes::default() };
    let mut lb = SocketLb::open(options.clone()).unwrap();
    let start = Instant::now();
    let stats = lb.apply(&tables).unwrap();
    println!("first: {:?}", start.elapsed());
    assert_eq!(stats, ApplyStats { added: 20_000, ..Default::default() });
    assert_eq!(sizes(world), (20_000, 200_000, 50_000));

    drop(lb);
    let start = Instant::now();
    let mut lb = SocketLb::open(options).unwrap();
    println!("adopted: {:?}", start.elapsed());
    let unchanged = ApplyStats { unchanged: 20_000, ..Default::default() };
    assert_eq!(lb.apply(&tables).unwrap(), unchanged);
    shrink(&mut tables, 1);
    let start = Instant::now();
    let stats = lb.apply(&tables).unwrap();
    println!("one change: {:?}", start.elapsed());
    assert_eq!(stats, ApplyStats { changed: 1, unchanged: 19_999, ..Default::default() });
    // Every set anew: old and new together would not fit.
    shrink(&mut tables, usize::MAX);
    let start = Instant::now();
    let stats = lb.apply(&tables).unwrap();
    println!("everything: {:?}", start.elapsed());
    assert_eq!(stats, ApplyStats { changed: 20_000, ..Default::default() });
    assert_eq!(sizes(world).0, 20_000);
    let start = Instant::now();
    lb.apply(&ServiceTables::default()).unwrap();
    println!("nothing: {:?}", start.elapsed());
    assert_eq!(sizes(world), (0, 0, 0));
}

pub fn everything_is_probed(_: &World) {
    let features = weft_bpf::probe();
    println!("{features:#?}");
    assert!(features.len() >= 13, "{features:?}");
    for feature in features {
        assert!(feature.ok || feature.optional, "{}: {}", feature.name, feature.detail);
    }
}

/// What aya has no call for.
mod raw {
    use std::{ffi::CString, path::Path};

    const OBJ_GET: libc::c_long = 7;
    const PROG_LOAD: libc::c_long = 5;
    const LINK_UPDATE: libc::c_long = 29;

    fn bpf<T>(command: libc::c_long, attr: &T) -> u32 {
        // SAFETY: the attribute is a live struct of the size passed.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
        assert!(fd >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
        fd as u32
    }

    #[repr(C)]
    struct ProgLoad {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        rest: [u64; 5],
        ifindex: u32,
        attach_type: u32,
    }

    /// Makes the pinned link of connect4 run `return 1`.
    pub fn replace_with_noop(link: &Path) {
        // r0 = 1; exit
        let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
        let program = bpf(
            PROG_LOAD,
            &ProgLoad {
                kind: 18,
                instructions: 2,
                code: code.as_ptr() as u64,
                license: c"Dual MIT/GPL".as_ptr() as u64,
                rest: [0; 5],
                ifindex: 0,
                attach_type: 10,
            },
        );
        let path = CString::new(link.to_str().unwrap()).unwrap();
        let link = bpf(OBJ_GET, &[path.as_ptr() as u64, 0]);
        bpf(LINK_UPDATE, &[link, program, 0, 0]);
        // SAFETY: both descriptors were opened above, and nobody else has them.
        unsafe {
            libc::close(program as i32);
            libc::close(link as i32);
        }
    }
}
