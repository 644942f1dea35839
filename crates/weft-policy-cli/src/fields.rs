//! What the API lets stand in a policy, and what it would refuse: as `fieldValidation=Strict`, which
//! `kubectl apply` asks for, and as the definitions' own rules. A field that is misspelt is no
//! restriction, and a rule without restrictions opens everything: nobody shall find that out from
//! a verdict.
//!
//! Complaints about values that lowering makes (selectors, address ranges, ports, tiers, actions)
//! are not repeated here.

use serde_json::Value;
use std::fmt::Write;

/// What may stand somewhere.
pub(crate) enum Shape {
    /// Whatever: keys are people's own, or values are judged elsewhere.
    Any,
    /// A text out of these.
    Word(&'static [&'static str]),
    /// A list of these.
    List(List),
    /// A mapping of these fields.
    Object(Object),
}

/// A list. The bounds are those of the definition; 0 and `usize::MAX` where it has none.
pub(crate) struct List {
    /// What is in it.
    pub of: &'static Shape,
    /// How few there may be, where it is there at all.
    pub min: usize,
    /// How many.
    pub max: usize,
}

/// A mapping.
pub(crate) struct Object {
    /// Its fields.
    pub fields: &'static [(&'static str, &'static Shape)],
    /// Those that must be there.
    pub required: &'static [&'static str],
    /// Whether one field must be there, whichever.
    pub some: bool,
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The place, as `spec.ingress[0].from`.
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
}

type Fields = &'static [(&'static str, &'static Shape)];

const fn object(fields: Fields) -> Shape {
    Shape::Object(Object { fields, required: &[], some: false })
}

const fn required(fields: Fields, required: &'static [&'static str]) -> Shape {
    Shape::Object(Object { fields, required, some: false })
}

const fn some(fields: Fields) -> Shape {
    Shape::Object(Object { fields, required: &[], some: true })
}

const fn list(of: &'static Shape) -> Shape {
    Shape::List(List { of, min: 0, max: usize::MAX })
}

/// A list of 1 to 25, as ClusterNetworkPolicies have it in most places.
const fn few(of: &'static Shape) -> Shape {
    Shape::List(List { of, min: 1, max: ITEMS_MAX })
}

const ITEMS_MAX: usize = 25;

const ANY: Shape = Shape::Any;
const METADATA: Shape = object(&[
    ("annotations", &ANY),
    ("creationTimestamp", &ANY),
    ("deletionGracePeriodSeconds", &ANY),
    ("deletionTimestamp", &ANY),
    ("finalizers", &ANY),
    ("generateName", &ANY),
    ("generation", &ANY),
    ("labels", &ANY),
    ("managedFields", &ANY),
    ("name", &ANY),
    ("namespace", &ANY),
    ("ownerReferences", &ANY),
    ("resourceVersion", &ANY),
    ("selfLink", &ANY),
    ("uid", &ANY),
]);
const REQUIREMENT: Shape =
    required(&[("key", &ANY), ("operator", &ANY), ("values", &ANY)], &["key", "operator"]);
const REQUIREMENTS: Shape = list(&REQUIREMENT);
const SELECTOR: Shape = object(&[("matchExpressions", &REQUIREMENTS), ("matchLabels", &ANY)]);

const IP_BLOCK: Shape = required(&[("cidr", &ANY), ("except", &ANY)], &["cidr"]);
const PEER: Shape =
    object(&[("ipBlock", &IP_BLOCK), ("namespaceSelector", &SELECTOR), ("podSelector", &SELECTOR)]);
const PEERS: Shape = list(&PEER);
const PORT: Shape = object(&[("endPort", &ANY), ("port", &ANY), ("protocol", &ANY)]);
const PORTS: Shape = list(&PORT);
const INGRESS: Shape = list(&object(&[("from", &PEERS), ("ports", &PORTS)]));
const EGRESS: Shape = list(&object(&[("ports", &PORTS), ("to", &PEERS)]));
const POLICY_TYPES: Shape = list(&Shape::Word(&["Ingress", "Egress"]));

/// networking.k8s.io/v1. `status` is there in what servers before 1.28 gave out.
pub(crate) const NETWORK_POLICY: Shape = object(&[
    ("apiVersion", &ANY),
    ("kind", &ANY),
    ("metadata", &METADATA),
    (
        "spec",
        &object(&[
            ("egress", &EGRESS),
            ("ingress", &INGRESS),
            ("podSelector", &SELECTOR),
            ("policyTypes", &POLICY_TYPES),
        ]),
    ),
    ("status", &ANY),
]);

const NAMESPACED_PODS: Shape =
    required(&[("namespaceSelector", &SELECTOR), ("podSelector", &SELECTOR)], &["podSelector"]);
