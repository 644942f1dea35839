//! Expectations judged by real packets: which ones to send, and what their fate means.
//!
//! Whoever sends them is the caller's business. A packet that fares otherwise than the policies
//! say is a failure even where the expectation would hold: one of both is wrong.

use crate::{
    Cluster, Party, Problem, Step,
    report::{Outcome, Report},
    run::{Case, Judge, suites, word},
};
use std::collections::BTreeSet;
use weft_model::{IpFamily, Port, Protocol};
use weft_policy::{Evaluator, Flow, Stretches, Transport};

/// One packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// Who sends.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// In which family.
    pub family: IpFamily,
    /// What policy would see of it: addresses, protocol and port.
    pub flow: Flow,
    case: Case,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It arrived, and the answer did.
    Passed,
    /// Silence.
    Nothing,
    /// It could not be tried, and why.
    Untried(String),
}

/// The packets of one expectation, or why it cannot be judged.
type Planned = Result<Vec<Try>, String>;

/// What to send for every expectation, in their order.
#[derive(Clone, Debug, Default)]
pub struct Tries(Vec<Planned>);

impl Tries {
    /// All packets.
    pub fn all(&self) -> Vec<Try> {
        self.0.iter().flatten().flatten().cloned().collect()
    }
}

/// Packets of one command: each takes its time where it is denied.
pub const TRIES_MAX: usize = 100_000;
/// Ports at which an expectation about every port is tried, besides those that pods name.
const SAMPLE: [u16; 3] = [53, 80, 443];

/// Plans the packets of all expectations among the cluster's documents.
pub fn tries(cluster: &Cluster) -> Result<Tries, Problem> {
    let evaluator = Evaluator::new(&cluster.input);
    let stretches = Stretches::of([&cluster.input]);
    let mut all = Tries::default();
    let mut count = 0;
    for (object, suite) in suites(cluster)? {
        let judge = Judge { cluster, evaluator: &evaluator, stretches: &stretches, suite: &suite };
        for test in &suite.tests {
            let planned = judge.cases(test).and_then(|cases| {
                let tries = judge.tries(&cases);
                count += tries.len();
                match (count, tries.len()) {
                    (_, 0) => Err("the ends have no addresses of one family".to_owned()),
                    (n, _) if n > TRIES_MAX => Err(format!("more than {TRIES_MAX} packets")),
                    _ => Ok(tries),
                }
            });
            if count > TRIES_MAX {
                let message = format!("stands for more than {TRIES_MAX} packets");
                return Err(cluster.documents().problem(object, &[], message));
            }
            all.0.push(planned);
        }
    }
    Ok(all)
}

impl Judge<'_, '_> {
    fn tries(&self, cases: &[Case]) -> Vec<Try> {
        let mut tries = Vec::new();
        for family in self.suite.families.list() {
            for case in cases {
                let Some(flow) = self.flow(case, *family) else { continue };
                for transport in self.sample(case) {
                    let flow = Flow { transport, ..flow.clone() };
                    let (from, to) = (case.0.clone(), case.1.clone());
                    tries.push(Try { from, to, family: *family, flow, case: case.clone() });
                }
            }
        }
        tries
    }

    /// What stands for everything, where no port is asked for.
    fn sample(&self, case: &Case) -> Vec<Transport> {
        if let Some(transport) = case.2 {
            return vec![transport];
        }
        let named = match &case.1 {
            Party::Pod(id) => self.cluster.input.pods.get(id).map(|p| p.ports.clone()),
            _ => None,
        };
        let named = named.unwrap_or_default();
        let mut all: BTreeSet<Transport> =
            named.iter().map(|p| Transport::Port(p.protocol, p.port)).collect();
        for port in SAMPLE.into_iter().filter_map(|p| Port::try_from(i32::from(p)).ok()) {
            all.extend([Protocol::Tcp, Protocol::Udp].map(|p| Transport::Port(p, port)));
        }
        all.insert(Transport::Other);
        all.into_iter().collect()
    }
}

