//! The engine on a model of the maps, of which calls fail.

#[path = "../../tests/events/mod.rs"]
mod events;

use super::*;
use crate::diff::tests::{assert_holds, read};
use events::{Event, Random, this_node};
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};
use weft_model::Snapshot;
use weft_services::{PlanInput, Planner, plan};

type Desired = BTreeMap<Addr, Wanted>;

/// The maps, and what programs see in them.
struct World {
    maps: RefCell<Observed>,
    random: RefCell<Random>,
    chance: Cell<u64>,
    /// Entries of the map of slots, at most, and how large it may grow.
    slots_max: Cell<usize>,
    slots_limit: Cell<usize>,
    /// How often of a hundred times growth fails; where it does, the map may have grown or not.
    growth_fails: Cell<u64>,
    /// All tables that were asked for.
    asked: RefCell<Vec<Desired>>,
    /// Somebody else was here: what programs see is not the engine's doing.
    damaged: Cell<bool>,
}

impl World {
    fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            maps: RefCell::default(),
            random: RefCell::new(Random(seed)),
            chance: Cell::new(0),
            slots_max: Cell::new(usize::MAX),
            slots_limit: Cell::new(0),
            growth_fails: Cell::new(0),
            asked: RefCell::default(),
            damaged: Cell::new(false),
        })
    }

    /// One element was changed: programs see complete sets, such as were asked for.
    fn look(&self) {
        let maps = self.maps.borrow();
        if self.damaged.get() {
            return;
        }
        for frontend in maps.services.keys() {
            let seen = read(&maps, frontend).expect("it is there");
            let was_asked = self.asked.borrow().iter().any(|desired| {
                let wanted = desired.get(frontend);
                wanted.is_some_and(|w| w.backends.iter().copied().collect::<BTreeSet<_>>() == seen)
            });
            assert!(was_asked, "nobody asked for {frontend:?} with {seen:?}");
        }
    }

    fn fails(&self, map: MapName) -> Result<()> {
        if !self.random.borrow_mut().percent(self.chance.get()) {
            return Ok(());
        }
        let source = std::io::Error::from_raw_os_error(libc::EAGAIN);
        Err(BpfError::call("MAP_UPDATE_BATCH", map.as_str())(source))
    }
}

/// One of the maps.
struct View<K, V>(Rc<World>, MapName, fn(&mut Observed) -> &mut BTreeMap<K, V>);

impl<K: Ord + Copy, V: Copy> Table<K, V> for View<K, V> {
    fn put(&self, entries: &[(K, V)]) -> Result<()> {
        for (key, value) in entries {
            self.0.fails(self.1)?;
            {
                let mut maps = self.0.maps.borrow_mut();
                let map = (self.2)(&mut maps);
                let max_entries = self.0.slots_max.get();
                if self.1 == MapName::Slots && map.len() >= max_entries && !map.contains_key(key) {
                    let left_out = LeftOut::default();
                    let max_entries = max_entries as u32;
                    return Err(BpfError::MapFull { map: self.1.as_str(), max_entries, left_out });
                }
                map.insert(*key, *value);
            }
            self.0.look();
        }
        Ok(())
    }

    fn delete(&self, keys: &[K]) -> Result<()> {
        for key in keys {
            self.0.fails(self.1)?;
            (self.2)(&mut self.0.maps.borrow_mut()).remove(key);
            self.0.look();
        }
        Ok(())
    }

    fn get(&self, key: &K) -> Result<Option<V>> {
        Ok((self.2)(&mut self.0.maps.borrow_mut()).get(key).copied())
    }

    fn dump(&self) -> Result<Vec<(K, V)>> {
        self.0.fails(self.1)?;
        Ok((self.2)(&mut self.0.maps.borrow_mut()).iter().map(|(k, v)| (*k, *v)).collect())
    }
}

struct Fake {
    world: Rc<World>,
    services: View<Addr, ServiceValue>,
    slots: View<SlotKey, Addr>,
    members: View<MemberKey, u32>,
}

impl Fake {
    fn new(world: &Rc<World>) -> Self {
        Self {
            world: world.clone(),
            services: View(world.clone(), MapName::Services, |o| &mut o.services),
            slots: View(world.clone(), MapName::Slots, |o| &mut o.slots),
            members: View(world.clone(), MapName::Members, |o| &mut o.members),
        }
    }
}