const RANGE: Shape = required(&[("end", &ANY), ("start", &ANY)], &["start", "end"]);
const DESTINATION_PORT: Shape = some(&[("number", &ANY), ("range", &RANGE)]);
const OF_PROTOCOL: Shape = some(&[("destinationPort", &DESTINATION_PORT)]);
const PROTOCOL: Shape = some(&[
    ("destinationNamedPort", &ANY),
    ("sctp", &OF_PROTOCOL),
    ("tcp", &OF_PROTOCOL),
    ("udp", &OF_PROTOCOL),
]);
const PROTOCOLS: Shape = few(&PROTOCOL);
const INGRESS_PEER: Shape = some(&[("namespaces", &SELECTOR), ("pods", &NAMESPACED_PODS)]);
const EGRESS_PEER: Shape = some(&[
    ("domainNames", &few(&ANY)),
    ("namespaces", &SELECTOR),
    ("networks", &few(&ANY)),
    ("nodes", &SELECTOR),
    ("pods", &NAMESPACED_PODS),
]);
const INGRESS_RULE: Shape = required(
    &[("action", &ANY), ("from", &few(&INGRESS_PEER)), ("name", &ANY), ("protocols", &PROTOCOLS)],
    &["action", "from"],
);
const EGRESS_RULE: Shape = required(
    &[("action", &ANY), ("name", &ANY), ("protocols", &PROTOCOLS), ("to", &few(&EGRESS_PEER))],
    &["action", "to"],
);
const fn rules(of: &'static Shape) -> Shape {
    Shape::List(List { of, min: 0, max: ITEMS_MAX })
}

/// policy.networking.k8s.io/v1alpha2, standard and experimental fields.
pub(crate) const CLUSTER_NETWORK_POLICY: Shape = object(&[
    ("apiVersion", &ANY),
    ("kind", &ANY),
    ("metadata", &METADATA),
    (
        "spec",
        &required(
            &[
                ("egress", &rules(&EGRESS_RULE)),
                ("ingress", &rules(&INGRESS_RULE)),
                ("priority", &ANY),
                ("subject", &some(&[("namespaces", &SELECTOR), ("pods", &NAMESPACED_PODS)])),
                ("tier", &ANY),
            ],
            &["priority", "subject", "tier"],
        ),
    ),
    ("status", &ANY),
]);

/// Everything that the API would refuse or drop. Wrong types are refused elsewhere.
pub(crate) fn wrong(value: &Value, shape: &Shape) -> Vec<Wrong> {
    let mut found = Vec::new();
    walk(value, shape, &mut String::new(), &mut found);
    found
}

fn walk(value: &Value, shape: &Shape, at: &mut String, found: &mut Vec<Wrong>) {
    let before = at.len();
    match (shape, value) {
        (Shape::Word(words), Value::String(word)) if !words.contains(&word.as_str()) => {
            let nearest = nearest(word, words.iter().copied());
            let remedy = remedy(nearest, words.iter().copied());
            add(found, at, format!("'{word}' is unknown; {remedy}"));
        }
        (Shape::List(list), Value::Array(items)) => {
            if items.len() < list.min {
                add(found, at, "is empty, which the API refuses; leave it out or fill it");
            }
            if items.len() > list.max {
                add(found, at, format!("has more than {} items, which the API refuses", list.max));
            }
            for (i, item) in items.iter().enumerate() {
                let _ = write!(at, "[{i}]");
                walk(item, list.of, at, found);
                at.truncate(before);
            }
        }
        (Shape::Object(object), Value::Object(fields)) => {
            let known = || object.fields.iter().map(|(name, _)| *name);
            if object.some && fields.is_empty() {
                let names: Vec<&str> = known().collect();
                add(found, at, format!("is empty; it needs one of {}", names.join(", ")));
            }
            for name in
                object.required.iter().filter(|n| fields.get(**n).is_none_or(Value::is_null))
            {
                add(found, at, format!("lacks {name}, which the API demands"));
            }
            for (name, value) in fields {
                if !at.is_empty() {
                    at.push('.');
                }
                at.push_str(name);
                match object.fields.iter().find(|(n, _)| n == name) {
                    Some((_, shape)) => walk(value, shape, at, found),
                    None => {
                        let remedy = remedy(nearest(name, known()), known());
                        add(
                            found,
                            at,
                            format!(
                                "is no field of the API, which ignores or refuses it; {remedy}"
                            ),
                        );
                    }
                }
                at.truncate(before);
            }
        }
        _ => {}
    }
}

fn add(found: &mut Vec<Wrong>, at: &str, message: impl Into<String>) {
    found.push(Wrong { field: at.to_owned(), message: message.into() });
}

fn remedy<'n>(nearest: Option<&str>, known: impl Iterator<Item = &'n str>) -> String {
    match nearest {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// What somebody may have meant: the name with the fewest differences, where those are few.
fn nearest<'n>(word: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let differences = |name: &str| distance(&word.to_lowercase(), &name.to_lowercase());
    let with = known.map(|name| (differences(name), name));
    let (differences, name) = with.min_by_key(|(d, _)| *d)?;
    (differences <= name.len() / 3).then_some(name)
}

/// Letters to insert, remove or replace until one text is the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    /// Nobody types a field of this length; the table below is its square.
    const LENGTH_MAX: usize = 64;
    if a.len() > LENGTH_MAX || b.len() > LENGTH_MAX {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
