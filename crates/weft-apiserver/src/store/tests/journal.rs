//! The journal against damage, interrupted writes and a second server.

use super::*;

const FIRST: &str = "journal-0000000001";

fn open(dir: &Path, sync: bool) -> std::io::Result<Store> {
    Store::open(dir, sync, 10, |_, v| attrs(v))
}

fn refusal(dir: &Path) -> String {
    open(dir, true).err().expect("refused").to_string()
}

fn names(s: &Store, table: &str) -> Vec<String> {
    let l = s.list(s.table(table), &Scope::default(), None, None, 0).unwrap();
    l.items.iter().map(|(k, _)| k.name.to_string()).collect()
}

fn record(n: u64) -> Record {
    Record {
        table: "g/t".into(),
        key: Key::new("ns", &format!("o{n}")),
        rv: n,
        object: Some(Bytes::from(object(&format!("o{n}"), 1).to_string())),
    }
}

fn files(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    let mut all: Vec<_> = all.map(|n| n.into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn a_journal_torn_inside_a_transaction_has_none_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FIRST);
    let open = || open(dir.path(), false).unwrap();
    let (before, rv) = {
        let s = open();
        let gone = Key::new("", "gone");
        commit(&s, s.table("g/b"), &gone, Expect::Absent, Write::Put(object("gone", 1))).unwrap();
        let before = std::fs::metadata(&path).unwrap().len() as usize;
        group(&s, "x", 3);
        (before, s.rv())
    };
    let whole = std::fs::read(&path).unwrap();
    for len in before..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let s = open();
        assert_eq!(s.rv(), rv - 5, "cut at {len}");
        assert_eq!((names(&s, "g/a"), names(&s, "g/b")), (vec![], vec!["gone".to_owned()]));
    }
    std::fs::write(&path, &whole).unwrap();
    let s = open();
    assert_eq!(s.rv(), rv);
    assert_eq!((names(&s, "g/a").len(), names(&s, "g/b").len()), (1, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is cut off or damaged at the end of the journal, what was before is there.
    #[test]
    fn a_torn_journal_keeps_its_beginning(
        ops in proptest::collection::vec((0u32..4, any::<bool>()), 1..12), cut in 0usize..200, flip in proptest::option::of(0usize..200)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let open = || open(dir.path(), false).unwrap();
        let mut states = Vec::new();
        {
            let s = open();
            let t = s.table("g/t");
            for (name, remove) in ops {
                let name = format!("o{name}");
                if remove { delete(&s, t, &name) } else { drop(put(&s, t, &name, 1)) }
                let l = s.list(t, &Scope::default(), None, None, 0).unwrap();
                states.push((l.rv, state(&l)));
            }
        }
        let path = dir.path().join(FIRST);
        let mut data = std::fs::read(&path).unwrap();
        data.truncate(data.len().saturating_sub(cut).max(8));
        if let Some(at) = flip && data.len() > 8 + at {
            let i = data.len() - 1 - at;
            data[i] ^= 0x55;
        }
        std::fs::write(&path, &data).unwrap();
        let s = match super::journal::open(dir.path(), false) {
            Ok(s) => s,
            Err(e) => {
                prop_assert!(flip.is_some() && e.to_string().contains("offset"), "{}", e);
                return Ok(());
            }
        };
        let t = s.table("g/t");
        let l = s.list(t, &Scope::default(), None, None, 0).unwrap();
        let expected = states.iter().rev().find(|(rv, _)| *rv <= l.rv).map(|(_, m)| m.clone()).unwrap_or_default();
        prop_assert_eq!(state(&l), expected);
        if cut == 0 && flip.is_none() {
            prop_assert_eq!(l.rv, states.last().unwrap().0);
        }
        // And it can be written again.
        put(&s, t, "fresh", 1);
        drop(s);
        let s = open();
        prop_assert!(s.get(s.table("g/t"), &Key::new("ns", "fresh")).is_some());
    }
}

#[test]
fn compaction_keeps_objects_and_version() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path(), true).unwrap();
    let t = s.table("g/t");
    for n in 0..500 {
        put(&s, t, &format!("o{}", n % 5), n);
    }
    delete(&s, t, "o4");
    let before = std::fs::metadata(dir.path().join(FIRST)).unwrap().len();
    s.shared.compact().unwrap();
    assert_eq!(files(dir.path()), ["journal-0000000002", "lock", "snapshot-0000000002"]);
    put(&s, t, "o9", 1);
    let (rv, all) = (s.rv(), names(&s, "g/t"));
    let after = std::fs::metadata(dir.path().join("snapshot-0000000002")).unwrap().len();
    assert!(after < before / 50);
    drop(s);
    let s = open(dir.path(), false).unwrap();
    assert_eq!((s.rv(), names(&s, "g/t")), (rv, all));
    // What happened before the restart cannot be watched.
    assert!(s.watch(s.table("g/t"), Scope::default(), rv - 1).is_err());
    assert!(s.watch(s.table("g/t"), Scope::default(), rv).is_ok());
    // The version lives on without any object.
    for name in names(&s, "g/t") {
        delete(&s, s.table("g/t"), &name);
    }
    let rv = s.rv();
    s.shared.compact().unwrap();
    drop(s);
    let s = open(dir.path(), false).unwrap();
    assert_eq!((s.rv(), names(&s, "g/t").len()), (rv, 0));
}

