//! `kubectl logs`.

use super::{Failure, Params, find, waiting};
use crate::ctx::Ctx;
use crate::logs::{Options, Renderer, tail_offset};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A followed log is looked at this often.
const POLL: Duration = Duration::from_millis(25);
/// Bytes read at a time.
const BLOCK: usize = 64 << 10;

fn options(p: &Params) -> Result<Options, Failure> {
    let mut since = match p.number::<i64>("sinceSeconds")? {
        Some(s) if s < 1 => return Err(Failure::bad("sinceSeconds: must be greater than 0")),
        Some(s) => Timestamp::now().checked_sub(SignedDuration::from_secs(s)).ok(),
        None => None,
    };
    if let Some(t) = p.get("sinceTime").filter(|t| !t.is_empty()) {
        let t = t.parse().map_err(|_| Failure::bad(format!("sinceTime: {t:?} is not a time")))?;
        since = Some(t);
    }
    Ok(Options {
        follow: p.flag("follow", "follow"),
        tail: p.number::<i64>("tailLines")?.and_then(|n| u64::try_from(n).ok()),
        since,
        timestamps: p.flag("timestamps", "timestamps"),
        limit: p.number("limitBytes")?,
    })
}

/// GET /containerLogs/{namespace}/{pod}/{container}
pub async fn logs(
    State(ctx): State<Arc<Ctx>>,
    Path((ns, pod, name)): Path<(String, String, String)>,
    params: Params,
) -> Result<Response, Failure> {
    let options = options(&params)?;
    let (entry, container) = find(&ctx, &ns, &pod, &name)?;
    let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
    let run = container.as_ref().map_or(0, |c| c.run);
    let previous = params.flag("previous", "previous");
    let mut number = if previous { run.checked_sub(1) } else { Some(run) };
    // Between two runs the log of the last one is the current one.
    if !previous && run > 0 && !ctx.log(&uid, &name, run).exists() {
        number = Some(run - 1);
    }
    let path = number.map(|n| ctx.log(&uid, &name, n)).filter(|p| p.exists());
    let Some(path) = path else {
        if previous {
            return Err(Failure::bad(format!(
                "previous terminated container \"{name}\" in pod \"{pod}\" not found"
            )));
        }
        // A stand-in init container has completed without a word.
        return match waiting(&entry, &name) {
            Some(reason) => Err(Failure::bad(format!(
                "container \"{name}\" in pod \"{pod}\" is waiting to start: {reason}"
            ))),
            None => Ok(([("content-type", "text/plain")], "").into_response()),
        };
    };
    let (tx, rx) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    let key = (ns, pod);
    let live = move || {
        let pods = ctx.pods.lock().expect("invariant: no panic under this lock");
        pods.get(&key).is_some_and(|e| {
            let same = e.pod.metadata.uid.as_deref() == Some(uid.as_str());
            let c = e.containers.get(&name);
            same && c.is_some_and(|c| c.container.is_some() && Some(c.run) == number)
        })
    };
    tokio::spawn(async move {
        if let Err(e) = copy(path, options, live, &tx).await {
            let _ = tx.send(Err(e)).await;
        }
    });
    let body = Body::from_stream(tokio_stream(rx));
    Ok(([("content-type", "text/plain")], body).into_response())
}

fn tokio_stream<T>(mut rx: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::poll_fn(move |cx| rx.poll_recv(cx))
}

/// Copies a log to a channel until its end, or while it is followed until `live` says that the
/// container is over.
pub async fn copy(
    path: PathBuf,
    options: Options,
    live: impl Fn() -> bool,
    out: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> std::io::Result<()> {
    let mut file = File::open(&path)?;
    if let Some(lines) = options.tail {
        let from = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(from))?;
    }
    let follow = options.follow;
    let mut renderer = Renderer::new(options);
    let mut buf = vec![0; BLOCK];
    loop {
        // Asked before reading: what was written before the end is then still read.
        let over = !live();
        loop {
            let n = file.read(&mut buf)?;
            if n == 0 {
                break;
            }
            let shown = renderer.feed(&buf[..n]);
            if !shown.is_empty() && out.send(Ok(shown.into())).await.is_err() {
                return Ok(());
            }
            if renderer.full() {
                return Ok(());
            }
        }
        if !follow || over {
            return Ok(());
        }
        tokio::select! {
            () = out.closed() => return Ok(()),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
