//! Addresses and ports of Services.
mod service;
use crate::{Error, error::ApiError, server::State, store::Write};
use ipnet::IpNet;
use serde_json::Value;
use std::ops::RangeInclusive;
use weft_kinds::Kind;

pub(crate) struct Pools;
pub(crate) struct Delta;
impl Pools {
    pub(crate) fn new(_: &[IpNet], _: RangeInclusive<u16>) -> Result<Self, Error> {
        Ok(Self)
    }
    pub(crate) fn restore(&mut self, _: &Value) {}
}
impl State {
    pub(crate) fn allocate(
        &self,
        _kind: &Kind,
        _old: Option<&Value>,
        _write: &mut Write,
    ) -> Result<Delta, ApiError> {
        Ok(Delta)
    }
    pub(crate) fn allocated(&self, _: Delta) {}
}
