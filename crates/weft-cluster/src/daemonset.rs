//! To come.
use jiff::Timestamp;

use crate::action::Plan;
use crate::kinds::World;

pub(crate) fn plan(_world: &World, _namespace: &str, _name: &str, _now: Timestamp) -> Plan {
    Plan::default()
}
