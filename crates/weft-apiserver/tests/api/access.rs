//! Who may come in, as whom, and what pods get to prove who they are.

use crate::{
    Server,
    ask::{api, delete, get, post, send},
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use weft_apiserver::{ApiServer, Pki, kubeconfig_with_certificate};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    json_patch::merge(&mut pod["spec"], &spec);
    pod
}

async fn account(api: &ApiServer, name: &str) -> Value {
    post(api, ACCOUNTS, json!({"metadata": {"name": name}})).await.is(201)
}

async fn client(text: &str) -> kube::Client {
    let parsed = Kubeconfig::from_yaml(text).unwrap();
    let config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    kube::Client::try_from(config.unwrap()).unwrap()
}

async fn who(client: &kube::Client) -> Result<Value, kube::Error> {
    let request = http::Request::post(WHO)
        .header("content-type", "application/json")
        .body(b"{}".to_vec())
        .unwrap();
    Ok(client.request::<Value>(request).await?["status"]["userInfo"].clone())
}

#[tokio::test]
async fn client_certificates_name_users() {
    let server = Server::start(|_| {});
    let pki = &server.pki;
    let (cert, key) = pki.client("jane", "devs").unwrap();
    let text = kubeconfig_with_certificate(&server.url, &pki.ca_pem, &cert, &key);
    let jane = who(&client(&text).await).await.unwrap();
    assert_eq!(jane["username"], "jane");
    assert_eq!(jane["groups"], json!(["devs", "system:authenticated"]));
    let id = jane["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap();
    assert!(id.starts_with("X509SHA256="));
    // Of another authority: 401, not a broken connection.
    let (cert, key) = Pki::ephemeral(&[]).unwrap().client("jane", "devs").unwrap();
    let text = kubeconfig_with_certificate(&server.url, &pki.ca_pem, &cert, &key);
    match who(&client(&text).await).await.unwrap_err() {
        kube::Error::Api(s) => assert_eq!(s.code, 401),
        other => panic!("{other}"),
    }
    // The server's own certificate is no client's.
    assert_eq!(who(&server.client().await).await.unwrap()["username"], "admin");
}

#[tokio::test]
async fn others_can_be_asked_for() {
    let api = api();
    let who = async |headers: &[&str]| {
        let headers = [&["content-type: application/json"], headers].concat();
        send(&api, "POST", WHO, &headers, "{}").await
    };
    let own = who(&[]).await.is(201);
    assert_eq!(own["status"]["userInfo"]["username"], "system:apiserver");
    let jane = who(&["impersonate-user: jane", "impersonate-group: devs"]).await.is(201);
    assert_eq!(
        jane["status"]["userInfo"],
        json!({"username": "jane", "groups": ["devs", "system:authenticated"]})
    );
    who(&["impersonate-group: devs"]).await.refused(500);
}

#[tokio::test]
async fn without_credentials_only_health_and_version() {
    let server = Server::start(|_| {});
    let mut parsed = Kubeconfig::from_yaml(&server.kubeconfig).unwrap();
    parsed.auth_infos[0].auth_info = Some(Default::default());
    let config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    let stranger = kube::Client::try_from(config.unwrap()).unwrap();
    for path in ["/version", "/healthz", "/livez", "/readyz", "/readyz/ping"] {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        stranger.request_text(request).await.unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    for path in ["/api", "/apis", "/api/v1/pods", "/openapi/v2", "/", "/metrics"] {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        match stranger.request_text(request).await.unwrap_err() {
            kube::Error::Api(s) => assert_eq!((s.code, s.reason.as_str()), (401, "Unauthorized")),
            other => panic!("{path}: {other}"),
        }
    }
}

#[tokio::test]
async fn tokens_are_bound_and_reviewed() {
    let api = api();
    let robot = account(&api, "robot").await;
    let token = format!("{ACCOUNTS}/robot/token");
    let made = post(&api, PODS, pod("p", json!({"serviceAccountName": "robot"}))).await.is(201);
    let (uid, robot_uid) = (&made["metadata"]["uid"], &robot["metadata"]["uid"]);
    let bound = |uid: &Value| {
        json!({"spec": {"audiences": ["vault", "x"],
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}})
    };
    let wrong = post(&api, &token, bound(&json!("other"))).await.refused(409);
    assert!(wrong.contains(
        "the UID in the bound object reference (other) does not match the UID in record"
    ));
    let given = post(&api, &token, bound(uid)).await.is(201);
    assert_eq!(given["spec"]["boundObjectRef"]["uid"], *uid);
    assert_eq!(given["spec"]["expirationSeconds"], 3600);
    let text = &given["status"]["token"];
    let review = async |audiences: Value| {
        let body = json!({"spec": {"token": text, "audiences": audiences}});
        post(&api, REVIEW, body).await.is(201)["status"].clone()
    };
    let status = review(json!(["vault", "y"])).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["vault"]));
    let user = &status["user"];
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(user["uid"], *robot_uid);
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-uid"], json!([uid]));
    assert_eq!(review(json!([])).await.get("authenticated"), None, "not for this server");
    delete(&api, &format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await.is(200);
    assert_eq!(review(json!(["vault"])).await.get("authenticated"), None, "the pod is gone");

    post(&api, REVIEW, json!({"spec": {}})).await.refused(400);
    let body = |of: Value| json!({"spec": {"boundObjectRef": of}});
    let gone = body(json!({"apiVersion": "v1", "kind": "Secret", "name": "none"}));
    post(&api, &token, gone).await.refused(404);
    let odd = body(json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}));
    let odd = post(&api, &token, odd).await.refused(400);
    assert_eq!(odd, "cannot bind token to object of type apps/v1, Kind=Deployment");
    post(&api, PODS, pod("q", json!({}))).await.is(201);
    let other = body(json!({"apiVersion": "v1", "kind": "Pod", "name": "q"}));
    let other = post(&api, &token, other).await.refused(400);
    assert!(other.contains("pod running with different serviceaccount name"), "{other}");
    let name = json!({"metadata": {"name": "else"}, "spec": {}});
    post(&api, &token, name).await.refused(422);
    let uid = json!({"metadata": {"uid": "else"}, "spec": {}});
    post(&api, &token, uid).await.refused(409);
}

