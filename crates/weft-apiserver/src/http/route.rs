//! What a path means.

use super::{health::Health, params::decode};
use crate::registry::Registry;
use std::sync::Arc;
use weft_kinds::Kind;

/// A resource, an object or a subresource.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Arc<Kind>,
    /// Absent for cluster-scoped kinds and for lists over all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Route {
    Root,
    Version,
    Health(Health),
    Metrics,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    Resources(String, String),
    OpenApiV2,
    OpenApiV3Index,
    OpenApiV3(String),
    Resource(Box<Target>),
    NotFound,
}

pub(crate) fn route(registry: &Registry, path: &str) -> Route {
    let all: Vec<String> =
        path.split('/').filter(|s| !s.is_empty()).map(|s| decode(s, false)).collect();
    let segments: Vec<&str> = all.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [] => Route::Root,
        ["version"] => Route::Version,
        ["metrics"] => Route::Metrics,
        ["healthz" | "livez" | "readyz", ..] => {
            Health::of(&segments).map_or(Route::NotFound, Route::Health)
        }
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3Index,
        ["openapi", "v3", rest @ ..] => Route::OpenApiV3(rest.join("/")),
        ["api"] => Route::CoreVersions,
        ["api", version] => Route::Resources(String::new(), (*version).to_owned()),
        ["api", version, rest @ ..] => resource(registry, "", version, rest),
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["apis", group, version] => Route::Resources((*group).to_owned(), (*version).to_owned()),
        ["apis", group, version, rest @ ..] => resource(registry, group, version, rest),
        _ => Route::NotFound,
    }
}

fn resource(registry: &Registry, group: &str, version: &str, rest: &[&str]) -> Route {
    let target = |plural: &str, namespace: Option<&str>, name: Option<&str>, sub: &[&str]| {
        let kind = registry.lookup(group, version, plural)?.clone();
        // A namespaced path to a cluster-scoped kind does not exist, and an object of a
        // namespaced kind has no path without its namespace.
        if namespace.is_some() && !kind.namespaced {
            return None;
        }
        if kind.namespaced && namespace.is_none() && name.is_some() {
            return None;
        }
        let subresource = match sub {
            [] => None,
            [one] => Some((*one).to_owned()),
            _ => return None,
        };
        let (namespace, name) = (namespace.map(str::to_owned), name.map(str::to_owned));
        Some(Target { kind, namespace, name, subresource })
    };
    let found = match rest {
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            target("namespaces", None, Some(name), &[sub])
        }
        ["namespaces", ns, plural] => target(plural, Some(ns), None, &[]),
        ["namespaces", ns, plural, name, sub @ ..] => target(plural, Some(ns), Some(name), sub),
        [plural] => target(plural, None, None, &[]),
        [plural, name, sub @ ..] => target(plural, None, Some(name), sub),
        [] => None,
    };
    found.map_or(Route::NotFound, |t| Route::Resource(Box::new(t)))
}

/// All paths that `/` lists.
pub(crate) fn paths(kinds: &[Arc<Kind>]) -> Vec<String> {
    let mut all: Vec<String> = kinds.iter().map(|k| k.group_path()).collect();
    all.extend(kinds.iter().filter(|k| !k.group.is_empty()).map(|k| format!("/apis/{}", k.group)));
    all.extend(
        [
            "/api",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, namespace, name, subresource.
    type Found = (String, Option<String>, Option<String>, Option<String>);

    fn to(path: &str) -> Option<Found> {
        let store = crate::store::Store::in_memory(1);
        match route(&Registry::new(&store, Default::default()), path) {
            Route::Resource(t) => Some((t.kind.kind.clone(), t.namespace, t.name, t.subresource)),
            _ => None,
        }
    }

    #[test]
    fn paths_lead_to_their_resources() {
        let s = |v: &str| Some(v.to_owned());
        let pod = |ns, name, sub| Some(("Pod".to_owned(), ns, name, sub));
        assert_eq!(to("/api/v1/pods"), pod(None, None, None));
        assert_eq!(to("/api/v1/namespaces/a/pods"), pod(s("a"), None, None));
        assert_eq!(to("/api/v1/namespaces/a/pods/x"), pod(s("a"), s("x"), None));
        assert_eq!(to("/api/v1/namespaces/a/pods/x/log"), pod(s("a"), s("x"), s("log")));
        let ns = |name, sub| Some(("Namespace".to_owned(), None, name, sub));
        assert_eq!(to("/api/v1/namespaces"), ns(None, None));
        assert_eq!(to("/api/v1/namespaces/a"), ns(s("a"), None));
        assert_eq!(to("/api/v1/namespaces/a/finalize"), ns(s("a"), s("finalize")));
        assert_eq!(
            to("/apis/apps/v1/namespaces/a/deployments/d/scale"),
            Some(("Deployment".to_owned(), s("a"), s("d"), s("scale")))
        );
        for none in [
            "/api/v1/pods/x",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/nothings",
            "/api/v2/pods",
            "/apis/apps/v1/namespaces/a/deployments/d/scale/x",
            "/foo",
        ] {
            assert_eq!(to(none), None, "{none}");
        }
    }
}
