//! Clients that are slow, many, or mean to do harm: the others go on, and all is bounded.

use crate::Server;
use bytes::Bytes;
use futures::future::join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weft_apiserver::Limits;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Address and token of a server, and a TLS client for it.
struct Raw {
    address: SocketAddr,
    token: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Raw {
    fn of(server: &Server, alpn: &[u8]) -> Self {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let v: Value = serde_yaml_ng::from_str(&server.kubeconfig).unwrap();
        let cluster = &v["clusters"][0]["cluster"];
        let ca = cluster["certificate-authority-data"].as_str().unwrap();
        let ca = BASE64_STANDARD.decode(ca).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let url = cluster["server"].as_str().unwrap();
        Self {
            address: url.trim_start_matches("https://").parse().unwrap(),
            token: v["users"][0]["user"]["token"].as_str().unwrap().to_owned(),
            tls: Arc::new(tls),
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(self.tls.clone()).connect(name, stream).await.unwrap()
    }

    fn head(&self, method: &str, path: &str) -> String {
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", self.token)
    }

    fn request(&self, path: &str) -> Request<Empty<Bytes>> {
        Request::get(format!("https://{}{path}", self.address))
            .header("authorization", format!("Bearer {}", self.token))
            .body(Empty::new())
            .unwrap()
    }

    async fn h2(&self) -> http2::SendRequest<Empty<Bytes>> {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(16 << 20)
            .handshake(io)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }
}

/// Everything until the server closes; a reset is an end as well.
async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
    let mut out = Vec::new();
    let _ = stream.read_to_end(&mut out).await;
    String::from_utf8_lossy(&out).into_owned()
}

/// The server serves others.
async fn lives(server: &Server) {
    let raw = Raw::of(server, b"http/1.1");
    let mut stream = raw.connect().await;
    let request = raw.head("GET", "/api/v1/namespaces/default") + "connection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
}

/// Little patience. Handshake and first bytes have longer: connections that are to be served must
/// be quick enough on a machine that is busy, too.
fn short() -> Limits {
    let soon = Duration::from_secs(2);
    let body_timeout = Duration::from_millis(100);
    Limits { first_timeout: soon, header_timeout: soon, body_timeout, ..Limits::default() }
}

#[tokio::test]
async fn slow_headers_and_bodies_are_cut_off() {
    let s = Server::start(|c| c.limits = short());
    let raw = Raw::of(&s, b"http/1.1");
    // Nothing; a part of the headers; a part of the body; a body of unknown length that stops.
    let half = raw.head("POST", MAPS);
    let body = half.clone() + "content-length: 100\r\n\r\n{\"metadata\":";
    let chunked = half.clone() + "transfer-encoding: chunked\r\n\r\n5\r\n{\"met";
    let cases =
        [(String::new(), ""), (half, ""), (body, "HTTP/1.1 504"), (chunked, "HTTP/1.1 504")];
    let cases = cases.map(async |(sent, answer)| {
        let mut stream = raw.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let got = rest(&mut stream).await;
        assert!(got.starts_with(answer), "{sent:?}: {got}");
        assert!(!answer.is_empty() || got.is_empty() || got.starts_with("HTTP/1.1 408"), "{got}");
    });
    // Not even TLS.
    let silent = async {
        let mut silent = TcpStream::connect(raw.address).await.unwrap();
        let mut nothing = Vec::new();
        let _ = silent.read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    };
    tokio::join!(join_all(cases), silent);
    lives(&s).await;
}

#[tokio::test]
async fn who_finds_no_room_is_told_so() {
    let s = Server::start(|c| c.limits.connections = 2);
    let raw = Raw::of(&s, b"http/1.1");
    let watch = raw.head("GET", &format!("{MAPS}?watch=1")) + "\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = raw.connect().await;
        stream.write_all(watch.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut third = raw.connect().await;
    let request = raw.head("GET", "/api/v1/namespaces/default") + "\r\n";
    third.write_all(request.as_bytes()).await.unwrap();
    let refused = rest(&mut third).await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: 1"), "{refused}");
    assert!(refused.contains("Too many requests, please try again later."), "{refused}");
    drop(held);
    // As soon as the server has seen them go there is room.
    loop {
        let mut stream = raw.connect().await;
        let close = raw.head("GET", "/api/v1/namespaces/default") + "connection: close\r\n\r\n";
        stream.write_all(close.as_bytes()).await.unwrap();
        if rest(&mut stream).await.starts_with("HTTP/1.1 200") {
            break;
        }
    }
    // Room for bodies: what is announced is too much for this server at once.
    let s = Server::start(|c| {
        c.limits = Limits { body_bytes: 1 << 20, ..short() };
    });
    let raw = Raw::of(&s, b"http/1.1");
    let mut stream = raw.connect().await;
    let large = raw.head("POST", MAPS) + "content-length: 2000000\r\n\r\n";
    stream.write_all(large.as_bytes()).await.unwrap();
    let refused = rest(&mut stream).await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    lives(&s).await;
}

#[tokio::test]
async fn a_half_closed_watch_ends() {
    let s = Server::start(|_| {});
    let raw = Raw::of(&s, b"http/1.1");
    let mut stream = raw.connect().await;
    let watch = raw.head("GET", &format!("{MAPS}?watch=1")) + "\r\n";
    stream.write_all(watch.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    // Nothing will be said any more; the server closes as well instead of watching for nobody.
    stream.shutdown().await.unwrap();
    rest(&mut stream).await;
    lives(&s).await;
}

/// A thousand watches that hear nothing, then one event, then the end of the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_watches_hear_and_end() {
    let s = Server::start(|_| {});
    let raw = Raw::of(&s, b"h2");
    let path = format!("{MAPS}?watch=1&resourceVersion=0");
    let mut watches = Vec::new();
    for _ in 0..4 {
        let mut sender = raw.h2().await;
        for _ in 0..250 {
            sender.ready().await.unwrap();
            watches.push(sender.send_request(raw.request(&path)));
        }
    }
    let responses = join_all(watches).await;
    let client = s.client().await;
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(client, "default");
    let map = serde_json::from_value(serde_json::json!({"metadata": {"name": "news"}})).unwrap();
    maps.create(&Default::default(), &map).await.unwrap();
    let read = responses.into_iter().map(|r| async {
        let mut body = r.unwrap().into_body();
        let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
        (String::from_utf8_lossy(&event).contains("\"news\""), body)
    });
    let (heard, bodies): (Vec<bool>, Vec<_>) = join_all(read).await.into_iter().unzip();
    assert_eq!(heard.iter().filter(|h| **h).count(), 1000);
    s.api.shutdown();
    for body in bodies {
        // A clean end of the stream, and no reset.
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }
    s.stop().await;
}

/// A client that takes nothing holds up nobody, and what waits for it is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_stream_is_cut_off_alone() {
    let s = Server::start(|_| {});
    let raw = Raw::of(&s, b"h2");
    let io = TokioIo::new(raw.connect().await);
    let (mut stalled, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1000)
        .handshake::<_, Empty<Bytes>>(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let path = format!("{MAPS}?watch=1&resourceVersion=0");
    let held = stalled.send_request(raw.request(&path)).await.unwrap();
    let mut quick = raw.h2().await;
    let mut watch = quick.send_request(raw.request(&path)).await.unwrap().into_body();
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(s.client().await, "default");
    for n in 0..40 {
        let map = serde_json::json!({"metadata": {"name": format!("c{n:02}")},
            "data": {"fill": "x".repeat(600_000)}});
        let map = serde_json::from_value(map).unwrap();
        maps.create(&Default::default(), &map).await.unwrap();
        let mut event = Vec::new();
        while event.last() != Some(&b'\n') {
            let frame = watch.frame().await.unwrap().unwrap();
            event.extend_from_slice(&frame.into_data().unwrap());
        }
        assert!(String::from_utf8_lossy(&event).contains(&format!("\"c{n:02}\"")));
    }
    // Read at last, it ends before all that happened: it was cut off.
    let late = held.into_body().collect().await.map(|b| b.to_bytes().len()).unwrap_or(0);
    assert!(late < 39 * 600_000, "{late} bytes");
    lives(&s).await;
}

/// Streams that are opened and reset at once (CVE-2023-44487), and pings without end.
#[tokio::test]
async fn floods_of_frames_end_the_connection_alone() {
    let s = Server::start(|_| {});
    let raw = Raw::of(&s, b"h2");
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut f = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        f.extend([kind, flags]);
        f.extend(stream.to_be_bytes());
        f.extend(payload);
        f
    };
    // :method GET, :scheme https, :path /, :authority "x", out of HPACK's static table.
    let headers = [0x82, 0x87, 0x84, 0x41, 0x01, b'x'];
    let mut resets = Vec::new();
    for stream in (1..20_001u32).step_by(2) {
        resets.extend(frame(1, 0x5, stream, &headers));
        resets.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    let pings: Vec<u8> = (0..50_000).flat_map(|_| frame(6, 0, 0, &[0; 8])).collect();
    for (flood, must_end) in [(resets, true), (pings, false)] {
        let mut stream = raw.connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let sent = tokio::spawn(async move {
            let sent = write.write_all(&flood).await;
            let _ = write.flush().await;
            // Pings are answered one by one; they need not end the connection.
            if !must_end {
                let _ = write.shutdown().await;
            }
            (sent, write)
        });
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        drop(sent.await.unwrap());
        let goaway = answer.windows(5).any(|w| w[0..3] == [0, 0, 8] && w[3] == 7);
        assert!(!must_end || goaway || answer.len() < 4096, "{} bytes back", answer.len());
    }
    let ok = raw.h2().await.send_request(raw.request("/version")).await.unwrap();
    assert_eq!(ok.status(), StatusCode::OK);
    lives(&s).await;
}
