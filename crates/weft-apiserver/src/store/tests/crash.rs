//! Transactions against kill -9: this binary runs itself as the writer that is killed.

use super::*;
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

const DIR: &str = "WEFT_TEST_STORE_CRASH";
const WRITERS: usize = 4;
const KILLS: usize = 15;
/// Objects of one transaction.
const MEMBERS: usize = 3;

fn member(writer: usize, i: usize) -> Key {
    Key::new("ns", &format!("w{writer}-{i}"))
}

/// Puts all objects of a writer at generation `n`, or, every fifth time, deletes all but the
/// first, in one transaction.
fn step(s: &Store, writer: usize, n: u64) -> u64 {
    let t = s.table("g/t");
    let value = || json!({"metadata": {}, "n": n, "fill": "x".repeat(300)});
    let first = member(writer, 0);
    let expect = s.get(t, &first).map_or(Expect::Absent, |e| Expect::At(e.rv));
    let (write, dry_run) = (Write::Put(value()), false);
    let entry = s.commit(
        Commit { table: t, key: &first, expect, write, dry_run },
        attrs,
        |txn, _| {
            for i in 1..MEMBERS {
                match n % 5 {
                    0 => txn.delete(t, member(writer, i)),
                    _ => txn.put(t, member(writer, i), value(), Attrs::default()),
                }
            }
            Ok::<_, Infallible>(())
        },
        |()| {},
    );
    entry.unwrap().rv
}

/// The writer; does nothing in an ordinary run of the tests.
#[test]
fn writer_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let s = Store::open(Path::new(&dir), true, 100, |_, v| attrs(v)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let handle = runtime.handle();
    std::thread::scope(|scope| {
        let s = &s;
        scope.spawn(move || while s.shared.compact().is_ok() {});
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let at = s.get(s.table("g/t"), &member(writer, 0));
                let mut n = at.map_or(0, |e| e.value()["n"].as_u64().unwrap());
                loop {
                    n += 1;
                    let rv = step(s, writer, n);
                    handle.block_on(s.durable(rv)).unwrap();
                    println!("ack {writer} {n} {rv}");
                }
            });
        }
    });
}

#[test]
fn no_acknowledged_transaction_is_lost_and_none_is_half_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = [0; WRITERS];
    let mut newest = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::crash::writer_process", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut wanted = 1 + rand::random::<u32>() % 120;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // The last one may have been cut in the middle.
            let Ok(line) = line else { break };
            let words: Vec<_> = line.split(' ').collect();
            // The harness prints on the same line before the first.
            let Some(at) = words.iter().position(|w| *w == "ack") else { continue };
            let number = |i: usize| words.get(at + i).and_then(|w| w.parse::<u64>().ok());
            let (Some(writer), Some(n), Some(rv)) = (number(1), number(2), number(3)) else {
                continue;
            };
            acked[writer as usize] = acked[writer as usize].max(n);
            // What was acknowledged before the kill is still in the pipe after it.
            newest = newest.max(rv);
            wanted = wanted.saturating_sub(1);
            if wanted == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let s = Store::open(dir.path(), true, 100, |_, v| attrs(v)).unwrap();
        assert!(s.rv() >= newest, "kill {kill}: version {} after {newest}", s.rv());
        for (writer, acked) in acked.iter().enumerate() {
            let n = |i: usize| {
                let entry = s.get(s.table("g/t"), &member(writer, i))?;
                assert!(entry.rv <= s.rv());
                assert_eq!(entry.value()["metadata"]["resourceVersion"], entry.rv.to_string());
                entry.value()["n"].as_u64()
            };
            let first = n(0).unwrap_or(0);
            assert!(first >= *acked, "kill {kill}: writer {writer} is at {first}, not {acked}");
            let others = (first % 5 != 0).then_some(first);
            for i in 1..MEMBERS {
                assert_eq!(n(i), others, "kill {kill}: writer {writer}, object {i}");
            }
        }
    }
    assert!(newest > 0);
}
