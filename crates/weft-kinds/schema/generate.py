#!/usr/bin/env python3
"""Writes the type table of this folder from the Go modules k8s.io/api, k8s.io/apimachinery and
k8s.io/apiextensions-apiserver.

    generate.py API_DIR APIMACHINERY_DIR APIEXTENSIONS_DIR > types-v1.35.txt

Only facts of the wire formats are taken: field numbers and types (generated.proto), JSON
names, merge keys, list types and values of enums (struct tags and markers of types.go). Run it when the
Kubernetes version of the workspace moves. The format is described in ../src/schema.rs.
"""
import re, sys
from pathlib import Path

API, MACHINERY, EXTENSIONS = (Path(argument) for argument in sys.argv[1:4])
PACKAGES = {  # short name: folder
    "meta.v1": MACHINERY / "pkg/apis/meta/v1",
    "runtime": MACHINERY / "pkg/runtime",
    "apiextensions.v1": EXTENSIONS / "pkg/apis/apiextensions/v1",
    **{f"{g}.{v}": API / g / v for g, v in [
        ("core", "v1"), ("apps", "v1"), ("batch", "v1"), ("discovery", "v1"),
        ("coordination", "v1"), ("networking", "v1"), ("rbac", "v1"), ("policy", "v1"),
        ("autoscaling", "v1"), ("autoscaling", "v2"), ("storage", "v1"), ("scheduling", "v1"),
        ("admissionregistration", "v1"), ("events", "v1"), ("authentication", "v1"), ("authorization", "v1"),
    ]},
}
BUILTIN = {
    "meta.v1.Time": "time", "meta.v1.MicroTime": "microtime", "meta.v1.Duration": "duration",
    "meta.v1.FieldsV1": "raw", "runtime.RawExtension": "raw", "resource.Quantity": "quantity",
    "intstr.IntOrString": "intorstring", "authentication.v1.ExtraValue": "strings",
    "authorization.v1.ExtraValue": "strings", "apiextensions.v1.JSON": "raw",
    "apiextensions.v1.CustomResourceSubresourceStatus": "raw",
}
# A schema, or something else in its place: what is no object is taken as it is.
LOOSE = {
    "apiextensions.v1.JSONSchemaPropsOrArray": "apiextensions.v1.JSONSchemaProps",
    "apiextensions.v1.JSONSchemaPropsOrBool": "apiextensions.v1.JSONSchemaProps",
    "apiextensions.v1.JSONSchemaPropsOrStringArray": "apiextensions.v1.JSONSchemaProps",
}
ROOTS = """
core.v1: Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
  PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
apps.v1: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet
batch.v1: CronJob Job
discovery.v1: EndpointSlice
coordination.v1: Lease
events.v1: Event
networking.v1: Ingress IngressClass IPAddress NetworkPolicy ServiceCIDR
rbac.v1: ClusterRole ClusterRoleBinding Role RoleBinding
policy.v1: PodDisruptionBudget Eviction
autoscaling.v1: HorizontalPodAutoscaler Scale
autoscaling.v2: HorizontalPodAutoscaler
storage.v1: StorageClass
scheduling.v1: PriorityClass
authentication.v1: SelfSubjectReview TokenRequest TokenReview
authorization.v1: LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
meta.v1: DeleteOptions Status
apiextensions.v1: CustomResourceDefinition
admissionregistration.v1: ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
"""

def short(proto_name, here):
    name = proto_name.lstrip(".")
    if "." not in name:
        return f"{here}.{name}"
    name = name.removeprefix("k8s.io.")
    for prefix in ("apimachinery.pkg.apis.", "apimachinery.pkg.api.", "apimachinery.pkg.util.",
                   "apimachinery.pkg.", "api."):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    raise SystemExit(f"unknown package of {proto_name}")

def proto_messages(package, folder):
    out, name = {}, None
    for line in (folder / "generated.proto").read_text().splitlines():
        line = line.strip()
        if m := re.match(r"message (\w+) \{", line):
            name = m[1]
            out[name] = {}
        elif line == "}":
            name = None
        elif name and (m := re.match(
                r"(?:(optional|repeated) (\S+)|map<string, (\S+)>) (\w+) = (\d+);", line)):
            label, one, mapped, _, number = m.groups()
            kind = one or mapped
            scalars = {"string": "string", "bytes": "bytes", "bool": "bool", "int32": "int32",
                       "int64": "int64", "uint32": "int32", "uint64": "int64", "double": "double"}
            typ = scalars.get(kind) or short(kind, package)
            prefix = "{}" if mapped else "[]" if label == "repeated" else ""
            out[name][int(number)] = (prefix, BUILTIN.get(typ, typ))
    return out

