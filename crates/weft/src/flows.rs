//! `weft flows`: verdicts of policy, as the agents tell them.

use crate::check::{self, Output, Which};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::mpsc,
    thread,
};
use weft_cni::flow::{
    FlowEnd, FlowFilter, FlowLine, FlowRecord, FlowRequest, FlowVerdict, Party, flows,
};

/// Lines that wait to be printed at most; the agents wait then, and say what that cost.
const WAITING_MAX: usize = 1024;

/// Which connections policy let through or denied, and by which rule.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    #[command(flatten)]
    which: Which,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// How many flows before now, of each node
    #[arg(long, value_name = "N", default_value_t = 100)]
    last: u32,
    /// Only what was denied, or would be by a policy on trial
    #[arg(long)]
    denied: bool,
    /// Who began it: [NAMESPACE/]POD, NAMESPACE/ for all its pods, node/NODE, an address or range
    #[arg(long, value_name = "END")]
    from: Option<String>,
    /// Who was asked (a backend, where a Service was): as --from
    #[arg(long, value_name = "END")]
    to: Option<String>,
    /// The port that was asked for
    #[arg(long)]
    port: Option<u16>,
    /// What this node judged; may be repeated
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Namespace of pods without one
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Output format; JSON is one object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What a node sent.
enum News {
    Line(Box<FlowLine>),
    Failed(io::Error),
}

