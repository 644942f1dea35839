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
use std::os::unix::fs::MetadataExt;
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
        // Asked before reading as well: nobody writes to a file that has been replaced.
        let next = if follow { replaced(&path, &file) } else { None };
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
        if let Some(next) = next {
            file = next;
            continue;
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

/// The file that lies at a path where the log has been rotated since.
fn replaced(path: &std::path::Path, old: &File) -> Option<File> {
    let inode = |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).ok();
    let new = File::open(path).ok()?;
    (inode(&new)? != inode(old)?).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_followed_log_goes_on_after_its_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        let entry = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        std::fs::write(&path, entry("one")).unwrap();
        let (live, (tx, mut rx)) = (AtomicBool::new(true), mpsc::channel(4));
        let options = Options { follow: true, ..Options::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wait = Duration::from_secs(20);
        let work = async {
            let follower = async {
                copy(path.clone(), options, || live.load(Ordering::Relaxed), &tx).await.unwrap();
            };
            let writer = async {
                assert_eq!(rx.recv().await.unwrap().unwrap(), "one\n");
                std::fs::write(&path, entry("one") + &entry("last")).unwrap();
                std::fs::rename(&path, &old).unwrap();
                std::fs::write(&path, entry("two")).unwrap();
                assert_eq!(rx.recv().await.unwrap().unwrap(), "last\n");
                assert_eq!(rx.recv().await.unwrap().unwrap(), "two\n");
                live.store(false, Ordering::Relaxed);
            };
            tokio::join!(follower, writer)
        };
        runtime.block_on(async { tokio::time::timeout(wait, work).await }).unwrap();
    }
}
