//! The load generator of `cargo xtask bench apiserver`: a process of its own that starts servers,
//! keeps connections to them and answers one line of standard input with one line of JSON, so
//! that interleaved rounds pay no process start.
//!
//! ```text
//! start NAME KUBECONFIG PROGRAM ARGS…   spawn a server; time until its first answer
//! stop NAME | kill NAME                 SIGTERM and wait | SIGKILL and wait
//! rss NAME                              resident memory
//! creates NAME CONNECTIONS MS           creates of 1 KiB ConfigMaps
//! list NAME PATH ACCEPT                 one GET, until the last byte
//! pods|services|slices NAME COUNT       fill it
//! watch NAME WATCHERS EVENTS PER_S      delay from the write to each watcher
//! ```
#![allow(clippy::unwrap_used, missing_docs)] // a tool of the bench, not of users

mod client;
mod fill;
mod peer;
mod server;
mod watch;

use anyhow::{Context, Result, bail};
use client::{Connection, Target};
use serde_json::{Value, json};
use server::Servers;
use std::{
    io::BufRead,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Names of objects are unique across rounds.
static SERIAL: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [peer, kubeconfig] = &args[..]
        && peer == "peer"
    {
        return runtime.block_on(peer::run(kubeconfig.as_ref()));
    }
    let mut servers = Servers::default();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read a command")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match runtime.block_on(answer(&mut servers, &words)) {
            Ok(v) => v,
            Err(e) => json!({"error": format!("{line}: {e:#}")}),
        };
        println!("{answer}");
    }
    Ok(())
}

async fn answer(servers: &mut Servers, words: &[&str]) -> Result<Value> {
    let number = |s: &str| s.parse::<u64>().with_context(|| format!("{s} is no number"));
    match words {
        ["start", name, kubeconfig, program, args @ ..] => {
            servers.start(name, kubeconfig.as_ref(), program, args).await
        }
        ["stop", name] => servers.stop(name, true).await,
        ["kill", name] => servers.stop(name, false).await,
        ["rss", name] => servers.rss(name),
        ["creates", name, connections, ms] => {
            let time = Duration::from_millis(number(ms)?);
            creates(servers.target(name)?, number(connections)?, time).await
        }
        ["list", name, path, accept] => list(servers.target(name)?, path, accept).await,
        ["pods", name, count] => fill::fill(servers.target(name)?, number(count)?, fill::pod).await,
        ["services", name, count] => {
            fill::fill(servers.target(name)?, number(count)?, fill::service).await
        }
        ["slices", name, count] => {
            fill::fill(servers.target(name)?, number(count)?, fill::slice).await
        }
        ["watch", name, watchers, events, per_s] => {
            let (watchers, events) = (number(watchers)?, number(events)?);
            watch::run(servers.target(name)?, watchers, events, number(per_s)?).await
        }
        other => bail!("unknown command {other:?}"),
    }
}

/// Creates of 1 KiB objects, one after the other on each connection, until the time is over.
async fn creates(target: Target, connections: u64, time: Duration) -> Result<Value> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(&target).await?);
    }
    let started = Instant::now();
    let tasks: Vec<_> = open
        .into_iter()
        .map(|mut connection| {
            let target = target.clone();
            tokio::spawn(async move {
                let mut delays = Vec::new();
                while started.elapsed() < time {
                    let n = SERIAL.fetch_add(1, Ordering::Relaxed);
                    let (path, body) = fill::config_map(n);
                    let request = target.request("POST", &path, "application/json", &body);
                    let sent = Instant::now();
                    let response = connection.exchange(&request).await?;
                    delays.push(sent.elapsed().as_secs_f64() * 1e3);
                    response.expect(201)?;
                }
                Ok::<_, anyhow::Error>(delays)
            })
        })
        .collect();
    let mut delays = Vec::new();
    for task in tasks {
        delays.extend(task.await??);
    }
    let per_s = delays.len() as f64 / started.elapsed().as_secs_f64();
    Ok(
        json!({"per_s": per_s, "p50_ms": quantile(&mut delays, 0.5), "p99_ms": quantile(&mut delays, 0.99)}),
    )
}

/// One list, from the request to the last byte of the answer.
async fn list(target: Target, path: &str, accept: &str) -> Result<Value> {
    let mut connection = Connection::open(&target).await?;
    let request = target.request("GET", path, accept, b"");
    let sent = Instant::now();
    let response = connection.exchange(&request).await?;
    let ms = sent.elapsed().as_secs_f64() * 1e3;
    response.expect(200)?;
    // Checked outside the timed part. The peer sends no JSON.
    let items = match serde_json::from_slice::<Value>(&response.body) {
        Ok(v) => ["items", "rows"].iter().find_map(|k| Some(v[k].as_array()?.len())),
        Err(_) => None,
    };
    Ok(json!({"ms": ms, "bytes": response.body.len(), "items": items}))
}

/// The sample at that quantile.
pub fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples.get((q * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}
