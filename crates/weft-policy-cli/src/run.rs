//! Runs expectations.

use crate::{
    Cluster, Party, Problem, Step,
    expect::{Expectation, Suite, suite_of},
    limits::{EXPECTATIONS_MAX, FLOWS_MAX},
};
use serde::Serialize;
use std::fmt::Write;
use weft_model::{Direction, IpFamily, Port, Protocol};
use weft_policy::{Evaluator, Flow, Reach, Reason, Stretches, Transport};

/// How one expectation fared. The names of these fields are an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its name; may be empty.
    pub name: String,
    /// File of the expectation.
    pub file: String,
    /// Its line.
    pub line: Option<usize>,
    /// The sender: of the flow that contradicts, else of the first one.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// The port, e.g. `TCP/80`; empty for everything.
    pub port: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `allow` or `deny`.
    pub expected: &'static str,
    /// `allow`, `deny`, or `error` where the expectation cannot be judged.
    pub observed: &'static str,
    /// Whether both are the same.
    pub ok: bool,
    /// How many flows were judged.
    pub flows: usize,
    /// Which side decided, and why.
    pub reason: String,
    /// The rule or policy that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Decider>,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decider {
    /// `ingress` or `egress`.
    pub direction: String,
    /// The policy, e.g. `NetworkPolicy shop/db`.
    pub policy: String,
    /// Place of the rule in its list; absent where no rule of the policy matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The peer that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The port that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The file it stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// And the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

/// How all of them fared. The names of these fields are an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every expectation holds.
    pub ok: bool,
    /// Each expectation.
    pub tests: Vec<Outcome>,
}

/// Runs every expectation in the cluster's documents.
pub fn run(cluster: &Cluster) -> Result<Report, Problem> {
    let documents = cluster.documents();
    let evaluator = Evaluator::new(&cluster.input);
    let stretches = Stretches::of([&cluster.input]);
    let mut report = Report::default();
    for object in documents.objects.iter().filter(|o| o.kind() == "PolicyTest") {
        let suite = suite_of(&object.value).map_err(|e| documents.problem(object, &[], e))?;
        if report.tests.len() + suite.tests.len() > EXPECTATIONS_MAX {
            let message = format!("more than {EXPECTATIONS_MAX} expectations");
            return Err(documents.problem(object, &[], message));
        }
        for (i, test) in suite.tests.iter().enumerate() {
            let judge =
                Judge { cluster, evaluator: &evaluator, stretches: &stretches, suite: &suite };
            let mut outcome = judge.run(test);
            outcome.file = documents.sources[object.source].name.to_string();
            outcome.line = documents.line(object, &[Step::Key("tests"), Step::Item(i)]);
            report.tests.push(outcome);
        }
    }
    report.ok = report.tests.iter().all(|t| t.ok) && !report.tests.is_empty();
    Ok(report)
}

struct Judge<'s, 'c> {
    cluster: &'c Cluster,
    evaluator: &'s Evaluator<'c>,
    stretches: &'s Stretches,
    suite: &'s Suite,
}

/// What an expectation stands for: ends, and what passes between them (`None`: everything).
type Case = (Party, Party, Option<Transport>, bool);

impl Judge<'_, '_> {
    fn run(&self, test: &Expectation) -> Outcome {
        let expected = word(test.allow);
        let mut outcome = Outcome {
            name: test.name.clone(),
            file: String::new(),
            line: None,
            from: test.from.join(", "),
            to: test.to.join(", "),
            port: test.port.clone().unwrap_or_default(),
            family: String::new(),
            expected,
            observed: "error",
            ok: false,
            flows: 0,
            reason: String::new(),
            rule: None,
        };
        let cases = match self.cases(test) {
            Ok(cases) => cases,
            Err(reason) => return Outcome { reason, ..outcome },
        };
        for family in self.suite.families.list() {
            for case in &cases {
                let Some(flow) = self.flow(case, *family) else { continue };
                let first = outcome.flows == 0;
                outcome.flows += 1;
                let (allowed, flow) = self.judge(case, flow, test.allow);
                let ok = allowed == test.allow;
                if first || !ok {
                    self.describe(&mut outcome, case, &flow, *family);
                    outcome.observed = word(allowed);
                    outcome.ok = ok;
                }
                if !ok {
                    return outcome;
                }
            }
        }
        if outcome.flows == 0 {
            outcome.reason = "the ends have no addresses of one family".to_owned();
        }
        outcome
    }

    fn flow(
        &self,
        (from, to, transport, through_service): &Case,
        family: IpFamily,
    ) -> Option<Flow> {
        let transport = transport.unwrap_or(Transport::Other);
        let flow = self.cluster.flow(from, to, family, transport)?;
        Some(Flow { through_service: *through_service, ..flow })
    }

