//! From the kernel's ring buffer to the flows that are told, on a thread of its own.

use super::{Addresses, Counters, Flow, VerdictEvent, Who, Why};
use crate::{
    cni::Programs,
    reconcile::{RETRY_MIN, Snapshots, chain},
    state::State,
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use weft_bpf::{BpfError, EventOptions, PolicyEvent, PolicyMaps, PolicyVerdict, Verdicts};
use weft_cni::flow::FlowVerdict;

/// How long the thread waits for events before it looks at all else.
const WAIT: Duration = Duration::from_millis(250);
/// Events that are read at once.
const BATCH: usize = 256;
/// How often the kernel's counters are read.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause after an error.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Reads until `cancel`. Blocks its thread.
pub fn run(
    runtime: &Handle,
    cancel: &CancellationToken,
    state: &State,
    snapshots: &Snapshots,
    mut programs: watch::Receiver<Option<Programs>>,
) {
    let mut retry = RETRY_MIN;
    loop {
        let loaded = runtime.block_on(async {
            tokio::select! {
                () = cancel.cancelled() => None,
                loaded = programs.wait_for(Option::is_some) => {
                    loaded.ok().and_then(|p| p.as_ref().map(|p| p.policy.clone()))
                }
            }
        });
        let Some(maps) = loaded else { return };
        programs.mark_unchanged();
        let read = read(&maps, cancel, state, snapshots, &programs);
        let errors: Vec<String> = read.err().map(|e| chain(&e)).into_iter().collect();
        if errors.is_empty() {
            retry = RETRY_MIN;
            continue;
        }
        state.record("flows", |stage| {
            stage.log_news("flows", &errors, &[]);
            stage.errors = errors;
        });
        runtime.block_on(async {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(retry) => {}
            }
        });
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Reads until the programs are others, or `cancel`.
fn read(
    maps: &PolicyMaps,
    cancel: &CancellationToken,
    state: &State,
    snapshots: &Snapshots,
    programs: &watch::Receiver<Option<Programs>>,
) -> Result<(), BpfError> {
    let mut verdicts = maps.verdicts()?;
    maps.configure_events(&EventOptions::default())?;
    let (mut names, mut counted) = (Addresses::default(), None::<Instant>);
    while !cancel.is_cancelled() && !programs.has_changed().unwrap_or(true) {
        let news = verdicts.wait(WAIT)?;
        let snapshot = snapshots.borrow().clone();
        if let Some(snapshot) = &snapshot {
            names.update(&snapshot.pods, &snapshot.nodes);
        }
        if news {
            publish(&mut verdicts, &names, state);
        }
        if counted.is_none_or(|at| at.elapsed() >= COUNT_INTERVAL) {
            counted = Some(Instant::now());
            let counters = Counters { stats: maps.stats()?, reasons: maps.reasons()? };
            state.flows.count(counters);
            let generation = snapshot.map_or(0, |s| s.generation).max(1);
            state.record("flows", |stage| {
                (stage.errors, stage.generation) = (Vec::new(), generation);
            });
        }
    }
    Ok(())
}

/// Reads what is there.
fn publish(verdicts: &mut Verdicts, names: &Addresses, state: &State) {
    let applied = state.policy.borrow().clone();
    let (now, now_ns) = (SystemTime::now(), Verdicts::now_ns());
    loop {
        let batch = verdicts.read(BATCH);
        state.flows.lose(batch.odd);
        let full = batch.events.len() >= BATCH;
        for event in batch.events {
            let pod = applied.as_ref().and_then(|a| a.links.get(&event.link)?.pod.clone());
            let flow = Flow {
                own: pod.map_or_else(|| names.who(event.own.ip()), Who::Pod),
                peer: names.who(event.peer.ip()),
                why: Why::of(event.reason, applied.as_ref().map(|a| &a.reasons)),
                event: translated(&event, now, now_ns),
            };
            state.flows.publish(flow);
        }
        if !full {
            return;
        }
    }
}

/// In the agent's own terms.
fn translated(event: &PolicyEvent, now: SystemTime, now_ns: u64) -> VerdictEvent {
    let ago = Duration::from_nanos(now_ns.saturating_sub(event.time_ns));
    VerdictEvent {
        at: now.checked_sub(ago).unwrap_or(now),
        link: event.link,
        direction: event.direction,
        own: event.own,
        peer: event.peer,
        protocol: event.protocol,
        verdict: match event.verdict {
            PolicyVerdict::Allowed => FlowVerdict::Allowed,
            PolicyVerdict::Denied => FlowVerdict::Denied,
            PolicyVerdict::Audited => FlowVerdict::Audited,
        },
        reason: event.reason,
        generation: event.generation,
        through_service: event.marks.through_service,
        from_node: event.marks.from_node,
        cut: event.marks.cut,
    }
}

/// What was counted, by reason: the numbers mean what the applied tables say.
pub(crate) fn by_reason(state: &State) -> Vec<(Why, crate::policy_report::Counts)> {
    let applied = state.policy.borrow().clone();
    let reasons = applied.as_deref().map(|a| &a.reasons);
    let counters: Arc<Counters> = state.flows.counters();
    let of = |c: &weft_bpf::ReasonCounts| crate::policy_report::Counts {
        allowed: c.allowed,
        denied: c.denied,
        audited: c.audited,
        dropped: c.dropped,
    };
    counters.reasons.iter().map(|(number, c)| (Why::of(*number, reasons), of(c))).collect()
}
