//! What lies behind a PersistentVolumeClaim: the volume that it is bound to.

use crate::error::{Error, Result};
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Volume,
};
use std::collections::BTreeMap;

/// Says who made a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// As the controllers call themselves there (`weft_cluster`).
const PROVISIONER: &str = "weft.dev/volumes";

/// Where the data of a claim lies.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// In the lab's directory of volumes, under the name of the PersistentVolume.
    Provisioned(String),
    /// Where somebody's own PersistentVolume says, on this node.
    HostPath(HostPathVolumeSource),
}

/// By the names of claims.
pub type Claims = BTreeMap<String, Source>;

/// The claim that a volume names.
pub fn of_volume(v: &Volume) -> Option<&str> {
    v.persistent_volume_claim.as_ref().map(|c| c.claim_name.as_str())
}

/// The name of the volume that a claim is bound to, or why a pod cannot have it yet, in the words
/// of the scheduler, which a pod with a `nodeName` has not met. One that is being deleted stays
/// with the pods that have it: their containers may start again.
pub fn bound(name: &str, claim: Option<&PersistentVolumeClaim>) -> Result<String> {
    let no = |why: String| Err(Error::Config(format!("persistentvolumeclaim \"{name}\" {why}")));
    let Some(claim) = claim else { return no("not found".into()) };
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
    match volume.filter(|v| !v.is_empty() && phase == "Bound") {
        Some(volume) => Ok(volume.to_owned()),
        None => no(format!("is not bound to a volume: it is {phase}; its Events say why")),
    }
}

/// Where the volume of a bound claim lies.
pub fn source(claim: &str, name: &str, volume: Option<&PersistentVolume>) -> Result<Source> {
    let no = |why: &str| {
        let bound = format!("persistentvolumeclaim \"{claim}\" is bound to \"{name}\"");
        Err(Error::Config(format!("{bound}, {why}")))
    };
    let Some(volume) = volume else { return no("which does not exist") };
    let made_by = volume.metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY));
    if made_by.is_some_and(|by| by == PROVISIONER) {
        return Ok(Source::Provisioned(name.to_owned()));
    }
    match volume.spec.as_ref().and_then(|spec| spec.host_path.clone()) {
        Some(path) => Ok(Source::HostPath(path)),
        None => no("which is of a kind the lab has not"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_claim_is_to_be_bound() {
        let bound = |claim: Option<Value>| {
            let claim = claim.map(|v| serde_json::from_value(v).unwrap());
            bound("c", claim.as_ref()).map_err(|e| e.to_string())
        };
        let object = |phase: &str| json!({"spec": {"volumeName": "v"}, "status": {"phase": phase}});
        assert_eq!(bound(Some(object("Bound"))), Ok("v".to_owned()));
        assert_eq!(bound(None).unwrap_err(), "persistentvolumeclaim \"c\" not found");
        for (claim, says) in [
            (json!({}), "it is Pending"),
            (object("Pending"), "it is Pending"),
            (object("Lost"), "it is Lost"),
        ] {
            let e = bound(Some(claim)).unwrap_err();
            assert!(e.contains("\"c\"") && e.contains(says), "{e}");
        }
    }

    #[test]
    fn volumes_that_the_lab_has() {
        let source = |volume: Option<Value>| {
            let volume = volume.map(|v| serde_json::from_value(v).unwrap());
            source("c", "v", volume.as_ref()).map_err(|e| e.to_string())
        };
        let path = json!({"hostPath": {"path": "/data"}});
        let ours =
            json!({"metadata": {"annotations": {PROVISIONED_BY: PROVISIONER}}, "spec": path});
        assert_eq!(source(Some(ours)), Ok(Source::Provisioned("v".into())));
        let own = source(Some(json!({"spec": path})));
        assert!(matches!(own, Ok(Source::HostPath(p)) if p.path == "/data"));
        assert!(source(None).unwrap_err().contains("does not exist"));
        let nfs = json!({"spec": {"nfs": {"server": "s", "path": "/"}}});
        assert!(source(Some(nfs)).unwrap_err().contains("a kind the lab has not"));
    }
}
