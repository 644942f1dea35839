//! What every simulation has: an API, a core, and a seed that says what happens next.

use jiff::Timestamp;

use super::api::FakeApi;
use crate::action::Action;
use crate::config::Config;
use crate::core::{Core, Outcome};
use crate::key::Key;
use crate::kinds::{Kind, WATCHED};

pub(crate) struct Bench {
    pub(crate) api: FakeApi,
    pub(crate) core: Core,
    pub(crate) under_way: Vec<(Key, Action)>,
    random: u64,
    pub(crate) clock_ms: i64,
    /// Writes that reached the API, Events aside.
    pub(crate) writes: usize,
}

impl Bench {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        Self {
            api: FakeApi { clock_s: 1_000_000, ..FakeApi::default() },
            core: Core::new(config),
            under_way: Vec::new(),
            random: seed | 1,
            clock_ms: 1_000_000_000,
            writes: 0,
        }
    }

    pub(crate) fn relist_all(&mut self) {
        self.api.relist_all(&mut self.core);
    }

    /// xorshift64: enough to shuffle.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % sides
    }

    pub(crate) fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.roll(count as u64)).expect("small")
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.clock_ms).expect("a time")
    }

    /// What a watch had to tell is lost; it lists again.
    pub(crate) fn break_a_watch(&mut self) {
        let kinds: Vec<Kind> = WATCHED.iter().chain(&self.api.others).copied().collect();
        let kind = kinds[self.pick(kinds.len())];
        if self.roll(8) == 0 {
            self.api.relist(kind, &mut self.core);
        }
    }

    pub(crate) fn poll(&mut self) {
        let now = self.now();
        for work in self.core.poll(now) {
            self.under_way.extend(work.actions.into_iter().map(|one| (work.key.clone(), one)));
        }
    }

    /// Delivers the next change of one watch.
    pub(crate) fn deliver(&mut self) {
        let waiting: Vec<Kind> = self
            .api
            .watches
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(kind, _)| *kind)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let kind = waiting[self.pick(waiting.len())];
        let change = self.api.watches.get_mut(&kind).and_then(|queue| queue.pop_front());
        self.core.handle_change(change.expect("it is not empty"));
    }

    /// Executes one write and delivers its answer, or loses the write, or the answer.
    pub(crate) fn answer(&mut self, faults: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let at = self.pick(self.under_way.len());
        let (key, action) = self.under_way.swap_remove(at);
        let lost = || Outcome::Failed("lost".into());
        let fault = if faults { self.roll(20) } else { u64::MAX };
        if fault < 2 {
            // Never arrived.
            self.core.handle_answer(&key, &action, lost(), self.now());
            return;
        }
        self.writes += usize::from(!action.is_event());
        self.api.clock_s = self.clock_ms / 1000;
        let outcome = self.api.execute(&action);
        // A pod that was made unknown to its maker is made again, here as in Kubernetes; what the
        // workloads' simulation counts would not bear that.
        let outcome =
            if fault == 2 && action.kind == Kind::EndpointSlice { lost() } else { outcome };
        self.core.handle_answer(&key, &action, outcome, self.now());
    }

    /// Whether nothing is under way, due, or to be told. Lets time pass where something waits for
    /// it, within the horizon of a test.
    pub(crate) fn at_rest(&mut self) -> bool {
        let told = self.api.watches.values().all(|queue| queue.is_empty());
        if !told || !self.under_way.is_empty() || !self.core.idle() {
            return false;
        }
        match self.core.next_timer() {
            // Node leases and lost nodes are beyond this test's horizon.
            Some(at) if at < self.now() + jiff::SignedDuration::from_secs(300) => {
                self.clock_ms = at.as_millisecond() + 1;
                false
            }
            _ => true,
        }
    }

    /// Delivers and answers everything, without letting time pass.
    pub(crate) fn run(&mut self) {
        for _ in 0..20_000 {
            for _ in 0..4 {
                self.deliver();
            }
            self.answer(false);
            self.poll();
            let told = self.api.watches.values().all(|queue| queue.is_empty());
            if told && self.under_way.is_empty() && self.core.idle() {
                return;
            }
            self.clock_ms += i64::from(self.held_up());
        }
        panic!("no rest; under way: {:?}", self.under_way);
    }

    /// Whether only a write that lost a race is waiting to be made again.
    fn held_up(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, seconds: i64) {
        self.clock_ms += seconds * 1000;
        self.api.clock_s = self.clock_ms / 1000;
        self.poll();
        self.run();
    }
}

/// The time of a bench, as objects bear it.
pub(crate) fn time_of(bench: &Bench) -> serde_json::Value {
    super::api::time(bench.clock_ms / 1000)
}
