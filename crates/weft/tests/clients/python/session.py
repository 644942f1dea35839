"""What a Python program does with a cluster, through the client that its registry has.

Runs every function below whose name is given, or all of them, against $KUBECONFIG, each in a
namespace of its own, and prints `ok NAME` after each.
"""

import json
import sys
import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException

PATIENCE_SECONDS = 30


def refused(status, reason, call, *args, **kwargs):
    """The call must fail with this code and reason; returns the message."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        body = json.loads(error.body)
        assert error.status == status, error
        assert body["reason"] == reason, body
        return body["message"]
    raise AssertionError(f"{call.__name__} was not refused")


def config_map(name, data=None, labels=None):
    meta = client.V1ObjectMeta(name=name, labels=labels)
    return client.V1ConfigMap(metadata=meta, data=data)


def deployment(name, replicas=0):
    labels = {"app": name}
    container = client.V1Container(name="web", image="example.test/web:1")
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(containers=[container]),
    )
    spec = client.V1DeploymentSpec(
        replicas=replicas,
        selector=client.V1LabelSelector(match_labels=labels),
        template=template,
    )
    return client.V1Deployment(metadata=client.V1ObjectMeta(name=name), spec=spec)


def crud(namespace):
    core = client.CoreV1Api()
    made = core.create_namespaced_config_map(namespace, config_map("a", {"k": "v"}))
    assert made.metadata.uid and made.metadata.resource_version
    message = refused(
        409, "AlreadyExists", core.create_namespaced_config_map, namespace, config_map("a")
    )
    assert message == 'configmaps "a" already exists', message
    held = core.read_namespaced_config_map("a", namespace)
    held.data["k"] = "w"
    changed = core.replace_namespaced_config_map("a", namespace, held)
    assert changed.data == {"k": "w"}
    # The version that was read is not the newest any more.
    refused(409, "Conflict", core.replace_namespaced_config_map, "a", namespace, held)
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1ServiceSpec(
            selector={"app": "web"}, ports=[client.V1ServicePort(port=80, target_port="http")]
        ),
    )
    web = core.create_namespaced_service(namespace, service)
    assert web.spec.cluster_ip and web.spec.ports[0].protocol == "TCP"
    assert web.spec.ip_family_policy == "SingleStack" and web.spec.type == "ClusterIP"
    service.metadata.name = "bad"
    service.spec.ports[0].port = 70000
    message = refused(422, "Invalid", core.create_namespaced_service, namespace, service)
    assert "spec.ports[0].port: Invalid value: 70000" in message, message
    status = core.delete_namespaced_config_map("a", namespace)
    assert status.status == "Success" and status.details.name == "a", status
    message = refused(404, "NotFound", core.read_namespaced_config_map, "a", namespace)
    assert message == 'configmaps "a" not found', message


def paging(namespace):
    core = client.CoreV1Api()
    for i in range(7):
        core.create_namespaced_config_map(namespace, config_map(f"p{i}", labels={"p": "q"}))
    names, more, pages = [], None, 0
    while True:
        page = core.list_namespaced_config_map(
            namespace, label_selector="p in (q)", limit=3, _continue=more
        )
        names += [item.metadata.name for item in page.items]
        pages += 1
        more = page.metadata._continue
        if not more:
            break
    assert names == [f"p{i}" for i in range(7)] and pages == 3, (names, pages)
    selected = core.list_namespaced_config_map(namespace, field_selector="metadata.name=p3")
    assert [item.metadata.name for item in selected.items] == ["p3"]
    core.delete_collection_namespaced_config_map(namespace, label_selector="p=q")
    assert not core.list_namespaced_config_map(namespace, label_selector="p=q").items


def patches(namespace):
    apps = client.AppsV1Api()
    apps.create_namespaced_deployment(namespace, deployment("web"))
    image = {"spec": {"template": {"spec": {"containers": [
        {"name": "web", "image": "example.test/web:2"}]}}}}
    got = apps.patch_namespaced_deployment("web", namespace, image)
    containers = got.spec.template.spec.containers
    assert len(containers) == 1 and containers[0].image == "example.test/web:2"
    operations = [
        {"op": "test", "path": "/spec/replicas", "value": 0},
        {"op": "add", "path": "/metadata/annotations/note", "value": "hi"},
    ]
    # The deployment controller has written an annotation by the time the map must be there.
    apps.patch_namespaced_deployment("web", namespace, {"metadata": {"annotations": {"a": "b"}}})
    got = apps.patch_namespaced_deployment("web", namespace, operations)
    assert got.metadata.annotations["note"] == "hi"
    scale = apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 2}})
    assert scale.spec.replicas == 2 and scale.status.selector == "app=web"


def apply(namespace):
    """Server-side apply by the dynamic client."""
    maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")

    def wanted(data):
        return {"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "applied", "namespace": namespace}, "data": data}

    maps.server_side_apply(body=wanted({"a": "1", "b": "2"}), field_manager="one")
    try:
        maps.server_side_apply(body=wanted({"b": "3"}), field_manager="two")
        raise AssertionError("no conflict")
    except dynamic.exceptions.ConflictError as error:
        message = json.loads(error.body)["message"]
        assert message == 'Apply failed with 1 conflict: conflict with "one": .data.b', message
    maps.server_side_apply(body=wanted({"b": "3"}), field_manager="two", force_conflicts=True)
    maps.server_side_apply(body=wanted({"c": "4"}), field_manager="one")
    got = maps.get(name="applied", namespace=namespace)
    # What `one` gave up is gone, what `two` owns stays.
    assert got.data.to_dict() == {"b": "3", "c": "4"}, got.data
    managers = {(m.manager, m.operation) for m in got.metadata.managedFields}
    assert managers == {("one", "Apply"), ("two", "Apply")}, managers


def watching(namespace):
    core = client.CoreV1Api()
    listed = core.list_namespaced_config_map(namespace, label_selector="w=x")

    def change():
        core.create_namespaced_config_map(namespace, config_map("w", labels={"w": "x"}))
        core.patch_namespaced_config_map("w", namespace, {"data": {"k": "v"}})
        core.delete_namespaced_config_map("w", namespace)

    changer = threading.Thread(target=change)
    changer.start()
    seen = []
    stream = watch.Watch()
    for event in stream.stream(
        core.list_namespaced_config_map, namespace, label_selector="w=x",
        resource_version=listed.metadata.resource_version, timeout_seconds=PATIENCE_SECONDS,
    ):
        seen.append((event["type"], event["object"].metadata.name, event["object"].data))
        if event["type"] == "DELETED":
            stream.stop()
    changer.join()
    data = {"k": "v"}
    assert seen == [("ADDED", "w", None), ("MODIFIED", "w", data), ("DELETED", "w", data)], seen


def manifests(namespace):
    """YAML as people write it, and every kind found by discovery."""
    documents = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "yaml"},
         "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
             "metadata": {"labels": {"a": "b"}},
             "spec": {"containers": [{"name": "c", "image": "example.test/c"}]}}}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
         "metadata": {"name": "yaml"}, "spec": {"podSelector": {}}},
    ]
    for document in documents:
        utils.create_from_dict(client.ApiClient(), document, namespace=namespace)
    policy = client.NetworkingV1Api().read_namespaced_network_policy("yaml", namespace)
    assert policy.spec.policy_types == ["Ingress"], policy.spec
    version = client.VersionApi().get_code()
    assert (version.major, version.minor) == ("1", "35"), version
    review = client.AuthorizationV1Api().create_self_subject_access_review(
        client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(verb="create", resource="pods"))))
    assert review.status.allowed


SCENARIOS = [crud, paging, patches, apply, watching, manifests]


def main(names):
    config.load_kube_config()
    core = client.CoreV1Api()
    for scenario in SCENARIOS:
        name = scenario.__name__
        if names and name not in names:
            continue
        namespace = f"py-{name}"
        meta = client.V1ObjectMeta(name=namespace)
        core.create_namespace(client.V1Namespace(metadata=meta))
        scenario(namespace)
        core.delete_namespace(namespace)
        print("ok", name, flush=True)


main(sys.argv[1:])