/// Whatever is written while a snapshot is made, and whenever the server dies after it.
#[test]
fn compaction_beside_writers_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path(), false).unwrap();
    let t = s.table("g/t");
    (0..200).for_each(|n| drop(put(&s, t, &format!("o{n}"), n)));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..2000 {
                let name = format!("o{}", (n * 7) % 300);
                if n % 3 == 0 { delete(&s, t, &name) } else { drop(put(&s, t, &name, n)) }
            }
        });
        while !writer.is_finished() {
            s.shared.compact().unwrap();
        }
    });
    let then = state(&s.list(t, &Scope::default(), None, None, 0).unwrap());
    let rv = s.rv();
    drop(s);
    let s = open(dir.path(), false).unwrap();
    let now = s.list(s.table("g/t"), &Scope::default(), None, None, 0).unwrap();
    assert_eq!((now.rv, state(&now)), (rv, then));
}

#[test]
fn an_interrupted_compaction_is_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    {
        let s = open(dir.path(), true).unwrap();
        (0..5).for_each(|n| drop(put(&s, s.table("g/t"), &format!("o{n}"), n)));
    }
    // Killed before the snapshot was renamed, with and without a write in the new segment.
    std::fs::write(dir.path().join("snapshot-0000000002.tmp"), "weftobj2 and half of it").unwrap();
    std::fs::write(dir.path().join("journal-0000000002"), "weft").unwrap();
    {
        let s = open(dir.path(), true).unwrap();
        assert_eq!(names(&s, "g/t").len(), 5);
        put(&s, s.table("g/t"), "o9", 1);
    }
    assert_eq!(files(dir.path()), [FIRST, "journal-0000000002", "lock"]);
    let s = open(dir.path(), true).unwrap();
    assert_eq!(names(&s, "g/t").len(), 6);
    // Killed after the rename: what the snapshot covers is still there.
    let old = std::fs::read(dir.path().join(FIRST)).unwrap();
    s.shared.compact().unwrap();
    drop(s);
    std::fs::write(dir.path().join(FIRST), old).unwrap();
    let s = open(dir.path(), true).unwrap();
    assert_eq!(names(&s, "g/t").len(), 6);
    assert_eq!(files(dir.path()), ["journal-0000000003", "lock", "snapshot-0000000003"]);
}

