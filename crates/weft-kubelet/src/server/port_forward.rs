//! `kubectl port-forward`: pairs of SPDY streams, one pair a connection, either directly or (since
//! kubectl 1.31) with the SPDY connection inside a WebSocket (KEP-4006).

use super::Failure;
use super::peer::{spdy_upgrade, wants_spdy, ws_upgrade};
use crate::ctx::Ctx;
use crate::spdy::{Conn, Event, Sink};
use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, setns};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Stream protocol over SPDY.
const PROTOCOL: &str = "portforward.k8s.io";
/// WebSocket subprotocol of the tunnel.
const TUNNEL: &[&str] = &["SPDY/3.1+portforward.k8s.io"];
/// Bytes between the tunnel's ends.
const TUNNEL_BYTES: usize = 64 << 10;
/// Bytes copied at a time.
const BLOCK: usize = 32 << 10;
/// Pieces waiting for a connection's program.
const QUEUE: usize = 32;
/// A pod answers a connection attempt within this, or not at all.
const CONNECT: Duration = Duration::from_secs(10);

/// ANY /portForward/{namespace}/{pod}
pub async fn port_forward(
    State(ctx): State<Arc<Ctx>>,
    Path((ns, pod)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    let entry = {
        let pods = ctx.pods.lock().expect("invariant: no panic under this lock");
        pods.get(&(ns, pod.clone())).cloned()
    };
    let entry = entry.ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, "NotFound", format!("pod \"{pod}\" not found"))
    })?;
    let spec = entry.pod.spec.as_ref();
    let host = spec.and_then(|s| s.host_network).unwrap_or(false);
    let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
    let netns = (!host).then(|| ctx.sandbox_dir(&uid).join("netns"));
    if wants_spdy(request.headers()) {
        let (response, upgrade) = spdy_upgrade(request, PROTOCOL)?;
        tokio::spawn(async move {
            if let Ok(io) = upgrade.await {
                serve(Conn::start(TokioIo::new(io)), netns).await;
            }
        });
        return Ok(response);
    }
    let ws = ws_upgrade(request, TUNNEL).await?;
    Ok(ws.on_upgrade(move |socket| async move {
        let (ours, theirs) = tokio::io::duplex(TUNNEL_BYTES);
        tokio::join!(tunnel(socket, ours), serve(Conn::start(theirs), netns));
    }))
}

/// Carries a byte stream in binary messages.
async fn tunnel(mut socket: WebSocket, io: DuplexStream) {
    let (mut from, mut to) = tokio::io::split(io);
    let mut buf = vec![0; BLOCK];
    loop {
        tokio::select! {
            m = socket.recv() => match m {
                Some(Ok(Message::Binary(data))) => {
                    if to.write_all(&data).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            n = from.read(&mut buf) => match n {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if socket.send(Message::Binary(buf[..n].to_vec().into())).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
}

/// What one connection of the client consists of, by its request id.
#[derive(Default)]
struct Pair {
    error: Option<u32>,
    data: Option<u32>,
    port: Option<u16>,
}

/// Serves the connections of a client until it goes away.
async fn serve(mut conn: Conn, netns: Option<PathBuf>) {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut inputs: HashMap<u32, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(event) = conn.events.recv().await {
        while tasks.try_join_next().is_some() {}
        match event {
            Event::Open { id, headers } => {
                let get = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v);
                let (Some(kind), Some(request)) = (get("streamtype"), get("requestid")) else {
                    conn.sink.reset(id).await;
                    continue;
                };
                let pair = pairs.entry(request.clone()).or_default();
                pair.port = pair.port.or(get("port").and_then(|p| p.parse().ok()));
                if kind == "error" {
                    pair.error = Some(id)
                } else {
                    pair.data = Some(id)
                }
                if let Pair { error: Some(error), data: Some(data), port } = *pair {
                    pairs.remove(request);
                    let (tx, rx) = mpsc::channel(QUEUE);
                    inputs.insert(data, tx);
                    tasks.spawn(forward(conn.sink.clone(), [error, data], port, rx, netns.clone()));
                }
            }
            Event::Data(id, bytes) => {
                if let Some(tx) = inputs.get(&id)
                    && tx.send(bytes).await.is_err()
                {
                    inputs.remove(&id);
                }
            }
            Event::Fin(id) | Event::Reset(id) => {
                inputs.remove(&id);
            }
        }
    }
}

/// One connection, from its streams to a port of the pod.
async fn forward(
    sink: Sink,
    [error, data]: [u32; 2],
    port: Option<u16>,
    mut input: mpsc::Receiver<Vec<u8>>,
    netns: Option<PathBuf>,
) {
    let stream = match port {
        Some(port) => connect(port, netns).await,
        None => Err("no port".to_owned()),
    };
    let stream = match stream {
        Ok(s) => s,
        Err(e) => {
            let port = port.unwrap_or_default();
            let m = format!("error forwarding port {port} to pod: {e}");
            sink.data(error, m.as_bytes()).await;
            sink.fin(error).await;
            sink.reset(data).await;
            return;
        }
    };
    let (mut from, mut to) = stream.into_split();
    let up = async {
        while let Some(bytes) = input.recv().await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    let down = async {
        let mut buf = vec![0; BLOCK];
        while let Ok(n @ 1..) = from.read(&mut buf).await {
            if !sink.data(data, &buf[..n]).await {
                break;
            }
        }
        sink.fin(data).await;
        sink.fin(error).await;
    };
    // When the program has closed there is nobody to write to any more.
    tokio::pin!(up);
    tokio::select! {
        () = down => {}
        () = async { (&mut up).await; std::future::pending::<()>().await } => {}
    }
}

/// Connects to a port on the pod's own loopback, where programs may listen for themselves alone.
async fn connect(port: u16, netns: Option<PathBuf>) -> Result<TcpStream, String> {
    // A thread of its own enters the namespace and ends; the socket stays there.
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let work = || -> Result<std::net::TcpStream, String> {
            if let Some(path) = netns {
                let file = std::fs::File::open(&path).map_err(|e| e.to_string())?;
                setns(file, CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
            }
            let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            std::net::TcpStream::connect_timeout(&v4, CONNECT)
                .or_else(|_| std::net::TcpStream::connect_timeout(&v6, CONNECT))
                .map_err(|e| format!("dial tcp localhost:{port}: {e}"))
        };
        let _ = tx.send(work());
    });
    let stream = rx.await.map_err(|e| e.to_string())??;
    stream.set_nonblocking(true).map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    TcpStream::from_std(stream).map_err(|e| e.to_string())
}
