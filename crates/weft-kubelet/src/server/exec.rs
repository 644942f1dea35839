//! `kubectl exec` and `kubectl attach`.

use super::channels::{self, STDERR, STDOUT};
use super::peer::{Input, Peer, Wanted, accept};
use super::{Failure, Params, find, waiting};
use crate::ctx::{ContainerEntry, Ctx};
use crate::logs::{LINE_BYTES_MAX, parse, tail_offset};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Messages waiting in each direction.
const QUEUE: usize = 16;
/// Bytes read from a pipe at a time.
const BLOCK: usize = 32 << 10;
/// After the command's end a pipe that somebody else holds open is left when it is this long
/// silent.
const SILENCE_MS: u8 = 100;
/// How often an attached container's log and state are looked at.
const POLL: Duration = Duration::from_millis(20);

fn running(
    ctx: &Ctx,
    (ns, pod, name): &(String, String, String),
) -> Result<(ContainerEntry, weft_sandbox::Container), Failure> {
    let (entry, found) = find(ctx, ns, pod, name)?;
    let container = found.as_ref().and_then(|c| c.container.clone());
    match (found, container) {
        (Some(e), Some(c)) => Ok((e, c)),
        _ => {
            let why = waiting(&entry, name).map(|r| format!(": {r}")).unwrap_or_default();
            Err(Failure::internal(format!("container \"{name}\" of pod {pod} is not running{why}")))
        }
    }
}

/// ANY /exec/{namespace}/{pod}/{container}?command=…
pub async fn exec(
    State(ctx): State<Arc<Ctx>>,
    Path(path): Path<(String, String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Failure> {
    let wanted = Wanted::of(&params);
    let argv = params.all("command");
    if argv.is_empty() {
        return Err(Failure::bad("you must specify at least 1 command for the container"));
    }
    let (entry, container) = running(&ctx, &path)?;
    let mut env = entry.env.clone();
    if wanted.tty && !env.iter().any(|(k, _)| k == "TERM") {
        env.push(("TERM".into(), "xterm".into()));
    }
    let spec = weft_sandbox::ExecSpec {
        argv,
        env,
        cwd: entry.cwd.clone(),
        tty: wanted.tty,
        stdin: wanted.stdin,
    };
    accept(request, wanted, async move |mut peer: Peer| {
        match tokio::task::spawn_blocking(move || container.exec(&spec)).await {
            Ok(Ok(exec)) => run(peer, exec, wanted).await,
            Ok(Err(weft_sandbox::Error::Program { program, source })) => {
                let text = format!("exec: {program:?}: {source}\n");
                peer.send(STDERR, text.as_bytes()).await;
                // As a shell says it: not found, or not executable.
                let missing = source.kind() == std::io::ErrorKind::NotFound;
                peer.end(&channels::exit_status(if missing { 127 } else { 126 })).await;
            }
            Ok(Err(e)) => peer.end(&channels::failure(&e.to_string())).await,
            Err(e) => peer.end(&channels::failure(&e.to_string())).await,
        }
    })
    .await
}

/// Copies a pipe to the client until it ends, or until it is silent after the command's end.
fn pump(fd: OwnedFd, channel: u8, out: mpsc::Sender<(u8, Vec<u8>)>, over: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut file = File::from(fd);
        let mut buf = vec![0; BLOCK];
        loop {
            // Read before polling: the command may end while this waits, with output behind it.
            let ended = over.load(Ordering::Acquire);
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(SILENCE_MS)) {
                Ok(0) if ended => return,
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            match file.read(&mut buf) {
                // A terminal whose last user is gone gives EIO.
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if out.blocking_send((channel, buf[..n].to_vec())).is_err() {
                        return;
                    }
                }
            }
        }
    });
}