#[test]
fn what_is_missing_or_foreign_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    {
        let s = open(dir.path(), true).unwrap();
        put(&s, s.table("g/t"), "a", 1);
        s.shared.compact().unwrap();
    }
    let segment = dir.path().join("journal-0000000002");
    let whole = std::fs::read(&segment).unwrap();
    std::fs::remove_file(&segment).unwrap();
    assert!(refusal(dir.path()).contains("journal-0000000002 is missing"));
    std::fs::write(&segment, "something else").unwrap();
    assert!(refusal(dir.path()).contains("journal-0000000002 is not a journal of this version"));
    std::fs::write(&segment, &whole).unwrap();
    // A snapshot is whole or not there: there is nothing to cut off.
    let snapshot = dir.path().join("snapshot-0000000002");
    let whole = std::fs::read(&snapshot).unwrap();
    std::fs::write(&snapshot, &whole[..whole.len() - 3]).unwrap();
    assert!(refusal(dir.path()).contains("is damaged"));
    std::fs::write(&snapshot, whole).unwrap();
    std::fs::write(dir.path().join("objects.journal"), "weftobj1").unwrap();
    assert!(refusal(dir.path()).contains("objects.journal is not a journal of this version"));
}

#[test]
fn a_second_server_on_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), true).unwrap();
    assert!(refusal(dir.path()).contains("another server is running on"));
    // Closing lets go, though the store is still held; and it takes no more writes.
    first.close();
    let second = open(dir.path(), true).unwrap();
    put(&second, second.table("g/t"), "a", 1);
    let key = Key::new("ns", "b");
    let late = commit(&first, first.table("g/t"), &key, Expect::Absent, Write::Put(json!({})));
    assert!(matches!(late, Err(CommitError::Journal(_))));
}

#[tokio::test]
async fn damage_before_the_tail_is_an_error_and_a_tear_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FIRST);
    {
        let s = open(dir.path(), true).unwrap();
        let t = s.table("g/t");
        for n in 0..3 {
            let e = put(&s, t, &format!("o{n}"), n);
            s.durable(e.rv).await.unwrap();
        }
    }
    let whole = std::fs::read(&path).unwrap();
    // The payload, then the length of the first record.
    for (at, flip) in [(40, 1), (8, 1), (10, 1), (11, 0x80)] {
        let mut data = whole.clone();
        data[at] ^= flip;
        std::fs::write(&path, &data).unwrap();
        let e = refusal(dir.path());
        assert!(e.contains(FIRST) && e.contains("offset 8 "), "{e}");
        assert_eq!(std::fs::read(&path).unwrap(), data, "not touched");
    }
    for tail in [&[0u8; 100][..], &[200, 0, 0, 0, 1, 2, 3, 4, 1], &[1]] {
        std::fs::write(&path, [&whole[..], tail].concat()).unwrap();
        assert_eq!(names(&open(dir.path(), true).unwrap(), "g/t").len(), 3);
        assert_eq!(std::fs::read(&path).unwrap(), whole, "cut off");
    }
}

/// Writes that nobody was told of may reach the disk in any order.
#[test]
fn records_that_were_never_acknowledged_may_be_torn_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FIRST);
    let mut ends = Vec::new();
    {
        let mut j = Journal::open(dir.path(), true, |_| Ok(())).unwrap();
        for n in 2..6 {
            j.append(&[record(n)]).unwrap();
            ends.push(std::fs::metadata(&path).unwrap().len() as usize);
            if n == 3 {
                j.unsynced().sync().unwrap();
            }
        }
    }
    let whole = std::fs::read(&path).unwrap();
    // The third never arrived, the fourth did: both go, for nobody waited for either.
    let mut data = whole.clone();
    data[ends[1]..ends[2]].fill(0);
    std::fs::write(&path, &data).unwrap();
    assert_eq!(names(&open(dir.path(), true).unwrap(), "g/t"), ["o2", "o3"]);
    // The second had been acknowledged when the third was written.
    let mut data = whole.clone();
    data[ends[0]..ends[1]].fill(0);
    std::fs::write(&path, &data).unwrap();
    assert!(refusal(dir.path()).contains(&format!("offset {} ", ends[0])));
}

