//! Hash maps with typed keys and values.

use crate::{BpfError, LeftOut, Result, engine::Table, pins::Pins, sys};
use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use weft_bpf_abi::{
    Addr, BlockKey, ConnKey, ConnValue, EventConfig, MapName, MemberKey, NodeValue, PeerKey,
    PodPolicy, PodValue, ReasonValue, Record, RuleKey, RuleValue, ServiceValue, SetValue, SlotKey,
    SocketKey, TcConfig, VerdictEvent,
};

/// Elements a call: enough to make the call itself cheap, small enough that the kernel's
/// buffers stay in the page allocator's comfortable range.
const BATCH: usize = 4096;

/// A type that may be copied to and from the kernel byte by byte.
///
/// # Safety
/// `repr(C)`, no padding, every bit pattern valid.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: `weft-bpf-abi` asserts the layouts, and all fields are integers.
unsafe impl Plain for Addr {}
// SAFETY: as above.
unsafe impl Plain for SlotKey {}
// SAFETY: as above.
unsafe impl Plain for MemberKey {}
// SAFETY: as above.
unsafe impl Plain for ServiceValue {}
// SAFETY: as above.
unsafe impl Plain for SocketKey {}
// SAFETY: as above.
unsafe impl Plain for Record {}
// SAFETY: as above.
unsafe impl Plain for NodeValue {}
// SAFETY: as above.
unsafe impl Plain for PodValue {}
// SAFETY: as above.
unsafe impl Plain for TcConfig {}
// SAFETY: as above.
unsafe impl Plain for PeerKey {}
// SAFETY: as above.
unsafe impl Plain for BlockKey {}
// SAFETY: as above.
unsafe impl Plain for RuleKey {}
// SAFETY: as above.
unsafe impl Plain for RuleValue {}
// SAFETY: as above.
unsafe impl Plain for SetValue {}
// SAFETY: as above.
unsafe impl Plain for PodPolicy {}
// SAFETY: as above.
unsafe impl Plain for ConnKey {}
// SAFETY: as above.
unsafe impl Plain for ConnValue {}
// SAFETY: as above.
unsafe impl Plain for EventConfig {}
// SAFETY: as above.
unsafe impl Plain for ReasonValue {}
// SAFETY: as above.
unsafe impl Plain for VerdictEvent {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}

fn bytes<T: Plain>(items: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding, so all bytes are initialised.
    unsafe { std::slice::from_raw_parts(items.as_ptr().cast(), size_of_val(items)) }
}

pub(crate) fn from_bytes<T: Plain>(bytes: &[u8]) -> impl Iterator<Item = T> {
    // SAFETY: each chunk has the size of T, every bit pattern is valid, and the read does
    // not ask for alignment.
    bytes.chunks_exact(size_of::<T>()).map(|c| unsafe { c.as_ptr().cast::<T>().read_unaligned() })
}