/// Runs `weft flows`; 0 only where every agent that was asked answered.
pub fn run(args: FlowsArgs) -> Result<i32> {
    let party = |text: &Option<String>| {
        let parsed = text.as_deref().map(|t| Party::parse(t, &args.namespace));
        parsed.transpose().map_err(anyhow::Error::msg)
    };
    let filter = FlowFilter {
        denied: args.denied,
        from: party(&args.from).context("--from")?,
        to: party(&args.to).context("--to")?,
        port: args.port,
    };
    let request = FlowRequest { follow: args.follow, last: args.last, filter };
    let mut agents = check::agents(&args.which)?;
    if let Some(unknown) = args.node.iter().find(|n| agents.iter().all(|a| a.node != **n)) {
        let names: Vec<&str> = agents.iter().map(|a| &*a.node).collect();
        bail!("there is no agent of node {unknown} here; there are: {}", names.join(", "));
    }
    agents.retain(|a| args.node.is_empty() || args.node.contains(&a.node));
    let (sender, news) = mpsc::sync_channel(WAITING_MAX);
    for agent in agents {
        let (sender, request) = (sender.clone(), request.clone());
        thread::spawn(move || {
            let send = |news| sender.send((agent.node.clone(), news)).is_ok();
            let lines = match flows(&agent.socket(), request) {
                Ok(lines) => lines,
                Err(e) => {
                    send(News::Failed(e));
                    return;
                }
            };
            for line in lines {
                let news = match line {
                    Ok(line) => News::Line(Box::new(line)),
                    Err(e) => {
                        send(News::Failed(e));
                        return;
                    }
                };
                if !send(news) {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut failed = false;
    let mut shown = Vec::new();
    for (node, news) in news {
        match news {
            News::Failed(e) => {
                eprintln!("error: the agent of {node}: {e}");
                failed = true;
            }
            News::Line(line) if args.follow => {
                if !print(&mut [(node, *line)].into(), args.output)? {
                    return Ok(0);
                }
            }
            News::Line(line) => shown.push((node, *line)),
        }
    }
    // Those of several nodes, in the order in which they came to pass.
    shown.sort_by(|(_, a), (_, b)| time(a).cmp(time(b)));
    print(&mut shown.into(), args.output)?;
    Ok(i32::from(failed))
}

/// Orders lines; what was lost comes first.
fn time(line: &FlowLine) -> &str {
    match line {
        FlowLine::Flow(flow) => &flow.time,
        FlowLine::Lost(_) => "",
    }
}

/// Prints lines; `false` where the reader went away (`| head`).
fn print(lines: &mut VecDeque<(String, FlowLine)>, output: Output) -> Result<bool> {
    let mut out = io::stdout().lock();
    for (node, line) in lines.drain(..) {
        let text = match output {
            Output::Json => json(&node, &line)?,
            Output::Text => text(&node, &line),
        };
        match writeln!(out, "{text}") {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            other => other.context("write output")?,
        }
    }
    Ok(true)
}

fn json(node: &str, line: &FlowLine) -> Result<String> {
    Ok(match line {
        FlowLine::Flow(flow) => serde_json::to_string(flow)?,
        FlowLine::Lost(n) => serde_json::to_string(&serde_json::json!({"node": node, "lost": n}))?,
    })
}

fn text(node: &str, line: &FlowLine) -> String {
    let flow = match line {
        FlowLine::Flow(flow) => flow,
        FlowLine::Lost(n) => return format!("… {n} flows of {node} were not told: too many"),
    };
    let FlowRecord { time, node, direction, protocol, text, .. } = &**flow;
    // The day is the reader's own.
    let time = time.split_once('T').map_or(&**time, |(_, t)| t.trim_end_matches('Z'));
    let verdict = match flow.verdict {
        FlowVerdict::Allowed => "allowed",
        FlowVerdict::Denied if flow.cut => "cut",
        FlowVerdict::Denied => "denied",
        FlowVerdict::Audited => "would deny",
    };
    format!(
        "{time} {node} {verdict:10} {protocol:4} {} → {}  {direction}: {text}",
        end(&flow.from),
        end(&flow.to)
    )
}

/// `shop/web-0:8080`.
fn end(end: &FlowEnd) -> String {
    let name = match (&end.pod, &end.node) {
        (Some(pod), _) => pod.clone(),
        (None, Some(node)) => format!("node/{node}"),
        (None, None) if end.address.is_ipv6() && end.port.is_some() => format!("[{}]", end.address),
        (None, None) => end.address.to_string(),
    };
    match end.port {
        Some(port) => format!("{name}:{port}"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_both_ends_the_verdict_and_the_rule() {
        let end = |address: &str, port, pod: Option<&str>| FlowEnd {
            address: address.parse().expect("address"),
            port,
            pod: pod.map(str::to_owned),
            node: None,
        };
        let flow = FlowRecord {
            time: "2026-01-01T12:34:56.000001Z".to_owned(),
            node: "node1".to_owned(),
            verdict: FlowVerdict::Denied,
            direction: "ingress".to_owned(),
            protocol: "TCP".to_owned(),
            from: end("2001:db8::1", Some(40_000), None),
            to: end("fd00::2", Some(5432), Some("shop/db")),
            reason: "rule".to_owned(),
            text: "NetworkPolicy shop/db ingress[0]".to_owned(),
            policy: None,
            rule: Some(0),
            generation: 1,
            through_service: false,
            from_node: false,
            cut: false,
        };
        let line = |flow: FlowRecord| text("node1", &FlowLine::Flow(Box::new(flow)));
        assert_eq!(
            line(flow.clone()),
            "12:34:56.000001 node1 denied     TCP  [2001:db8::1]:40000 → shop/db:5432  \
             ingress: NetworkPolicy shop/db ingress[0]"
        );
        let to = FlowEnd { node: Some("node2".to_owned()), ..end_of("172.30.1.12") };
        let verdict = FlowVerdict::Audited;
        let audited = FlowRecord { to, verdict, cut: true, ..flow.clone() };
        assert!(line(audited).contains("would deny TCP"), "{flow:?}");
        assert!(line(FlowRecord { cut: true, ..flow }).contains(" cut "));
        let lost = json("node1", &FlowLine::Lost(3)).expect("JSON");
        assert_eq!(lost, "{\"node\":\"node1\",\"lost\":3}");
    }

    fn end_of(address: &str) -> FlowEnd {
        FlowEnd { address: address.parse().expect("address"), port: None, pod: None, node: None }
    }
}
