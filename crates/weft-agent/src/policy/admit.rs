//! ADD: whose link it will be, and when it is judged.

use super::{AppliedPolicy, Owner, Subject};
use kube::core::Request;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use weft_cni::{CniError, code};
use weft_kube::slim::WatchedPod;
use weft_model::{NamespacedName, Pod, Snapshot};

/// How long the API may take to say what a pod is that the watch has not brought. A pod must not
/// run before its policies are known.
const POD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an ADD waits until the pod is judged.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the plugin's arguments say of the pod, as every container runtime gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
    /// Empty where it is not given.
    uid: &'a str,
}

impl<'a> Named<'a> {
    fn in_args(args: &'a str) -> Option<Self> {
        let value = |key: &str| {
            let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(k, _)| *k == key).map(|(_, v)| v).next()
        };
        // A DNS subdomain, so that it is one segment of a path.
        let fine = |v: &&str| {
            let fine =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
            !v.is_empty() && v.bytes().all(fine) && !v.starts_with('.')
        };
        Some(Self {
            namespace: value("K8S_POD_NAMESPACE").filter(fine)?,
            name: value("K8S_POD_NAME").filter(fine)?,
            uid: value("K8S_POD_UID").unwrap_or_default(),
        })
    }

    /// The pod of the snapshot, unless it is an earlier one of this name.
    fn in_snapshot(&self, snapshot: Option<&Snapshot>) -> Option<Arc<Pod>> {
        let id = NamespacedName::new(self.namespace, self.name);
        let pod = snapshot?.pods.get(&id)?;
        let wanted = Pod::incarnation_of(self.uid);
        (wanted == 0 || wanted == pod.incarnation).then(|| pod.clone())
    }
}

/// Whose link ADD makes. The pod comes from the snapshot; where it is not there (yet), the API is
/// asked once.
pub(crate) async fn subject(
    client: &kube::Client,
    snapshot: Option<&Snapshot>,
    args: &str,
) -> Result<Subject, CniError> {
    let Some(named) = Named::in_args(args) else { return Ok(Subject::NOBODY) };
    let seed = match named.in_snapshot(snapshot) {
        Some(pod) => Some(pod),
        None => ask(client, &named).await?,
    };
    let id = NamespacedName::new(named.namespace, named.name);
    let incarnation = seed.as_ref().map_or(0, |pod| pod.incarnation);
    Ok(Subject { owner: Owner::Pod { id, incarnation }, seed })
}

/// One look; `None` where there is no such pod: one that the kubelet runs from a file, and that
/// is not mirrored yet.
async fn ask(client: &kube::Client, named: &Named<'_>) -> Result<Option<Arc<Pod>>, CniError> {
    let Named { namespace, name, .. } = named;
    let failed = |why: String| {
        let msg = format!("pod {namespace}/{name} cannot be read, so its policies are not known");
        CniError::new(code::TRY_AGAIN, msg, why)
    };
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
    let request = request.get(name, &kube::api::GetParams::default());
    let request = request.map_err(|e| failed(e.to_string()))?;
    match tokio::time::timeout(POD_TIMEOUT, client.request::<WatchedPod>(request)).await {
        Ok(Ok(pod)) => Ok(pod.model().map(Arc::new)),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Ok(Err(e)) => Err(failed(e.to_string())),
        Err(_) => Err(failed("the API does not answer".to_owned())),
    }
}

/// Waits until the link is judged by its pod's policies.
pub(crate) async fn judged(
    mut applied: watch::Receiver<Option<Arc<AppliedPolicy>>>,
    link: u32,
) -> Result<(), CniError> {
    let there =
        applied.wait_for(|a| a.as_ref().and_then(|a| a.links.get(&link)).is_some_and(|l| l.ready));
    match tokio::time::timeout(READY_TIMEOUT, there).await {
        Ok(Ok(_)) => Ok(()),
        // The runtime answers an error with DEL, which takes back what was made.
        _ => Err(CniError::new(
            code::TRY_AGAIN,
            "the pod's policies are not in place yet",
            "see the stage 'policy' in the agent's status",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::pod;

    #[test]
    fn pods_are_named_by_the_arguments() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u1";
        let named = Named { namespace: "ns", name: "web-0", uid: "u1" };
        assert_eq!(Named::in_args(args), Some(named));
        for bad in [
            "",
            "K8S_POD_NAME=a",
            "K8S_POD_NAMESPACE=;K8S_POD_NAME=a",
            "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=a",
            "K8S_POD_NAMESPACE=..;K8S_POD_NAME=a",
        ] {
            assert_eq!(Named::in_args(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_earlier_pod_of_the_name_is_another_one() {
        let live =
            Pod { incarnation: Pod::incarnation_of("u1"), ..pod("a", &[], "n1", "10.0.0.1") };
        let mut snapshot = Snapshot::default();
        snapshot.pods.insert(live.id.clone(), Arc::new(live));
        for (args, there) in [("", true), (";K8S_POD_UID=u1", true), (";K8S_POD_UID=u2", false)] {
            let args = format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME=a{args}");
            let named = Named::in_args(&args).expect("named");
            assert_eq!(named.in_snapshot(Some(&snapshot)).is_some(), there, "{args}");
            assert!(named.in_snapshot(None).is_none());
        }
    }
}
