//! The store against a plain model.

mod crash;
mod journal;
mod model;

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::convert::Infallible;
use weft_kinds::DEPTH_MAX;

fn attrs(v: &Value) -> Attrs {
    let labels = v["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    Attrs::new(
        labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().unwrap().into())),
        std::iter::empty(),
    )
}

fn object(name: &str, n: u32) -> Value {
    json!({"metadata": {"name": name, "labels": {"odd": (n % 2).to_string()}}, "n": n})
}

fn commit(
    s: &Store,
    t: Table,
    key: &Key,
    expect: Expect,
    write: Write,
) -> Result<Entry, CommitError<Infallible>> {
    s.commit(Commit { table: t, key, expect, write, dry_run: false }, attrs, |_, _| Ok(()), |()| {})
}

fn put(s: &Store, t: Table, name: &str, n: u32) -> Entry {
    let key = Key::new("ns", name);
    let expect = s.get(t, &key).map_or(Expect::Absent, |e| Expect::At(e.rv));
    commit(s, t, &key, expect, Write::Put(object(name, n))).unwrap()
}

fn delete(s: &Store, t: Table, name: &str) {
    let key = Key::new("ns", name);
    if let Some(e) = s.get(t, &key) {
        commit(s, t, &key, Expect::At(e.rv), Write::Delete(e.value())).unwrap();
    }
}

fn odd() -> Scope {
    let selector = crate::selector::Selector::parse(Some("odd=1"), None, |_| true).unwrap();
    Scope { namespace: None, selector: Arc::new(selector) }
}

fn state(l: &Listing) -> BTreeMap<String, u64> {
    l.items.iter().map(|(k, e)| (k.name.to_string(), e.rv)).collect()
}

#[test]
fn a_commit_on_an_old_version_changes_nothing() {
    let s = Store::in_memory(10);
    let t = s.table("t");
    let first = put(&s, t, "a", 1);
    put(&s, t, "a", 2);
    let key = Key::new("ns", "a");
    let raced = commit(&s, t, &key, Expect::At(first.rv), Write::Put(object("a", 3)));
    assert!(matches!(raced, Err(CommitError::Raced)));
    let raced = commit(&s, t, &key, Expect::Absent, Write::Put(object("a", 3)));
    assert!(matches!(raced, Err(CommitError::Raced)));
    assert_eq!(s.get(t, &key).unwrap().value()["n"], 2);
    assert_eq!(s.rv(), 3);
}

#[test]
fn a_slow_watcher_is_cut_off_and_nobody_else() {
    let s = Store::in_memory(10);
    let t = s.table("t");
    let mut slow = s.watch(t, Scope::default(), s.rv()).unwrap();
    let mut quick = s.watch(t, Scope::default(), s.rv()).unwrap();
    for i in 0..queue::BACKLOG_EVENTS as u32 + 5 {
        put(&s, t, "a", i);
        assert!(quick.try_next().is_some());
    }
    let mut got = 0;
    while slow.try_next().is_some() {
        got += 1;
    }
    assert_eq!(got, queue::BACKLOG_EVENTS);
    assert!(slow.live.is_closed(), "after the backlog the stream ends");
    assert!(slow.ended(), "and says so");
    assert!(!quick.live.is_closed() && !quick.ended());
}

#[test]
fn a_watcher_that_holds_too_many_bytes_is_cut_off() {
    let s = Store::in_memory(10);
    let t = s.table("t");
    let key = Key::new("ns", "a");
    let mut slow = s.watch(t, Scope::default(), s.rv()).unwrap();
    let mut quick = s.watch(t, Scope::default(), s.rv()).unwrap();
    for n in 0..20 {
        let expect = s.get(t, &key).map_or(Expect::Absent, |e| Expect::At(e.rv));
        let large = json!({"metadata": {"name": "a"}, "n": n, "x": "x".repeat(1 << 20)});
        commit(&s, t, &key, expect, Write::Put(large)).unwrap();
        assert!(quick.try_next().is_some());
    }
    let (mut got, mut bytes) = (0, 0);
    while let Some((_, event)) = slow.try_next() {
        got += 1;
        bytes += event.object.len();
    }
    assert!(slow.ended() && !quick.ended());
    assert!((1..20).contains(&got) && bytes <= queue::BACKLOG_BYTES, "{got} events, {bytes} bytes");
}

