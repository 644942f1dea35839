//! What happens to the journal beside the writers: one fdatasync for all that wait (group
//! commit), compaction, and writing everything anew after the disk has failed.

use super::{Inner, Record, Shared, Store, journal::Journal};
use std::{
    io,
    ops::Bound,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};
use tokio::sync::watch;

/// Objects are copied for the snapshot in pieces of about this size, so that no writer waits long.
const PIECE_BYTES: usize = 1 << 20;
/// How often a failed disk is tried again.
const REPAIR_EVERY: Duration = Duration::from_secs(1);

/// How far the disk has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Every version up to this one is on disk.
    durable: u64,
    /// Versions up to this one were written when the disk failed; those that are not durable are
    /// not acknowledged.
    failed: u64,
}

/// The threads behind a journal, and what they tell.
#[derive(Default)]
pub(super) struct Background {
    progress: watch::Sender<Progress>,
    stop: AtomicBool,
    flusher: OnceLock<Thread>,
    compactor: OnceLock<Thread>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Background {
    /// After a write: wakes who has something to do.
    pub(super) fn wrote(&self, journal: &Journal) {
        if let Some(flusher) = self.flusher.get() {
            flusher.unpark();
        }
        if let Some(compactor) = self.compactor.get()
            && (journal.compaction_due() || journal.is_broken())
        {
            compactor.unpark();
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn join(&self) {
        self.stop.store(true, Ordering::Release);
        let lock = "invariant: nothing panics while it holds the threads";
        for thread in self.threads.lock().expect(lock).drain(..) {
            thread.thread().unpark();
            // A panic has been printed; what there is to release is released either way.
            let _ = thread.join();
        }
    }
}

impl Store {
    /// Starts the threads of a store that has a journal; everything so far is durable.
    pub(super) fn start_background(&self, sync: bool) -> io::Result<()> {
        let background = &self.shared.background;
        let rv = self.read().rv;
        background.progress.send_modify(|p| p.durable = rv);
        let spawn = |name: &str, run: fn(&Shared)| {
            let shared = self.shared.clone();
            thread::Builder::new().name(name.into()).spawn(move || run(&shared))
        };
        let lock = "invariant: nothing panics while it holds the threads";
        let mut threads = background.threads.lock().expect(lock);
        let compactor = spawn("journal-compact", Shared::compact_when_due)?;
        let _ = background.compactor.set(compactor.thread().clone());
        threads.push(compactor);
        if sync {
            let flusher = spawn("journal-sync", Shared::flush)?;
            let _ = background.flusher.set(flusher.thread().clone());
            threads.push(flusher);
        }
        Ok(())
    }

    /// Waits until every version up to `rv` is on disk, where that is asked for: what was
    /// acknowledged or shown is never lost. An error means that it may be lost.
    pub(crate) async fn durable(&self, rv: u64) -> io::Result<()> {
        let background = &self.shared.background;
        if background.flusher.get().is_none() || background.progress.borrow().durable >= rv {
            return Ok(());
        }
        let mut progress = background.progress.subscribe();
        let reached = progress.wait_for(|p| p.durable >= rv || p.failed >= rv).await;
        match reached.map(|p| p.durable >= rv) {
            Ok(true) => Ok(()),
            _ => Err(io::Error::other("the disk did not take the write")),
        }
    }

    /// Writes out what there is and lets go of the directory. Later changes are refused.
    pub(crate) fn close(&self) {
        self.shared.background.join();
        let (journal, rv) = {
            let mut inner = self.write();
            inner.closed = true;
            (inner.journal.take(), inner.rv)
        };
        let Some(journal) = journal.filter(Journal::syncs) else { return };
        let synced = journal.unsynced().sync();
        self.shared.background.progress.send_modify(|p| match &synced {
            Ok(()) if !journal.is_broken() => p.durable = rv,
            _ => p.failed = rv,
        });
        if let Err(error) = synced {
            tracing::error!(%error, "the journal could not be synced at the end");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn flush(&self) {
        let mut done = 0;
        while !self.background.stopping() {
            // File and version together: a compaction between them would sync the old file.
            let next = {
                let inner = self.read();
                let journal = inner.journal.as_ref();
                journal
                    .filter(|j| inner.rv > done && !j.is_broken())
                    .map(|j| (j.unsynced(), inner.rv))
            };
            let Some((unsynced, rv)) = next else {
                thread::park();
                continue;
            };
            match unsynced.sync() {
                Ok(()) => {
                    done = rv;
                    self.background.progress.send_modify(|p| p.durable = p.durable.max(rv));
                }
                Err(error) => self.disk_failed(&error),
            }
        }
    }

    /// What has been written since the last fdatasync may be lost. Nothing more is written until
    /// everything has been written anew, elsewhere.
    fn disk_failed(&self, error: &io::Error) {
        tracing::error!(%error, "the journal could not be synced; writes are refused for now");
        let mut inner = self.write();
        let rv = inner.rv;
        if let Some(journal) = &mut inner.journal {
            journal.set_broken();
        }
        drop(inner);
        self.background.progress.send_modify(|p| p.failed = p.failed.max(rv));
        if let Some(compactor) = self.background.compactor.get() {
            compactor.unpark();
        }
    }

    fn compact_when_due(&self) {
        while !self.background.stopping() {
            let state = self.read().journal.as_ref().map(|j| (j.is_broken(), j.compaction_due()));
            match state {
                Some((true, _)) => match self.compact() {
                    Ok(()) => tracing::info!("the journal is written anew; writes are taken again"),
                    Err(error) => {
                        tracing::warn!(%error, "the journal cannot be written yet");
                        thread::park_timeout(REPAIR_EVERY);
                    }
                },
                Some((false, true)) => {
                    if let Err(error) = self.compact() {
                        tracing::warn!(%error, "the journal could not be compacted");
                    }
                }
                _ => thread::park(),
            }
        }
    }

    /// Replaces history by a snapshot. On failure the long journal stays.
    pub(super) fn compact(&self) -> io::Result<()> {
        let (place, unsynced, broken) = {
            let mut inner = self.write();
            let Some(journal) = &mut inner.journal else { return Ok(()) };
            journal.begin_compaction();
            (journal.place(), journal.unsynced(), journal.is_broken())
        };
        let failed = |error| {
            if let Some(journal) = &mut self.write().journal {
                journal.compaction_failed();
            }
            error
        };
        let mut compaction = Journal::prepare_compaction(place.0, place.1).map_err(failed)?;
        let begun = if broken { Ok(()) } else { unsynced.sync() };
        let begun = begun.and_then(|()| match &mut self.write().journal {
            Some(journal) => journal.rotate(&mut compaction),
            None => Ok(()),
        });
        if let Err(error) = begun {
            self.disk_failed(&error);
            compaction.discard();
            return Err(failed(error));
        }
        let written = self.write_live(&mut |r| compaction.add(r)).and_then(|()| {
            let rv = self.read().rv;
            // An error is told once, and the flusher would not hear of it.
            compaction.sync_segment().inspect_err(|error| self.disk_failed(error))?;
            compaction.publish(rv).map(|()| rv)
        });
        match written {
            Ok(rv) => {
                let repaired = match &mut self.write().journal {
                    Some(journal) => compaction.finish(journal),
                    None => false,
                };
                // Otherwise the flusher knows what became of the writes meanwhile.
                if repaired {
                    self.background.progress.send_modify(|p| p.durable = p.durable.max(rv));
                }
                Ok(())
            }
            Err(error) => {
                compaction.discard();
                Err(failed(error))
            }
        }
    }

    /// Gives every object to `add`, piece by piece. Each is as it was at some moment since the
    /// call; none is given twice or left out.
    fn write_live(&self, add: &mut dyn FnMut(&Record) -> io::Result<()>) -> io::Result<()> {
        for table in 0.. {
            let mut after = Bound::Unbounded;
            loop {
                if self.background.stopping() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let inner = self.read();
                if table == inner.tables.len() {
                    return Ok(());
                }
                let piece = piece(&inner, table, &after);
                drop(inner);
                let Some(last) = piece.last() else { break };
                after = Bound::Excluded(last.key.clone());
                piece.iter().try_for_each(&mut *add)?;
            }
        }
        Ok(())
    }
}

fn piece(inner: &Inner, table: usize, after: &Bound<super::Key>) -> Vec<Record> {
    let t = &inner.tables[table];
    let (mut piece, mut len) = (Vec::new(), 0);
    for (key, e) in t.map.range((after.clone(), Bound::Unbounded)) {
        let (table, key, object) = (t.ring.name.clone(), key.clone(), e.written().clone());
        len += object.len();
        piece.push(Record { table, key, rv: e.rv, object: Some(object) });
        if len > PIECE_BYTES {
            break;
        }
    }
    piece
}
