//! The way from the store to one watch.

use super::{Change, Event};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

/// Events a watcher may lag behind before it is cut off; it then watches again from its version.
pub(super) const BACKLOG_EVENTS: usize = 1024;
/// Bytes of objects that a watcher may lag behind, likewise.
pub(super) const BACKLOG_BYTES: usize = 16 << 20;

type Item = (Change, Arc<Event>);

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// Of their objects.
    bytes: usize,
    /// One of the two ends is gone.
    closed: bool,
    reader: Option<Waker>,
}

/// A short lock for each step: with one writer, who holds the store's lock, and one reader it is
/// hardly ever contended, and a thousand of them cost half of what general channels do.
#[derive(Default)]
struct Queue(Mutex<State>);

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("invariant: nothing panics while it holds a watch's queue")
    }

    fn close(&self) {
        let reader = {
            let mut state = self.lock();
            state.closed = true;
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// The end that the store holds. Dropped, it cuts the reader off.
pub(super) struct Sender(Arc<Queue>);
/// The end that the watch holds.
pub(super) struct Receiver(Arc<Queue>);

pub(super) fn queue() -> (Sender, Receiver) {
    let queue = Arc::new(Queue::default());
    (Sender(queue.clone()), Receiver(queue))
}

impl Sender {
    /// Hands an event over; false when the reader is gone or too slow. One event is always taken,
    /// whatever its size.
    pub(super) fn offer(&self, change: Change, event: &Arc<Event>) -> bool {
        let len = event.object.len();
        let reader = {
            let mut state = self.0.lock();
            let full = state.items.len() >= BACKLOG_EVENTS || state.bytes + len > BACKLOG_BYTES;
            if state.closed || (full && !state.items.is_empty()) {
                return false;
            }
            state.bytes += len;
            state.items.push_back((change, event.clone()));
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Receiver {
    /// The next event; `None` after the last one of a reader that was cut off.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut state = self.0.lock();
        match take(&mut state) {
            Some(item) => Poll::Ready(Some(item)),
            None if state.closed => Poll::Ready(None),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next event that is already there.
    pub(super) fn try_take(&self) -> Option<Item> {
        take(&mut self.0.lock())
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// Whether nothing comes any more.
    pub(super) fn ended(&self) -> bool {
        let state = self.0.lock();
        state.closed && state.items.is_empty()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn take(state: &mut State) -> Option<Item> {
    let item = state.items.pop_front()?;
    state.bytes -= item.1.object.len();
    Some(item)
}
