//! Fan-out: many watchers, few events, and how late each watcher hears of each.

use crate::{
    client::{Connection, Target},
    fill, quantile,
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MARK: &[u8] = b"\"sent\":\"";
/// A watcher that hears nothing for so long has lost an event.
const PATIENCE: Duration = Duration::from_secs(20);
/// Handshakes at once while the watchers connect.
const OPENING: usize = 32;

pub async fn run(target: Target, watchers: u64, events: u64, per_s: u64) -> Result<Value> {
    let epoch = Instant::now();
    let path = fill::config_map(0).0;
    let mut writer = Connection::open(&target).await?;
    // The object is there and nothing else happens: all that comes is ours.
    let tick = |sent: u128| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tick",
            "namespace": "default"}, "data": {"sent": sent.to_string(), "fill": "x".repeat(512)}})
        .to_string()
    };
    let make = target.request("POST", &path, "application/json", tick(0).as_bytes());
    let made = writer.exchange(&make).await?;
    if !matches!(made.status, 201 | 409) {
        made.expect(201)?;
    }
    let get = target.request("GET", &format!("{path}/tick"), "application/json", b"");
    let got: Value = serde_json::from_slice(&writer.exchange(&get).await?.body)?;
    let rv = got["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?;
    let request =
        target.request("GET", &format!("{path}?watch=1&resourceVersion={rv}"), "*/*", b"");

    let mut open = Vec::new();
    while (open.len() as u64) < watchers {
        let more = (watchers as usize - open.len()).min(OPENING);
        let batch = (0..more).map(|_| watcher(&target, &request));
        open.extend(futures::future::try_join_all(batch).await?);
    }
    let tasks: Vec<_> = open.into_iter().map(|c| tokio::spawn(listen(c, events, epoch))).collect();

    let mut beat = tokio::time::interval(Duration::from_micros(1_000_000 / per_s.max(1)));
    for _ in 0..events {
        beat.tick().await;
        let body = tick(epoch.elapsed().as_nanos());
        let put =
            target.request("PUT", &format!("{path}/tick"), "application/json", body.as_bytes());
        writer.exchange(&put).await?.expect(200)?;
    }
    let mut delays = Vec::new();
    for task in tasks {
        delays.extend(task.await??);
    }
    Ok(json!({"samples": delays.len(), "p50_ms": quantile(&mut delays, 0.5),
        "p99_ms": quantile(&mut delays, 0.99), "max_ms": quantile(&mut delays, 1.0)}))
}

/// A watch whose headers have come.
async fn watcher(target: &Target, request: &[u8]) -> Result<Connection> {
    let mut connection = Connection::open(target).await?;
    connection.send(request).await?;
    loop {
        let buffer = connection.read().await?;
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            if !buffer.starts_with(b"HTTP/1.1 200") {
                bail!("{}", String::from_utf8_lossy(buffer));
            }
            buffer.drain(..end + 4);
            return Ok(connection);
        }
    }
}

/// The delay of each event in milliseconds: from before its write to its arrival here.
async fn listen(mut connection: Connection, events: u64, epoch: Instant) -> Result<Vec<f64>> {
    let mut delays = Vec::new();
    while (delays.len() as u64) < events {
        let read = tokio::time::timeout(PATIENCE, connection.read()).await;
        let buffer = read.with_context(|| format!("only {} of {events} came", delays.len()))??;
        let now = epoch.elapsed().as_nanos() as f64;
        let mut at = 0;
        while let Some(start) = buffer[at..].windows(MARK.len()).position(|w| w == MARK) {
            let digits = at + start + MARK.len();
            let Some(len) = buffer[digits..].iter().position(|b| *b == b'"') else { break };
            let sent: f64 = std::str::from_utf8(&buffer[digits..digits + len])?.parse()?;
            delays.push((now - sent) / 1e6);
            at = digits + len;
        }
        buffer.drain(..at);
        // What is left may be the beginning of a mark.
        let keep = buffer.len().min(MARK.len() + 32);
        if at > 0 {
            buffer.drain(..buffer.len() - keep);
        }
    }
    Ok(delays)
}
