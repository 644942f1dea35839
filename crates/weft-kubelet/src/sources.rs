//! The ConfigMaps and Secrets that a pod names: which, and their contents once read.

use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret, Volume};
use std::collections::{BTreeMap, BTreeSet};

/// Kind of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

impl Kind {
    /// As messages name it.
    pub fn lower(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// Contents of one object: data and binaryData together.
pub type Data = BTreeMap<String, Vec<u8>>;

/// What was read; an absent entry is an object that does not exist.
pub type Sources = BTreeMap<(Kind, String), Data>;

/// Contents of a ConfigMap.
pub fn config_map(o: ConfigMap) -> Data {
    let text = o.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()));
    text.chain(o.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0))).collect()
}

/// Contents of a Secret.
pub fn secret(o: Secret) -> Data {
    o.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect()
}

/// The objects that a container's environment names.
pub fn of_env(c: &Container) -> BTreeSet<(Kind, String)> {
    let mut out = BTreeSet::new();
    for e in c.env_from.iter().flatten() {
        out.extend(e.config_map_ref.as_ref().map(|r| (Kind::ConfigMap, r.name.clone())));
        out.extend(e.secret_ref.as_ref().map(|r| (Kind::Secret, r.name.clone())));
    }
    for from in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        out.extend(from.config_map_key_ref.as_ref().map(|r| (Kind::ConfigMap, r.name.clone())));
        out.extend(from.secret_key_ref.as_ref().map(|r| (Kind::Secret, r.name.clone())));
    }
    out
}

/// The objects that a volume is filled from.
pub fn of_volume(v: &Volume) -> BTreeSet<(Kind, String)> {
    let mut out = BTreeSet::new();
    out.extend(v.config_map.as_ref().map(|s| (Kind::ConfigMap, s.name.clone())));
    let secret = v.secret.as_ref().and_then(|s| s.secret_name.clone());
    out.extend(secret.map(|n| (Kind::Secret, n)));
    for p in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        out.extend(p.config_map.as_ref().map(|s| (Kind::ConfigMap, s.name.clone())));
        out.extend(p.secret.as_ref().map(|s| (Kind::Secret, s.name.clone())));
    }
    out
}
