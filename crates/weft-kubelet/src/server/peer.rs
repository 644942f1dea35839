//! The client's end of exec and attach: channels in a WebSocket, or streams of a SPDY connection.

use super::channels::{self, ERROR, Incoming, PROTOCOLS, STDERR, STDOUT};
use super::{Failure, Params};
use crate::spdy::{Conn, Event};
use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest message taken from a client.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A SPDY client opens its streams within this (`streamCreationTimeout`).
const STREAMS_SECONDS_MAX: u64 = 30;
/// The protocol of streams over SPDY. Version 5 differs from it in WebSockets only.
const SPDY_PROTOCOL: &str = "v4.channel.k8s.io";
/// A client has this long to answer the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the client wants connected.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Wanted {
    /// Reads the query: `stdin` as the API has it, `input` as the kubelet's own interface does.
    pub fn of(p: &Params) -> Self {
        let tty = p.flag("tty", "tty");
        Self {
            stdin: p.flag("stdin", "input"),
            stdout: p.flag("stdout", "output"),
            // A terminal has one stream for both.
            stderr: p.flag("stderr", "error") && !tty,
            tty,
        }
    }
}

/// What comes from the client.
#[derive(Debug)]
pub enum Input {
    /// Bytes for standard input.
    Stdin(Vec<u8>),
    /// End of standard input.
    CloseStdin,
    /// Size of the terminal: columns and rows.
    Resize(u16, u16),
    /// Nothing that matters.
    Other,
}

/// A connected client.
pub enum Peer {
    /// Channels in a WebSocket.
    Ws(Box<WebSocket>),
    /// Streams of SPDY, by channel.
    Spdy(Conn, BTreeMap<u8, u32>),
}

/// Whether a request asks for SPDY.
pub fn wants_spdy(headers: &HeaderMap) -> bool {
    let upgrade = headers.get("upgrade").and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.to_ascii_uppercase().starts_with("SPDY/3.1"))
}

/// Answers a SPDY upgrade with the stream protocol chosen; the connection comes afterwards.
pub fn spdy_upgrade(request: Request, protocol: &str) -> Result<(Response, OnUpgrade), Failure> {
    let (mut parts, _) = request.into_parts();
    let offered = parts.headers.get_all("x-stream-protocol-version");
    let offered: Vec<String> = offered
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_owned())
        .collect();
    if !offered.iter().any(|o| o == protocol) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!("none of the stream protocols {offered:?} is served; there is {protocol}"),
        ));
    }
    let upgrade = parts
        .extensions
        .remove::<OnUpgrade>()
        .ok_or_else(|| Failure::bad("this connection cannot be upgraded"))?;
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", protocol)
        .body(Body::empty())
        .map_err(|e| Failure::internal(e.to_string()))?;
    Ok((response, upgrade))
}

/// Answers a WebSocket upgrade with one of the subprotocols.
pub async fn ws_upgrade(
    request: Request,
    protocols: &'static [&'static str],
) -> Result<WebSocketUpgrade, Failure> {
    let (mut parts, _) = request.into_parts();
    let asked = parts.headers.contains_key("sec-websocket-protocol");
    let ws = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|e| Failure::bad(format!("a WebSocket or SPDY upgrade is needed: {e}")))?;
    let ws = ws.protocols(protocols.iter().copied()).max_message_size(MESSAGE_BYTES_MAX);
    if asked && ws.selected_protocol().is_none() {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!("none of the subprotocols is served; there are {}", protocols.join(", ")),
        ));
    }
    Ok(ws)
}

/// Upgrades a request as it asks, and serves the client then.
pub async fn accept<F>(
    request: Request,
    wanted: Wanted,
    serve: impl FnOnce(Peer) -> F + Send + 'static,
) -> Result<Response, Failure>
where
    F: Future<Output = ()> + Send + 'static,
{
    if wants_spdy(request.headers()) {
        let (response, upgrade) = spdy_upgrade(request, SPDY_PROTOCOL)?;
        tokio::spawn(async move {
            let Ok(io) = upgrade.await else { return };
            if let Some(peer) = streams(Conn::start(TokioIo::new(io)), wanted).await {
                serve(peer).await;
            }
        });
        return Ok(response);
    }
    let ws = ws_upgrade(request, &PROTOCOLS).await?;
    Ok(ws.on_upgrade(move |socket| async move {
        let mut peer = Peer::Ws(Box::new(socket));
        // Tells the client that the streams stand, as Kubernetes does.
        if peer.send(STDOUT, b"").await {
            serve(peer).await;
        }
    }))
}