impl Kernel for Fake {
    fn services(&self) -> &dyn Table<Addr, ServiceValue> {
        &self.services
    }
    fn slots(&self) -> &dyn Table<SlotKey, Addr> {
        &self.slots
    }
    fn members(&self) -> &dyn Table<MemberKey, u32> {
        &self.members
    }
    fn grace(&self) -> Grace {
        Grace(None)
    }
    fn make_room(&mut self, [_, slots, _]: [usize; 3]) -> Result<()> {
        let World { slots_max, slots_limit, random, growth_fails, .. } = &*self.world;
        let larger = slots.min(slots_limit.get()).max(slots_max.get());
        let mut random = random.borrow_mut();
        let fails = random.percent(growth_fails.get());
        // The map that could not be made; or the programs that could not be replaced by such
        // that use it, when it was there already.
        if !fails || random.percent(50) {
            slots_max.set(larger);
        }
        if fails {
            let source = std::io::Error::from_raw_os_error(libc::ENOMEM);
            return Err(BpfError::call("MAP_CREATE", MapName::Slots.as_str())(source));
        }
        Ok(())
    }
}

fn lowered(tables: &ServiceTables) -> Desired {
    let all = tables.frontends.iter().filter_map(|(f, lb)| {
        let key = diff::lower_key(f)?;
        Some((key, diff::lower(key, lb)?))
    });
    all.collect()
}

/// What happens between two events: the agent may be slow, quick, or start anew.
#[derive(Clone, Debug)]
enum Act {
    Nothing,
    Switch,
    Sweep,
    Verify,
    Restart,
}