#[tokio::test]
async fn after_the_disk_failed_everything_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path(), true).unwrap();
    let t = s.table("g/t");
    let e = put(&s, t, "a", 1);
    s.durable(e.rv).await.unwrap();
    s.write().journal.as_mut().unwrap().set_broken();
    let key = Key::new("ns", "b");
    // This write is refused, and wakes who repairs.
    let refused = commit(&s, t, &key, Expect::Absent, Write::Put(object("b", 1)));
    assert!(matches!(refused, Err(CommitError::Journal(_))));
    let e = loop {
        match commit(&s, t, &key, Expect::Absent, Write::Put(object("b", 1))) {
            Ok(e) => break e,
            Err(CommitError::Journal(_)) => tokio::task::yield_now().await,
            Err(e) => panic!("{e}"),
        }
    };
    s.durable(e.rv).await.unwrap();
    drop(s);
    assert_eq!(files(dir.path()), ["journal-0000000002", "lock", "snapshot-0000000002"]);
    assert_eq!(names(&open(dir.path(), true).unwrap(), "g/t"), ["a", "b"]);
}

#[test]
fn a_journal_that_breaks_during_its_compaction_stays_broken() {
    let dir = tempfile::tempdir().unwrap();
    let mut j = Journal::open(dir.path(), true, |_| Ok(())).unwrap();
    // The disk fails after the new segment began, and then before it.
    for (before, after) in [(false, true), (true, false)] {
        j.begin_compaction();
        let (place, number) = j.place();
        let mut compaction = Journal::prepare_compaction(place, number).unwrap();
        assert_eq!(j.is_broken(), before);
        j.rotate(&mut compaction).unwrap();
        j.set_broken();
        compaction.sync_segment().unwrap();
        compaction.publish(2).unwrap();
        assert_eq!(compaction.finish(&mut j), before);
        assert_eq!((j.is_broken(), j.append(&[record(3)]).is_err()), (after, after));
    }
}

#[test]
fn a_closed_journal_is_not_locked_by_a_process_that_is_being_started() {
    let dir = tempfile::tempdir().unwrap();
    let j = Journal::open(dir.path(), true, |_| Ok(())).unwrap();
    // As a fork leaves it until the child executes.
    let duplicate = j.lock.try_clone().unwrap();
    assert!(refusal(dir.path()).contains("another server"));
    drop(j);
    drop(open(dir.path(), true).unwrap());
    drop(duplicate);
}

/// A definition that drops a field and takes it back.
#[test]
fn how_an_object_reads_is_not_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let all = u64::MAX;
    let without = |v: &mut Value| drop(v.as_object_mut().unwrap().shift_remove("n"));
    let read =
        |s: &Store| s.get(s.table("g/t"), &Key::new("ns", "a")).unwrap().value()["n"].clone();
    {
        let s = open(dir.path(), false).unwrap();
        let t = s.table("g/t");
        put(&s, t, "a", 7);
        put(&s, t, "b", 8);
        s.reform(t, all, without, attrs);
        assert_eq!(read(&s), Value::Null);
        s.reform(t, all, |_| {}, attrs);
        assert_eq!(read(&s), 7);
        s.reform(t, all, without, attrs);
        // Who writes meanwhile writes without it.
        let b = s.get(t, &Key::new("ns", "b")).unwrap();
        commit(&s, t, &Key::new("ns", "b"), Expect::At(b.rv), Write::Put(b.value())).unwrap();
        s.shared.compact().unwrap();
    }
    let s = open(dir.path(), false).unwrap();
    assert_eq!(read(&s), 7);
    let b = s.get(s.table("g/t"), &Key::new("ns", "b")).unwrap().value();
    assert_eq!(b["n"], Value::Null);
}
