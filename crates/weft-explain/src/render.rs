//! Answers for people.

use crate::{
    Answer, Judgement, Outcome, Path, Place, Route, ServiceRow, Side, Verdict, answer::End,
};
use std::fmt::Write as _;

/// Rows of words in columns; the last column is not padded.
pub fn table(rows: &[Vec<String>], indent: &str) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            if widths.len() <= i {
                widths.push(0);
            }
            widths[i] = widths[i].max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (i, cell) in row.iter().enumerate() {
            let width = if i + 1 == row.len() { 0 } else { widths[i] + 2 };
            let _ = write!(line, "{cell:width$}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

impl Answer {
    /// For people.
    pub fn render(&self) -> String {
        let mut out = format!("{} → {}\n", end(&self.from), end(&self.to));
        if let Some(dns) = &self.dns {
            out.push_str("\nDNS\n");
            let rows: Vec<Vec<String>> = dns
                .tried
                .iter()
                .map(|t| {
                    let said = match t.result {
                        "found" => {
                            let mut all: Vec<String> = dns.aliases.clone();
                            let found: Vec<String> =
                                dns.addresses.iter().map(ToString::to_string).collect();
                            all.extend((!found.is_empty()).then(|| found.join(", ")));
                            all.join(" → ")
                        }
                        "empty" => "exists, without addresses".to_owned(),
                        "outside" => "not a name of this cluster".to_owned(),
                        _ => "does not exist".to_owned(),
                    };
                    vec![t.name.clone(), said]
                })
                .collect();
            out.push_str(&table(&rows, "  "));
            if let Some(note) = &dns.note {
                let _ = writeln!(out, "  {note}");
            }
            if let Some(policy) = dns.policy.as_ref().filter(|p| !p.allowed()) {
                out.push_str("  the client cannot ask the cluster's DNS\n");
                out.push_str(&policies(&[policy]));
            }
        }
        for path in &self.paths {
            out.push('\n');
            out.push_str(&path.render());
        }
        out
    }
}

fn end(end: &End) -> String {
    let host = if end.host_network && end.kind == "pod" { ", host network" } else { "" };
    match (end.kind, &end.node) {
        ("pod", Some(node)) => format!("pod {} on {node}{host}", end.name),
        ("pod", None) => format!("pod {}{host}", end.name),
        ("node", _) => format!("node {}", end.name),
        ("service", _) => format!("Service {}", end.name),
        ("outside", _) => match end.addresses.as_slice() {
            [] => "outside".to_owned(),
            all => {
                let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                format!("outside ({})", all.join(", "))
            }
        },
        _ => end.name.clone(),
    }
}

fn socket(address: Option<std::net::IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(a), Some(p)) => std::net::SocketAddr::new(a, p).to_string(),
        (Some(a), None) => a.to_string(),
        (None, Some(p)) => format!("port {p}"),
        (None, None) => String::new(),
    }
}

impl Path {
    fn title(&self) -> String {
        let d = &self.destination;
        let at = socket(d.address, d.port);
        let mut title = match d.port {
            Some(_) => format!("{at}/{}", d.protocol),
            None => at,
        };
        if let Some(f) = &self.frontend {
            let port = match f.port_name.as_str() {
                "" => String::new(),
                name => format!(", port {name}"),
            };
            let policy = if f.policy == "Local" { ", policy Local" } else { "" };
            let sep = if title.is_empty() { "" } else { "  " };
            let pod = self.backends.first().and_then(|b| b.pod.as_deref());
            let of = match (f.service.as_str(), pod) {
                ("", Some(pod)) => format!("pod {pod}"),
                (service, _) => format!("Service {service}"),
            };
            let _ = write!(title, "{sep}{} of {of}{port}{policy}", f.kind);
        }
        title
    }

    fn verdict(&self) -> String {
        let at = self.node.as_deref().map_or(String::new(), |n| format!(" on {n}"));
        let why = self.reason.as_deref().unwrap_or_default();
        match (self.outcome, self.translated_at) {
            (Outcome::Forwarded | Outcome::Denied, Some(Place::Socket)) => {
                format!("translated at the client's socket{at}, to one of:")
            }
            (Outcome::Forwarded | Outcome::Denied, Some(Place::PodLink)) => {
                format!("translated at the pod's link{at}, to one of:")
            }
            (Outcome::Forwarded, None) | (_, Some(Place::Netfilter)) => {
                format!("translated in the netfilter table{at}, to one of:")
            }
            (Outcome::Delivered, _) => "not translated, delivered to:".to_owned(),
            (Outcome::Denied, None) => "not translated, and not delivered to:".to_owned(),
            (Outcome::Refused, _) => {
                let how = match self.destination.protocol.as_str() {
                    "TCP" => "connection reset at once",
                    _ => "ICMP port unreachable",
                };
                format!("refused{at} ({how}): {why}")
            }
            (Outcome::Dropped, _) => format!("dropped{at}, the client sees a time-out: {why}"),
            (Outcome::Unreachable, _) => format!("unreachable: {why}"),
            (Outcome::Unresolved, _) => format!("no connection: {why}"),
            (Outcome::Unknown, _) => format!("not decided here: {why}"),
        }
    }

