//! A future that rarely ends beside one that is polled often.

use futures::task::AtomicWaker;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Polls the future inside only when that has something to say. A thousand watches that wait for
/// the server's end, each at every event, would else queue up at the one lock of the token; and
/// the clock's timers are asked no less often.
pub(crate) struct Aside<F> {
    future: Pin<Box<F>>,
    news: Arc<News>,
    waker: Waker,
    /// The waker of the task that polls, as `news` has it.
    task: Option<Waker>,
}

/// Whether the future has to be polled, and who does it.
#[derive(Default)]
struct News {
    due: AtomicBool,
    task: AtomicWaker,
}

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.due.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Aside<F> {
    pub(crate) fn new(future: F) -> Self {
        let news = Arc::new(News { due: AtomicBool::new(true), ..News::default() });
        let waker = Waker::from(news.clone());
        Self { future: Box::pin(future), news, waker, task: None }
    }
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let own = &mut *self;
        if !own.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            // Before `due` is looked at: whoever sets it afterwards wakes the right task.
            own.news.task.register(context.waker());
            own.task = Some(context.waker().clone());
        }
        if !own.news.due.load(Ordering::Acquire) || !own.news.due.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        own.future.as_mut().poll(&mut Context::from_waker(&own.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn it_is_polled_when_it_is_woken_and_not_before() {
        let (polls, notify) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counted, notified) = (polls.clone(), notify.clone());
        let mut aside = Aside::new(async move {
            let mut waiting = Box::pin(notified.notified());
            std::future::poll_fn(move |context| {
                counted.fetch_add(1, Ordering::Relaxed);
                waiting.as_mut().poll(context)
            })
            .await
        });
        for _ in 0..5 {
            let once = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut aside).poll(cx)));
            assert!(once.await.is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        // Polled by another task from now on, which is the one that is woken.
        let task = tokio::spawn(aside);
        tokio::task::yield_now().await;
        notify.notify_one();
        task.await.unwrap();
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
