//! Where policies stand in the texts, and what is wrong with them there.

use crate::{
    Cluster, Object, Problem, Step,
    fields::{self, Shape},
    line::steps,
};
use std::sync::Arc;
use weft_model::Direction;
use weft_policy::{PolicyId, Reason, RuleId};

/// Where an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Index into [`Documents::sources`].
    pub source: usize,
    /// Number of the document.
    pub document: usize,
    /// Place in a list.
    pub item: Option<usize>,
}

/// The kinds that are judged, and their versions.
const JUDGED: [(&str, &str); 2] = [
    ("NetworkPolicy", "networking.k8s.io/v1"),
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"),
];

/// Whether this is a policy that is judged.
pub(crate) fn judged(object: &Object) -> bool {
    let version = object.value["apiVersion"].as_str().unwrap_or_default();
    JUDGED.contains(&(object.kind(), version))
}

impl Cluster {
    /// Complains about what the API would refuse or drop.
    pub(crate) fn check(&mut self, object: &Object, shape: &Shape) {
        let wrong = fields::wrong(&object.value, shape);
        for fields::Wrong { field, message } in wrong {
            let message = format!("{}: {field} {message}", object.title());
            self.complaints.push(self.documents.problem(object, &steps(&field), message));
        }
    }

    /// Complains about a policy that has no part in any answer.
    pub(crate) fn not_judged(&mut self, object: &Object) {
        let version = object.value["apiVersion"].as_str().unwrap_or_default();
        let why = match (object.kind(), object.group()) {
            _ if judged(object) => return,
            ("AdminNetworkPolicy" | "BaselineAdminNetworkPolicy", _) => {
                "is not judged: use ClusterNetworkPolicy, which replaces it".to_owned()
            }
            (kind, group) => match JUDGED.iter().find(|(k, _)| *k == kind) {
                Some((_, known)) => {
                    format!("is not judged: its apiVersion is '{version}', not {known}")
                }
                None if group == "policy.networking.k8s.io" => {
                    "is not judged: its kind is unknown".to_owned()
                }
                None => return,
            },
        };
        let message = format!("{} {why}", object.title());
        self.complaints.push(self.documents.problem(object, &[Step::Key("kind")], message));
    }

    /// Notes where a policy stands; there is one of a name.
    pub(crate) fn origin(&mut self, id: PolicyId, object: &Object) -> Result<(), Problem> {
        let Object { source, document, item, .. } = *object;
        match self.origins.insert(id.clone(), Origin { source, document, item }) {
            None => Ok(()),
            Some(first) => {
                let first = &self.documents.sources[first.source].name;
                let message = format!("{id} is already in {first}");
                Err(self.documents.problem(object, &[], message))
            }
        }
    }

    /// Where a policy, or one of its rules, stands: file and line.
    pub fn place_of(
        &self,
        policy: &PolicyId,
        rule: Option<(Direction, usize)>,
    ) -> Option<(Arc<str>, usize)> {
        let origin = self.origins.get(policy)?;
        let path = match rule {
            Some((direction, index)) => {
                let list = match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                vec![Step::Key("spec"), Step::Key(list), Step::Item(index)]
            }
            None => vec![Step::Key("metadata"), Step::Key("name")],
        };
        let Origin { source, document, item } = *origin;
        let line = self.documents.line_at(source, document, item, &path)?;
        Some((self.documents.sources[source].name.clone(), line))
    }

    /// Where what decided stands.
    pub fn place_of_reason(&self, reason: &Reason) -> Option<(Arc<str>, usize)> {
        match reason {
            Reason::Rule(RuleId { policy, direction, index }) => {
                self.place_of(policy, Some((*direction, *index)))
            }
            Reason::Isolated(policies) => {
                self.place_of(&PolicyId::Network(policies.first()?.clone()), None)
            }
            _ => None,
        }
    }
}
