//! The table of kinds.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::kind::{
    Generation, Kind, NameRule, Row, Subresource, VERBS_ALL, VERBS_CREATE, VERBS_GET_UPDATE,
};

/// All built-in kinds, in the order in which discovery lists groups.
pub fn kinds() -> &'static [Arc<Kind>] {
    &INDEX.kinds
}

/// The built-in kind of a resource as URLs name it.
pub fn lookup(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Kind>> {
    INDEX.plural.get(&(group, version, plural)).map(|at| &INDEX.kinds[*at])
}

/// The built-in kind that objects name.
pub fn lookup_kind(group: &str, version: &str, kind: &str) -> Option<&'static Arc<Kind>> {
    INDEX.kind.get(&(group, version, kind)).map(|at| &INDEX.kinds[*at])
}

/// The built-in kind by `apiVersion` and `kind`.
pub fn lookup_version(api_version: &str, kind: &str) -> Option<&'static Arc<Kind>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    lookup_kind(group, version, kind)
}

type Key = (&'static str, &'static str, &'static str);

struct Index {
    kinds: Vec<Arc<Kind>>,
    plural: HashMap<Key, usize>,
    kind: HashMap<Key, usize>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut kinds: Vec<Arc<Kind>> = Vec::with_capacity(ROWS.len());
    for row in ROWS {
        let stored_as = row.stored_as.map(|place| {
            let same = |k: &&Arc<Kind>| (&*k.group, &*k.version) == place && k.kind == row.kind;
            kinds.iter().find(same).expect("invariant: stored_as names an earlier row").clone()
        });
        kinds.push(Arc::new(row.make(stored_as)));
    }
    let rows = || ROWS.iter().enumerate();
    Index {
        kinds,
        plural: rows().map(|(at, row)| ((row.group, row.version, row.plural), at)).collect(),
        kind: rows().map(|(at, row)| ((row.group, row.version, row.kind), at)).collect(),
    }
});

