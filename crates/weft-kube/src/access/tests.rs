//! The client against the embedded API over TLS.

use super::*;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::ListParams};
use serde_json::json;
use std::{
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::task::JoinHandle;
use weft_apiserver::{ApiServer, Pki, Token};

/// An API on loopback that takes one token and certificates of its authority.
struct Server {
    at: SocketAddr,
    pki: Pki,
    api: ApiServer,
    task: JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let at = listener.local_addr().expect("address");
        let pki = Pki::ephemeral(&[]).expect("certificates");
        let token = Token {
            token: "good".to_owned(),
            user: "node".to_owned(),
            groups: vec!["system:masters".to_owned()],
        };
        let config = weft_apiserver::Config { tokens: vec![token], ..Default::default() };
        let api = ApiServer::new(config).expect("starts");
        let (serving, tls) = (api.clone(), pki.tls().expect("TLS"));
        let task = tokio::spawn(async move {
            serving.serve(vec![listener], tls).await.expect("serves");
        });
        Self { at, pki, api, task }
    }

    async fn stop(self) {
        self.api.shutdown();
        self.task.await.expect("ends");
    }
}

/// A folder with a kubeconfig and the files that it names.
struct Files(tempfile::TempDir);

impl Files {
    fn new(server: &str, ca: &str, user: serde_json::Value) -> Self {
        let files = Self(tempfile::tempdir().expect("temporary folder"));
        files.put("ca.crt", ca);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": server, "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        });
        files.put("kubeconfig", &config.to_string());
        files
    }

    /// As kubelets and token projections do: another file takes the name.
    fn put(&self, name: &str, text: &str) {
        let temporary = self.0.path().join("new");
        std::fs::write(&temporary, text).expect("write");
        std::fs::rename(temporary, self.0.path().join(name)).expect("rename");
    }

    fn kubeconfig(&self) -> PathBuf {
        self.0.path().join("kubeconfig")
    }
}

async fn ask(client: &Client) -> kube::Result<usize> {
    let api = Api::<Namespace>::all(client.clone());
    api.list(&ListParams::default()).await.map(|l| l.items.len())
}

fn code(result: kube::Result<usize>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}

/// An address of this machine at which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

#[tokio::test]
async fn endpoints_are_tried_in_turn_and_the_name_is_kept() {
    let server = Server::start();
    let user = json!({"token": "good"});
    // Names that no resolver here knows: only the endpoint can lead there.
    let files = Files::new("https://kubernetes.default.svc:443", &server.pki.ca_pem, user.clone());
    let endpoints = Endpoints::new(vec![Place::At(nobody()), Place::At(server.at)]);
    let client = client(&files.kubeconfig(), endpoints.clone()).await.expect("a client");
    assert!(ask(&client).await.expect("by the second endpoint") >= 4);
    assert_eq!(endpoints.in_order()[0], Place::At(server.at), "what answered is tried first");

    let files = Files::new("https://api.example:443", &server.pki.ca_pem, user);
    let endpoints = Endpoints::new(vec![Place::At(server.at)]);
    let client = super::client(&files.kubeconfig(), endpoints).await.expect("a client");
    let e = crate::source::error_chain(&ask(&client).await.expect_err("another name"));
    assert!(e.contains("certificate") && e.contains("api.example"), "{e}");
    server.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_s_now_is_passed_over() {
    let (other, server) = (Server::start(), Server::start());
    let files = Files::new(
        "https://kubernetes.default.svc:443",
        &server.pki.ca_pem,
        json!({"token": "good"}),
    );
    let endpoints = Endpoints::new(vec![Place::At(other.at), Place::At(server.at)]);
    let client = client(&files.kubeconfig(), endpoints).await.expect("a client");
    ask(&client).await.expect_err("not our authority's");
    ask(&client).await.expect("the next one's turn");
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_expired_is_read_again() {
    let server = Server::start();
    let url = format!("https://{}", server.at);
    let files = Files::new(&url, &server.pki.ca_pem, json!({"tokenFile": "token"}));
    files.put("token", "good");
    let client = client(&files.kubeconfig(), Endpoints::default()).await.expect("a client");
    ask(&client).await.expect("a good token");
    files.put("token", "expired");
    assert_eq!(code(ask(&client).await), 401, "a new file is used at once");
    files.put("token", "good");
    ask(&client).await.expect("and so is the next");
    // Half a rotation: the old one serves on.
    std::fs::remove_file(files.0.path().join("token")).expect("removed");
    ask(&client).await.expect("what was read last");
    server.stop().await;
}

#[tokio::test]
async fn certificates_rotate() {
    let server = Server::start();
    let url = format!("https://{}", server.at);
    let user = json!({"client-certificate": "tls.crt", "client-key": "tls.key"});
    let files = Files::new(&url, &server.pki.ca_pem, user);
    let put = |pki: &Pki, name: &str| {
        let (certificate, key) = pki.client(name, "system:masters").expect("a certificate");
        files.put("tls.key", &key);
        files.put("tls.crt", &certificate);
    };
    put(&server.pki, "first");
    let endpoints = Endpoints::default();
    let client = client(&files.kubeconfig(), endpoints.clone()).await.expect("a client");
    ask(&client).await.expect("the first certificate");
    put(&server.pki, "second");
    ask(&client).await.expect("the second one");

    // The control plane moves, with a new authority.
    let next = Server::start();
    endpoints.set(vec![Place::At(next.at)]);
    server.stop().await;
    ask(&client).await.expect_err("the old authority");
    files.put("ca.crt", &next.pki.ca_pem);
    put(&next.pki, "third");
    ask(&client).await.expect("the new one");
    next.stop().await;
}

#[tokio::test]
async fn retry_after_holds_for_every_request() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let busy = tower::service_fn(move |_: Request<Body>| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        let answer = Response::builder().status(if first { 429 } else { 200 });
        let answer = answer.header(RETRY_AFTER, "1").body(Body::empty());
        std::future::ready(answer.map_err(BoxError::from))
    });
    let service = polite(busy);
    let request = || Request::new(Body::empty());
    let begin = Instant::now();
    assert_eq!(service.clone().oneshot(request()).await.expect("an answer").status(), 429);
    let two = futures::future::join(
        service.clone().oneshot(request()),
        service.clone().oneshot(request()),
    );
    let (a, b) = two.await;
    assert_eq!(
        (a.expect("an answer").status(), b.expect("an answer").status()),
        (StatusCode::OK, StatusCode::OK)
    );
    assert!(begin.elapsed() >= Duration::from_secs(1));
    // On an answer that is fine the header means nothing.
    service.oneshot(request()).await.expect("an answer");
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn what_is_wrong_with_a_kubeconfig_is_told_at_once() {
    let told = |e: AccessError| crate::source::error_chain(&e);
    let missing = client(Path::new("/nonexistent"), Endpoints::default()).await;
    assert!(told(missing.err().expect("an error")).contains("/nonexistent"));
    let files = Files::new("https://127.0.0.1:1", "", json!({"tokenFile": "gone"}));
    let e = told(client(&files.kubeconfig(), Endpoints::default()).await.err().expect("an error"));
    assert!(e.contains("gone"), "{e}");
    assert_eq!(server_host(&files.kubeconfig()).expect("a host"), "127.0.0.1");
    let files = Files::new("https://[fd00::1]:6443", "", json!({}));
    assert_eq!(server_host(&files.kubeconfig()).expect("a host"), "fd00::1");
}