#[tokio::test]
async fn pods_get_their_accounts_token() {
    let api = api();
    // Before the account is there, the pod is not refused.
    let early = post(&api, PODS, pod("early", json!({}))).await.is(201);
    assert_eq!(early["spec"]["serviceAccountName"], "default");
    assert_eq!(early["spec"].get("volumes"), None);
    account(&api, "default").await;
    let two = json!({"initContainers": [{"name": "i", "image": "i"}], "containers":
        [{"name": "c", "image": "i"}, {"name": "own", "image": "i", "volumeMounts":
            [{"name": "v", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}]});
    let made = post(&api, PODS, pod("two", two)).await.is(201);
    let spec = &made["spec"];
    let name = spec["volumes"][1]["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    assert_eq!(
        spec["volumes"][1]["projected"],
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
            {"downwardAPI": {"items": [{"fieldRef": {"apiVersion": "v1",
                "fieldPath": "metadata.namespace"}, "path": "namespace"}]}}]})
    );
    let mount = json!([{"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        "name": name, "readOnly": true}]);
    assert_eq!(spec["containers"][0]["volumeMounts"], mount);
    assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
    assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&spec["priority"], &spec["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
    let tolerated = &spec["tolerations"];
    assert_eq!(
        tolerated[0],
        json!({"effect": "NoExecute", "key": "node.kubernetes.io/not-ready",
        "operator": "Exists", "tolerationSeconds": 300})
    );
    assert_eq!(tolerated[1]["key"], "node.kubernetes.io/unreachable");
    let fields = made["metadata"]["managedFields"][0]["fieldsV1"].to_string();
    assert!(
        !fields.contains("kube-api-access") && !fields.contains("tolerations"),
        "the server's own is nobody's"
    );

    let off = post(&api, PODS, pod("off", json!({"automountServiceAccountToken": false}))).await;
    assert_eq!(off.is(201)["spec"].get("volumes"), None);
    let body = json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false,
        "imagePullSecrets": [{"name": "registry"}]});
    post(&api, ACCOUNTS, body).await.is(201);
    let quiet =
        post(&api, PODS, pod("quiet", json!({"serviceAccountName": "quiet"}))).await.is(201);
    assert_eq!(quiet["spec"].get("volumes"), None);
    assert_eq!(quiet["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    let on = json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true});
    let on = post(&api, PODS, pod("on", on)).await.is(201);
    assert_eq!(on["spec"]["volumes"].as_array().unwrap().len(), 1);
    let none =
        post(&api, PODS, pod("none", json!({"serviceAccountName": "none"}))).await.refused(403);
    assert_eq!(
        none,
        "pods \"none\" is forbidden: error looking up service account default/none: serviceaccount \"none\" not found"
    );
}

#[tokio::test]
async fn priorities_come_from_classes() {
    let api = api();
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
    post(&api, classes, class).await.is(201);
    let made = post(&api, PODS, pod("a", json!({"priorityClassName": "high"}))).await.is(201);
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]),
        (&json!(1000), &json!("Never"))
    );
    let system = json!({"priorityClassName": "system-node-critical"});
    let made = post(&api, PODS, pod("b", system)).await.is(201);
    assert_eq!(made["spec"]["priority"], 2_000_001_000);
    let none = post(&api, PODS, pod("c", json!({"priorityClassName": "no"}))).await.refused(403);
    assert_eq!(none, "pods \"c\" is forbidden: no PriorityClass with name no was found");
    let given = json!({"priorityClassName": "high", "priority": 5});
    post(&api, PODS, pod("d", given)).await.refused(403);
    let default = json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true});
    post(&api, classes, default).await.is(201);
    let made = post(&api, PODS, pod("e", json!({}))).await.is(201);
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["priorityClassName"]),
        (&json!(7), &json!("usual"))
    );
}