    /// Whether the flow passes; where an expectation is about every port, whether all or none do,
    /// and the port that speaks against it.
    fn judge(&self, case: &Case, flow: Flow, allow: bool) -> (bool, Flow) {
        if case.2.is_some() {
            return (self.evaluator.evaluate(&flow).allowed(), flow);
        }
        let reach = Reach::of(self.evaluator, &flow, self.stretches);
        let against = if allow { Reach::everything().without(&reach) } else { reach };
        let first = weft_policy::PROTOCOLS.iter().zip(&against.ports).find_map(|(p, ports)| {
            let port = Port::try_from(i32::from(ports.first()?.0)).ok()?;
            Some(Transport::Port(*p, port))
        });
        match first.or(against.other.then_some(Transport::Other)) {
            Some(transport) => (!allow, Flow { transport, ..flow }),
            None => (allow, flow),
        }
    }

    fn describe(&self, outcome: &mut Outcome, case: &Case, flow: &Flow, family: IpFamily) {
        outcome.from = case.0.to_string();
        outcome.to = case.1.to_string();
        outcome.family = family.to_string();
        if case.2.is_some() || flow.transport != Transport::Other {
            outcome.port = port_text(flow.transport);
        }
        let verdict = self.evaluator.evaluate(flow);
        let (direction, decision) = verdict.deciding();
        outcome.reason = format!("{direction}: {}", decision.reason);
        for rule in &decision.passed {
            let _ = write!(outcome.reason, ", passed by {rule}");
        }
        outcome.rule = self.decider(direction, &decision.reason, flow);
    }

    fn decider(&self, direction: Direction, reason: &Reason, flow: &Flow) -> Option<Decider> {
        let place = self.cluster.place_of_reason(reason);
        let (file, line) = place.map_or((None, None), |(f, l)| (Some(f.to_string()), Some(l)));
        let mut decider = Decider {
            direction: direction.to_string(),
            policy: String::new(),
            index: None,
            peer: None,
            port: None,
            file,
            line,
        };
        match reason {
            Reason::Rule(rule) => {
                decider.policy = rule.policy.to_string();
                decider.index = Some(rule.index);
                if let Some(matched) = self.evaluator.why(rule, flow) {
                    decider.peer = matched.peer.map(|(_, p)| p.to_string());
                    decider.port = matched.port.map(|(_, p)| p.to_string());
                }
            }
            Reason::Isolated(policies) => {
                decider.policy = format!("NetworkPolicy {}", policies.first()?);
            }
            _ => return None,
        }
        Some(decider)
    }

    fn cases(&self, test: &Expectation) -> Result<Vec<Case>, String> {
        let namespace = &self.suite.namespace;
        let mut senders = Vec::new();
        for text in &test.from {
            senders.extend(self.cluster.parties(text, namespace)?);
        }
        let mut cases: Vec<Case> = Vec::new();
        for text in &test.to {
            let receivers: Vec<(Party, Option<Transport>, bool)> =
                match text.strip_prefix("service/") {
                    Some(service) => {
                        let port = test.port.as_deref();
                        let targets = self.cluster.targets(service, namespace, port)?;
                        let of = |t: crate::ends::Target| {
                            (Party::Pod(t.pod), Some(Transport::Port(t.protocol, t.port)), true)
                        };
                        targets.into_iter().map(of).collect()
                    }
                    None => {
                        let mut all = Vec::new();
                        for party in self.cluster.parties(text, namespace)? {
                            for transport in self.transports(test.port.as_deref(), &party)? {
                                all.push((party.clone(), transport, false));
                            }
                        }
                        all
                    }
                };
            if cases.len() + receivers.len() * senders.len() > FLOWS_MAX {
                return Err(format!("stands for more than {FLOWS_MAX} connections"));
            }
            for sender in &senders {
                for (receiver, transport, service) in &receivers {
                    cases.push((sender.clone(), receiver.clone(), *transport, *service));
                }
            }
        }
        // A pod and itself are always allowed to talk: nobody means that.
        if cases.iter().any(|(from, to, ..)| from != to) {
            cases.retain(|(from, to, ..)| from != to);
        }
        Ok(cases)
    }

