//! Verdicts on flows as the agent tells them on its socket: what a follower asks, and the lines
//! that it gets.

use crate::{Answer, INPUT_LEN_MAX, Request};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// How long the agent may take for its first line.
const FIRST_LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// Which flows a follower wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRequest {
    /// Whether to go on with what comes.
    #[serde(default)]
    pub follow: bool,
    /// How many of those before are told at most; the agent has a bound of its own.
    #[serde(default)]
    pub last: u32,
    /// Which of them.
    #[serde(default)]
    pub filter: FlowFilter,
}

/// What a flow must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowFilter {
    /// Denied, or would be by a policy on trial.
    #[serde(default)]
    pub denied: bool,
    /// Who began it.
    #[serde(default)]
    pub from: Option<Party>,
    /// Who was asked.
    #[serde(default)]
    pub to: Option<Party>,
    /// The port that was asked for.
    #[serde(default)]
    pub port: Option<u16>,
}

/// An end that is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Party {
    /// A pod, `namespace/name`.
    Pod(String),
    /// Every pod of a namespace.
    Namespace(String),
    /// A node.
    Node(String),
    /// Addresses.
    Net(IpNet),
}

impl Party {
    /// Reads `POD`, `NS/POD`, `NS/`, `node/NODE`, an address or a range.
    pub fn parse(text: &str, namespace: &str) -> Result<Self, String> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        let good = |t: &str| !t.is_empty() && !t.contains('/');
        match text.split_once('/') {
            None if good(text) => Ok(Self::Pod(format!("{namespace}/{text}"))),
            Some(("node", name)) if good(name) => Ok(Self::Node(name.to_owned())),
            Some((namespace, "")) if good(namespace) => Ok(Self::Namespace(namespace.to_owned())),
            Some((a, b)) if good(a) && good(b) => Ok(Self::Pod(text.to_owned())),
            _ => Err(format!("'{text}': use [NAMESPACE/]POD, NAMESPACE/, node/NODE or an address")),
        }
    }

    fn is(&self, end: &FlowEnd) -> bool {
        match self {
            Self::Pod(pod) => end.pod.as_ref() == Some(pod),
            Self::Namespace(namespace) => {
                let of = |pod: &String| pod.split_once('/').is_some_and(|(ns, _)| ns == namespace);
                end.pod.as_ref().is_some_and(of)
            }
            Self::Node(node) => end.node.as_ref() == Some(node),
            Self::Net(net) => net.contains(&end.address),
        }
    }
}

impl FlowFilter {
    /// Whether a flow is wanted.
    pub fn wants(&self, flow: &FlowRecord) -> bool {
        let party = |wanted: &Option<Party>, end| wanted.as_ref().is_none_or(|p| p.is(end));
        (!self.denied || flow.verdict != FlowVerdict::Allowed)
            && party(&self.from, &flow.from)
            && party(&self.to, &flow.to)
            && self.port.is_none_or(|p| flow.to.port == Some(p))
    }
}

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FlowVerdict {
    /// It passes.
    Allowed,
    /// It is dropped.
    Denied,
    /// It passes, and a policy on trial would deny it.
    Audited,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowEnd {
    /// Its address, as it is on the pod's link.
    pub address: IpAddr,
    /// Its port; absent for protocols without ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `namespace/name` of the pod that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// One verdict. Field names are an interface (docs/why.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRecord {
    /// When, as RFC 3339 in UTC.
    pub time: String,
    /// The node that judged.
    pub node: String,
    /// What became of it.
    pub verdict: FlowVerdict,
    /// Whose rules were asked: `egress` of the sender, or `ingress` of the receiver.
    pub direction: String,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the protocol's number.
    pub protocol: String,
    /// Who began it.
    pub from: FlowEnd,
    /// Who was asked: a backend, where a Service was.
    pub to: FlowEnd,
    /// As in `weft why -o json`: `rule`, `isolated`, `unselected`, `itself`, `ownNode`, …; and
    /// `notJudged`, `noConnection`, `unknown`.
    pub reason: String,
    /// The same in words.
    pub text: String,
    /// The policy that decided, e.g. `NetworkPolicy shop/db`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The place of the rule in its list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// The node's generation of rules.
    pub generation: u32,
    /// It was sent to a Service and translated at the pod's link.
    #[serde(default)]
    pub through_service: bool,
    /// The pod's own node sent it.
    #[serde(default)]
    pub from_node: bool,
    /// It had been allowed, and a change of the rules ended it.
    #[serde(default)]
    pub cut: bool,
}

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FlowLine {
    /// A verdict.
    Flow(Box<FlowRecord>),
    /// So many were not told, because the follower, or the agent, was too slow.
    Lost(u64),
}

/// The stream of an agent.
#[derive(Debug)]
pub struct FlowLines(BufReader<UnixStream>);

/// Asks the agent at `socket` for flows. Blocks until it agrees.
pub fn flows(socket: &Path, request: FlowRequest) -> io::Result<FlowLines> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(FIRST_LINE_TIMEOUT))?;
    stream.set_write_timeout(Some(FIRST_LINE_TIMEOUT))?;
    let mut line = serde_json::to_vec(&Request::Flows(request))?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut lines = BufReader::new(stream);
    let first = read_line(&mut lines)?;
    let answer: Answer = match first {
        Some(line) => serde_json::from_str(&line)?,
        None => {
            let why = "the agent closed the connection";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
    };
    if !answer.ok {
        return Err(io::Error::other(answer.reason.unwrap_or_else(|| "refused".to_owned())));
    }
    // From now on it may be silent for as long as nothing happens.
    lines.get_ref().set_read_timeout(None)?;
    Ok(FlowLines(lines))
}