def go_structs(folder, package):
    out = {}
    for path in sorted(folder.glob("*.go")):
        if path.name.startswith(("zz_", "generated")) or path.name.endswith("_test.go"):
            continue
        name, comments = None, []
        for line in path.read_text().splitlines():
            text = line.strip()
            if m := re.match(r"type (\w+) struct \{", line):
                name = m[1]
                out[name] = {"meta": False, "fields": {}, "atomic": "+structType=atomic" in comments}
                comments = []
            elif line.startswith("}"):
                name = None
            elif text.startswith("//"):
                comments.append(text.lstrip("/ "))
            elif not name:
                comments = comments if not text else []
            elif name:
                if re.match(r"(metav1\.|v1\.)?TypeMeta ", text):
                    out[name]["meta"] = True
                m, j = re.search(r'protobuf:"\w+,(\d+),', text), re.search(r'json:"([^"]*)"', text)
                if m and j:
                    attributes = []
                    strategy = re.search(r'patchStrategy:"([^"]*)"', text)
                    key = re.search(r'patchMergeKey:"([^"]*)"', text)
                    for part in strategy[1].split(",") if strategy else []:
                        attributes.append(f"merge={key[1]}" if part == "merge" and key else part)
                    marks = [c for c in comments if c.startswith("+")]
                    keys = [c.split("=")[1] for c in marks if c.startswith("+listMapKey=")]
                    for c in marks:
                        if c.startswith("+listType="):
                            kind = c.split("=")[1].strip()
                            attributes.append(f"list={kind}" + ("(" + ",".join(keys) + ")" if kind == "map" else ""))
                        if c.startswith(("+mapType=atomic", "+structType=atomic")):
                            attributes.append("atomic")
                    json_name = j[1].split(",")[0]
                    # Fields that Go leaves out of JSON when they hold the zero value; structs
                    # are never left out, pointers only when nil.
                    go_type = text.split("`")[0].split()[-1]
                    if "omitempty" in j[1] and not go_type.startswith("*"):
                        attributes.append("omit")
                    if go_type.startswith("*"):
                        attributes.append("pointer")
                    if values := enum_of(go_type, package):
                        attributes.append("enum=" + "|".join(values))
                    if not json_name and "inline" in j[1]:
                        attributes.append("inline")
                        json_name = "-"
                    out[name]["fields"][int(m[1])] = (json_name, attributes)
                if text:
                    comments = []
    return out

def enums(folder):
    """Values of the string types that are marked +enum, by type."""
    marked, values = set(), {}
    for path in sorted(folder.glob("*.go")):
        if path.name.startswith(("zz_", "generated")) or path.name.endswith("_test.go"):
            continue
        comments = []
        for line in path.read_text().splitlines():
            text = line.strip()
            if text.startswith("//"):
                comments.append(text.lstrip("/ "))
                continue
            if (m := re.match(r"type (\w+) string$", line)) and "+enum" in comments:
                marked.add(m[1])
            if m := re.match(r'\w+\s+(\w+)\s*=\s*"([^"]*)"', text):
                values.setdefault(m[1], set()).add(m[2])
            comments = []
    return {name: sorted(values.get(name, ())) for name in marked if values.get(name)}

ENUMS = {package: enums(folder) for package, folder in PACKAGES.items()}

def enum_of(go_type, here):
    name = re.sub(r"^(\*|\[\]|map\[\w+\])*", "", go_type)
    package, dot, last = name.rpartition(".")
    if dot:
        here = {"v1": "core.v1", "corev1": "core.v1", "core": "core.v1", "metav1": "meta.v1"}.get(package)
    return ENUMS.get(here, {}).get(last, [])

types = {}
for package, folder in PACKAGES.items():
    go = go_structs(folder, package)
    for name, fields in proto_messages(package, folder).items():
        full = f"{package}.{name}"
        if full in BUILTIN or full in LOOSE or name not in go or full == "runtime.Unknown":
            continue
        rows = []
        for number, (prefix, typ) in sorted(fields.items()):
            if number not in go[name]["fields"]:
                raise SystemExit(f"{full}: no Go field for {number}")
            json_name, attributes = go[name]["fields"][number]
            if typ in LOOSE:
                typ, attributes = LOOSE[typ], [*attributes, "loose"]
            if not prefix and ("." in typ or typ in BUILTIN.values()):
                attributes = [a for a in attributes if a != "omit"]
            # A struct that is no pointer is always there.
            pointer = "pointer" in attributes
            attributes = [a for a in attributes if a not in ("pointer", "inline")] + (
                ["inline"] if "inline" in attributes else
                ["value"] if not prefix and "." in typ and not pointer else [])
            rows.append((number, json_name, prefix, typ, attributes))
        types[full] = (go[name]["meta"], go[name]["atomic"], rows)

todo = []
for chunk in re.split(r"\n(?=\S)", ROOTS.strip()):
    package, names = chunk.split(":")
    todo += [f"{package}.{n}" for n in names.split()]
seen = set()
while todo:
    name = todo.pop()
    if name in seen:
        continue
    seen.add(name)
    todo += [t for _, _, _, t, _ in types[name][2] if "." in t]
print("# Generated by generate.py from k8s.io/api and k8s.io/apimachinery v0.35.0.")
for name in sorted(seen):
    meta, atomic, rows = types[name]
    print(name + (" object" if meta else "") + (" atomic" if atomic else ""))
    for number, json_name, prefix, typ, attributes in rows:
        print(" ".join([f" {number}", json_name, prefix + typ, *attributes]))