/// Waits until the client has opened the streams that it asked for.
async fn streams(mut conn: Conn, wanted: Wanted) -> Option<Peer> {
    let mut ids = BTreeMap::new();
    let needed = [
        (0, wanted.stdin),
        (STDOUT, wanted.stdout),
        (STDERR, wanted.stderr),
        (ERROR, true),
        (4, wanted.tty),
    ];
    let all = async {
        while needed.iter().any(|(c, on)| *on && !ids.contains_key(c)) {
            let Event::Open { id, headers } = conn.events.recv().await? else { continue };
            let kind = headers.iter().find(|(n, _)| n == "streamtype")?.1.clone();
            let channel = match kind.as_str() {
                "stdin" => 0,
                "stdout" => STDOUT,
                "stderr" => STDERR,
                "error" => ERROR,
                "resize" => 4,
                _ => continue,
            };
            ids.insert(channel, id);
        }
        Some(())
    };
    tokio::time::timeout(Duration::from_secs(STREAMS_SECONDS_MAX), all).await.ok()??;
    Some(Peer::Spdy(conn, ids))
}

impl Peer {
    /// Sends bytes on a channel; false: the client is gone.
    pub async fn send(&mut self, channel: u8, data: &[u8]) -> bool {
        match self {
            Self::Ws(ws) => {
                ws.send(Message::Binary(channels::message(channel, data).into())).await.is_ok()
            }
            Self::Spdy(conn, ids) => match ids.get(&channel) {
                Some(id) => conn.sink.data(*id, data).await,
                None => true,
            },
        }
    }

    /// The next thing that the client sends; `None`: it is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Input> {
        match self {
            Self::Ws(ws) => {
                let data = match ws.recv().await?.ok()? {
                    Message::Binary(b) => b,
                    Message::Text(t) => t.into(),
                    Message::Ping(_) | Message::Pong(_) => return Some(Input::Other),
                    Message::Close(_) => return None,
                };
                Some(match channels::parse(&data) {
                    Incoming::Stdin(d) => Input::Stdin(d.to_vec()),
                    Incoming::CloseStdin => Input::CloseStdin,
                    Incoming::Resize(c, r) => Input::Resize(c, r),
                    Incoming::Other => Input::Other,
                })
            }
            Self::Spdy(conn, ids) => {
                let event = conn.events.recv().await?;
                let is = |channel: u8, id: u32| ids.get(&channel) == Some(&id);
                Some(match event {
                    Event::Data(id, data) if is(0, id) => Input::Stdin(data),
                    Event::Fin(id) | Event::Reset(id) if is(0, id) => Input::CloseStdin,
                    Event::Data(id, data) if is(4, id) => {
                        // Several sizes may come at once: the last one holds.
                        let lines = data.split(|b| *b == b'\n').rev();
                        let size = lines.map(|l| channels::message(4, l)).find_map(|m| {
                            match channels::parse(&m) {
                                Incoming::Resize(c, r) => Some((c, r)),
                                _ => None,
                            }
                        });
                        size.map_or(Input::Other, |(c, r)| Input::Resize(c, r))
                    }
                    _ => Input::Other,
                })
            }
        }
    }

    /// Sends the final status and closes.
    pub async fn end(mut self, status: &Value) {
        if let Self::Spdy(conn, ids) = &self {
            for channel in [STDOUT, STDERR] {
                if let Some(id) = ids.get(&channel) {
                    conn.sink.fin(*id).await;
                }
            }
        }
        self.send(ERROR, status.to_string().as_bytes()).await;
        match &mut self {
            Self::Ws(ws) => {
                let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
                let _ = ws.send(Message::Close(Some(frame))).await;
            }
            Self::Spdy(conn, ids) => {
                if let Some(id) = ids.get(&ERROR) {
                    conn.sink.fin(*id).await;
                }
            }
        }
        // The client answers the end by leaving; a connection cut before might lose the status.
        let _ =
            tokio::time::timeout(FAREWELL, async { while self.recv().await.is_some() {} }).await;
    }
}
