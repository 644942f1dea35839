//! How expectations fared, for people and for machines.

use serde::Serialize;
use std::fmt::Write;

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
    /// Whether every expectation holds, and there is one, and nothing stands in the way of saying
    /// so.
    pub ok: bool,
    /// Each expectation.
    pub tests: Vec<Outcome>,
    /// What is not judged as it is written; the outcomes are not to be relied on while there is
    /// any.
    pub problems: Vec<String>,
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
    /// Whether every expectation holds, and there is one.
    pub fn holds(&self) -> bool {
        self.tests.iter().all(|t| t.ok) && !self.tests.is_empty()
    }

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
        let errors = errors + self.problems.len();
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            xml,
            "<testsuite name=\"weft policy test\" tests=\"{}\" failures=\"{failed}\" errors=\"{errors}\">",
            self.tests.len() + self.problems.len()
        );
        for problem in &self.problems {
            let problem = escape(problem);
            let _ = writeln!(
                xml,
                "  <testcase classname=\"manifests\" name=\"{problem}\">\n    \
                 <error message=\"not judged as it is written\">{problem}</error>\n  </testcase>"
            );
        }
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