#[test]
fn watchers_share_one_encoding() {
    let s = Store::in_memory(10);
    let t = s.table("t");
    let mut watches: Vec<_> =
        (0..3).map(|_| s.watch(t, Scope::default(), s.rv()).unwrap()).collect();
    put(&s, t, "a", 1);
    let lines: Vec<_> = watches
        .iter_mut()
        .map(|w| {
            let (change, event) = w.try_next().unwrap();
            event.line(change).as_ptr()
        })
        .collect();
    assert!(lines.windows(2).all(|w| w[0] == w[1]));
}

/// Puts `a/first` and, in the same transaction, `count` objects of `b`; deletes `b/gone`.
fn group(s: &Store, first: &str, count: usize) -> Entry {
    let (a, b) = (s.table("g/a"), s.table("g/b"));
    s.commit(
        Commit {
            table: a,
            key: &Key::new("ns", first),
            expect: Expect::Absent,
            write: Write::Put(object(first, 1)),
            dry_run: false,
        },
        attrs,
        |txn, _| {
            for n in 0..count {
                let (name, n) = (format!("{first}-{n}"), n as u32);
                let v = object(&name, n);
                let attributes = attrs(&v);
                txn.put(b, Key::new("", &name), json!({"replaced": true}), Attrs::default());
                txn.put(b, Key::new("", &name), v, attributes);
            }
            txn.delete(b, Key::new("", "gone"));
            txn.delete(b, Key::new("", "was never there"));
            Ok::<_, Infallible>(())
        },
        |()| {},
    )
    .unwrap()
}

#[test]
fn a_transaction_of_several_objects_is_seen_in_order() {
    let s = Store::in_memory(10);
    let (a, b) = (s.table("g/a"), s.table("g/b"));
    let gone = Key::new("", "gone");
    let put = commit(&s, b, &gone, Expect::Absent, Write::Put(object("gone", 1))).unwrap();
    let mut on_a = s.watch(a, Scope::default(), put.rv).unwrap();
    let mut on_b = s.watch(b, odd(), put.rv).unwrap();
    let first = group(&s, "x", 4);
    assert_eq!(first.rv, put.rv + 1);
    let (change, event) = on_a.try_next().unwrap();
    assert_eq!((change, event.rv), (Change::Added, first.rv));
    let mut seen = Vec::new();
    while let Some((change, event)) = on_b.try_next() {
        let shown: Value = serde_json::from_slice(&event.object).unwrap();
        assert_eq!(shown["metadata"]["resourceVersion"], event.rv.to_string());
        seen.push((change, event.key.name.to_string(), event.rv - first.rv));
    }
    let expected = [
        (Change::Added, "x-1".to_owned(), 2),
        (Change::Added, "x-3".to_owned(), 4),
        (Change::Deleted, "gone".to_owned(), 5),
    ];
    assert_eq!(seen, expected);
    assert_eq!(s.rv(), first.rv + 5);
    assert_eq!(s.get(b, &Key::new("", "x-2")).unwrap().rv, first.rv + 3);
    // One version later, the whole of it is undone.
    let then = s.list(b, &Scope::default(), Some(put.rv), None, 0).unwrap();
    assert_eq!(then.items.len(), 1);
}

