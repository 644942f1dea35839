//! The watch of a kind that the cluster may not have.
//!
//! Asking for objects of a kind whose definition is absent answers 404, again and again, on
//! every node. So the definition itself is watched, by its name: while it is `Established` its
//! objects are, and where it is not, the kind counts as listed and has no objects.

use crate::{index::Change, slim::WatchedDefinition, watch};
use futures::{Stream, StreamExt, future::Either, stream::BoxStream};
use kube::runtime::watcher::Event;
use std::collections::VecDeque;

/// What a watch of the kind tells.
pub(crate) type Told = Result<Option<Change>, watch::WatchError>;

struct Optional<D, O> {
    definitions: D,
    version: &'static str,
    open: O,
    objects: Option<BoxStream<'static, Told>>,
    /// Whether the list under way has an established definition.
    listing: bool,
    /// Whether the absence was told.
    told: bool,
    queue: VecDeque<Told>,
}

/// Follows `definitions` (of one name), and the stream that `open` makes while one of them
/// serves `version`.
pub(crate) fn while_served<D, O>(
    definitions: D,
    version: &'static str,
    open: O,
) -> impl Stream<Item = Told> + Send
where
    D: Stream<Item = watch::Item<WatchedDefinition>> + Send + Unpin,
    O: Fn() -> BoxStream<'static, Told> + Send,
{
    let (objects, queue) = (None, VecDeque::new());
    let all = Optional { definitions, version, open, objects, listing: false, told: false, queue };
    futures::stream::unfold(all, |mut all| async move {
        loop {
            if let Some(item) = all.queue.pop_front() {
                return Some((item, all));
            }
            all.advance().await?;
        }
    })
}

impl<D, O> Optional<D, O>
where
    D: Stream<Item = watch::Item<WatchedDefinition>> + Send + Unpin,
    O: Fn() -> BoxStream<'static, Told> + Send,
{
    /// One event; `None` where no more can come.
    async fn advance(&mut self) -> Option<()> {
        let Some(objects) = &mut self.objects else {
            let event = self.definitions.next().await?;
            self.take(event);
            return Some(());
        };
        // Both are cancel safe: `next` takes an item or nothing.
        let first = futures::future::select(self.definitions.next(), objects.next()).await;
        match first {
            Either::Left((event, _)) => {
                let event = event?;
                self.take(event);
            }
            Either::Right((Some(item), _)) => self.queue.push_back(item),
            // The watches never end of themselves.
            Either::Right((None, _)) => self.objects = None,
        }
        Some(())
    }

    fn take(&mut self, event: watch::Item<WatchedDefinition>) {
        let event = match event {
            Ok(Some(event)) => event,
            Ok(None) => return self.queue.push_back(Ok(None)),
            Err(e) => return self.queue.push_back(Err(e)),
        };
        match event {
            Event::Init => self.listing = false,
            Event::InitApply(definition) => self.listing |= definition.serves(self.version),
            Event::InitDone => self.set(self.listing),
            Event::Apply(definition) => self.set(definition.serves(self.version)),
            Event::Delete(_) => self.set(false),
        }
    }

    fn set(&mut self, served: bool) {
        if served {
            self.told = false;
            self.objects.get_or_insert_with(&self.open);
            return;
        }
        self.objects = None;
        if !std::mem::replace(&mut self.told, true) {
            self.queue.extend([Change::ListBegins, Change::ListEnds].map(|c| Ok(Some(c))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::channel::mpsc;
    use serde_json::json;

    fn definition(established: bool) -> WatchedDefinition {
        let established = if established { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": "x"}, "spec": {"versions": [{"name": "v1", "served": true}]},
            "status": {"conditions": [{"type": "Established", "status": established}]}
        }))
        .expect("a definition")
    }

    /// Says what is told after each step; `objects` are the streams that were opened.
    struct Play {
        definitions: mpsc::UnboundedSender<watch::Item<WatchedDefinition>>,
        opened: mpsc::UnboundedReceiver<mpsc::UnboundedSender<Told>>,
        all: BoxStream<'static, Told>,
    }

    impl Play {
        fn new() -> Self {
            let (definitions, events) = mpsc::unbounded();
            let (tell, opened) = mpsc::unbounded();
            let open = move || {
                let (tx, rx) = mpsc::unbounded();
                tell.unbounded_send(tx).expect("the test runs");
                rx.boxed()
            };
            Self { definitions, opened, all: while_served(events, "v1", open).boxed() }
        }

        fn send(&mut self, event: Event<WatchedDefinition>) -> Vec<Change> {
            self.definitions.unbounded_send(Ok(Some(event))).expect("open");
            self.ready()
        }

        fn ready(&mut self) -> Vec<Change> {
            let mut told = Vec::new();
            while let Some(Some(item)) = futures::FutureExt::now_or_never(self.all.next()) {
                told.extend(item.expect("no error"));
            }
            told
        }

        fn objects(&mut self) -> Option<mpsc::UnboundedSender<Told>> {
            self.opened.try_recv().ok()
        }
    }

    const NOTHING: [Change; 2] = [Change::ListBegins, Change::ListEnds];

    #[test]
    fn a_kind_that_is_not_there_has_no_objects_and_is_not_asked_for() {
        let mut play = Play::new();
        assert!(play.send(Event::Init).is_empty());
        assert_eq!(play.send(Event::InitDone), NOTHING);
        // Listed again: told already.
        play.send(Event::Init);
        assert!(play.send(Event::InitDone).is_empty());
        assert!(play.send(Event::Apply(definition(false))).is_empty());
        assert!(play.objects().is_none());
    }

    #[test]
    fn its_objects_come_and_go_with_it() {
        let mut play = Play::new();
        play.send(Event::Init);
        play.send(Event::InitApply(definition(true)));
        // Nothing is told yet: its own list does.
        assert!(play.send(Event::InitDone).is_empty());
        let objects = play.objects().expect("opened");
        objects.unbounded_send(Ok(Some(Change::ListBegins))).expect("held");
        assert_eq!(play.ready(), [Change::ListBegins]);
        // Other writes to the definition change nothing.
        assert!(play.send(Event::Apply(definition(true))).is_empty());
        assert!(play.objects().is_none());
        assert_eq!(play.send(Event::Delete(definition(true))), NOTHING);
        assert!(objects.is_closed(), "nobody listens any more");
        assert!(play.send(Event::Apply(definition(true))).is_empty());
        assert!(play.objects().is_some(), "it is back");
        // It was taken away while the watch was lost.
        play.send(Event::Init);
        assert_eq!(play.send(Event::InitDone), NOTHING);
    }
}