/// An open hash map.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    name: MapName,
    fd: OwnedFd,
    faults: Option<fn() -> bool>,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Takes a map whose layout was checked.
    pub(crate) fn new(name: MapName, fd: OwnedFd) -> Self {
        Self { name, fd, faults: None, types: PhantomData }
    }

    /// Makes calls that change it fail where `faults` says so.
    pub(crate) fn failing(self, faults: Option<fn() -> bool>) -> Self {
        Self { faults, ..self }
    }

    /// How many entries it has room for.
    pub(crate) fn size(&self) -> Result<u32> {
        self.info().map(|info| info.max_entries)
    }

    fn info(&self) -> Result<sys::MapInfo> {
        sys::map_info(self.fd.as_fd()).map_err(BpfError::call("INFO", self.name.as_str()))
    }

    /// Replaces it by one of the same content with room for so many entries, also at its pin;
    /// says whether that was needed. Programs go on with the old one.
    pub(crate) fn grow(&mut self, max_entries: u32, pins: &Pins) -> Result<bool> {
        let info = self.info()?;
        if info.max_entries >= max_entries {
            return Ok(false);
        }
        let shape = sys::MapInfo { max_entries, ..info };
        let fd = sys::map_create(self.name.as_str(), &shape)
            .map_err(BpfError::call("MAP_CREATE", self.name.as_str()))?;
        let larger = Self { name: self.name, fd, faults: self.faults, types: PhantomData };
        larger.put(&self.dump()?)?;
        pins.replace_map(self.name, larger.fd.as_fd())?;
        *self = larger;
        Ok(true)
    }

    fn may_fail(&self, operation: &'static str) -> Result<()> {
        match self.faults {
            Some(fails) if fails() => {
                let source = io::Error::from_raw_os_error(libc::EAGAIN);
                Err(BpfError::call(operation, self.name.as_str())(source))
            }
            _ => Ok(()),
        }
    }

    /// Reads one element.
    pub(crate) fn get(&self, key: K) -> Result<Option<V>> {
        let mut value = vec![0u8; size_of::<V>()];
        match sys::lookup(self.fd.as_fd(), bytes(&[key]), &mut value) {
            Ok(()) => Ok(from_bytes(&value).next()),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(BpfError::call("MAP_LOOKUP_ELEM", self.name.as_str())(e)),
        }
    }

    /// Stores all elements, replacing those that are there.
    pub(crate) fn put(&self, entries: &[(K, V)]) -> Result<()> {
        // Where it fails on purpose, half of it is done.
        let half = if self.faults.is_some() { entries.len().div_ceil(2).max(1) } else { BATCH };
        for part in entries.chunks(BATCH.min(half)) {
            self.may_fail("MAP_UPDATE_BATCH")?;
            let keys: Vec<K> = part.iter().map(|e| e.0).collect();
            let values: Vec<V> = part.iter().map(|e| e.1).collect();
            let (_, result) =
                sys::update_batch(self.fd.as_fd(), bytes(&keys), bytes(&values), part.len());
            result.map_err(|source| self.put_error(source))?;
        }
        Ok(())
    }

    fn put_error(&self, source: io::Error) -> BpfError {
        // Tries say it in another way than hash maps.
        if matches!(source.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) {
            let max_entries = sys::map_info(self.fd.as_fd()).map_or(0, |i| i.max_entries);
            let left_out = LeftOut::default();
            return BpfError::MapFull { map: self.name.as_str(), max_entries, left_out };
        }
        BpfError::call("MAP_UPDATE_BATCH", self.name.as_str())(source)
    }

    /// Deletes all elements; those that are not there count as deleted.
    pub(crate) fn delete(&self, keys: &[K]) -> Result<()> {
        for part in keys.chunks(BATCH) {
            self.may_fail("MAP_DELETE_BATCH")?;
            let mut rest = part;
            while !rest.is_empty() {
                let (done, result) = sys::delete_batch(self.fd.as_fd(), bytes(rest), rest.len());
                match result {
                    Ok(()) => break,
                    // The batch stops at the first key that is absent.
                    Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                        rest = &rest[(done + 1).min(rest.len())..];
                    }
                    Err(e) => {
                        return Err(BpfError::call("MAP_DELETE_BATCH", self.name.as_str())(e));
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the whole map. Nothing is missed where only this process writes it; of a map that
    /// programs write, what is there from begin to end.
    pub(crate) fn dump(&self) -> Result<Vec<(K, V)>> {
        let (keys, values) = dump(self.fd.as_fd(), self.name, size_of::<K>(), size_of::<V>())?;
        Ok(from_bytes(&keys).zip(from_bytes(&values)).collect())
    }
}

/// Reads a whole map: all keys, and all values, one behind the other.
pub(crate) fn dump(
    map: BorrowedFd<'_>,
    name: MapName,
    key_size: usize,
    value_size: usize,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut room = BATCH;
    let (mut all_keys, mut all_values) = (Vec::new(), Vec::new());
    let mut position = None;
    loop {
        let mut keys = vec![0u8; room * key_size];
        let mut values = vec![0u8; room * value_size];
        let start = position;
        let (count, result) = sys::lookup_batch(map, &mut position, &mut keys, &mut values, room);
        let code = result.as_ref().err().and_then(io::Error::raw_os_error);
        if code == Some(libc::ENOSPC) {
            // One bucket holds more than there is room for; ask again from the same place.
            // Hash maps hand out whole buckets.
            room *= 2;
            position = start;
            continue;
        }
        if code.is_none() || code == Some(libc::ENOENT) {
            all_keys.extend_from_slice(&keys[..count * key_size]);
            all_values.extend_from_slice(&values[..count * value_size]);
        }
        match result {
            Ok(()) => {}
            Err(_) if code == Some(libc::ENOENT) => return Ok((all_keys, all_values)),
            Err(e) => return Err(BpfError::call("MAP_LOOKUP_BATCH", name.as_str())(e)),
        }
    }
}

impl<K: Plain, V: Plain> Table<K, V> for Map<K, V> {
    fn put(&self, entries: &[(K, V)]) -> Result<()> {
        Map::put(self, entries)
    }

    fn delete(&self, keys: &[K]) -> Result<()> {
        Map::delete(self, keys)
    }

    fn get(&self, key: &K) -> Result<Option<V>> {
        Map::get(self, *key)
    }

    fn dump(&self) -> Result<Vec<(K, V)>> {
        Map::dump(self)
    }
}
