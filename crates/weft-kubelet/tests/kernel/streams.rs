//! Logs, exec and attach on the kubelet's socket.

use crate::world::{NS, World, container};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

async fn get(w: &World, path: &str) -> (u16, String) {
    let stream = UnixStream::connect(w.dir.join("kubelet.sock")).await.unwrap();
    let (mut sender, conn) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(conn);
    let request = http::Request::get(path)
        .header("host", "kubelet")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// What a stream brought: standard output, standard error, final status.
#[derive(Default, Debug)]
struct Brought {
    out: String,
    err: String,
    status: Value,
}

async fn stream(w: &World, path: &str, protocol: &str, input: Vec<Vec<u8>>) -> Brought {
    let unix = UnixStream::connect(w.dir.join("kubelet.sock")).await.unwrap();
    let mut request = format!("ws://kubelet{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (mut ws, answer) = tokio_tungstenite::client_async(request, unix).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], protocol);
    for m in input {
        ws.send(Message::Binary(m.into())).await.unwrap();
    }
    let mut b = Brought::default();
    while let Some(Ok(m)) = ws.next().await {
        match m {
            Message::Binary(d) => match d.split_first() {
                Some((1, d)) => b.out.push_str(&String::from_utf8_lossy(d)),
                Some((2, d)) => b.err.push_str(&String::from_utf8_lossy(d)),
                Some((3, d)) => b.status = serde_json::from_slice(d).unwrap(),
                _ => {}
            },
            Message::Close(_) => break,
            _ => {}
        }
    }
    b
}

fn exec_path(pod: &str, argv: &[&str], rest: &str) -> String {
    let encode = |s: &str| {
        s.bytes().fold(String::new(), |mut out, b| {
            use std::fmt::Write;
            let _ = write!(out, "%{b:02x}");
            out
        })
    };
    let argv: Vec<String> = argv.iter().map(|a| format!("command={}", encode(a))).collect();
    format!("/exec/{NS}/{pod}/c?{}{rest}", argv.join("&"))
}

fn code(status: &Value) -> i32 {
    if status["status"] == "Success" {
        return 0;
    }
    let code = status["details"]["causes"][0]["message"].as_str().unwrap_or_default();
    code.parse().unwrap_or_else(|_| panic!("no exit code in {status}"))
}

/// Runs a command in a container; exit code and standard output.
pub fn run(w: &World, pod: &str, argv: &[&str], input: Option<&str>) -> (i32, String) {
    let rest = if input.is_some() { "&stdin=true&stdout=true" } else { "&output=1&error=1" };
    let mut messages = Vec::new();
    if let Some(text) = input {
        messages.push([b"\0", text.as_bytes()].concat());
        messages.push(vec![255, 0]);
    }
    let path = exec_path(pod, argv, rest);
    let b = w.wait(stream(w, &path, "v5.channel.k8s.io", messages));
    (code(&b.status), b.out)
}

pub fn exec(w: &World) {
    w.pod(
        "shell",
        json!({"containers": [{"name": "c", "stdin": true, "env": [{"name": "A", "value": "b"}],
            "command": ["sh", "-c", "while read l; do echo got $l; done; sleep 1000"]}]}),
    );
    w.until_ready("shell");
    assert_eq!(run(w, "shell", &["sh", "-c", "echo $A; exit 3"], None), (3, "b\n".into()));
    assert_eq!(run(w, "shell", &["cat"], Some("to and fro")), (0, "to and fro".into()));
    assert_eq!(run(w, "shell", &["no-such-program"], None).0, 127);
    let big = "0123456789abcdef".repeat(60_000);
    let (code_, out) = run(w, "shell", &["cat"], Some(&big));
    assert_eq!((code_, out.len()), (0, big.len()), "input and output flow at the same time");
    let path = exec_path("shell", &["sh", "-c", "echo e >&2"], "&stdout=1&stderr=1");
    let b = w.wait(stream(w, &path, "v4.channel.k8s.io", Vec::new()));
    assert_eq!((b.err.as_str(), b.out.as_str()), ("e\n", ""));
    let path = exec_path("shell", &["sh"], "&stdin=1&stdout=1&tty=1");
    let input =
        vec![b"\x04{\"Width\":77,\"Height\":33}".to_vec(), b"\0stty size; tty; exit 5\n".to_vec()];
    let b = w.wait(stream(w, &path, "v5.channel.k8s.io", input));
    assert_eq!(code(&b.status), 5, "{b:?}");
    assert!(b.out.contains("33 77"), "{b:?}");
    let path = format!("/attach/{NS}/shell/c?stdin=1&stdout=1&stderr=1");
    let attached = async {
        let unix = UnixStream::connect(w.dir.join("kubelet.sock")).await.unwrap();
        let mut request = format!("ws://kubelet{path}").into_client_request().unwrap();
        let protocol = "v5.channel.k8s.io".parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (mut ws, _) = tokio_tungstenite::client_async(request, unix).await.unwrap();
        ws.send(Message::Binary(b"\0hello\n".to_vec().into())).await.unwrap();
        let mut out = Vec::new();
        while !String::from_utf8_lossy(&out).contains("got hello") {
            match ws.next().await {
                Some(Ok(Message::Binary(d))) => out.extend_from_slice(&d),
                other => panic!("{other:?} after {out:?}"),
            }
        }
    };
    w.wait(async { tokio::time::timeout(std::time::Duration::from_secs(20), attached).await })
        .unwrap();
    // The end of an attached container is told although its next run has begun.
    w.pod(
        "ends",
        json!({"containers": [{"name": "c", "stdin": true,
            "command": ["sh", "-c", "read l; exit 7"]}]}),
    );
    w.until_ready("ends");
    let path = format!("/attach/{NS}/ends/c?stdin=1&stdout=1");
    let b = w.wait(stream(w, &path, "v5.channel.k8s.io", vec![b"\0x\n".to_vec()]));
    assert_eq!(code(&b.status), 7, "{b:?}");
    let pod = w.until("ends", "was restarted", |p| container(p, "c")["restartCount"] == 1);
    assert_eq!(container(&pod, "c")["lastState"]["terminated"]["exitCode"], 7);
    w.delete_and_wait("ends", 0);
    let (status, body) = w.wait(get(w, &exec_path("shell", &["ls"], "")));
    assert_eq!(status, 400, "{body}");
    let (status, body) = w.wait(get(w, &format!("/exec/{NS}/none/c?command=ls")));
    assert_eq!(status, 404, "{body}");
    w.delete_and_wait("shell", 0);
}

pub fn logs(w: &World) {
    w.pod(
        "talks",
        json!({"containers": [{"name": "c", "command": ["sh", "-c",
            "echo one; echo two >&2; printf three; [ -e /run/x ] || sleep 1000"]}]}),
    );
    w.until_ready("talks");
    let path = format!("/containerLogs/{NS}/talks/c");
    let until = |query: &str, want: &str| {
        let start = std::time::Instant::now();
        loop {
            let (status, body) = w.wait(get(w, &format!("{path}?{query}")));
            if (status, body.as_str()) == (200, want) {
                return;
            }
            assert!(start.elapsed().as_secs() < 10, "{query}: {status} {body:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    until("tailLines=1&limitBytes=3", "two");
    let (status, body) = w.wait(get(w, &format!("{path}?previous=true")));
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("previous terminated container"), "{body}");
    let (status, _) = w.wait(get(w, &format!("/containerLogs/{NS}/talks/nobody")));
    assert_eq!(status, 400);
    let (status, _) = w.wait(get(w, &format!("{path}?tailLines=x")));
    assert_eq!(status, 400);
    let (_, list) = w.wait(get(w, "/pods"));
    assert!(list.contains("\"talks\""), "{list}");
    // A followed log ends with its container.
    let followed = format!("{path}?follow=true");
    let follow = async {
        let (a, ()) = tokio::join!(get(w, &followed), async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let params =
                kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
            w.pods().delete("talks", &params).await.unwrap();
        });
        a
    };
    let (status, body) = w.wait(follow);
    assert_eq!(status, 200);
    assert!(body.starts_with("one\ntwo\n"), "{body:?}");
    w.until("talks", "went away", Value::is_null);
}