/// Writes what the client sends; the pipe is closed when the channel is.
fn feed(fd: OwnedFd) -> mpsc::Sender<Vec<u8>> {
    let (tx, mut rx) = mpsc::channel::<Vec<u8>>(QUEUE);
    std::thread::spawn(move || {
        let mut file = File::from(fd);
        while let Some(data) = rx.blocking_recv() {
            if file.write_all(&data).is_err() {
                return;
            }
        }
    });
    tx
}

async fn ended(exec: &Arc<Mutex<weft_sandbox::Exec>>) -> Result<weft_sandbox::Exit, String> {
    let fd = {
        let exec = exec.lock().expect("invariant: no panic under this lock");
        exec.as_fd().try_clone_to_owned().map_err(|e| e.to_string())?
    };
    // Deprecated for file descriptors that are not owned; this one is.
    #[allow(deprecated)]
    let fd = AsyncFd::new(fd).map_err(|e| e.to_string())?;
    loop {
        let state = exec.lock().expect("invariant: no panic under this lock").try_wait();
        if let Some(exit) = state.map_err(|e| e.to_string())? {
            return Ok(exit);
        }
        if let Ok(r) = tokio::time::timeout(Duration::from_secs(1), fd.readable()).await {
            let mut guard = r.map_err(|e| e.to_string())?;
            let state = exec.lock().expect("invariant: no panic under this lock").try_wait();
            if let Some(exit) = state.map_err(|e| e.to_string())? {
                return Ok(exit);
            }
            guard.clear_ready();
        }
    }
}

/// The client's side of a running command.
struct Session {
    peer: Peer,
    exec: Arc<Mutex<weft_sandbox::Exec>>,
    stdin: Option<mpsc::Sender<Vec<u8>>>,
    /// Input that does not fit into the command's pipe yet. While there is some, nothing more is
    /// read from the client; output goes on flowing, or both sides could wait for each other.
    pending: Option<Vec<u8>>,
}

/// Connects a command with the client until it ends. A client that goes away takes it along.
async fn run(peer: Peer, mut exec: weft_sandbox::Exec, wanted: Wanted) {
    let over = Arc::new(AtomicBool::new(false));
    let (tx, mut output) = mpsc::channel::<(u8, Vec<u8>)>(QUEUE);
    let mut stdin = None;
    if let Some(pty) = exec.pty.take() {
        stdin = pty.try_clone().ok().filter(|_| wanted.stdin).map(feed);
        pump(pty, STDOUT, tx.clone(), Arc::clone(&over));
    }
    if let Some(fd) = exec.stdin.take() {
        stdin = Some(feed(fd));
    }
    for (fd, channel) in [(exec.stdout.take(), STDOUT), (exec.stderr.take(), STDERR)] {
        if let Some(fd) = fd {
            pump(fd, channel, tx.clone(), Arc::clone(&over));
        }
    }
    drop(tx);
    let mut s = Session { peer, exec: Arc::new(Mutex::new(exec)), stdin, pending: None };
    let exec = Arc::clone(&s.exec);
    let finished = ended(&exec);
    tokio::pin!(finished);
    let (mut exit, mut drained) = (None, false);
    while exit.is_none() || !drained {
        tokio::select! {
            e = &mut finished, if exit.is_none() => {
                over.store(true, Ordering::Release);
                exit = Some(e);
            }
            data = output.recv(), if !drained => match data {
                Some((channel, data)) => {
                    let on = if channel == STDERR { wanted.stderr } else { wanted.stdout };
                    if on && !s.peer.send(channel, &data).await {
                        return s.kill();
                    }
                }
                None => drained = true,
            },
            here = s.input() => {
                if !here {
                    return s.kill();
                }
            }
        }
    }
    match exit {
        Some(Ok(e)) => s.peer.end(&channels::exit_status(e.code)).await,
        Some(Err(m)) => s.peer.end(&channels::failure(&m)).await,
        None => {}
    }
}

impl Session {
    fn kill(&self) {
        let _ = self.exec.lock().expect("invariant: no panic under this lock").kill(libc::SIGKILL);
    }