#[tokio::test]
async fn questions_about_access() {
    let api = api();
    let ask = async |kind: &str, spec: Value| {
        post(&api, &format!("/apis/authorization.k8s.io/v1/{kind}"), json!({"spec": spec})).await
    };
    let pods = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    let yes = ask("selfsubjectaccessreviews", json!({"resourceAttributes": pods})).await.is(201);
    assert_eq!(
        (&yes["status"]["allowed"], &yes["kind"]),
        (&json!(true), &json!("SelfSubjectAccessReview"))
    );
    let path = json!({"path": "/healthz", "verb": "get"});
    ask("selfsubjectaccessreviews", json!({"nonResourceAttributes": path})).await.is(201);
    let none = ask("selfsubjectaccessreviews", json!({})).await.refused(422);
    assert!(
        none.contains(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        ),
        "{none}"
    );
    let both = json!({"resourceAttributes": pods, "nonResourceAttributes": path});
    ask("selfsubjectaccessreviews", both).await.refused(422);
    let user = json!({"resourceAttributes": pods, "user": "jane"});
    ask("subjectaccessreviews", user.clone()).await.is(201);
    ask("subjectaccessreviews", json!({"resourceAttributes": pods})).await.refused(422);
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    post(&api, local, json!({"spec": user})).await.is(201);
    let mut other = user;
    other["resourceAttributes"]["namespace"] = "kube-system".into();
    post(&api, local, json!({"spec": other})).await.refused(400);
    ask("selfsubjectrulesreviews", json!({})).await.refused(400);
    let rules = ask("selfsubjectrulesreviews", json!({"namespace": "default"})).await.is(201);
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    assert_eq!(rules["status"]["incomplete"], false);
    get(&api, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").await.refused(405);
}
