//! gRPC: health says SERVING, any other method gives back what it is given.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// One message: not compressed, two bytes, field 1 (`status`) = 1 (`SERVING`);
/// grpc/health/v1/health.proto.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];

/// Whether a request is gRPC (`application/grpc`, `application/grpc+proto`).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The answer to a gRPC request.
pub(crate) fn answer(request: Request<Incoming>) -> Response<Reply> {
    let reply = match request.uri().path() {
        "/grpc.health.v1.Health/Check" => Reply::Message { data: Some(SERVING), hold: false },
        // The state never changes: the stream stays open.
        "/grpc.health.v1.Health/Watch" => Reply::Message { data: Some(SERVING), hold: true },
        _ => Reply::Echo(request.into_body()),
    };
    let mut response = Response::new(reply);
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Bodies of all answers.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Bytes, once.
    Full(Bytes),
    /// A message, then either status OK or nothing for as long as the client stays.
    Message { data: Option<&'static [u8]>, hold: bool },
    /// The request's own body, as it comes, then status OK.
    Echo(Incoming),
    /// Nothing more.
    Done,
}

impl Reply {
    fn status_ok(&mut self) -> Frame<Bytes> {
        *self = Reply::Done;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Frame::trailers(trailers)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Reply::Done => Poll::Ready(None),
            Reply::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Reply::Done;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Reply::Message { data, hold } => match (data.take(), *hold) {
                (Some(data), _) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(data))))),
                // Woken, and dropped, when the stream is reset.
                (None, true) => Poll::Pending,
                (None, false) => Poll::Ready(Some(Ok(self.status_ok()))),
            },
            Reply::Echo(body) => loop {
                match ready!(Pin::new(&mut *body).poll_frame(context)) {
                    Some(Ok(frame)) if frame.is_data() => break Poll::Ready(Some(Ok(frame))),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Poll::Ready(Some(Err(error))),
                    None => break Poll::Ready(Some(Ok(self.status_ok()))),
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Done => true,
            Reply::Full(bytes) => bytes.is_empty(),
            Reply::Message { .. } | Reply::Echo(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Reply::Done => SizeHint::with_exact(0),
            Reply::Message { .. } | Reply::Echo(_) => SizeHint::default(),
        }
    }
}
