//! Findings with the lines they are about, and those that only the text shows.

use crate::{Cluster, Object, Step};
use serde::Serialize;
use serde_json::Value;
use weft_policy::Severity;

/// A finding. The names of these fields are an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Note {
    /// The file.
    pub file: String,
    /// The line.
    pub line: Option<usize>,
    /// `error` or `warning`.
    pub severity: String,
    /// The policy.
    pub policy: String,
    /// `ingress[0]`, where it is about a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl Note {
    /// For people, as compilers write it.
    pub fn text(&self) -> String {
        let line = self.line.map(|l| format!(":{l}")).unwrap_or_default();
        let rule = self.rule.as_ref().map(|r| format!(" {r}")).unwrap_or_default();
        let Self { file, severity, policy, message, .. } = self;
        let subject = if policy.is_empty() { String::new() } else { format!("{policy}{rule} ") };
        format!("{file}{line}: {severity}: {subject}{message}")
    }
}

/// Looks for what is probably not meant so, in the order of files and lines.
pub fn lint(cluster: &Cluster) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for finding in weft_policy::lint(&cluster.input) {
        let place = cluster.place_of(&finding.policy, finding.rule);
        notes.push(Note {
            file: place.as_ref().map(|(f, _)| f.to_string()).unwrap_or_default(),
            line: place.map(|(_, l)| l),
            severity: finding.problem.severity().to_string(),
            policy: finding.policy.to_string(),
            rule: finding.rule.map(|(direction, index)| format!("{direction}[{index}]")),
            message: finding.problem.to_string(),
        });
    }
    for problem in &cluster.complaints {
        notes.push(Note {
            file: problem.file.to_string(),
            line: problem.line,
            severity: Severity::Error.to_string(),
            policy: String::new(),
            rule: None,
            message: problem.message.clone(),
        });
    }
    for object in &cluster.documents().objects {
        notes.extend(surprises(cluster, object));
    }
    notes.sort();
    notes
}

/// What the text says and the API does not do.
fn surprises(cluster: &Cluster, object: &Object) -> Vec<Note> {
    let documents = cluster.documents();
    let spec = &object.value["spec"];
    let filled = |v: &Value| v.as_array().is_some_and(|a| !a.is_empty());
    let types = &spec["policyTypes"];
    let has_type = |t: &str| types.as_array().is_some_and(|a| a.iter().any(|x| x == t));
    let mut found: Vec<(Vec<Step<'_>>, Severity, &str)> = Vec::new();
    if (object.kind(), object.group()) == ("NetworkPolicy", "networking.k8s.io") {
        if !filled(types) && filled(&spec["egress"]) && !filled(&spec["ingress"]) {
            let path = vec![Step::Key("spec"), Step::Key("egress")];
            let message = "has egress rules alone but no policyTypes: it denies all ingress too; \
                               say policyTypes: [Egress] or [Ingress, Egress]";
            found.push((path, Severity::Warning, message));
        }
        for (list, of_type) in [("ingress", "Ingress"), ("egress", "Egress")] {
            if filled(types) && filled(&spec[list]) && !has_type(of_type) {
                let message = match of_type {
                    "Ingress" => "has ingress rules that are ignored: policyTypes lacks Ingress",
                    _ => "has egress rules that are ignored: policyTypes lacks Egress",
                };
                found.push((vec![Step::Key("spec"), Step::Key(list)], Severity::Error, message));
            }
        }
    }
    let note = |(path, severity, message): (Vec<Step<'_>>, Severity, &str)| Note {
        file: documents.sources[object.source].name.to_string(),
        line: documents.line(object, &path),
        severity: severity.to_string(),
        policy: object.title(),
        rule: None,
        message: message.to_owned(),
    };
    found.into_iter().map(note).collect()
}