    fn render(&self) -> String {
        let mut out = format!("{}\n  {}\n", self.title(), self.verdict());
        let verdicts = self.backends.iter().filter_map(|b| b.policy.as_ref());
        let verdicts: Vec<&Judgement> = verdicts.collect();
        let alike = verdicts.windows(2).all(|w| w[0].verdict == w[1].verdict);
        let rows: Vec<Vec<String>> = self
            .backends
            .iter()
            .map(|b| {
                let sees = b.source_seen.map_or(String::new(), |s| format!("sees {s}"));
                let policy = b.policy.as_ref().filter(|_| !alike).map(|p| word(p.verdict));
                let policy = policy.unwrap_or_default().to_owned();
                let name = b.pod.clone().unwrap_or_else(|| "-".to_owned());
                vec![socket(Some(b.address), b.port), name, route(&b.route), sees, policy]
            })
            .collect();
        out.push_str(&table(&rows, "    "));
        if let Some(f) = &self.frontend {
            if let Some(s) = f.affinity_seconds.filter(|_| self.outcome == Outcome::Forwarded) {
                let _ = writeln!(
                    out,
                    "  a client stays with its backend for {s} s after its last connection"
                );
            }
            if let Some(ranges) = &f.source_ranges {
                let all: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                let _ = writeln!(out, "  loadBalancerSourceRanges admit {}", all.join(", "));
            }
        }
        out.push_str(&policies(&verdicts));
        if !self.excluded.is_empty() {
            out.push_str("  not used:\n");
            let rows: Vec<Vec<String>> = self
                .excluded
                .iter()
                .map(|e| {
                    let name = e.pod.clone().unwrap_or_else(|| "-".to_owned());
                    let place = match (&e.node, &e.zone) {
                        (Some(n), Some(z)) => format!("{n} ({z})"),
                        (Some(n), None) => n.clone(),
                        (None, Some(z)) => z.clone(),
                        (None, None) => "-".to_owned(),
                    };
                    vec![socket(Some(e.address), e.port), name, place, e.detail.clone()]
                })
                .collect();
            out.push_str(&table(&rows, "    "));
        }
        for note in &self.notes {
            let _ = writeln!(out, "  {note}");
        }
        out
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::Partly => "partly",
    }
}

/// What policy says about all ways of a path: each side's word once, with the pods that it is of.
fn policies(all: &[&Judgement]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let of = |verdict| all.iter().filter(|j| j.verdict == verdict).count();
    let head = match (of(Verdict::Allowed), of(Verdict::Denied)) {
        (allowed, _) if allowed == all.len() => "allowed",
        (_, denied) if denied == all.len() => "denied, the client sees a time-out",
        (0, 0) => "depends on the port",
        _ => "depends on where it goes",
    };
    let mut groups: Vec<(&str, &Side, Vec<&str>)> = Vec::new();
    for judgement in all {
        let sides = [("egress", &judgement.egress), ("ingress", &judgement.ingress)];
        for (direction, side) in sides {
            let Some(side) = side else { continue };
            let Some(pod) = side.pod.as_deref() else { continue };
            let same = |g: &&mut (&str, &Side, Vec<&str>)| {
                g.0 == direction && (&g.1.text, &g.1.remedies) == (&side.text, &side.remedies)
            };
            match groups.iter_mut().find(same) {
                Some(group) if group.2.contains(&pod) => {}
                Some(group) => group.2.push(pod),
                None => groups.push((direction, side, vec![pod])),
            }
        }
    }
    let partly: Vec<&str> = all.iter().filter_map(|j| j.ports.as_deref()).collect();
    if head == "allowed" && groups.iter().all(|(_, side, _)| side.reason == "unselected") {
        return "  policy: none applies\n".to_owned();
    }
    let mut out = format!("  policy: {head}\n");
    if head == "depends on the port" {
        let mut ports = partly;
        ports.dedup();
        let _ = writeln!(out, "    passes: {}", ports.join("; "));
    }
    groups.sort_by_key(|(direction, ..)| *direction);
    for (direction, side, pods) in groups {
        let _ = writeln!(out, "    {direction} of {}: {}", pods.join(", "), side.text);
        for (n, remedy) in side.remedies.iter().enumerate() {
            let word = if n == 0 { "would pass: " } else { "or " };
            let _ = writeln!(out, "      {word}{}", remedy.text);
        }
    }
    out
}

fn route(route: &Route) -> String {
    let to = route.node.as_deref().unwrap_or_default();
    let via = route.via.map_or(String::new(), |v| format!(" ({v})"));
    let text = match route.kind {
        "local" => format!("local on {to}"),
        "tunnel" => format!("tunnel to {to}{via}"),
        "routed" => format!("routed to {to}{via}"),
        "underlay" => format!("to node {to}"),
        _ => "out of the cluster".to_owned(),
    };
    match route.mtu {
        Some(mtu) if route.kind != "local" => format!("{text}, MTU {mtu}"),
        _ => text,
    }
}

impl ServiceRow {
    /// The table for people.
    pub fn render(rows: &[Self], with_namespace: bool, wide: bool) -> String {
        let mut head: Vec<&str> =
            vec!["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL", "PORTS", "ENDPOINTS", "NOTES"];
        if with_namespace {
            head.insert(0, "NAMESPACE");
        }
        let mut all: Vec<Vec<String>> = vec![head.into_iter().map(str::to_owned).collect()];
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        for row in rows {
            let ips = row.cluster_ips.iter().map(ToString::to_string);
            let ips: Vec<String> = if wide { ips.collect() } else { ips.take(1).collect() };
            let mut cells = vec![
                row.name.clone(),
                row.kind.clone(),
                or_dash(ips.join(",")),
                or_dash(row.external.join(",")),
                or_dash(row.ports.join(",")),
                row.endpoints_text(wide),
                row.notes.join("; "),
            ];
            if with_namespace {
                cells.insert(0, row.namespace.clone());
            }
            all.push(cells);
        }
        table(&all, "")
    }
}