    /// What the port means at a receiver.
    fn transports(&self, port: Option<&str>, to: &Party) -> Result<Vec<Option<Transport>>, String> {
        let Some(text) = port else { return Ok(vec![None]) };
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(vec![Some(Transport::Other)]);
        }
        let (port, protocol) = match text.split_once('/') {
            // Both orders are in use: 53/UDP as in Services' columns, UDP/53 as in reports.
            Some((a, b)) => match (a.to_uppercase().parse(), b.to_uppercase().parse()) {
                (Ok(protocol), _) => (b, Some(protocol)),
                (_, Ok(protocol)) => (a, Some(protocol)),
                _ => return Err(format!("port '{text}': use 53/UDP, 8080, a name, or ICMP")),
            },
            None => (text, None),
        };
        if let Ok(number) = port.parse::<i32>() {
            let number = Port::try_from(number).map_err(|e| e.to_string())?;
            return Ok(vec![Some(Transport::Port(protocol.unwrap_or(Protocol::Tcp), number))]);
        }
        let Party::Pod(id) = to else {
            return Err(format!("port '{text}': only pods name their ports, not {to}"));
        };
        let pod = self.cluster.input.pods.get(id);
        let named = pod.into_iter().flat_map(|p| &p.ports);
        let named = named.filter(|p| *p.name == *port && protocol.is_none_or(|x| x == p.protocol));
        let found: Vec<Option<Transport>> =
            named.map(|p| Some(Transport::Port(p.protocol, p.port))).collect();
        if found.is_empty() {
            return Err(format!("pod {id} calls no port '{text}'"));
        }
        Ok(found)
    }
}

fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn port_text(transport: Transport) -> String {
    match transport {
        Transport::Port(protocol, port) => format!("{protocol}/{port}"),
        Transport::Other => "ICMP".to_owned(),
    }
}

impl Outcome {
    /// One line for people.
    fn line(&self) -> String {
        let port = if self.port.is_empty() { String::new() } else { format!(" {}", self.port) };
        let mark = if self.ok { '✓' } else { '✗' };
        let name = if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) };
        let mut line = format!("{mark} {name}{} → {}{port}: ", self.from, self.to);
        line += self.observed;
        if !self.ok {
            let _ = write!(line, ", expected {}", self.expected);
        } else if self.flows > 1 {
            let _ = write!(line, ", as all {} flows", self.flows);
        }
        let _ = write!(line, "\n    {}", self.reason);
        if let Some(rule) = &self.rule {
            if let Some(peer) = &rule.peer {
                let _ = write!(line, " ({peer})");
            }
            if let (Some(file), Some(at)) = (&rule.file, rule.line) {
                let _ = write!(line, "\n    {file}:{at}");
            }
        }
        line
    }
}

impl Report {
    /// For people: failures, or with `all` everything, and a summary.
    pub fn text(&self, all: bool) -> String {
        let mut text = String::new();
        for test in self.tests.iter().filter(|t| all || !t.ok) {
            let _ = writeln!(text, "{}", test.line());
        }
        let failed = self.tests.iter().filter(|t| !t.ok).count();
        let flows: usize = self.tests.iter().map(|t| t.flows).sum();
        let _ = match self.tests.len() {
            0 => writeln!(text, "no expectations: there is no document of kind PolicyTest"),
            n => writeln!(text, "{n} expectations, {flows} flows, {failed} failed"),
        };
        text
    }

    /// For CI systems.
    pub fn junit(&self) -> String {
        let failed = self.tests.iter().filter(|t| !t.ok && t.observed != "error").count();
        let errors = self.tests.iter().filter(|t| t.observed == "error").count();
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            xml,
            "<testsuite name=\"weft policy test\" tests=\"{}\" failures=\"{failed}\" errors=\"{errors}\">",
            self.tests.len()
        );
        for test in &self.tests {
            let port = if test.port.is_empty() { String::new() } else { format!(" {}", test.port) };
            let name = match test.name.as_str() {
                "" => format!("{} → {}{port} {}", test.from, test.to, test.expected),
                name => name.to_owned(),
            };
            let _ = write!(
                xml,
                "  <testcase classname=\"{}\" name=\"{}\"",
                escape(&test.file),
                escape(&name)
            );
            let _ = match test.line {
                Some(line) => write!(xml, " line=\"{line}\""),
                None => Ok(()),
            };
            if test.ok {
                xml.push_str("/>\n");
                continue;
            }
            let element = if test.observed == "error" { "error" } else { "failure" };
            let message = format!("expected {}, observed {}", test.expected, test.observed);
            let _ = writeln!(
                xml,
                ">\n    <{element} message=\"{}\">{}</{element}>\n  </testcase>",
                escape(&message),
                escape(&test.line())
            );
        }
        xml.push_str("</testsuite>\n");
        xml
    }
}

/// Text for XML: its five characters with a meaning, and those that it must not hold.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