fn read_line(from: &mut BufReader<UnixStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = from.take(INPUT_LEN_MAX as u64).read_line(&mut line)?;
    Ok((read > 0).then_some(line))
}

impl Iterator for FlowLines {
    type Item = io::Result<FlowLine>;

    fn next(&mut self) -> Option<Self::Item> {
        match read_line(&mut self.0) {
            Ok(None) => None,
            Ok(Some(line)) => Some(serde_json::from_str(&line).map_err(Into::into)),
            Err(e) => Some(Err(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> FlowRecord {
        let end = |address: &str, port, pod: Option<&str>| FlowEnd {
            address: address.parse().expect("address"),
            port,
            pod: pod.map(str::to_owned),
            node: None,
        };
        FlowRecord {
            time: "2026-01-01T00:00:00.000001Z".to_owned(),
            node: "node1".to_owned(),
            verdict: FlowVerdict::Denied,
            direction: "ingress".to_owned(),
            protocol: "TCP".to_owned(),
            from: end("10.244.1.5", Some(40_000), Some("shop/cli")),
            to: end("10.244.1.2", Some(5432), Some("shop/db")),
            reason: "isolated".to_owned(),
            text: "…".to_owned(),
            policy: None,
            rule: None,
            generation: 3,
            through_service: false,
            from_node: false,
            cut: false,
        }
    }

    #[test]
    fn filters_mean_both_ends_and_the_port_that_was_asked_for() {
        let party = |text: &str| Some(Party::parse(text, "shop").expect("fine"));
        let any = FlowFilter::default();
        for (filter, wanted) in [
            (any.clone(), true),
            (FlowFilter { denied: true, ..any.clone() }, true),
            (FlowFilter { from: party("cli"), ..any.clone() }, true),
            (FlowFilter { from: party("shop/cli"), to: party("shop/"), ..any.clone() }, true),
            (FlowFilter { from: party("db"), ..any.clone() }, false),
            (FlowFilter { from: party("sho/"), ..any.clone() }, false),
            (FlowFilter { from: party("10.244.1.0/24"), ..any.clone() }, true),
            (FlowFilter { to: party("10.244.1.5"), ..any.clone() }, false),
            (FlowFilter { from: party("node/node1"), ..any.clone() }, false),
            (FlowFilter { port: Some(5432), ..any.clone() }, true),
            (FlowFilter { port: Some(40_000), ..any }, false),
        ] {
            assert_eq!(filter.wants(&flow()), wanted, "{filter:?}");
        }
        let allowed = FlowRecord { verdict: FlowVerdict::Allowed, ..flow() };
        assert!(!FlowFilter { denied: true, ..FlowFilter::default() }.wants(&allowed));
        for bad in ["", "/", "/x", "a/b/c", "node/"] {
            assert!(Party::parse(bad, "shop").is_err() || bad == "node/", "{bad}");
        }
        assert_eq!(Party::parse("node/", "x"), Ok(Party::Namespace("node".to_owned())));
    }

    #[test]
    fn lines_are_read_back() {
        for line in [FlowLine::Flow(Box::new(flow())), FlowLine::Lost(7)] {
            let text = serde_json::to_string(&line).expect("JSON");
            assert_eq!(serde_json::from_str::<FlowLine>(&text).expect("a line"), line);
        }
        assert_eq!(serde_json::to_string(&FlowLine::Lost(7)).expect("JSON"), "{\"lost\":7}");
    }
}