#[test]
fn a_refused_or_dry_transaction_changes_nothing_at_all() {
    let s = Store::in_memory(10);
    let (a, b) = (s.table("g/a"), s.table("g/b"));
    let key = Key::new("ns", "x");
    for (dry_run, huge) in [(true, false), (false, true)] {
        let done = s.commit(
            Commit {
                table: a,
                key: &key,
                expect: Expect::Absent,
                write: Write::Put(object("x", 1)),
                dry_run,
            },
            attrs,
            |txn, _| {
                let x = "x".repeat(if huge { OBJECT_BYTES_MAX } else { 1 });
                txn.put(b, Key::new("", "y"), json!({"metadata": {}, "x": x}), Attrs::default());
                Ok::<_, Infallible>(())
            },
            |()| panic!("nothing is certain"),
        );
        assert_eq!(done.is_err(), huge);
    }
    assert_eq!(s.rv(), 1);
    assert!(s.get(a, &key).is_none() && s.get(b, &Key::new("", "y")).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A list at any kept version is what was there, and replaying a watch from it ends in the
    /// present, with and without a selector.
    #[test]
    fn lists_and_watches_agree(
        ops in proptest::collection::vec((0u32..6, any::<bool>(), 0u32..10), 1..40), keep in 5usize..50
    ) {
        let s = Store::in_memory(keep);
        let t = s.table("t");
        let mut history = vec![(s.rv(), BTreeMap::new(), BTreeMap::new())];
        for (name, remove, n) in ops {
            let name = format!("o{name}");
            if remove { delete(&s, t, &name) } else { drop(put(&s, t, &name, n)) }
            let all = s.list(t, &Scope::default(), None, None, 0).unwrap();
            let some = s.list(t, &odd(), None, None, 0).unwrap();
            history.push((all.rv, state(&all), state(&some)));
        }
        let now = history.last().unwrap().clone();
        for (rv, all, some) in history {
            for (scope, then, end) in [(Scope::default(), &all, &now.1), (odd(), &some, &now.2)] {
                match s.list(t, &scope, Some(rv), None, 0) {
                    Ok(l) => prop_assert_eq!((l.rv, &state(&l)), (rv, then)),
                    Err(e) => { prop_assert!(e.oldest > rv); continue; }
                }
                let mut replayed = then.clone();
                let mut w = s.watch(t, scope, rv).unwrap();
                let mut last = rv;
                while let Some((change, e)) = w.try_next() {
                    prop_assert!(e.rv > last);
                    last = e.rv;
                    let name = e.key.name.to_string();
                    let known = replayed.contains_key(&name);
                    match change {
                        Change::Deleted => { prop_assert!(known); replayed.remove(&name); }
                        Change::Added => { prop_assert!(!known); replayed.insert(name, e.rv); }
                        Change::Modified => { prop_assert!(known); replayed.insert(name, e.rv); }
                    }
                }
                prop_assert_eq!(&replayed, end);
            }
        }
    }

    /// Pages of any size make up the whole.
    #[test]
    fn pages_make_up_the_list(count in 0u32..30, limit in 1usize..8) {
        let s = Store::in_memory(100);
        let t = s.table("t");
        (0..count).for_each(|i| drop(put(&s, t, &format!("o{i:02}"), i)));
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let page = s.list(t, &odd(), None, after.as_ref(), limit).unwrap();
            prop_assert!(page.items.len() <= limit);
            names.extend(page.items.iter().map(|(k, _)| k.name.to_string()));
            if page.remaining == 0 { break; }
            after = page.items.last().map(|(k, _)| k.clone());
        }
        let whole: Vec<_> = state(&s.list(t, &odd(), None, None, 0).unwrap()).into_keys().collect();
        prop_assert_eq!(names, whole);
    }

}

#[test]
fn objects_too_large_or_too_deep_are_not_journalled() {
    let dir = tempfile::tempdir().unwrap();
    let s = Store::open(dir.path(), false, 10, |_, v| attrs(v)).unwrap();
    let (t, key) = (s.table("g/t"), Key::new("ns", "a"));
    let mut deep = json!({});
    (0..DEPTH_MAX).for_each(|_| deep = json!({"a": deep.take()}));
    deep["metadata"] = json!({"name": "a"});
    let refused = commit(&s, t, &key, Expect::Absent, Write::Put(deep));
    assert!(matches!(refused, Err(CommitError::TooDeep)));
    let large = json!({"metadata": {"name": "a"}, "x": "x".repeat(OBJECT_BYTES_MAX)});
    let refused = commit(&s, t, &key, Expect::Absent, Write::Put(large));
    assert!(matches!(refused, Err(CommitError::TooLarge)));
    let mut dying = json!({"metadata": {"name": "a"}, "x": "x".repeat(OBJECT_BYTES_MAX)});
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let memory = Store::in_memory(10);
    let marked = commit(&memory, memory.table("t"), &key, Expect::Absent, Write::Put(dying));
    assert!(marked.is_ok(), "what is large can be deleted");
    assert_eq!(std::fs::metadata(dir.path().join("journal-0000000001")).unwrap().len(), 8);
    assert_eq!(s.rv(), 1);
}

#[test]
fn large_events_push_older_ones_out() {
    let s = Store::in_memory(1000);
    let t = s.table("t");
    let key = Key::new("ns", "a");
    let mut rvs = Vec::new();
    for n in 0..40 {
        let expect = s.get(t, &key).map_or(Expect::Absent, |e| Expect::At(e.rv));
        let large = json!({"metadata": {"name": "a"}, "n": n, "x": "x".repeat(2 << 20)});
        rvs.push(commit(&s, t, &key, expect, Write::Put(large)).unwrap().rv);
    }
    assert!(s.watch(t, Scope::default(), rvs[5]).is_err(), "410 for the oldest");
    assert!(s.watch(t, Scope::default(), rvs[30]).is_ok());
}
