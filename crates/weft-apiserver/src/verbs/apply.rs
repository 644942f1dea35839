//! Server-side apply.
use super::{Ctx, Outcome, Part};
use crate::{error::ApiError, server::State, store::Key};
use weft_kinds::{Kind, decode::Decoded, status};
impl State {
    pub(crate) fn apply(
        &self,
        _: &mut Ctx,
        _: &'static Kind,
        _: &Key,
        _: Part,
        _: Decoded,
        _: bool,
    ) -> Result<Outcome, ApiError> {
        Err(status::method_not_allowed().into())
    }
}
