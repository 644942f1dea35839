//! The load generator: `xtask bench-worker`, started inside a pod's network namespace; it
//! joins the pod's cgroup by itself, so that its sockets pass the node's hooks.

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

/// Bytes of one write of the throughput test.
const CHUNK: usize = 64 << 10;

/// `serve CGROUP PORT` or `load CGROUP`, with requests on standard input: kind, milliseconds and
/// address. `-` for no cgroup.
pub fn main(args: &[&str]) -> Result<()> {
    match args {
        ["serve", cgroup, port] => {
            join(cgroup)?;
            serve(port.parse().context("port")?)
        }
        ["load", cgroup] => {
            join(cgroup)?;
            let mut line = String::new();
            // One request a line, so that interleaved rounds pay no process start.
            while std::io::stdin().read_line(&mut line).context("read request")? > 0 {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [kind, ms, address] = words[..] else { bail!("bad request {line:?}") };
                let rate = load(
                    kind,
                    Duration::from_millis(ms.parse().context("milliseconds")?),
                    address.parse().context("address")?,
                )?;
                println!("{rate}");
                line.clear();
            }
            Ok(())
        }
        other => bail!("bad worker arguments {other:?}"),
    }
}

fn join(cgroup: &str) -> Result<()> {
    if cgroup == "-" {
        return Ok(());
    }
    std::fs::create_dir_all(cgroup).with_context(|| format!("make {cgroup}"))?;
    std::fs::write(format!("{cgroup}/cgroup.procs"), "0").with_context(|| format!("join {cgroup}"))
}

/// Echoes one byte at a time (`r`), or swallows a stream (`s`); the first byte says which.
fn serve(port: u16) -> Result<()> {
    let listener =
        TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    let listener = listener.with_context(|| format!("listen on port {port}"))?;
    println!("ready");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        std::thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; CHUNK];
    let mut first = [0];
    if stream.read_exact(&mut first).is_err() {
        return;
    }
    if first[0] == b's' {
        while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
        return;
    }
    while stream.write_all(&first).is_ok() && stream.read_exact(&mut first).is_ok() {}
}

/// Operations (rr, crr) or bytes (stream) per second; for `first` what one second holds of the
/// time from `connect` to its answer, which is the first packet there and back; for `knock` 1 where
/// anything answered within the time.
fn load(kind: &str, time: Duration, to: SocketAddr) -> Result<f64> {
    let started = Instant::now();
    let mut done = 0u64;
    match kind {
        "rr" => {
            let mut stream = connect(to)?;
            while started.elapsed() < time {
                exchange(&mut stream)?;
                done += 1;
            }
        }
        "crr" => {
            while started.elapsed() < time {
                let mut stream = connect(to)?;
                exchange(&mut stream)?;
                done += 1;
            }
        }
        "first" => {
            let mut waited = Duration::ZERO;
            while started.elapsed() < time {
                let begin = Instant::now();
                let stream = connect(to)?;
                waited += begin.elapsed();
                drop(stream);
                done += 1;
            }
            return Ok(done as f64 / waited.as_secs_f64());
        }
        "knock" => return Ok(f64::from(reached(to, time))),
        "stream" => {
            let mut stream = connect(to)?;
            let chunk = vec![b's'; CHUNK];
            while started.elapsed() < time {
                stream.write_all(&chunk).context("send")?;
                done += CHUNK as u64;
            }
        }
        other => bail!("unknown load {other}"),
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

/// Whether a packet got there: a refusal is an answer, too.
fn reached(to: SocketAddr, time: Duration) -> bool {
    match TcpStream::connect_timeout(&to, time) {
        Ok(_) => true,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionRefused,
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true).context("set no delay")?;
    // Closing resets: no TIME_WAIT, so that ports do not run out.
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).context("set linger")?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"r").context("send")?;
    let mut byte = [0];
    stream.read_exact(&mut byte).context("receive")
}
