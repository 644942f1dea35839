//! Runs expectations.

use crate::{
    Cluster, Object, Party, Problem, Step,
    expect::{Expectation, Suite, suite_of},
    limits::{EXPECTATIONS_MAX, FLOWS_MAX},
    report::{Decider, Outcome, Report},
};
use std::fmt::Write;
use weft_model::{Direction, IpFamily, Port, Protocol};
use weft_policy::{Evaluator, Flow, Reach, Reason, Stretches, Transport};

/// Runs every expectation in the cluster's documents.
pub fn run(cluster: &Cluster) -> Result<Report, Problem> {
    let documents = cluster.documents();
    let evaluator = Evaluator::new(&cluster.input);
    let stretches = Stretches::of([&cluster.input]);
    let mut report = Report { problems: cluster.problems(), ..Report::default() };
    for (object, suite) in suites(cluster)? {
        for (i, test) in suite.tests.iter().enumerate() {
            let judge =
                Judge { cluster, evaluator: &evaluator, stretches: &stretches, suite: &suite };
            let mut outcome = judge.run(test);
            outcome.file = documents.sources[object.source].name.to_string();
            outcome.line = documents.line(object, &[Step::Key("tests"), Step::Item(i)]);
            report.tests.push(outcome);
        }
    }
    report.ok = report.holds() && report.problems.is_empty();
    Ok(report)
}

/// The suites among the cluster's documents, in their order.
pub(crate) fn suites(cluster: &Cluster) -> Result<Vec<(&Object, Suite)>, Problem> {
    let documents = cluster.documents();
    let mut suites = Vec::new();
    let mut tests = 0;
    for object in documents.objects.iter().filter(|o| o.kind() == "PolicyTest") {
        let suite = suite_of(&object.value).map_err(|e| documents.problem(object, &[], e))?;
        tests += suite.tests.len();
        if tests > EXPECTATIONS_MAX {
            let message = format!("more than {EXPECTATIONS_MAX} expectations");
            return Err(documents.problem(object, &[], message));
        }
        suites.push((object, suite));
    }
    Ok(suites)
}

/// What a suite is judged with.
pub(crate) struct Judge<'s, 'c> {
    pub cluster: &'c Cluster,
    pub evaluator: &'s Evaluator<'c>,
    pub stretches: &'s Stretches,
    pub suite: &'s Suite,
}

/// What an expectation stands for: ends, and what passes between them (`None`: everything).
pub(crate) type Case = (Party, Party, Option<Transport>, bool);

impl Judge<'_, '_> {
    /// An outcome before anything was judged.
    pub(crate) fn blank(&self, test: &Expectation) -> Outcome {
        Outcome {
            name: test.name.clone(),
            file: String::new(),
            line: None,
            from: test.from.join(", "),
            to: test.to.join(", "),
            port: test.port.clone().unwrap_or_default(),
            family: String::new(),
            expected: word(test.allow),
            observed: "error",
            ok: false,
            flows: 0,
            reason: String::new(),
            rule: None,
        }
    }

    fn run(&self, test: &Expectation) -> Outcome {
        let mut outcome = self.blank(test);
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

    pub(crate) fn flow(
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

    /// Fills in the ends, and who decided.
    pub(crate) fn describe(
        &self,
        outcome: &mut Outcome,
        case: &Case,
        flow: &Flow,
        family: IpFamily,
    ) {
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

    /// What an expectation stands for.
    pub(crate) fn cases(&self, test: &Expectation) -> Result<Vec<Case>, String> {
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

pub(crate) fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn port_text(transport: Transport) -> String {
    match transport {
        Transport::Port(protocol, port) => format!("{protocol}/{port}"),
        Transport::Other => "ICMP".to_owned(),
    }
}
