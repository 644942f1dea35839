//! Compaction: a snapshot in place of what is mostly history, written beside the writers.

use super::{
    COMPACT_LEN_MIN, Journal, Kind, MAGIC, MAGIC_LEN, Record, Segment, encode, encode_version,
    path, sync_dir,
};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
};

/// One compaction in progress: the next segment, and the snapshot that will go before it.
pub(in crate::store) struct Compaction {
    dir: PathBuf,
    /// Of the snapshot and of the segment that follows it.
    number: u64,
    segment: Segment,
    out: BufWriter<File>,
    len: u64,
    /// The journal was broken when the segment began, and is taken to be whole afterwards.
    repairs: bool,
    buf: Vec<u8>,
}

fn create(path: &PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(MAGIC)?;
    Ok(file)
}

impl Journal {
    /// Whether the journal is mostly history, and nobody is rewriting it yet.
    pub(in crate::store) fn compaction_due(&self) -> bool {
        let len = self.len + self.older_len;
        !self.compacting && !self.broken && len > COMPACT_LEN_MIN && len > 2 * self.live_len
    }

    /// Announces a compaction. Exactly one of [`Compaction::finish`] and
    /// [`compaction_failed`](Self::compaction_failed) must follow.
    pub(in crate::store) fn begin_compaction(&mut self) {
        self.compacting = true;
    }

    /// The files of the compaction. Nothing is written into them yet; the caller does not hold
    /// the store meanwhile.
    pub(in crate::store) fn prepare_compaction(
        dir: PathBuf,
        number: u64,
    ) -> io::Result<Compaction> {
        let number = number + 1;
        let file = create(&path(&dir, Kind::Journal, number))?;
        file.sync_all()?;
        let out = create(&path(&dir, Kind::Snapshot, number).with_extension("tmp"))?;
        sync_dir(&dir)?;
        let segment = Segment { file: Arc::new(file), acknowledged: Arc::new(MAGIC_LEN.into()) };
        let out = BufWriter::with_capacity(1 << 20, out);
        let (len, repairs, buf) = (MAGIC_LEN, false, Vec::new());
        Ok(Compaction { dir, number, segment, out, len, repairs, buf })
    }

    /// Where [`prepare_compaction`](Self::prepare_compaction) works.
    pub(in crate::store) fn place(&self) -> (PathBuf, u64) {
        (self.dir.clone(), self.number)
    }

    /// Writes go into the new segment from now on.
    pub(in crate::store) fn rotate(&mut self, to: &mut Compaction) -> io::Result<()> {
        if !self.broken {
            // Little is left: the caller has synced just before. A segment that is not the last
            // must be whole.
            self.segment.file.sync_data()?;
        }
        to.repairs = self.broken;
        (self.number, self.segment) = (to.number, to.segment.clone());
        self.older_len += self.len;
        self.len = MAGIC_LEN;
        Ok(())
    }

    /// Keeps the long journal; the next try comes when it has doubled.
    pub(in crate::store) fn compaction_failed(&mut self) {
        self.compacting = false;
        self.live_len = self.len + self.older_len;
    }
}

impl Compaction {
    /// Adds an object that lives.
    pub(in crate::store) fn add(&mut self, record: &Record) -> io::Result<()> {
        self.buf.clear();
        encode(std::slice::from_ref(record), 0, &mut self.buf);
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        self.len += self.buf.len() as u64;
        self.out.write_all(&self.buf)
    }

    /// Syncs what has been written meanwhile, for the snapshot may show it. After an error the
    /// journal is broken.
    pub(in crate::store) fn sync_segment(&self) -> io::Result<()> {
        self.segment.file.sync_data()
    }

    /// Makes the snapshot count, which has everything up to version `rv`, and removes what is
    /// older.
    pub(in crate::store) fn publish(&mut self, rv: u64) -> io::Result<()> {
        self.buf.clear();
        encode_version(rv, &mut self.buf);
        self.write()?;
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        let name = path(&self.dir, Kind::Snapshot, self.number);
        std::fs::rename(name.with_extension("tmp"), name)?;
        sync_dir(&self.dir)?;
        for number in (1..self.number).rev() {
            let files = [Kind::Snapshot, Kind::Journal].map(|k| path(&self.dir, k, number));
            let removed = files.iter().filter(|f| std::fs::remove_file(f).is_ok()).count();
            // Older ones went before.
            if removed == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The compaction is over. Returns whether it repaired a broken journal: nothing was written
    /// since the segment began, so everything is in the snapshot. A journal that broke only after
    /// that stays broken, for the writes that the disk did not take are in no snapshot.
    pub(in crate::store) fn finish(self, journal: &mut Journal) -> bool {
        journal.compacting = false;
        journal.older_len = self.len;
        journal.live_len = self.len;
        if self.repairs {
            journal.broken = false;
        }
        self.repairs
    }

    /// Takes the unfinished snapshot away.
    pub(in crate::store) fn discard(self) {
        let _ = std::fs::remove_file(
            path(&self.dir, Kind::Snapshot, self.number).with_extension("tmp"),
        );
    }
}
