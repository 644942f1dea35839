//! A SPDY connection as events and a sink.

use super::frame::{self, Frame, Reader};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Frames waiting in each direction.
const QUEUE: usize = 32;
/// Bytes read at a time.
const BLOCK: usize = 32 << 10;
/// Bytes in one frame at most.
const DATA_BYTES_MAX: usize = 32 << 10;
/// Streams that one connection may open; port-forward opens two for each of its connections.
const STREAMS_MAX: u32 = 1 << 20;

/// What the peer does.
#[derive(Debug)]
pub enum Event {
    /// Opens a stream, which is accepted already.
    Open {
        /// Stream.
        id: u32,
        /// Headers, names in lower case.
        headers: Vec<(String, String)>,
    },
    /// Sends bytes.
    Data(u32, Vec<u8>),
    /// Sends nothing more on a stream.
    Fin(u32),
    /// Ends a stream at once.
    Reset(u32),
}

/// Where frames to the peer go. Cheap to clone; the connection is closed with the last one.
#[derive(Clone)]
pub struct Sink(mpsc::Sender<Vec<u8>>);

impl Sink {
    /// Sends bytes on a stream; false: the peer is gone.
    pub async fn data(&self, id: u32, bytes: &[u8]) -> bool {
        for part in bytes.chunks(DATA_BYTES_MAX) {
            if self.0.send(frame::data(id, false, part)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Says that nothing more comes on a stream.
    pub async fn fin(&self, id: u32) {
        let _ = self.0.send(frame::data(id, true, &[])).await;
    }

    /// Ends a stream at once.
    pub async fn reset(&self, id: u32) {
        let _ = self.0.send(frame::reset(id)).await;
    }
}

/// A connection.
pub struct Conn {
    /// What the peer does; ends when it goes away.
    pub events: mpsc::Receiver<Event>,
    /// Where frames go.
    pub sink: Sink,
}

impl Conn {
    /// Speaks SPDY over a connection.
    pub fn start(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (mut from, mut to) = tokio::io::split(io);
        let (out, mut frames) = mpsc::channel::<Vec<u8>>(QUEUE);
        let (events_tx, events) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(f) = frames.recv().await {
                if to.write_all(&f).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
            let _ = to.shutdown().await;
        });
        let replies = out.downgrade();
        tokio::spawn(async move {
            let mut reader = Reader::new();
            let mut buf = vec![0; BLOCK];
            let mut opened = 0;
            loop {
                let n = tokio::select! {
                    r = from.read(&mut buf) => match r {
                        Ok(0) | Err(_) => return,
                        Ok(n) => n,
                    },
                    () = events_tx.closed() => return,
                };
                reader.feed(&buf[..n]);
                loop {
                    let event = match reader.next() {
                        Ok(None) => break,
                        Ok(Some(f)) => f,
                        Err(e) => {
                            tracing::debug!("spdy: {e}");
                            return;
                        }
                    };
                    let reply = async |f: Vec<u8>| match replies.upgrade() {
                        Some(out) => out.send(f).await.is_ok(),
                        None => false,
                    };
                    let mut after = None;
                    let event = match event {
                        Frame::Open { id, fin, headers } => {
                            opened += 1;
                            if opened > STREAMS_MAX || !reply(frame::reply(id, opened == 1)).await {
                                return;
                            }
                            after = fin.then_some(Event::Fin(id));
                            Some(Event::Open { id, headers })
                        }
                        Frame::Data { id, fin, data } => {
                            after = fin.then_some(Event::Fin(id));
                            (!data.is_empty()).then_some(Event::Data(id, data))
                        }
                        Frame::Reset(id) => Some(Event::Reset(id)),
                        Frame::Ping(id) => {
                            if !reply(frame::ping(id)).await {
                                return;
                            }
                            None
                        }
                        Frame::GoAway | Frame::Other => None,
                    };
                    for e in [event, after].into_iter().flatten() {
                        if events_tx.send(e).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Self { events, sink: Sink(out) }
    }
}
