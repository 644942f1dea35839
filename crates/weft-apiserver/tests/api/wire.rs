//! Bad input below HTTP's own rules: on sockets, where clients end early, say too much, or say it
//! too slowly. The server answers or closes, and serves the next one.

use crate::Server;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::Duration,
};

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A TLS connection that speaks HTTP/1.1.
fn connect(url: &str, ca: &str) -> Tls {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(url.strip_prefix("https://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    StreamOwned::new(client, stream)
}

/// All that comes until the server closes or the answer is complete.
fn answer(tls: &mut Tls) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match tls.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => all.extend_from_slice(&buffer[..n]),
        }
        let text = String::from_utf8_lossy(&all);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| {
                l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
            });
            if length.is_none_or(|n| body.len() >= n) {
                break;
            }
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn status(text: &str) -> u16 {
    text.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0)
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_is_answered_or_closed() {
    let server = Server::start(|_| {});
    let token = server.kubeconfig.split("token: ").nth(1).unwrap().lines().next().unwrap();
    let auth = format!("authorization: Bearer {token}\r\n");
    let (url, ca) = (server.url.clone(), server.pki.ca_pem.clone());
    let talk = move |bytes: &[u8], half_close: bool| {
        let mut tls = connect(&url, &ca);
        // The server may have closed before all was said.
        let _ = tls.write_all(bytes).and_then(|()| tls.flush());
        if half_close {
            tls.conn.send_close_notify();
            let _ = tls.flush();
            let _ = tls.sock.shutdown(Shutdown::Write);
        }
        answer(&mut tls)
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    let body = r#"{"metadata":{"name":"a"}}"#;
    let post = |length: usize, body: &str| {
        format!(
            "POST {maps} HTTP/1.1\r\nhost: x\r\n{auth}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let long = "a".repeat(60_000);
    let labels: Vec<String> = (0..3000).map(|i| format!("k{i}=v")).collect();
    let values = (0..5000).map(|i| format!("v{i}")).collect::<Vec<_>>().join(",");
    let pods = "/api/v1/pods?labelSelector=";
    let many = "x-a: b\r\n".repeat(500);
    let cases: Vec<(&str, Vec<u8>, bool, &[u16])> = vec![
        ("a whole body", post(body.len(), body).into(), false, &[201]),
        ("half a body, then closed", post(500, body).into(), true, &[0, 400]),
        ("more body than said", post(2, body).into(), false, &[400]),
        ("no HTTP", b"\x16\x03\x01\xff\xff garbage\r\n\r\n".to_vec(), false, &[0, 400]),
        ("a closed write side before the answer", get(maps, &auth).into(), true, &[0, 200]),
        (
            "a huge URL",
            get(&format!("/{}", "a".repeat(200_000)), &auth).into(),
            false,
            &[0, 400, 414, 431],
        ),
        ("a long URL", get(&format!("/{long}"), &auth).into(), false, &[0, 404, 414, 431]),
        (
            "a huge header",
            get(maps, &format!("{auth}x: {}\r\n", "a".repeat(200_000))).into(),
            false,
            &[0, 400, 431],
        ),
        ("many headers", get(maps, &format!("{auth}{many}")).into(), false, &[0, 400, 431]),
        (
            "an enormous selector",
            get(&format!("{pods}{}", labels.join(",")), &auth).into(),
            false,
            &[200],
        ),
        (
            "a set of thousands",
            get(&format!("{pods}k+in+({values})"), &auth).into(),
            false,
            &[200, 400],
        ),
        ("parentheses", get(&format!("{pods}{}", "(".repeat(30_000)), &auth).into(), false, &[400]),
        (
            "a length that is no number",
            post(0, "").replace("length: 0", "length: -1").into(),
            false,
            &[0, 400],
        ),
        (
            "two lengths",
            post(2, "{}").replace("host: x\r\n", "host: x\r\ncontent-length: 9\r\n").into(),
            false,
            &[0, 400],
        ),
        ("a gigantic length", post(1 << 40, "").into(), false, &[413]),
        (
            "no UTF-8 in a header",
            [get(maps, "").trim_end().as_bytes(), b"\r\nauthorization: Bearer \xff\xfe\r\n\r\n"]
                .concat(),
            false,
            &[401, 400],
        ),
        (
            "an unknown method",
            format!("BREW {maps} HTTP/1.1\r\nhost: x\r\n{auth}\r\n").into(),
            false,
            &[405],
        ),
    ];
    let wrong = tokio::task::spawn_blocking(move || {
        let mut wrong = Vec::new();
        for (what, bytes, half_close, codes) in cases {
            let text = talk(&bytes, half_close);
            if !codes.contains(&status(&text)) {
                wrong.push(format!("{what}: {:.300}", text));
            }
            // What is refused by the API says so as a Status.
            let code = status(&text);
            if matches!(code, 401 | 404 | 405 | 413) && !text.contains("\"kind\":\"Status\"") {
                wrong.push(format!("{what}: no Status: {:.300}", text));
            }
        }
        wrong
    })
    .await
    .unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let alive = server.client().await;
    let version = alive.apiserver_version().await.unwrap();
    assert_eq!(version.major, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_idle_and_broken_connections_harm_nobody() {
    let server = Server::start(|_| {});
    let (url, ca) = (server.url.clone(), server.pki.ca_pem.clone());
    let held = tokio::task::spawn_blocking(move || {
        let address = url.strip_prefix("https://").unwrap();
        // Half of a handshake, half of a request, and nothing at all.
        let mut silent: Vec<TcpStream> =
            (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
        for stream in silent.iter_mut().take(25) {
            stream.write_all(&[0x16, 0x03, 0x01, 0x02]).unwrap();
        }
        let mut slow: Vec<Tls> = (0..20).map(|_| connect(&url, &ca)).collect();
        for tls in &mut slow {
            tls.write_all(b"POST /api/v1/namespaces HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n")
                .unwrap();
            tls.flush().unwrap();
        }
        (silent, slow)
    })
    .await
    .unwrap();
    let client = server.client().await;
    for _ in 0..20 {
        client.apiserver_version().await.unwrap();
    }
    drop(held);
    client.apiserver_version().await.unwrap();
}
