//! Sets of fields, as managedFields records them, and what server-side apply does with them.
//!
//! Pure: a set is taken from an applied configuration by the schema of its kind (maps and
//! keyed lists are granular, everything else is one value), merged into the live object, and
//! compared with the sets of other managers.

mod merge;
mod set;
#[cfg(test)]
mod tests;

pub(crate) use merge::{merge, remove, value_at};
pub(crate) use set::{Element, FieldSet, path_text};
