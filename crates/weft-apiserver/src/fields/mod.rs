//! Sets of fields, as managedFields records them, and what writes do with them.
//!
//! Pure: an applied configuration is a set by the schema of its kind (maps and keyed lists are
//! granular, everything else is one value); `merge` lays it over the live object; `compare`
//! says what a write changes; `managed` gives that to the writer and takes it from the others,
//! or finds the conflict.

mod compare;
mod entries;
mod managed;
mod merge;
mod set;
#[cfg(test)]
mod tests;

pub(crate) use compare::duplicates;
pub(crate) use entries::Managed;
pub(crate) use managed::{Applied, Conflict, Writer, apply, same_but_times, update};
use merge::{merge, prune};
use set::{Element, FieldSet, path_text};
