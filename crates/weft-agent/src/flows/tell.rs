//! Flows as lines of JSON, and the follower that gets them.

use super::{Flow, Flows, News, Who, Why};
use k8s_openapi::jiff::Timestamp;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufWriter},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::broadcast::{
        Receiver,
        error::{RecvError, TryRecvError},
    },
    time::timeout,
};
use weft_cni::{
    Answer,
    flow::{FlowEnd, FlowLine, FlowRecord, FlowRequest},
};
use weft_model::Direction;
use weft_policy::{Reason, RuleId};

/// A follower that takes nothing for so long is left alone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Tells flows to a follower until it goes, or at once where it does not follow.
pub async fn serve(
    stream: UnixStream,
    flows: &Flows,
    node: &str,
    request: &FlowRequest,
) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut out = Lines { out: BufWriter::new(write), node, request };
    let Some(_place) = flows.place() else {
        let reason = Some("as many follow as may: try again when one has gone".to_owned());
        return out.answer(&Answer { reason, ..Answer::default() }).await;
    };
    let (recent, mut news) = flows.follow();
    out.answer(&Answer { ok: true, ..Answer::default() }).await?;
    let all = recent.iter().rev().map(|flow| record(flow, node));
    let wanted = all.filter(|r| request.filter.wants(r));
    let mut wanted: Vec<FlowRecord> = wanted.take(request.last as usize).collect();
    wanted.reverse();
    for record in wanted {
        out.line(&FlowLine::Flow(Box::new(record))).await?;
    }
    out.flush().await?;
    if !request.follow {
        return Ok(());
    }
    tokio::select! {
        told = out.follow(&mut news) => told,
        () = gone(read) => Ok(()),
    }
}

/// Returns when the follower has gone. It has nothing to say any more.
async fn gone(mut read: OwnedReadHalf) {
    let mut rest = [0; 64];
    while read.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

struct Lines<'a> {
    out: BufWriter<OwnedWriteHalf>,
    node: &'a str,
    request: &'a FlowRequest,
}

impl Lines<'_> {
    async fn follow(&mut self, news: &mut Receiver<News>) -> io::Result<()> {
        loop {
            // What is there goes out together.
            let next = match news.try_recv() {
                Ok(next) => Ok(next),
                Err(TryRecvError::Empty) => {
                    self.flush().await?;
                    news.recv().await
                }
                Err(TryRecvError::Lagged(n)) => Err(RecvError::Lagged(n)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
            };
            match next {
                Ok(News::Flow(flow)) => self.flow(&flow).await?,
                Ok(News::Lost(n)) | Err(RecvError::Lagged(n)) => {
                    self.line(&FlowLine::Lost(n)).await?;
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    async fn flow(&mut self, flow: &Arc<Flow>) -> io::Result<()> {
        let record = record(flow, self.node);
        if self.request.filter.wants(&record) {
            self.line(&FlowLine::Flow(Box::new(record))).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        self.write(serde_json::to_vec(answer)?).await?;
        self.flush().await
    }

    async fn line(&mut self, line: &FlowLine) -> io::Result<()> {
        self.write(serde_json::to_vec(line)?).await
    }

    async fn write(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        line.push(b'\n');
        timeout(WRITE_TIMEOUT, self.out.write_all(&line)).await?
    }

    async fn flush(&mut self) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.out.flush()).await?
    }
}

/// The line of a flow.
pub(super) fn record(flow: &Flow, node: &str) -> FlowRecord {
    let event = &flow.event;
    let with_ports = matches!(event.protocol, 6 | 17 | 132);
    let end = |at: SocketAddr, who: &Who| FlowEnd {
        address: at.ip(),
        port: with_ports.then_some(at.port()),
        pod: match who {
            Who::Pod(id) => Some(id.to_string()),
            _ => None,
        },
        node: match who {
            Who::Node(name) => Some(name.to_string()),
            _ => None,
        },
    };
    let (own, peer) = (end(event.own, &flow.own), end(event.peer, &flow.peer));
    let (from, to) = match event.direction {
        Direction::Egress => (own, peer),
        Direction::Ingress => (peer, own),
    };
    let (policy, rule) = match &flow.why {
        Why::Policy(Reason::Rule(RuleId { policy, index, .. })) => {
            (Some(policy.to_string()), Some(*index))
        }
        Why::Policy(Reason::Isolated(all)) => {
            (all.first().map(|id| format!("NetworkPolicy {id}")), None)
        }
        _ => (None, None),
    };
    FlowRecord {
        // Always as many digits, so that texts are in the order of times.
        time: format!("{:.6}", Timestamp::try_from(event.at).unwrap_or_default()),
        node: node.to_owned(),
        verdict: event.verdict,
        direction: event.direction.to_string(),
        protocol: match event.protocol {
            1 => "ICMP".to_owned(),
            6 => "TCP".to_owned(),
            17 => "UDP".to_owned(),
            58 => "ICMPv6".to_owned(),
            132 => "SCTP".to_owned(),
            other => other.to_string(),
        },
        from,
        to,
        reason: reason_name(&flow.why).to_owned(),
        text: match &flow.why {
            Why::Policy(reason) => reason.to_string(),
            Why::NoPolicy => "nobody judges at this link".to_owned(),
            Why::NotJudged => "the pod is not judged yet".to_owned(),
            Why::NoConnection => "it belongs to no flow that is known".to_owned(),
            Why::Unreadable => "its transport header cannot be found".to_owned(),
            Why::Fault => "the tables contradict themselves".to_owned(),
            Why::Unknown(number) => format!("reason {number}, which is not known any more"),
        },
        policy,
        rule,
        generation: event.generation,
        through_service: event.through_service,
        from_node: event.from_node,
        cut: event.cut,
    }
}

/// One word for machines, as `weft why` has it.
pub(crate) fn reason_name(why: &Why) -> &'static str {
    match why {
        Why::Policy(Reason::Rule(_)) => "rule",
        Why::Policy(Reason::Isolated(_)) => "isolated",
        Why::Policy(Reason::Unselected) => "unselected",
        Why::Policy(Reason::Itself) => "itself",
        Why::Policy(Reason::OwnNode) => "ownNode",
        Why::Policy(Reason::NotAPod) => "notAPod",
        Why::Policy(Reason::TooLarge) => "tooLarge",
        Why::NoPolicy => "noPolicy",
        Why::NotJudged => "notJudged",
        Why::NoConnection => "noConnection",
        Why::Unreadable => "unreadable",
        Why::Fault => "fault",
        Why::Unknown(_) => "unknown",
    }
}
