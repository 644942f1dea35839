//! Log and exec, with a stand-in for the kubelet on a Unix socket.

use crate::Server;
use futures::{AsyncBufReadExt, SinkExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, LogParams, PostParams},
};
use serde_json::json;
use std::{path::PathBuf, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use tokio_tungstenite::tungstenite::{Message, handshake::server};

/// Answers `/containerLogs/…` with the path it was asked for, and takes WebSockets for `/exec/…`.
async fn kubelet(socket: PathBuf) {
    let listener = UnixListener::bind(socket).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: UnixStream) {
    // There is no peeking on Unix sockets: what was read goes before the rest.
    let mut head = [0u8; 10];
    stream.read_exact(&mut head).await.unwrap();
    if head.starts_with(b"GET /exec/") {
        exec(Prefixed { head: head.to_vec(), inner: stream }).await;
        return;
    }
    let mut request = head.to_vec();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let text = String::from_utf8(request).unwrap();
    assert!(!text.to_lowercase().contains("authorization"), "tokens are not sent on");
    let line = text.lines().next().unwrap().to_owned();
    let body = format!("{line}\nsecond\n");
    let reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(reply.as_bytes()).await.unwrap();
}

#[allow(clippy::result_large_err)]
async fn exec(stream: Prefixed) {
    let callback = |request: &server::Request, mut response: server::Response| {
        let wanted = request.headers()["sec-websocket-protocol"].to_str().unwrap();
        let first = wanted.split(',').next().unwrap().trim().parse().unwrap();
        response.headers_mut().insert("sec-websocket-protocol", first);
        Ok(response)
    };
    let mut ws = tokio_tungstenite::accept_hdr_async(stream, callback).await.unwrap();
    // Standard input comes on channel 0 and goes back on channel 1.
    while let Some(Ok(message)) = ws.next().await {
        let data = message.into_data();
        if data.first() == Some(&0) && data.len() > 1 {
            let mut back = vec![1];
            back.extend_from_slice(&data[1..]);
            ws.send(Message::binary(back)).await.unwrap();
            break;
        }
    }
    let mut status = vec![3];
    status.extend_from_slice(br#"{"metadata":{},"status":"Success"}"#);
    ws.send(Message::binary(status)).await.unwrap();
    let _ = ws.close(None).await;
}

/// A stream whose first bytes were read already.
struct Prefixed {
    head: Vec<u8>,
    inner: UnixStream,
}

impl tokio::io::AsyncRead for Prefixed {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if !self.head.is_empty() {
            let n = self.head.len().min(buf.remaining());
            buf.put_slice(&self.head[..n]);
            self.head.drain(..n);
            return std::task::Poll::Ready(Ok(()));
        }
        std::pin::Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Prefixed {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

async fn server_with_pod() -> (Server, Api<Pod>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_owned();
    let s = Server::start(|c| {
        c.kubelet_socket = Arc::new(move |node| base.join(format!("{node}.sock")));
    });
    let pods: Api<Pod> = Api::namespaced(s.client().await, "default");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [
        {"name": "one", "image": "i"}, {"name": "two", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    (s, pods, dir)
}

fn with_container(name: &str) -> LogParams {
    LogParams { container: Some(name.into()), ..Default::default() }
}

#[tokio::test]
async fn logs_come_from_the_kubelet_of_the_node() {
    let (_s, pods, dir) = server_with_pod().await;
    let e = pods.logs("p", &with_container("one")).await.unwrap_err().to_string();
    assert!(e.contains("kubelet of node \"n1\" cannot be reached"), "{e}");
    let kubelet = tokio::spawn(kubelet(dir.path().join("n1.sock")));
    let mut lp = with_container("two");
    lp.tail_lines = Some(5);
    // The socket is there as soon as the task has run.
    let text = loop {
        match pods.logs("p", &lp).await {
            Ok(text) => break text,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert!(
        text.starts_with("GET /containerLogs/default/p/two?&tailLines=5 ")
            || text.starts_with("GET /containerLogs/default/p/two?tailLines=5 "),
        "{text}"
    );
    lp.follow = true;
    let lines: Vec<_> =
        pods.log_stream("p", &lp).await.unwrap().lines().try_collect().await.unwrap();
    assert_eq!(lines[1], "second");
    let e = pods.logs("p", &with_container("three")).await.unwrap_err().to_string();
    assert!(e.contains("container three is not valid for pod p"), "{e}");
    let e = pods.logs("p", &LogParams::default()).await.unwrap_err().to_string();
    assert!(e.contains("choose one of: [one two]"), "{e}");
    kubelet.abort();
}

#[tokio::test]
async fn exec_is_spliced() {
    let (_s, pods, dir) = server_with_pod().await;
    let socket = dir.path().join("n1.sock");
    let kubelet = tokio::spawn(kubelet(socket.clone()));
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let params = AttachParams::default().stdin(true).stderr(false).container("one");
    let mut process = pods.exec("p", ["cat"], &params).await.unwrap();
    process.stdin().unwrap().write_all(b"hello").await.unwrap();
    let mut out = String::new();
    process.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "hello");
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));
    kubelet.abort();
}