fn history() -> impl Strategy<Value = Vec<(Event, Act)>> {
    let event = any::<[u8; 3]>().prop_map(Event::of);
    let act = prop_oneof![
        3 => Just(Act::Nothing),
        6 => Just(Act::Switch),
        3 => Just(Act::Sweep),
        1 => Just(Act::Verify),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec((event, act), 1..40)
}

fn converges(history: Vec<(Event, Act)>, seed: u64, slots_max: usize) {
    let world = World::new(seed);
    world.slots_max.set(slots_max);
    let mut engine = Engine::new(Fake::new(&world)).expect("no faults yet");
    world.chance.set(10);
    let (mut snapshot, input) = (Snapshot::default(), PlanInput::default());
    let mut planner = Planner::new(this_node());
    for (event, act) in history {
        event.apply(&mut snapshot);
        match act {
            Act::Nothing => {}
            Act::Switch => {
                let tables = planner.plan(&snapshot, &input);
                world.asked.borrow_mut().push(lowered(tables));
                // A failure is met again later, or never.
                let _ = engine.switch(tables);
            }
            Act::Sweep => drop(engine.sweep(false)),
            Act::Verify => drop(engine.verify(2)),
            Act::Restart => {
                planner = Planner::new(this_node());
                if let Ok(new) = Engine::new(Fake::new(&world)) {
                    engine = new;
                }
            }
        }
    }
    world.chance.set(0);
    world.slots_max.set(usize::MAX);
    let tables = planner.plan(&snapshot, &input);
    assert_eq!(tables, &plan(&snapshot, &this_node(), &input));
    world.asked.borrow_mut().push(lowered(tables));
    engine.switch(tables).expect("no faults any more");
    assert!(!engine.sweep(true).expect("no faults any more"));
    assert_holds(&world.maps.borrow(), &lowered(tables));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever the order of events, and with one call of ten failing: the end is that of a
    /// full sync, and a program sees sets that were asked for at every moment.
    #[test]
    fn any_history_with_faults_ends_in_the_last_tables(h in history(), seed in any::<u64>()) {
        converges(h, seed, usize::MAX);
    }

    /// The same where there is not always room.
    #[test]
    fn a_map_that_was_full_is_forgotten(h in history(), seed in any::<u64>()) {
        converges(h, seed, 12);
    }
}

/// Tables of one Service each for these numbers, with the endpoints that the bits say.
fn tables_of(services: &BTreeMap<u8, u8>) -> ServiceTables {
    let mut snapshot = Snapshot::default();
    for (n, bits) in services {
        Event::Service(*n, Some(1)).apply(&mut snapshot);
        Event::Slice(*n, Some(*bits)).apply(&mut snapshot);
    }
    plan(&snapshot, &this_node(), &PlanInput::default())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Where the maps cannot grow (no memory, the limit, programs that cannot be replaced), each
    /// frontend that is not named has what was asked for, and each that is named has what it had;
    /// once they can, nothing is left out.
    #[test]
    fn growth_that_fails_leaves_out_what_it_names_and_nothing_else(
        history in prop::collection::vec(
            prop::collection::btree_map(0..events::NUMBERS, 1u8..64, 0..6), 1..8),
        seed in any::<u64>(),
        limit in 1usize..40,
    ) {
        let world = World::new(seed);
        world.slots_max.set(1);
        world.slots_limit.set(limit);
        world.growth_fails.set(50);
        let mut engine = Engine::new(Fake::new(&world)).expect("observed");
        let seen = |world: &World, frontend: &Addr| {
            let maps = world.maps.borrow();
            maps.services.contains_key(frontend).then(|| read(&maps, frontend)).flatten()
        };
        let mut tables = ServiceTables::default();
        for services in history {
            tables = tables_of(&services);
            let desired = lowered(&tables);
            let before: BTreeMap<Addr, _> =
                desired.keys().map(|f| (*f, seen(&world, f))).collect();
            world.asked.borrow_mut().push(desired.clone());
            let left_out: BTreeSet<Addr> = match engine.switch(&tables) {
                Ok(_) => BTreeSet::new(),
                Err(BpfError::MapFull { left_out, .. }) => {
                    prop_assert!(!left_out.0.is_empty());
                    let named = |f: &&Addr| left_out.0.contains(&f.to_socket());
                    desired.keys().filter(named).copied().collect()
                }
                Err(other) => panic!("{other}"),
            };
            for (frontend, wanted) in &desired {
                let set = Some(wanted.backends.iter().copied().collect::<BTreeSet<_>>());
                let now = seen(&world, frontend);
                // TCP and UDP share an address, which is all that is named.
                if left_out.contains(frontend) {
                    prop_assert!(now == set || now == before[frontend], "{frontend:?}: {now:?}");
                } else {
                    prop_assert_eq!(now, set, "{:?}", frontend);
                }
            }
        }
        world.growth_fails.set(0);
        world.slots_limit.set(usize::MAX);
        engine.switch(&tables).expect("there is room");
        prop_assert!(!engine.sweep(true).expect("swept"));
        assert_holds(&world.maps.borrow(), &lowered(&tables));
    }
}

#[test]
fn damage_is_found_and_mended() {
    let world = World::new(1);
    let mut engine = Engine::new(Fake::new(&world)).expect("observed");
    let mut snapshot = Snapshot::default();
    for event in [
        Event::Service(0, Some(2)),
        Event::Slice(0, Some(7)),
        Event::Service(1, Some(1)),
        Event::Slice(1, Some(3)),
    ] {
        event.apply(&mut snapshot);
    }
    let tables = plan(&snapshot, &this_node(), &PlanInput::default());
    world.asked.borrow_mut().push(lowered(&tables));
    engine.switch(&tables).expect("applied");
    world.damaged.set(true);
    let good = world.maps.borrow().clone();
    let damages: [fn(&mut Observed); 3] = [
        |o| assert!(o.services.pop_first().is_some()),
        |o| assert!(o.slots.pop_last().is_some()),
        |o| assert!(o.members.pop_first().is_some()),
    ];
    for damage in damages {
        assert!((0..4).all(|_| engine.verify(2).expect("read")), "nothing is wrong");
        damage(&mut world.maps.borrow_mut());
        assert!(!(0..4).all(|_| engine.verify(2).expect("read")), "it is found");
        engine.switch(&tables).expect("applied");
        assert!(!engine.sweep(true).expect("swept"));
        assert_holds(&world.maps.borrow(), &lowered(&tables));
    }
    assert_eq!(good.slots.len(), world.maps.borrow().slots.len());
}
