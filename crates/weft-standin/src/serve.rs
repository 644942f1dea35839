//! Listening, and finding out what clients speak.

use crate::detect::{Kind, detect};
use crate::http::{DRAIN_TIMEOUT, serve_http1, serve_http2, stopped};
use crate::identity::Peer;
use crate::prefixed::Prefixed;
use crate::tls::Tls;
use crate::{Config, Port, Protocol, redis, udp};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt,
};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

/// How long a client may be silent before it is told who is there.
const SILENCE: Duration = Duration::from_millis(200);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Most bytes that are read from a client that has had its answer.
const DRAIN_LEN_MAX: u64 = 1 << 20;

/// What all connections share.
struct Server {
    config: Arc<Config>,
    tls: Tls,
    slots: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
    tasks: TaskTracker,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(config: Config) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (stop, stopping) = watch::channel(false);
        let tasks = TaskTracker::new();
        let server = Arc::new(Server {
            config: Arc::new(config),
            tls: Tls::default(),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            stop: stopping,
            tasks: tasks.clone(),
        });
        for port in &server.config.ports {
            listen(&server, port);
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        println!("stand-in: asked to stop");
        let _ = stop.send(true);
        tasks.close();
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await;
        Ok(())
    })
}

/// Both families, each with a socket of its own: what one of them does not take, the other may.
fn listen(server: &Arc<Server>, port: &Port) {
    let number = port.port;
    for any in [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, number)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, number)),
    ] {
        let bound = match port.protocol {
            Protocol::Tcp => listen_tcp(server, port, any),
            Protocol::Udp => listen_udp(server, port, any),
            Protocol::Sctp => Err(io::ErrorKind::Unsupported.into()),
        };
        let protocol = port.protocol;
        match bound {
            Ok(()) => println!("stand-in: listening on {any} {protocol:?}"),
            // IPv6 is switched off on this machine, or in this namespace.
            Err(error)
                if any.is_ipv6()
                    && matches!(
                        error.raw_os_error(),
                        Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL)
                    ) => {}
            // Another container of the pod may have it: the rest still works.
            Err(error) => eprintln!("stand-in: cannot listen on {any} {protocol:?}: {error}"),
        }
    }
}

/// A bound socket; IPv6 ones for IPv6 only.
fn bind(any: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if any.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(family, kind, flags, None)?;
    if any.is_ipv6() {
        socket::setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        // A restarted container finds connections of the one before.
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    socket::bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(any))?;
    Ok(fd)
}

fn template(server: &Server, port: &Port, any: SocketAddr) -> Peer {
    Peer {
        config: server.config.clone(),
        port: Arc::new(port.clone()),
        client: any,
        server: any,
        tls: false,
    }
}

fn listen_udp(server: &Arc<Server>, port: &Port, any: SocketAddr) -> io::Result<()> {
    let socket = std::net::UdpSocket::from(bind(any, SockType::Datagram)?);
    udp::want_info(&socket, any.is_ipv6())?;
    let socket = UdpSocket::from_std(socket)?;
    // Not tracked: there is nothing to finish.
    tokio::spawn(udp::serve(socket, template(server, port, any)));
    Ok(())
}

fn listen_tcp(server: &Arc<Server>, port: &Port, any: SocketAddr) -> io::Result<()> {
    let fd = bind(any, SockType::Stream)?;
    socket::listen(&fd, Backlog::new(1024).unwrap_or(Backlog::MAXCONN))?;
    let listener = TcpListener::from_std(std::net::TcpListener::from(fd))?;
    let template = template(server, port, any);
    let server = server.clone();
    let mut stop = server.stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = accept(&server, &listener, &template) => {}
            () = stopped(&mut stop) => {}
        }
    });
    Ok(())
}

async fn accept(server: &Arc<Server>, listener: &TcpListener, template: &Peer) {
    loop {
        let Ok(slot) = server.slots.clone().acquire_owned().await else { return };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of descriptors, or the client has gone already: not in a tight loop.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let reached = stream.local_addr().unwrap_or(template.server);
        let peer = Peer { client, server: reached, ..template.clone() };
        let server = server.clone();
        server.tasks.clone().spawn(async move {
            let _ = stream.set_nodelay(true);
            connection(&server, stream, peer).await;
            drop(slot);
        });
    }
}

async fn connection(server: &Server, mut stream: TcpStream, mut peer: Peer) {
    let Some((kind, prefix)) = first_bytes(&mut stream).await else { return };
    if kind != Kind::Tls {
        return speak(server, kind, prefix, stream, peer).await;
    }
    let acceptor = match server.tls.acceptor(&server.config) {
        Ok(acceptor) => acceptor,
        Err(error) => return peer.log(&format!("tls: {error}")),
    };
    let handshake = acceptor.accept(Prefixed { prefix, inner: stream });
    let mut stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return peer.log(&format!("tls: {error}")),
        Err(_) => return peer.log("tls: no handshake"),
    };
    peer.tls = true;
    if let Some((kind, prefix)) = first_bytes(&mut stream).await {
        speak(server, kind, prefix, stream, peer).await;
    }
}

async fn speak<S>(server: &Server, kind: Kind, prefix: Vec<u8>, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stop = server.stop.clone();
    let mut stream = Prefixed { prefix, inner: stream };
    match kind {
        Kind::Http1 => serve_http1(stream, peer, stop).await,
        Kind::Http2 => serve_http2(stream, peer, stop).await,
        Kind::Redis => {
            let mut stop = stop;
            tokio::select! {
                _ = redis::serve(stream, &peer) => {}
                () = stopped(&mut stop) => {}
            }
        }
        // TLS inside TLS is some other bytes.
        Kind::Tls | Kind::Other => {
            peer.log(&format!("tcp {} bytes", stream.prefix.len()));
            let _ = introduce(&mut stream, &peer).await;
        }
    }
}

/// The identity line, then the end of our side. Reading on until the client has seen it: closing
/// with bytes unread would reset the connection and could take the line with it.
async fn introduce<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    peer: &Peer,
) -> io::Result<()> {
    stream.write_all(peer.line().as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(DRAIN_LEN_MAX);
    let drain = async {
        let mut buffer = [0; 512];
        while matches!(rest.read(&mut buffer).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain).await;
    Ok(())
}

/// Reads until it is clear what the client speaks, or it falls silent. `None`: it went without a
/// word, as a TCP probe does.
async fn first_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(Kind, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 256];
    loop {
        if let Some(kind) = detect(&bytes) {
            return Some((kind, bytes));
        }
        match tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await {
            Ok(Ok(0)) if bytes.is_empty() => return None,
            Ok(Ok(0)) | Err(_) => return Some((Kind::Other, bytes)),
            Ok(Ok(len)) => bytes.extend_from_slice(&buffer[..len]),
            Ok(Err(_)) => return None,
        }
    }
}