/// What most rows share; each row states only what differs.
const fn row(
    group: &'static str,
    version: &'static str,
    [kind, list_kind, plural, singular]: [&'static str; 4],
    type_name: &'static str,
) -> Row {
    Row {
        group,
        version,
        kind,
        list_kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: VERBS_ALL,
        stored: true,
        status: false,
        scale: None,
        subresources: &[],
        selectable: &[],
        generation: Generation::Never,
        graceful: false,
        name_rule: NameRule::Subdomain,
        type_name,
        stored_as: None,
    }
}

/// A question that is answered and forgotten.
const fn review(
    group: &'static str,
    [kind, plural, singular]: [&'static str; 3],
    type_name: &'static str,
) -> Row {
    Row {
        namespaced: false,
        verbs: VERBS_CREATE,
        stored: false,
        ..row(group, "v1", [kind, "", plural, singular], type_name)
    }
}

/// JSON pointers of the desired and the observed count and of the selector.
const SCALE: Option<[&str; 3]> = Some(["/spec/replicas", "/status/replicas", "/spec/selector"]);

const fn sub(
    name: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, group: "", version: "v1", kind, verbs }
}

const APPS: &str = "apps";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const AUTHN: &str = "authentication.k8s.io";
const AUTHZ: &str = "authorization.k8s.io";
const ALL: &[&str] = &["all"];
/// `get` and `create`: what discovery lists for streams.
const STREAM: &[&str] = &["create", "get"];

static ROWS: &[Row] = &[
    Row {
        short_names: &["cm"],
        ..row(
            "",
            "v1",
            ["ConfigMap", "ConfigMapList", "configmaps", "configmap"],
            "core.v1.ConfigMap",
        )
    },
    Row {
        short_names: &["ep"],
        ..row(
            "",
            "v1",
            ["Endpoints", "EndpointsList", "endpoints", "endpoints"],
            "core.v1.Endpoints",
        )
    },
    Row {
        short_names: &["ev"],
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ..row("", "v1", ["Event", "EventList", "events", "event"], "core.v1.Event")
    },
    Row {
        short_names: &["limits"],
        ..row(
            "",
            "v1",
            ["LimitRange", "LimitRangeList", "limitranges", "limitrange"],
            "core.v1.LimitRange",
        )
    },
    Row {
        short_names: &["ns"],
        namespaced: false,
        status: true,
        subresources: &[sub("finalize", "Namespace", &["update"])],
        selectable: &["status.phase"],
        name_rule: NameRule::Label,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        ..row(
            "",
            "v1",
            ["Namespace", "NamespaceList", "namespaces", "namespace"],
            "core.v1.Namespace",
        )
    },
    Row {
        short_names: &["no"],
        namespaced: false,
        status: true,
        selectable: &["spec.unschedulable"],
        ..row("", "v1", ["Node", "NodeList", "nodes", "node"], "core.v1.Node")
    },
    Row {
        short_names: &["pvc"],
        status: true,
        ..row(
            "",
            "v1",
            [
                "PersistentVolumeClaim",
                "PersistentVolumeClaimList",
                "persistentvolumeclaims",
                "persistentvolumeclaim",
            ],
            "core.v1.PersistentVolumeClaim",
        )
    },
    Row {
        short_names: &["pv"],
        namespaced: false,
        status: true,
        ..row(
            "",
            "v1",
            ["PersistentVolume", "PersistentVolumeList", "persistentvolumes", "persistentvolume"],
            "core.v1.PersistentVolume",
        )
    },
    Row {
        short_names: &["po"],
        categories: ALL,
        status: true,
        graceful: true,
        subresources: &[
            sub("attach", "PodAttachOptions", STREAM),
            sub("binding", "Binding", VERBS_CREATE),
            sub("ephemeralcontainers", "Pod", VERBS_GET_UPDATE),
            Subresource {
                name: "eviction",
                group: "policy",
                version: "v1",
                kind: "Eviction",
                verbs: VERBS_CREATE,
            },
            sub("exec", "PodExecOptions", STREAM),
            sub("log", "Pod", &["get"]),
            sub("portforward", "PodPortForwardOptions", STREAM),
            sub("resize", "Pod", VERBS_GET_UPDATE),
        ],
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        generation: Generation::Spec,
        ..row("", "v1", ["Pod", "PodList", "pods", "pod"], "core.v1.Pod")
    },
    Row {
        ..row(
            "",
            "v1",
            ["PodTemplate", "PodTemplateList", "podtemplates", "podtemplate"],
            "core.v1.PodTemplate",
        )
    },
    Row {
        short_names: &["rc"],
        categories: ALL,
        status: true,
        scale: SCALE,
        selectable: &["status.replicas"],
        generation: Generation::Spec,
        ..row(
            "",
            "v1",
            [
                "ReplicationController",
                "ReplicationControllerList",
                "replicationcontrollers",
                "replicationcontroller",
            ],
            "core.v1.ReplicationController",
        )
    },
    Row {
        short_names: &["quota"],
        status: true,
        ..row(
            "",
            "v1",
            ["ResourceQuota", "ResourceQuotaList", "resourcequotas", "resourcequota"],
            "core.v1.ResourceQuota",
        )
    },
    Row {
        selectable: &["type"],
        ..row("", "v1", ["Secret", "SecretList", "secrets", "secret"], "core.v1.Secret")
    },
    Row {
        short_names: &["sa"],
        subresources: &[Subresource {
            name: "token",
            group: AUTHN,
            version: "v1",
            kind: "TokenRequest",
            verbs: VERBS_CREATE,
        }],
        ..row(
            "",
            "v1",
            ["ServiceAccount", "ServiceAccountList", "serviceaccounts", "serviceaccount"],
            "core.v1.ServiceAccount",
        )
    },
    Row {
        short_names: &["svc"],
        categories: ALL,
        status: true,
        selectable: &["spec.clusterIP", "spec.type"],
        name_rule: NameRule::Label1035,
        ..row("", "v1", ["Service", "ServiceList", "services", "service"], "core.v1.Service")
    },
    Row {
        ..row(
            APPS,
            "v1",
            [
                "ControllerRevision",
                "ControllerRevisionList",
                "controllerrevisions",
                "controllerrevision",
            ],
            "apps.v1.ControllerRevision",
        )
    },
    Row {
        short_names: &["ds"],
        categories: ALL,
        status: true,
        generation: Generation::Spec,
        ..row(
            APPS,
            "v1",
            ["DaemonSet", "DaemonSetList", "daemonsets", "daemonset"],
            "apps.v1.DaemonSet",
        )
    },
    Row {
        short_names: &["deploy"],
        categories: ALL,
        status: true,
        scale: SCALE,
        generation: Generation::Spec,
        ..row(
            APPS,
            "v1",
            ["Deployment", "DeploymentList", "deployments", "deployment"],
            "apps.v1.Deployment",
        )
    },
    Row {
        short_names: &["rs"],
        categories: ALL,
        status: true,
        scale: SCALE,
        selectable: &["status.replicas"],
        generation: Generation::Spec,
        ..row(
            APPS,
            "v1",
            ["ReplicaSet", "ReplicaSetList", "replicasets", "replicaset"],
            "apps.v1.ReplicaSet",
        )
    },
    Row {
        short_names: &["sts"],
        name_rule: NameRule::Label,
        categories: ALL,
        status: true,
        scale: SCALE,
        generation: Generation::Spec,
        ..row(
            APPS,
            "v1",
            ["StatefulSet", "StatefulSetList", "statefulsets", "statefulset"],
            "apps.v1.StatefulSet",
        )
    },
    review(
        AUTHN,
        ["SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"],
        "authentication.v1.SelfSubjectReview",
    ),
    review(AUTHN, ["TokenReview", "tokenreviews", "tokenreview"], "authentication.v1.TokenReview"),
    Row {
        namespaced: true,
        ..review(
            AUTHZ,
            ["LocalSubjectAccessReview", "localsubjectaccessreviews", "localsubjectaccessreview"],
            "authorization.v1.LocalSubjectAccessReview",
        )
    },
    review(
        AUTHZ,
        ["SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"],
        "authorization.v1.SelfSubjectAccessReview",
    ),
    review(
        AUTHZ,
        ["SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"],
        "authorization.v1.SelfSubjectRulesReview",
    ),
    review(
        AUTHZ,
        ["SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"],
        "authorization.v1.SubjectAccessReview",
    ),
    Row {
        short_names: &["hpa"],
        categories: ALL,
        status: true,
        ..row(
            "autoscaling",
            "v2",
            [
                "HorizontalPodAutoscaler",
                "HorizontalPodAutoscalerList",
                "horizontalpodautoscalers",
                "horizontalpodautoscaler",
            ],
            "autoscaling.v2.HorizontalPodAutoscaler",
        )
    },
    Row {
        short_names: &["hpa"],
        categories: ALL,
        status: true,
        stored_as: Some(("autoscaling", "v2")),
        ..row(
            "autoscaling",
            "v1",
            [
                "HorizontalPodAutoscaler",
                "HorizontalPodAutoscalerList",
                "horizontalpodautoscalers",
                "horizontalpodautoscaler",
            ],
            "autoscaling.v1.HorizontalPodAutoscaler",
        )
    },
    Row {
        short_names: &["cj"],
        categories: ALL,
        status: true,
        generation: Generation::Spec,
        ..row("batch", "v1", ["CronJob", "CronJobList", "cronjobs", "cronjob"], "batch.v1.CronJob")
    },
    Row {
        categories: ALL,
        status: true,
        selectable: &["status.successful"],
        generation: Generation::Spec,
        ..row("batch", "v1", ["Job", "JobList", "jobs", "job"], "batch.v1.Job")
    },
    Row {
        ..row(
            "coordination.k8s.io",
            "v1",
            ["Lease", "LeaseList", "leases", "lease"],
            "coordination.v1.Lease",
        )
    },
    Row {
        generation: Generation::Spec,
        ..row(
            "discovery.k8s.io",
            "v1",
            ["EndpointSlice", "EndpointSliceList", "endpointslices", "endpointslice"],
            "discovery.v1.EndpointSlice",
        )
    },
    Row {
        short_names: &["ev"],
        selectable: &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        stored_as: Some(("", "v1")),
        ..row("events.k8s.io", "v1", ["Event", "EventList", "events", "event"], "events.v1.Event")
    },
    Row {
        namespaced: false,
        generation: Generation::Spec,
        ..row(
            NETWORKING,
            "v1",
            ["IngressClass", "IngressClassList", "ingressclasses", "ingressclass"],
            "networking.v1.IngressClass",
        )
    },
    Row {
        short_names: &["ing"],
        status: true,
        generation: Generation::Spec,
        ..row(
            NETWORKING,
            "v1",
            ["Ingress", "IngressList", "ingresses", "ingress"],
            "networking.v1.Ingress",
        )
    },
    Row {
        short_names: &["ip"],
        namespaced: false,
        selectable: &["spec.parentRef.namespace", "spec.parentRef.name"],
        name_rule: NameRule::IpAddress,
        ..row(
            NETWORKING,
            "v1",
            ["IPAddress", "IPAddressList", "ipaddresses", "ipaddress"],
            "networking.v1.IPAddress",
        )
    },
    Row {
        short_names: &["netpol"],
        generation: Generation::Spec,
        ..row(
            NETWORKING,
            "v1",
            ["NetworkPolicy", "NetworkPolicyList", "networkpolicies", "networkpolicy"],
            "networking.v1.NetworkPolicy",
        )
    },
    Row {
        namespaced: false,
        status: true,
        ..row(
            NETWORKING,
            "v1",
            ["ServiceCIDR", "ServiceCIDRList", "servicecidrs", "servicecidr"],
            "networking.v1.ServiceCIDR",
        )
    },
    Row {
        short_names: &["pdb"],
        status: true,
        generation: Generation::Spec,
        ..row(
            "policy",
            "v1",
            [
                "PodDisruptionBudget",
                "PodDisruptionBudgetList",
                "poddisruptionbudgets",
                "poddisruptionbudget",
            ],
            "policy.v1.PodDisruptionBudget",
        )
    },
    Row {
        namespaced: false,
        name_rule: NameRule::PathSegment,
        ..row(
            RBAC,
            "v1",
            [
                "ClusterRoleBinding",
                "ClusterRoleBindingList",
                "clusterrolebindings",
                "clusterrolebinding",
            ],
            "rbac.v1.ClusterRoleBinding",
        )
    },
    Row {
        namespaced: false,
        name_rule: NameRule::PathSegment,
        ..row(
            RBAC,
            "v1",
            ["ClusterRole", "ClusterRoleList", "clusterroles", "clusterrole"],
            "rbac.v1.ClusterRole",
        )
    },
    Row {
        name_rule: NameRule::PathSegment,
        ..row(
            RBAC,
            "v1",
            ["RoleBinding", "RoleBindingList", "rolebindings", "rolebinding"],
            "rbac.v1.RoleBinding",
        )
    },
    Row {
        name_rule: NameRule::PathSegment,
        ..row(RBAC, "v1", ["Role", "RoleList", "roles", "role"], "rbac.v1.Role")
    },
    Row {
        short_names: &["pc"],
        namespaced: false,
        generation: Generation::Spec,
        ..row(
            "scheduling.k8s.io",
            "v1",
            ["PriorityClass", "PriorityClassList", "priorityclasses", "priorityclass"],
            "scheduling.v1.PriorityClass",
        )
    },
    Row {
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        generation: Generation::Spec,
        ..row(
            "apiextensions.k8s.io",
            "v1",
            [
                "CustomResourceDefinition",
                "CustomResourceDefinitionList",
                "customresourcedefinitions",
                "customresourcedefinition",
            ],
            "apiextensions.v1.CustomResourceDefinition",
        )
    },
    Row {
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        generation: Generation::Spec,
        ..row(
            "admissionregistration.k8s.io",
            "v1",
            [
                "ValidatingAdmissionPolicy",
                "ValidatingAdmissionPolicyList",
                "validatingadmissionpolicies",
                "validatingadmissionpolicy",
            ],
            "admissionregistration.v1.ValidatingAdmissionPolicy",
        )
    },
    Row {
        categories: &["api-extensions"],
        namespaced: false,
        generation: Generation::Spec,
        ..row(
            "admissionregistration.k8s.io",
            "v1",
            [
                "ValidatingAdmissionPolicyBinding",
                "ValidatingAdmissionPolicyBindingList",
                "validatingadmissionpolicybindings",
                "validatingadmissionpolicybinding",
            ],
            "admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        )
    },
    Row {
        short_names: &["sc"],
        namespaced: false,
        ..row(
            "storage.k8s.io",
            "v1",
            ["StorageClass", "StorageClassList", "storageclasses", "storageclass"],
            "storage.v1.StorageClass",
        )
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_unique_and_found_both_ways() {
        assert_eq!(INDEX.plural.len(), ROWS.len());
        assert_eq!(INDEX.kind.len(), ROWS.len());
        for kind in kinds() {
            assert_eq!(
                lookup(&kind.group, &kind.version, &kind.plural).map(|k| &k.kind),
                Some(&kind.kind)
            );
            assert_eq!(
                lookup_version(&kind.api_version(), &kind.kind).map(|k| &k.plural),
                Some(&kind.plural)
            );
            assert_eq!(kind.singular, kind.kind.to_lowercase());
            assert!(kind.storage().stored_as.is_none());
        }
        assert!(lookup("", "v1", "nothings").is_none());
    }
}
