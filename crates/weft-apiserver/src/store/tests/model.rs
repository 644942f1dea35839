//! Any interleaving of writes, lists at a version, watches, compaction and restart, against a
//! plain map.

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Put(u32, u32),
    Delete(u32),
    /// Two objects in one transaction.
    Group(u32, u32),
    /// A watch of all or of the odd ones, from the version at this place of the history.
    Watch(bool, prop::sample::Index),
    /// A list of all or of the odd ones at the version at this place of the history.
    List(bool, prop::sample::Index),
    Compact,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let name = || 0u32..5;
    prop_oneof![
        6 => (name(), 0u32..4).prop_map(|(a, n)| Op::Put(a, n)),
        3 => name().prop_map(Op::Delete),
        2 => (name(), 0u32..4).prop_map(|(a, n)| Op::Group(a, n)),
        2 => (any::<bool>(), any::<prop::sample::Index>()).prop_map(|(o, i)| Op::Watch(o, i)),
        2 => (any::<bool>(), any::<prop::sample::Index>()).prop_map(|(o, i)| Op::List(o, i)),
        1 => Just(Op::Compact),
        1 => Just(Op::Restart),
    ]
}

/// What there is: version and number by name.
type State = BTreeMap<String, (u64, u32)>;

fn selected(state: &State, only_odd: bool) -> BTreeMap<String, u64> {
    let wanted = state.iter().filter(|(_, (_, n))| !only_odd || n % 2 == 1);
    wanted.map(|(name, (rv, _))| (name.clone(), *rv)).collect()
}

fn scope(only_odd: bool) -> Scope {
    if only_odd { odd() } else { Scope::default() }
}

struct Watched {
    only_odd: bool,
    watch: Watch,
    /// What its client knows.
    known: BTreeMap<String, u64>,
    rv: u64,
}

impl Watched {
    fn catch_up(&mut self) {
        while let Some((change, e)) = self.watch.try_next() {
            assert!(e.rv > self.rv, "in order");
            self.rv = e.rv;
            let name = e.key.name.to_string();
            let before = match change {
                Change::Deleted => self.known.remove(&name),
                _ => self.known.insert(name, e.rv),
            };
            assert_eq!(before.is_some(), change != Change::Added, "{change:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_store_is_a_map_with_a_memory(ops in prop::collection::vec(op(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), false, 8, |_, v| attrs(v)).unwrap();
        let mut s = open();
        let mut model = State::new();
        let mut history: Vec<(u64, State)> = vec![(s.rv(), State::new())];
        // History before this version ended with the last restart.
        let mut born = s.rv();
        let mut watches: Vec<Watched> = Vec::new();
        for op in ops {
            let t = s.table("g/t");
            match op {
                Op::Put(a, n) => {
                    let name = format!("o{a}");
                    let rv = put(&s, t, &name, n).rv;
                    model.insert(name, (rv, n));
                }
                Op::Delete(a) => {
                    delete(&s, t, &format!("o{a}"));
                    model.remove(&format!("o{a}"));
                }
                Op::Group(a, n) => {
                    let (name, twin) = (format!("o{a}"), format!("twin{a}"));
                    let key = Key::new("ns", &name);
                    let expect = s.get(t, &key).map_or(Expect::Absent, |e| Expect::At(e.rv));
                    let write = Write::Put(object(&name, n));
                    let first = s.commit(
                        Commit { table: t, key: &key, expect, write, dry_run: false },
                        attrs,
                        |txn, _| {
                            let v = object(&twin, n);
                            let of = attrs(&v);
                            txn.put(t, Key::new("ns", &twin), v, of);
                            Ok::<_, Infallible>(())
                        },
                        |()| {},
                    ).unwrap();
                    model.insert(name, (first.rv, n));
                    model.insert(twin, (first.rv + 1, n));
                }
                Op::Watch(only_odd, at) => {
                    let (rv, then) = at.get(&history);
                    match s.watch(t, scope(only_odd), *rv) {
                        Ok(watch) => {
                            prop_assert!(*rv >= born);
                            let known = selected(then, only_odd);
                            watches.push(Watched { only_odd, watch, known, rv: *rv });
                        }
                        Err(e) => prop_assert!(e.oldest > *rv),
                    }
                }
                Op::List(only_odd, at) => {
                    let (rv, then) = at.get(&history);
                    match s.list(t, &scope(only_odd), Some(*rv), None, 0) {
                        Ok(l) => prop_assert_eq!(
                            (l.rv, state(&l)), (*rv, selected(then, only_odd))
                        ),
                        Err(e) => prop_assert!(e.oldest > *rv),
                    }
                }
                Op::Compact => s.shared.compact().unwrap(),
                Op::Restart => {
                    let rv = s.rv();
                    watches.clear();
                    drop(s);
                    s = open();
                    prop_assert_eq!(s.rv(), rv, "no version is lost or given again");
                    born = rv;
                }
            }
            if history.last().unwrap().0 != s.rv() {
                history.push((s.rv(), model.clone()));
            }
            let t = s.table("g/t");
            for only_odd in [false, true] {
                let now = s.list(t, &scope(only_odd), None, None, 0).unwrap();
                prop_assert_eq!((now.rv, state(&now)), (s.rv(), selected(&model, only_odd)));
            }
            for w in &mut watches {
                w.catch_up();
                prop_assert_eq!(&w.known, &selected(&model, w.only_odd));
            }
        }
    }
}
