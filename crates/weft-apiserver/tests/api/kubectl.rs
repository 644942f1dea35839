//! Stock kubectl, as people type it.

use crate::Server;
use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// kubectl with a home of its own.
struct Kubectl {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    /// The kubectl on PATH, and beside it every bundled one.
    fn all(server: &Server) -> Vec<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let Some(first) =
            std::env::split_paths(&path).map(|d| d.join("kubectl")).find(|p| p.is_file())
        else {
            return Vec::new();
        };
        let mut programs = vec![first.clone()];
        if let Some(real) = first.canonicalize().ok().and_then(|p| p.parent().map(PathBuf::from)) {
            let bundled = std::fs::read_dir(real).into_iter().flatten().flatten();
            let mut bundled: Vec<PathBuf> = bundled
                .map(|e| e.path())
                .filter(|p| {
                    p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1."))
                })
                .collect();
            bundled.sort();
            // The oldest and the newest say most.
            if bundled.len() > 2 {
                bundled.drain(1..bundled.len() - 1);
            }
            programs.extend(bundled);
        }
        programs
            .into_iter()
            .map(|program| {
                let home = tempfile::tempdir().unwrap();
                std::fs::write(home.path().join("config"), &server.kubeconfig).unwrap();
                Self { program, home }
            })
            .collect()
    }

    fn command(&self, args: &str) -> Command {
        let mut c = Command::new(&self.program);
        let home = self.home.path();
        c.env("HOME", home)
            .env("KUBECACHEDIR", home.join("cache"))
            .env("KUBECONFIG", home.join("config"))
            .args(args.split_whitespace().map(|a| a.replace('~', " ")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        c
    }

    fn output(&self, args: &str, input: &str) -> Output {
        let mut child = self.command(args).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that must succeed. `~` in an argument stands for a space.
    fn ok(&self, args: &str) -> String {
        self.ok_in(args, "")
    }

    fn ok_in(&self, args: &str, input: &str) -> String {
        let out = self.output(args, input);
        let (o, e) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{:?} {args}\n{o}\n{e}", self.program);
        o.into_owned()
    }

    /// Standard error of a command that must fail.
    fn refused(&self, args: &str, input: &str) -> String {
        let out = self.output(args, input);
        let o = String::from_utf8_lossy(&out.stdout);
        assert!(!out.status.success(), "{:?} {args} succeeded\n{o}", self.program);
        String::from_utf8_lossy(&out.stderr).into_owned()
    }
}

/// Runs a script with every kubectl there is, on a server of its own each.
fn with_kubectl(name: &str, script: fn(&Kubectl)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let count = {
        let _in = runtime.enter();
        Kubectl::all(&Server::start(|_| {})).len()
    };
    if count == 0 {
        println!("SKIP {name}: kubectl not found");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "kubectl not found");
        return;
    }
    for i in 0..count {
        let server = {
            let _in = runtime.enter();
            Server::start(|_| {})
        };
        script(&Kubectl::all(&server)[i]);
    }
}

fn has(text: &str, parts: &[&str]) {
    for p in parts {
        assert!(text.contains(p), "no {p:?} in:\n{text}");
    }
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nginx:1.27
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 80}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
"#;

#[test]
fn apply_get_and_delete() {
    with_kubectl("kubectl::apply_get_and_delete", |k| {
        let first = k.ok_in("apply -f -", WEB);
        has(
            &first,
            &["deployment.apps/web created", "service/web created", "configmap/settings created"],
        );
        let again = k.ok_in("apply -f -", WEB);
        has(
            &again,
            &[
                "deployment.apps/web unchanged",
                "service/web unchanged",
                "configmap/settings unchanged",
            ],
        );
        let changed =
            k.ok_in("apply -f -", &WEB.replace("nginx:1.27", "nginx:1.28").replace("blue", "red"));
        has(
            &changed,
            &[
                "deployment.apps/web configured",
                "service/web unchanged",
                "configmap/settings configured",
            ],
        );
        has(&k.ok("get configmap settings -o jsonpath={.data.color}"), &["red"]);
        has(&k.ok("get deployments -o wide"), &["READY", "UP-TO-DATE", "0/3", "nginx:1.28"]);
        has(&k.ok("get svc"), &["CLUSTER-IP", "kubernetes", "10.96.0.1", "80/TCP"]);
        has(
            &k.ok("get deploy web -o yaml"),
            &["kind: Deployment", "last-applied-configuration", "replicas: 3"],
        );
        has(&k.ok("get deploy,svc -o json"), &["\"kind\": \"List\"", "\"clusterIP\": \"10.96."]);
        has(
            &k.ok("get deploy web -o jsonpath={.spec.template.spec.containers[0].image}"),
            &["nginx:1.28"],
        );
        has(
            &k.ok("get ns --no-headers -o custom-columns=N:.metadata.name"),
            &["default", "kube-system"],
        );
        has(&k.ok("get all -A"), &["service/kubernetes", "deployment.apps/web"]);
        has(&k.ok("get deploy -l app=web -o name"), &["deployment.apps/web"]);
        assert_eq!(k.ok("get deploy -l app=other -o name"), "");
        has(&k.ok("describe deployment web"), &["Replicas:", "3 desired", "nginx:1.28"]);
        has(&k.ok("describe svc web"), &["IP Family Policy:", "SingleStack", "Port:", "80/TCP"]);
        has(
            &k.ok_in("diff -f -", &WEB.replace("nginx:1.27", "nginx:1.28").replace("blue", "red")),
            &[""],
        );
        // A replacement that leaves out what the server gave keeps it.
        let ip = k.ok("get svc web -o jsonpath={.spec.clusterIP}");
        has(&k.ok_in("replace -f -", WEB), &["service/web replaced"]);
        assert_eq!(k.ok("get svc web -o jsonpath={.spec.clusterIP}"), ip);
        has(&k.ok_in("delete -f -", WEB), &["deployment.apps \"web\" deleted"]);
        has(
            &k.refused("get deploy web", ""),
            &["Error from server (NotFound): deployments.apps \"web\" not found"],
        );
    });
}

#[test]
fn generators_and_edits() {
    with_kubectl("kubectl::generators_and_edits", |k| {
        has(&k.ok("create namespace shop"), &["namespace/shop created"]);
        has(&k.refused("create namespace shop", ""), &["AlreadyExists"]);
        has(&k.ok("create deployment web --image=nginx --replicas=2 -n shop"), &["created"]);
        has(
            &k.ok("expose deployment web --port=80 --target-port=8080 -n shop"),
            &["service/web exposed"],
        );
        has(
            &k.ok("create service clusterip extra --tcp=5678:8080 -n shop"),
            &["service/extra created"],
        );
        has(&k.ok("create service nodeport np --tcp=80 -n shop"), &["created"]);
        has(&k.ok("get svc np -n shop"), &["NodePort", "80:3"]);
        has(&k.ok("create configmap c --from-literal=a=b -n shop"), &["configmap/c created"]);
        has(&k.ok("create secret generic s --from-literal=p=q -n shop"), &["secret/s created"]);
        has(&k.ok("get secret s -n shop -o jsonpath={.data.p}"), &["cQ=="]);
        has(&k.ok("create serviceaccount robot -n shop"), &["created"]);
        has(&k.ok("scale deployment web --replicas=5 -n shop"), &["scaled"]);
        has(&k.ok("get deploy web -n shop -o jsonpath={.spec.replicas}"), &["5"]);
        has(&k.ok("label deploy web tier=front -n shop"), &["labeled"]);
        has(&k.refused("label deploy web tier=back -n shop", ""), &["already has a value"]);
        has(&k.ok("label deploy web tier- -n shop"), &["unlabeled"]);
        has(&k.ok("annotate deploy web note=hello -n shop"), &["annotate"]);
        has(&k.ok(r#"patch deploy web -n shop -p {"spec":{"replicas":4}}"#), &["patched"]);
        has(&k.ok(r#"patch deploy web -n shop --type=json -p [{"op":"replace","path":"/spec/replicas","value":1}]"#), &["patched"]);
        has(
            &k.ok(r#"patch deploy web -n shop --type=merge -p {"metadata":{"labels":{"x":"y"}}}"#),
            &["patched"],
        );
        has(&k.ok("set image deployment/web nginx=nginx:2 -n shop"), &["image updated"]);
        let done = concat!(
            r#"{"status":{"observedGeneration":99,"replicas":1,"updatedReplicas":1,"#,
            r#""readyReplicas":1,"availableReplicas":1,"conditions":[{"type":"Available","status":"True"}]}}"#
        );
        k.ok(&format!("patch deploy web -n shop --subresource=status --type=merge -p {done}"));
        has(&k.ok("rollout status deploy/web -n shop --timeout=5s"), &["successfully rolled out"]);
        has(
            &k.ok("wait --for=condition=Available deploy/web -n shop --timeout=5s"),
            &["condition met"],
        );
        has(&k.ok("get deploy web -n shop"), &["1/1"]);
        has(&k.ok("run one --image=busybox -n shop"), &["pod/one created"]);
        has(&k.ok("get pods -n shop -o wide"), &["NODE", "one", "Pending"]);
        has(&k.ok("describe pod one -n shop"), &["Node:", "busybox", "Events:"]);
        has(&k.ok("get pods -A --field-selector=status.phase=Pending"), &["one"]);
        has(
            &k.ok("wait --for=jsonpath={.status.phase}=Pending pod/one -n shop --timeout=5s"),
            &["condition met"],
        );
        has(&k.ok("delete pod one -n shop"), &["pod \"one\" deleted"]);
        has(&k.ok("create token robot -n shop"), &["."]);
        has(&k.ok("create job j --image=busybox -n shop"), &["created"]);
        has(&k.ok("create ingress i --rule=a.example/=web:80 -n shop"), &["created"]);
        has(&k.ok("delete deploy,svc --all -n shop"), &["deleted"]);
        has(&k.ok("auth can-i create pods"), &["yes"]);
    });
}

#[test]
fn who_may_what() {
    with_kubectl("kubectl::who_may_what", |k| {
        has(&k.ok("auth can-i --list"), &["*.*", "[*]"]);
        has(&k.ok("auth can-i get /healthz"), &["yes"]);
        has(&k.ok("auth can-i get pods --as=jane --as-group=devs"), &["yes"]);
        has(&k.ok("create role r --verb=get,list --resource=pods"), &["created"]);
        has(&k.ok("create rolebinding b --role=r --serviceaccount=default:robot"), &["created"]);
        has(&k.ok("create clusterrole c --aggregation-rule=rbac.example/x=true"), &["created"]);
        has(&k.ok("create clusterrolebinding cb --clusterrole=c --user=jane"), &["created"]);
        has(&k.ok("describe role r"), &["pods", "[get list]"]);
        let created = k.ok("create priorityclass high --value=10 --description=d");
        has(&created, &["created"]);
        has(&k.ok("explain pod.spec --recursive"), &["containers", "livenessProbe", "httpGet"]);
        // Older ones ask for a beta version, which a server of this release has not either.
        let whoami = k.output("auth whoami", "");
        if !whoami.status.success() {
            has(
                &String::from_utf8_lossy(&whoami.stderr),
                &["selfsubjectreviews API is not enabled"],
            );
        } else {
            has(&k.ok("auth whoami"), &["Username", "admin", "system:masters"]);
            has(&k.ok("auth whoami --as=jane -o yaml"), &["username: jane"]);
        }
    });
}

#[test]
fn from_one_apply_to_the_other() {
    with_kubectl("kubectl::from_one_apply_to_the_other", |k| {
        k.ok_in("apply -f -", WEB);
        let changed = WEB.replace("replicas: 3", "replicas: 2");
        has(
            &k.ok_in("apply --server-side -f -", &changed),
            &["deployment.apps/web serverside-applied"],
        );
        let managers = k.ok("get deploy web -o jsonpath={.metadata.managedFields[*].manager}");
        assert!(!managers.contains("client-side"), "kubectl took its own over: {managers}");
        has(&managers, &["kubectl", "kubectl-last-applied"]);
        let less = changed.replace("  labels: {app: web}\nspec", "spec");
        k.ok_in("apply --server-side -f -", &less);
        assert_eq!(k.ok("get deploy web -o jsonpath={.metadata.labels.app}"), "");
        // Somebody else's change is a conflict, which names them.
        k.ok("scale deploy web --replicas=7");
        let refused = k.refused("apply --server-side -f -", &less);
        has(
            &refused,
            &[
                "conflict with \"kubectl",
                "\" with subresource \"scale\" using apps/v1",
                ".spec.replicas",
            ],
        );
    });
}

#[test]
fn what_there_is() {
    with_kubectl("kubectl::what_there_is", |k| {
        has(&k.ok("version"), &["Server Version:", "v1.35.0"]);
        has(
            &k.ok("api-resources"),
            &["deployments", "deploy", "apps/v1", "endpointslices", "networkpolicies"],
        );
        has(&k.ok("api-versions"), &["apps/v1", "networking.k8s.io/v1"]);
        has(&k.ok("explain pod.spec.containers"), &["KIND:", "Pod", "image"]);
        has(&k.ok("explain deployment.spec.replicas"), &["replicas", "integer"]);
        has(&k.ok("cluster-info"), &["is running at"]);
        has(&k.ok("get --raw /readyz"), &["ok"]);
    });
}

#[test]
fn bad_input_is_refused_by_name() {
    with_kubectl("kubectl::bad_input_is_refused_by_name", |k| {
        let e = k.refused("apply -f -", &WEB.replace("replicas: 3", "replica: 3"));
        has(&e, &["unknown field \"spec.replica\""]);
        let e = k.refused("apply -f -", "apiVersion: v1\nkind: Nothing\nmetadata: {name: a}\n");
        has(&e, &["no matches for kind \"Nothing\""]);
        let e = k.refused("apply -f -", &WEB.replace("port: 80,", "port: 99999,"));
        has(&e, &["Service \"web\" is invalid", "spec.ports[0].port"]);
        let e = k.refused("apply -f -", &WEB.replace("{name: settings}", "{name: Bad_Name}"));
        has(&e, &["metadata.name", "Bad_Name"]);
        let e = k.refused("create -f -", "{\"apiVersion\": \"v1\", \"kind\": [");
        assert!(e.contains("error"), "{e}");
        has(
            &k.refused("get pods -n default --field-selector=spec.x=y", ""),
            &["field label not supported"],
        );
        has(
            &k.refused("create deployment d --image=i -n nowhere", ""),
            &["namespaces \"nowhere\" not found"],
        );
    });
}

#[test]
fn server_side_apply() {
    with_kubectl("kubectl::server_side_apply", |k| {
        has(&k.ok_in("apply --server-side -f -", WEB), &["deployment.apps/web serverside-applied"]);
        has(&k.ok_in("apply --server-side -f -", WEB), &["serverside-applied"]);
        let rv = || k.ok("get deploy web -o jsonpath={.metadata.resourceVersion}");
        let before = rv();
        k.ok_in("apply --server-side -f -", WEB);
        assert_eq!(before, rv(), "nothing changed, no new version");
        has(
            &k.ok("get deploy web -o yaml --show-managed-fields"),
            &["manager: kubectl", "operation: Apply"],
        );
        // A field that is applied no more goes; what others added stays.
        k.ok("annotate deploy web theirs=kept");
        let less = WEB.replace("  labels: {app: web}\nspec", "spec");
        k.ok_in("apply --server-side -f -", &less);
        assert_eq!(k.ok("get deploy web -o jsonpath={.metadata.labels.app}"), "");
        assert_eq!(k.ok("get deploy web -o jsonpath={.metadata.annotations.theirs}"), "kept");
        assert_eq!(k.ok("get deploy web -o jsonpath={.spec.template.metadata.labels.app}"), "web");
        // Two appliers, one field.
        let other = WEB.replace("replicas: 3", "replicas: 4");
        let e = k.refused("apply --server-side --field-manager=other -f -", &other);
        has(&e, &["conflict", ".spec.replicas"]);
        k.ok_in("apply --server-side --field-manager=other --force-conflicts -f -", &other);
        assert_eq!(k.ok("get deploy web -o jsonpath={.spec.replicas}"), "4");
    });
}

#[test]
fn watching_sees_changes() {
    with_kubectl("kubectl::watching_sees_changes", |k| {
        use std::io::{BufRead, BufReader};
        let mut child = k.command("get configmaps -w --output-watch-events").spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        k.ok("create configmap fresh --from-literal=a=b");
        let mut seen = String::new();
        while !seen.contains("fresh") {
            seen.push_str(&lines.next().expect("the watch goes on").unwrap());
            seen.push('\n');
        }
        k.ok("delete configmap fresh");
        while !seen.contains("DELETED") {
            seen.push_str(&lines.next().expect("the watch goes on").unwrap());
            seen.push('\n');
        }
        child.kill().unwrap();
        child.wait().unwrap();
        has(&seen, &["EVENT", "NAME", "ADDED"]);
        assert_eq!(seen.matches("NAME").count(), 1, "one heading:\n{seen}");
    });
}

const WIDGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.replicas}
    - {name: Color, type: string, jsonPath: .spec.color, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget of the example.
        properties:
          spec:
            type: object
            description: What is wanted.
            required: [color]
            properties:
              color: {type: string, enum: [red, blue], description: Its color.}
              replicas: {type: integer, default: 1, description: How many.}
          status: {type: object, properties: {replicas: {type: integer}}}
"#;

#[test]
fn custom_resources() {
    with_kubectl("kubectl::custom_resources", |k| {
        has(&k.ok_in("apply -f -", WIDGETS), &["widgets.example.com created"]);
        k.ok("wait --for=condition=Established crd/widgets.example.com --timeout=10s");
        let red =
            "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec: {color: red}\n";
        has(&k.ok_in("apply -f -", red), &["widget.example.com/a created"]);
        has(&k.ok_in("apply -f -", red), &["widget.example.com/a unchanged"]);
        let blue = red.replace("red", "blue");
        has(&k.ok_in("diff -f -", red), &[]);
        has(&k.ok_in("apply -f -", &blue), &["widget.example.com/a configured"]);
        has(
            &k.ok_in("apply --server-side --force-conflicts -f -", red),
            &["widget.example.com/a serverside-applied"],
        );
        has(&k.ok("get wd"), &["NAME", "SIZE", "a"]);
        has(&k.ok("get widgets.v1.example.com -o wide"), &["COLOR", "red"]);
        has(&k.ok("get all"), &["widget.example.com/a"]);
        has(&k.ok("api-resources --api-group=example.com"), &["widgets", "wd", "example.com/v1"]);
        has(
            &k.ok("explain widget.spec"),
            &["KIND:", "Widget", "What is wanted.", "color", "Its color.", "replicas"],
        );
        has(&k.ok("scale widget/a --replicas=3"), &["scaled"]);
        assert_eq!(k.ok("get wd a -o jsonpath={.spec.replicas}"), "3");
        let mut edit = k.command("edit wd a");
        let out = edit.env("KUBE_EDITOR", "sed -i s/red/blue/").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(k.ok("get wd a -o jsonpath={.spec.color}"), "blue");
        let unknown =
            red.replace("color: red", "color: red, size: 1").replace("name: a", "name: b");
        has(&k.refused("apply -f -", &unknown), &["unknown field \"spec.size\""]);
        let green = red.replace("red", "green").replace("name: a", "name: b");
        has(
            &k.refused("apply -f -", &green),
            &["spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""],
        );
        has(&k.ok("label wd a x=y"), &["labeled"]);
        has(&k.ok("patch wd a --type=merge -p {\"spec\":{\"replicas\":2}}"), &["patched"]);
        has(&k.ok("delete wd a"), &["deleted"]);
        k.ok("delete crd widgets.example.com");
        // Whether it still has the discovery document or not, kubectl finds no such resource.
        has(&k.refused("get widgets", ""), &["the server"]);
    });
}
