//! The stand-in as a process, over real sockets on the loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use weft_standin::{Config, ENV, Port, Protocol};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running stand-in, killed at the end of the test.
struct StandIn {
    child: Child,
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    async fn start() -> StandIn {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let both = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let config = Config {
            namespace: "shop".into(),
            pod: "web-0".into(),
            node: "node1".into(),
            pod_ips: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            container: "web".into(),
            image: "nginx".into(),
            ports: both.map(|protocol| Port { port, protocol, name: Some("http".into()) }).into(),
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-standin-alone"))
            .env_clear()
            .env(ENV, serde_json::to_string(&config).unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, out) = (log.clone(), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                lines.lock().unwrap().push(line.unwrap());
            }
        });
        let stand_in = StandIn { child, port, log };
        // TCP and UDP of at least IPv4.
        let listening =
            || stand_in.lines().iter().filter(|line| line.contains("listening on 0.0.0.0")).count();
        wait_until("the listeners", || listening() == 2).await;
        stand_in
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    async fn wait_for_line(&self, part: &str) {
        wait_until(part, || self.lines().iter().any(|line| line.contains(part))).await;
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap()
    }

    /// Sends, shuts nothing down, reads to the end.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

type H1 = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn http1(stream: TcpStream) -> H1 {
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn json(response: http::Response<hyper::body::Incoming>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn request(method: Method, path: &str, body: &'static [u8]) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "web.shop")
        .header("x-test", "a")
        .header("x-test", "b")
        .body(Full::new(Bytes::from_static(body)))
        .unwrap()
}

#[tokio::test]
async fn http1_says_who_and_whom() {
    let stand_in = StandIn::start().await;
    let stream = stand_in.connect().await;
    let client = stream.local_addr().unwrap();
    let mut sender = http1(stream).await;
    let response = sender.send_request(request(Method::GET, "/a/b?c=d", b"")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let answer = json(response).await;
    for (field, value) in [
        ("path", "/a/b?c=d"),
        ("host", "web.shop"),
        ("method", "GET"),
        ("proto", "HTTP/1.1"),
        ("namespace", "shop"),
        ("pod", "web-0"),
        ("node", "node1"),
        ("podIP", "10.244.1.5"),
        ("container", "web"),
        ("portName", "http"),
        ("clientAddress", &client.to_string()),
        ("serverAddress", &format!("127.0.0.1:{}", stand_in.port)),
    ] {
        assert_eq!(answer[field], value, "{field} of {answer}");
    }
    assert_eq!(answer["port"], stand_in.port);
    assert_eq!(answer["headers"]["X-Test"], serde_json::json!(["a", "b"]));
    // The same connection goes on; bodies are taken whole.
    let body = &[b'x'; 100_000];
    let response = sender.send_request(request(Method::POST, "/up", body)).await.unwrap();
    assert_eq!(json(response).await["bodyBytes"], 100_000);
    for (code, method) in [(404, Method::GET), (503, Method::PUT), (204, Method::GET)] {
        let wanted = request(method, &format!("/status/{code}"), b"");
        let response = sender.send_request(wanted).await.unwrap();
        assert_eq!(response.status(), code);
        response.into_body().collect().await.unwrap();
    }
    let response = sender.send_request(request(Method::HEAD, "/", b"")).await.unwrap();
    let len: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
    assert!(len > 100);
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    stand_in.wait_for_line(&format!("client={client} \"GET /a/b?c=d HTTP/1.1\" 200")).await;
    stand_in.wait_for_line("\"PUT /status/503 HTTP/1.1\" 503").await;
}

#[tokio::test]
async fn http1_by_hand() {
    let stand_in = StandIn::start().await;
    // Chunked, then closed as asked.
    let answer = stand_in
        .raw(
            b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
              3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        )
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"bodyBytes\": 7"),
        "{answer}"
    );
    let answer = stand_in.raw(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    // A head that comes in pieces, and a client that shuts down after it.
    let mut stream = stand_in.connect().await;
    for piece in ["G", "ET ", "/slow HTTP/1.1\r\nHo", "st: h\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\"path\": \"/slow\""), "{answer}");
    // Not a request after all.
    let answer = stand_in.raw(b"GET \x01\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn other_bytes_and_silence_get_the_identity() {
    let stand_in = StandIn::start().await;
    for bytes in [&b"hello\n"[..], b"", b"P", b"\x16", b"\0\0\0"] {
        let mut stream = stand_in.connect().await;
        let client = stream.local_addr().unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, format!("shop/web-0 node1 10.244.1.5 client={client}\n"), "{bytes:?}");
    }
    // A lot of bytes is not a reset.
    let mut stream = stand_in.connect().await;
    stream.write_all(&vec![b'z'; 200_000]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("shop/web-0 "), "{answer}");
    stand_in.wait_for_line("tcp 6 bytes").await;
}

#[tokio::test]
async fn redis_answers_ping() {
    let stand_in = StandIn::start().await;
    let mut stream = stand_in.connect().await;
    for (bytes, expected) in [
        (&b"PING\r\n"[..], "+PONG\r\n"),
        (b"*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
        (b"*2\r\n$4\r\necho\r\n$2\r\nhi\r\n", "$2\r\nhi\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "-ERR a stand-in keeps no data\r\n"),
    ] {
        stream.write_all(bytes).await.unwrap();
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    }
    // Nonsense ends the connection.
    stream.write_all(b"*99999\r\n").await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn udp_answers_each_datagram_from_where_it_was_sent_to() {
    let stand_in = StandIn::start().await;
    let mut families: Vec<IpAddr> = vec![Ipv4Addr::new(127, 0, 0, 1).into()];
    // Another address of the machine: the answer must come from it.
    families.push(Ipv4Addr::new(127, 9, 8, 7).into());
    if stand_in.lines().iter().any(|line| line.contains("[::]")) {
        families.push(Ipv6Addr::LOCALHOST.into());
    }
    for ip in families {
        let own = if ip.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(own).await.unwrap();
        let client = socket.local_addr().unwrap();
        for datagram in [&b"x"[..], b"", &[0; 4000]] {
            socket.send_to(datagram, (ip, stand_in.port)).await.unwrap();
            let mut answer = [0; 512];
            let received = tokio::time::timeout(PATIENCE, socket.recv_from(&mut answer)).await;
            let (len, from) = received.unwrap().unwrap();
            assert_eq!(from, SocketAddr::new(ip, stand_in.port));
            let pod_ip = if ip.is_ipv4() { "10.244.1.5" } else { "fd00::5" };
            assert_eq!(
                String::from_utf8_lossy(&answer[..len]),
                format!("shop/web-0 node1 {pod_ip} client={client}\n")
            );
        }
    }
}

type H2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn http2(stream: TcpStream) -> H2 {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

fn grpc(path: &str, message: &'static [u8]) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://web.shop{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(message)))
        .unwrap()
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> (Bytes, HeaderMap) {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    (collected.to_bytes(), trailers)
}

#[tokio::test]
async fn http2_is_json_and_grpc() {
    let stand_in = StandIn::start().await;
    let mut sender = http2(stand_in.connect().await).await;
    let plain = Request::builder().uri("http://web.shop/x").body(Full::default()).unwrap();
    let answer = json(sender.send_request(plain).await.unwrap()).await;
    assert_eq!(answer["proto"], "HTTP/2.0");
    assert_eq!(answer["host"], "web.shop");
    let check = grpc("/grpc.health.v1.Health/Check", b"\0\0\0\0\0");
    let (message, trailers) = collect(sender.send_request(check).await.unwrap()).await;
    assert_eq!(&message[..], b"\0\0\0\0\x02\x08\x01");
    assert_eq!(trailers["grpc-status"], "0");
    let (message, trailers) =
        collect(sender.send_request(grpc("/shop.Cart/Get", b"\0\0\0\0\x03abc")).await.unwrap())
            .await;
    assert_eq!(&message[..], b"\0\0\0\0\x03abc");
    assert_eq!(trailers["grpc-status"], "0");
    // Watch: one message, then it stays open.
    let watch = grpc("/grpc.health.v1.Health/Watch", b"\0\0\0\0\0");
    let mut body = sender.send_request(watch).await.unwrap().into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(&frame.data_ref().unwrap()[..], b"\0\0\0\0\x02\x08\x01");
    let more = tokio::time::timeout(Duration::from_millis(100), body.frame()).await;
    assert!(more.is_err(), "{more:?}");
    stand_in.wait_for_line("/shop.Cart/Get HTTP/2.0\" grpc").await;
}

/// Accepts any certificate, and keeps what it was shown.
#[derive(Debug)]
struct Anything(rustls::crypto::CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn tls_is_detected_and_carries_the_rest() {
    let stand_in = StandIn::start().await;
    let provider = rustls::crypto::ring::default_provider();
    for (alpn, proto) in [(&b"http/1.1"[..], "HTTP/1.1"), (b"h2", "HTTP/2.0")] {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything(provider.clone())))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "web-0".try_into().unwrap();
        let stream = connector.connect(name, stand_in.connect().await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        let answer = if alpn == b"h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let plain =
                Request::builder().uri("https://web.shop/").body(Full::<Bytes>::default()).unwrap();
            json(sender.send_request(plain).await.unwrap()).await
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            json(sender.send_request(request(Method::GET, "/", b"")).await.unwrap()).await
        };
        assert_eq!(answer["proto"], proto);
        assert_eq!(answer["tls"], true);
    }
    // Broken TLS is logged and ends.
    assert!(!stand_in.raw(b"\x16\x03\x01\x00\x04\x7a\x00\x00\x00").await.contains("HTTP"));
    stand_in.wait_for_line(" tls: ").await;
}

#[tokio::test]
async fn both_families() {
    let stand_in = StandIn::start().await;
    if !stand_in.lines().iter().any(|line| line.contains("[::]")) {
        println!("SKIP both_families: this machine has no IPv6");
        return;
    }
    let stream = TcpStream::connect((Ipv6Addr::LOCALHOST, stand_in.port)).await.unwrap();
    let answer =
        json(http1(stream).await.send_request(request(Method::GET, "/", b"")).await.unwrap()).await;
    assert_eq!(answer["podIP"], "fd00::5");
    assert_eq!(answer["serverAddress"], format!("[::1]:{}", stand_in.port));
}

#[tokio::test]
async fn sigterm_is_a_graceful_end() {
    let mut stand_in = StandIn::start().await;
    // An idle kept connection does not hold it up; a request under way is answered.
    let mut idle = http1(stand_in.connect().await).await;
    idle.send_request(request(Method::GET, "/", b"")).await.unwrap();
    let mut slow = stand_in.connect().await;
    slow.write_all(b"POST /under-way HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na")
        .await
        .unwrap();
    let _watching = http2(stand_in.connect().await)
        .await
        .send_request(grpc("/grpc.health.v1.Health/Watch", b"\0\0\0\0\0"))
        .await
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(stand_in.child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    stand_in.wait_for_line("asked to stop").await;
    wait_until("the end of listening", || {
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, stand_in.port)).is_err()
    })
    .await;
    slow.write_all(b"b").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("/under-way"), "{answer}");
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = stand_in.child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn bad_configuration_is_said() {
    for config in [None, Some("{"), Some("{\"ports\":[{\"port\":70000}]}")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-standin-alone"));
        command.env_clear();
        if let Some(config) = config {
            command.env(ENV, config);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(ENV));
    }
}

/// Private memory of a process that has served a few requests. The aim for the lab is 2 MiB.
#[tokio::test]
async fn memory_is_small() {
    let stand_in = StandIn::start().await;
    let mut sender = http1(stand_in.connect().await).await;
    for _ in 0..50 {
        let response = sender.send_request(request(Method::GET, "/", b"")).await.unwrap();
        json(response).await;
    }
    let text =
        std::fs::read_to_string(format!("/proc/{}/smaps_rollup", stand_in.child.id())).unwrap();
    let anonymous_kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    println!("{anonymous_kib} KiB anonymous\n{text}");
    assert!(anonymous_kib < 2048, "{anonymous_kib} KiB");
}