    /// Takes one step with what the client sends; false: it is gone. Cancel-safe.
    async fn input(&mut self) -> bool {
        if self.pending.is_some() {
            let taken = match &self.stdin {
                Some(tx) => match tx.reserve().await {
                    Ok(permit) => {
                        permit.send(self.pending.take().unwrap_or_default());
                        true
                    }
                    Err(_) => false,
                },
                None => false,
            };
            if !taken {
                // A command that does not read any more is not the client's error.
                (self.stdin, self.pending) = (None, None);
            }
            return true;
        }
        match self.peer.recv().await {
            Some(Input::Stdin(data)) if self.stdin.is_some() && !data.is_empty() => {
                self.pending = Some(data);
            }
            Some(Input::CloseStdin) => self.stdin = None,
            Some(Input::Resize(columns, rows)) => {
                let exec = self.exec.lock().expect("invariant: no panic under this lock");
                if let Err(e) = exec.resize(columns, rows) {
                    tracing::debug!("resize: {e}");
                }
            }
            Some(_) => {}
            None => return false,
        }
        true
    }
}

/// ANY /attach/{namespace}/{pod}/{container}
///
/// Output comes from the log, which holds every byte; input goes to the container's FIFO.
pub async fn attach(
    State(ctx): State<Arc<Ctx>>,
    Path(path): Path<(String, String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Failure> {
    let wanted = Wanted::of(&params);
    let (entry, container) = running(&ctx, &path)?;
    accept(request, wanted, async move |mut peer: Peer| {
        let status = match follow(&mut peer, &entry, &container, wanted).await {
            Ok(Some(code)) => channels::exit_status(code),
            Ok(None) => return,
            Err(e) => channels::failure(&e.to_string()),
        };
        peer.end(&status).await;
    })
    .await
}

/// Copies log and input until the container ends (its exit code) or the client goes away.
async fn follow(
    peer: &mut Peer,
    entry: &ContainerEntry,
    container: &weft_sandbox::Container,
    wanted: Wanted,
) -> std::io::Result<Option<i32>> {
    let mut log = File::open(&entry.log)?;
    let from = tail_offset(&mut log, 0)?;
    log.seek(std::io::SeekFrom::Start(from))?;
    let mut stdin = None;
    if wanted.stdin
        && let Some(fifo) = container.stdin_path()
    {
        // Both directions, so that opening does not wait for a reader.
        match std::fs::OpenOptions::new().read(true).write(true).open(fifo) {
            Ok(file) => stdin = Some(feed(file.into())),
            // `stdinOnce`, and that was before: standard input stays closed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut rest = Vec::new();
    let mut buf = vec![0; BLOCK];
    let mut tick = tokio::time::interval(POLL);
    loop {
        let exit = container.try_wait().ok().flatten();
        loop {
            let n = log.read(&mut buf)?;
            if n == 0 {
                break;
            }
            rest.extend_from_slice(&buf[..n]);
            let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let lines: Vec<u8> = rest.drain(..whole).collect();
            for line in lines.split_inclusive(|b| *b == b'\n') {
                let Some(e) = parse(line.strip_suffix(b"\n").unwrap_or(line)) else { continue };
                let on = if e.stderr { wanted.stderr } else { wanted.stdout };
                let mut text = e.text.to_vec();
                if !e.partial {
                    text.push(b'\n');
                }
                let channel = if e.stderr && !wanted.tty { STDERR } else { STDOUT };
                if on && !peer.send(channel, &text).await {
                    return Ok(None);
                }
            }
            if rest.len() > LINE_BYTES_MAX {
                rest.clear();
            }
        }
        if let Some((exit, _)) = exit {
            return Ok(Some(exit.code));
        }
        tokio::select! {
            _ = tick.tick() => {}
            m = peer.recv() => match m {
                Some(Input::Stdin(data)) => {
                    if let Some(tx) = &stdin { let _ = tx.send(data).await; }
                }
                Some(Input::CloseStdin) => stdin = None,
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}
