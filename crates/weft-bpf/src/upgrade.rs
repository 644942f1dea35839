//! What living sockets and flows need is taken over from another version's maps.
//!
//! Only elements whose layout is the same in both versions are copied, byte by byte; nothing is
//! reinterpreted. What is known here already is not overwritten. A map that cannot be read is
//! left: its sockets and flows begin anew, which is no reason to refuse a node.

use crate::{
    BpfError, Result,
    map::{Map, dump},
    object::check_shape,
    pins::Pins,
    sys,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};
use weft_bpf_abi::{LAYOUT_VERSION, MapName, PodValue};

/// Fills a map that was just made.
pub(crate) fn carry_over(map: MapName, to: BorrowedFd<'_>, pins: &Pins) {
    for version in (1..LAYOUT_VERSION).rev().filter(|v| map.is_unchanged_since(*v)) {
        let pin = pins.map_of(version, map);
        match copy(map, &pin, to) {
            Ok(None) => {}
            Ok(Some(count)) => {
                return tracing::info!(map = map.as_str(), version, count, "records taken over");
            }
            Err(error) => {
                let reason = crate::probe::reasons(&error);
                tracing::warn!(map = map.as_str(), version, reason, "records are lost");
            }
        }
    }
}

/// Takes over what came since, before the other version's programs go.
pub(crate) fn carry_rest(pins: &Pins) {
    for map in MapName::ALL {
        if !(1..LAYOUT_VERSION).any(|v| map.is_unchanged_since(v)) {
            continue;
        }
        let Ok(to) = sys::obj_get(&pins.map(map)) else { continue };
        carry_over(map, to.as_fd(), pins);
        if map == MapName::Pods {
            for version in (1..LAYOUT_VERSION).filter(|v| map.is_unchanged_since(*v)) {
                let Ok(from) = sys::obj_get(&pins.map_of(version, map)) else { continue };
                let Ok(to) = to.try_clone() else { continue };
                if let Err(error) = mark_flows(&Map::new(map, from), &Map::new(map, to)) {
                    tracing::warn!(%error, "answers to flows of the other version are not told");
                }
            }
        }
    }
}

/// A pod whose first flow was translated meanwhile: its answers are looked up from now on.
fn mark_flows(from: &Map<u32, PodValue>, to: &Map<u32, PodValue>) -> Result<()> {
    for (link, old) in from.dump()?.into_iter().filter(|(_, pod)| pod.has_flows != 0) {
        if let Some(pod) = to.get(link)?.filter(|pod| pod.has_flows == 0) {
            to.put(&[(link, PodValue { has_flows: old.has_flows, ..pod })])?;
        }
    }
    Ok(())
}

/// Copies the elements of a pinned map that are not there yet; how many, or `None` where that map
/// is not pinned.
fn copy(map: MapName, pin: &Path, to: BorrowedFd<'_>) -> Result<Option<usize>> {
    let call = |operation, source| BpfError::call(operation, map.as_str())(source);
    let from = match sys::obj_get(pin) {
        Ok(from) => from,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(BpfError::file("open", pin)(e)),
    };
    let info = sys::map_info(from.as_fd()).map_err(|e| call("INFO", e))?;
    check_shape(&info, map, || pin.to_owned())?;
    let (key_size, value_size) = (info.key_size as usize, info.value_size as usize);
    let (keys, values) = dump(from.as_fd(), map, key_size, value_size)?;
    let mut count = 0;
    for (key, value) in keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)) {
        count +=
            usize::from(sys::insert_new(to, key, value).map_err(|e| call("MAP_UPDATE_ELEM", e))?);
    }
    Ok(Some(count))
}
