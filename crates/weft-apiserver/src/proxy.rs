//! Streams to a node's kubelet.
use crate::{
    ApiServer,
    error::ApiError,
    http::{ApiBody, body::BoxError, params::Params, route::Target},
};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use weft_kinds::status;

pub(crate) fn is_stream(target: &Target) -> bool {
    target.kind.kind == "Pod"
        && matches!(target.subresource.as_deref(), Some("log" | "exec" | "attach" | "portforward"))
}

pub(crate) async fn stream<B>(
    _: &ApiServer,
    _: Request<B>,
    _: &Target,
    _: &Params,
) -> Result<Response<ApiBody>, ApiError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Err(status::method_not_allowed().into())
}