/// Judges by what was seen, in the order of [`Tries::all`].
pub fn judge(cluster: &Cluster, tries: &Tries, seen: &[Seen]) -> Result<Report, Problem> {
    let documents = cluster.documents();
    let evaluator = Evaluator::new(&cluster.input);
    let stretches = Stretches::of([&cluster.input]);
    let mut report = Report { problems: cluster.problems(), ..Report::default() };
    let mut planned = tries.0.iter();
    let mut seen = seen.iter();
    for (object, suite) in suites(cluster)? {
        let judge = Judge { cluster, evaluator: &evaluator, stretches: &stretches, suite: &suite };
        for (i, test) in suite.tests.iter().enumerate() {
            let mut outcome = judge.blank(test);
            match planned.next() {
                Some(Ok(tries)) => {
                    let fates: Vec<(&Try, &Seen)> = tries.iter().zip(seen.by_ref()).collect();
                    judge.observe(&mut outcome, test.allow, &fates);
                }
                Some(Err(reason)) => outcome.reason.clone_from(reason),
                None => {}
            }
            outcome.file = documents.sources[object.source].name.to_string();
            outcome.line = documents.line(object, &[Step::Key("tests"), Step::Item(i)]);
            report.tests.push(outcome);
        }
    }
    report.ok = report.holds() && report.problems.is_empty();
    Ok(report)
}

impl Judge<'_, '_> {
    /// The first packet that contradicts is the outcome, else the first one.
    fn observe(&self, outcome: &mut Outcome, allow: bool, fates: &[(&Try, &Seen)]) {
        for (n, (packet, seen)) in fates.iter().enumerate() {
            outcome.flows = n + 1;
            let predicted = self.evaluator.evaluate(&packet.flow).allowed();
            let (observed, complaint) = match seen {
                Seen::Untried(why) => ("error", format!("could not be tried: {why}")),
                Seen::Passed if predicted => (word(true), String::new()),
                Seen::Nothing if !predicted => (word(false), String::new()),
                Seen::Nothing if matches!(packet.to, Party::Address(_)) => {
                    ("error", "could not be tried: nobody answers there".to_owned())
                }
                Seen::Passed => (word(true), "PASSED, though the policies deny it".to_owned()),
                Seen::Nothing => (word(false), "LOST, though the policies allow it".to_owned()),
            };
            let ok = observed == word(allow) && complaint.is_empty();
            if n == 0 || !ok {
                self.describe(outcome, &packet.case, &packet.flow, packet.family);
                outcome.observed = observed;
                outcome.ok = ok;
                if !complaint.is_empty() {
                    outcome.reason = format!("{complaint}; {}", outcome.reason);
                }
            }
            if !ok {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Documents, Source};

    const TEXT: &str = "
kind: Pod
metadata: {name: a}
spec: {}
---
kind: Pod
metadata: {name: b}
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  podSelector: {}
  ingress: [{ports: [{port: 5432}]}]
---
kind: PolicyTest
ipFamily: dual
tests:
- {from: a, to: b, port: sql, expect: allow}
- {from: a, to: b, port: 80, expect: deny}
- {from: b, to: a, expect: deny}
- {from: nobody, to: b, expect: deny}
";

    fn cluster() -> Cluster {
        let source = Source { name: "a.yaml".into(), text: TEXT.into() };
        Cluster::of(Documents::parse(vec![source]).expect("YAML")).expect("readable")
    }

    #[test]
    fn packets_judge_and_disagreement_is_a_failure() {
        let cluster = cluster();
        let evaluator = Evaluator::new(&cluster.input);
        let planned = tries(&cluster).expect("few");
        let all = planned.all();
        // Two families: one port; one port; DNS, 80 and 443 twice and ICMP.
        assert_eq!(all.len(), 2 + 2 + 2 * 7);
        let truth: Vec<Seen> = all
            .iter()
            .map(|t| match evaluator.evaluate(&t.flow).allowed() {
                true => Seen::Passed,
                false => Seen::Nothing,
            })
            .collect();
        let held = |seen: &[Seen]| {
            let report = judge(&cluster, &planned, seen).expect("readable");
            report.tests.iter().map(|t| (t.ok, t.observed)).collect::<Vec<_>>()
        };
        let as_planned = [(true, "allow"), (true, "deny"), (true, "deny"), (false, "error")];
        assert_eq!(held(&truth), as_planned);
        let flipped = |at: usize, seen: Seen| {
            let mut truth = truth.clone();
            truth[at] = seen;
            truth
        };
        // A forbidden packet that passes, an allowed one that does not, one that was never sent.
        assert_eq!(held(&flipped(17, Seen::Passed))[2], (false, "allow"));
        assert_eq!(held(&flipped(1, Seen::Nothing))[0], (false, "deny"));
        assert_eq!(held(&flipped(2, Seen::Untried("no".to_owned())))[1], (false, "error"));
        let report = judge(&cluster, &planned, &flipped(2, Seen::Passed)).expect("readable");
        let text = report.text(false);
        assert!(text.contains("PASSED, though the policies deny it; ingress: isolated"), "{text}");
        assert!(text.contains("a.yaml:12"), "{text}");
    }
}
