//! One try of a probe or of a lifecycle handler: HTTP, TCP, gRPC or a command. Sent from the
//! node's network namespace, in which this process runs.

use crate::program;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls;

/// Of a body or of a command's output this much is read, for messages.
const OUTPUT_BYTES_MAX: usize = 10 << 10;

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As wished.
    Ok,
    /// Not so, with what to tell the user.
    Failed(String),
    /// The command's program is not on this machine.
    Absent(String),
}

/// Whom a check is about.
#[derive(Clone)]
pub struct Target {
    /// The container in the manifest, for port names.
    pub spec: Container,
    /// Address of the pod.
    pub ip: IpAddr,
    /// The container that runs.
    pub running: weft_sandbox::Container,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub cwd: Option<PathBuf>,
}

/// Tries a probe once.
pub async fn probe(t: &Target, p: &Probe, timeout: Duration) -> Outcome {
    if let Some(e) = &p.exec {
        return exec(t, e, timeout).await;
    }
    let work = async {
        if let Some(h) = &p.http_get {
            http_get(t, h, "kube-probe/1.35").await
        } else if let Some(s) = &p.tcp_socket {
            tcp(t, s).await
        } else if let Some(g) = &p.grpc {
            grpc(t, g).await
        } else {
            Ok(())
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(())) => Outcome::Ok,
        Ok(Err(m)) => Outcome::Failed(m),
        Err(_) => Outcome::Failed(format!(
            "context deadline exceeded: no answer within {} s",
            timeout.as_secs()
        )),
    }
}

/// Runs a lifecycle handler.
pub async fn handler(t: &Target, h: &LifecycleHandler, timeout: Duration) -> Outcome {
    if let Some(e) = &h.exec {
        return exec(t, e, timeout).await;
    }
    if let Some(s) = &h.sleep {
        let secs = Duration::from_secs(u64::try_from(s.seconds).unwrap_or(0));
        tokio::time::sleep(secs.min(timeout)).await;
        return Outcome::Ok;
    }
    let Some(g) = &h.http_get else { return Outcome::Ok };
    match tokio::time::timeout(timeout, http_get(t, g, "kube-lifecycle/1.35")).await {
        Ok(Ok(())) => Outcome::Ok,
        Ok(Err(m)) => Outcome::Failed(m),
        Err(_) => Outcome::Failed("no answer in time".into()),
    }
}

/// Runs a command in the container.
async fn exec(t: &Target, e: &ExecAction, timeout: Duration) -> Outcome {
    let argv = e.command.clone().unwrap_or_default();
    let Some(name) = argv.first().cloned() else {
        return Outcome::Failed("no command".into());
    };
    let spec = weft_sandbox::ExecSpec {
        argv,
        env: t.env.clone(),
        cwd: t.cwd.clone(),
        tty: false,
        stdin: false,
    };
    let running = t.running.clone();
    let run = tokio::task::spawn_blocking(move || -> weft_sandbox::Result<_> {
        let mut exec = running.exec(&spec)?;
        let pipes = [exec.stdout.take(), exec.stderr.take()].into_iter().flatten();
        let readers: Vec<_> = pipes
            .map(|fd| {
                std::thread::spawn(move || {
                    let mut out = Vec::new();
                    let mut pipe = std::fs::File::from(fd);
                    let _ = pipe.by_ref().take(OUTPUT_BYTES_MAX as u64).read_to_end(&mut out);
                    // The rest is drained, so that the command is not stopped by a full pipe.
                    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
                    out
                })
            })
            .collect();
        let exit = exec.wait_timeout(timeout)?;
        if exit.is_none() {
            exec.kill(libc::SIGKILL)?;
            // Descendants may hold the pipes open: their readers end when those do.
            return Ok((None, String::new()));
        }
        let mut out = Vec::new();
        for r in readers {
            // A command that leaves a child behind must not hold the probe up.
            let end = std::time::Instant::now() + Duration::from_millis(200);
            while !r.is_finished() && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
            if r.is_finished() {
                out.extend(r.join().unwrap_or_default());
            }
        }
        Ok((exit, String::from_utf8_lossy(&out).into_owned()))
    });
    match run.await {
        Ok(Ok((Some(exit), _))) if exit.code == 0 => Outcome::Ok,
        // What a shell says of a program that it does not find.
        Ok(Ok((Some(exit), out))) if exit.code == 127 => Outcome::Absent(out.trim().to_owned()),
        Ok(Ok((Some(_), out))) => Outcome::Failed(out),
        Ok(Ok((None, _))) => Outcome::Failed(format!(
            "command timed out: \"{name}\" timed out after {}s",
            timeout.as_secs()
        )),
        Ok(Err(weft_sandbox::Error::Program { program, source })) => match source.kind() {
            std::io::ErrorKind::NotFound => Outcome::Absent(program),
            _ => Outcome::Failed(format!("cannot run {program:?}: {source}")),
        },
        Ok(Err(e)) => Outcome::Failed(e.to_string()),
        Err(e) => Outcome::Failed(e.to_string()),
    }
}

async fn connect(addr: SocketAddr) -> Result<TcpStream, String> {
    let s = TcpStream::connect(addr).await.map_err(|e| format!("dial tcp {addr}: {e}"))?;
    let _ = s.set_nodelay(true);
    Ok(s)
}

/// Address to talk to: the host that the handler names, or the pod.
async fn address(host: Option<&str>, ip: IpAddr, port: u16) -> Result<SocketAddr, String> {
    let Some(host) = host.filter(|h| !h.is_empty()) else { return Ok((ip, port).into()) };
    let mut found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|e| format!("lookup {host}: {e}"))?;
    found.next().ok_or_else(|| format!("lookup {host}: no address"))
}

async fn tcp(t: &Target, s: &TCPSocketAction) -> Result<(), String> {
    let port = program::resolve_port(&t.spec, &s.port).ok_or("the port has no number")?;
    connect(address(s.host.as_deref(), t.ip, port).await?).await.map(drop)
}

async fn http_get(t: &Target, h: &HTTPGetAction, agent: &str) -> Result<(), String> {
    let port = program::resolve_port(&t.spec, &h.port).ok_or("the port has no number")?;
    let addr = address(h.host.as_deref(), t.ip, port).await?;
    let tls = h.scheme.as_deref() == Some("HTTPS");
    let path = h.path.as_deref().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut req = http::Request::get(&path);
    let mut given = http::HeaderMap::new();
    for header in h.http_headers.iter().flatten() {
        let name = http::HeaderName::try_from(header.name.as_str());
        let value = http::HeaderValue::try_from(header.value.as_str());
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(format!("header {:?} is not valid", header.name));
        };
        given.append(name, value);
    }
    let default = |req: http::request::Builder, name: &str, value: &str| {
        if given.contains_key(name) { req } else { req.header(name, value) }
    };
    req = default(req, "host", &addr.to_string());
    req = default(req, "user-agent", agent);
    req = default(req, "accept", "*/*");
    req = default(req, "connection", "close");
    for (name, value) in &given {
        // A header given empty is left out, as Kubernetes documents.
        if !value.is_empty() {
            req = req.header(name, value);
        }
    }
    let req = req.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let stream = connect(addr).await?;
    let shown = format!("Get \"{}://{addr}{path}\"", if tls { "https" } else { "http" });
    let (status, body) = if tls {
        let name = rustls::pki_types::ServerName::from(addr.ip());
        let connector = tokio_rustls::TlsConnector::from(unverified());
        let stream = connector.connect(name, stream).await.map_err(|e| format!("{shown}: {e}"))?;
        send(stream, req).await
    } else {
        send(stream, req).await
    }
    .map_err(|e| format!("{shown}: {e}"))?;
    let _ = body;
    // A redirect counts as success, whether it could be followed or not.
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

async fn send<S>(stream: S, req: http::Request<Empty<Bytes>>) -> Result<(u16, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let conn = tokio::spawn(conn);
    let answer = async {
        let resp = sender.send_request(req).await.map_err(|e| e.to_string())?;
        Ok((resp.status().as_u16(), head(resp.into_body()).await))
    }
    .await;
    conn.abort();
    answer
}

/// The beginning of a body.
async fn head(mut body: Incoming) -> Bytes {
    let mut out = Vec::new();
    while out.len() < OUTPUT_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Some(d) = frame.data_ref() {
            out.extend_from_slice(d);
        }
    }
    out.into()
}

/// The health check of gRPC (grpc.health.v1) over HTTP/2 with prior knowledge.
async fn grpc(t: &Target, g: &GRPCAction) -> Result<(), String> {
    let port = u16::try_from(g.port).map_err(|_| "the port has no number")?;
    let addr = SocketAddr::from((t.ip, port));
    let stream = connect(addr).await?;
    let (mut sender, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    let conn = tokio::spawn(conn);
    let service = g.service.as_deref().unwrap_or_default();
    let req = http::Request::post(format!("http://{addr}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.35")
        .body(Full::new(Bytes::from(health_request(service))))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let resp = sender.send_request(req).await.map_err(|e| e.to_string())?;
        let (parts, body) = resp.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = trailers.get("grpc-status").or(parts.headers.get("grpc-status"));
        let status = status.and_then(|s| s.to_str().ok()).unwrap_or("0").to_owned();
        match (parts.status.as_u16(), status.as_str(), health_status(&body.to_bytes())) {
            (200, "0", Some(1)) => Ok(()),
            (200, "0", s) => {
                Err(format!("service unhealthy (responded with {:?})", s.unwrap_or_default()))
            }
            (200, "12", _) => Err("error: this server does not implement the grpc health \
                                   protocol (grpc.health.v1.Health)"
                .into()),
            (http, grpc, _) => Err(format!("grpc status {grpc}, HTTP status {http}")),
        }
    }
    .await;
    conn.abort();
    answer
}

/// `HealthCheckRequest{service}` in a gRPC frame.
fn health_request(service: &str) -> Vec<u8> {
    let mut msg = Vec::new();
    if !service.is_empty() {
        msg.push(0x0a);
        let mut n = service.len();
        while n >= 0x80 {
            msg.push(u8::try_from(n & 0x7f).unwrap_or(0) | 0x80);
            n >>= 7;
        }
        msg.push(u8::try_from(n).unwrap_or(0));
        msg.extend_from_slice(service.as_bytes());
    }
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(msg.len()).unwrap_or(0).to_be_bytes());
    out.extend(msg);
    out
}

/// `HealthCheckResponse.status` out of a gRPC frame; an empty message is 0 (UNKNOWN).
fn health_status(frame: &[u8]) -> Option<u8> {
    let (head, msg) = frame.split_at_checked(5)?;
    let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let msg = msg.get(..usize::try_from(len).ok()?)?;
    match msg {
        [] => Some(0),
        [0x08, v, ..] => Some(*v),
        _ => None,
    }
}

/// TLS that believes every certificate, as the kubelet's probes do.
fn unverified() -> Arc<rustls::ClientConfig> {
    #[derive(Debug)]
    struct Any(rustls::crypto::CryptoProvider);
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .expect("invariant: the provider has the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_frames() {
        assert_eq!(health_request(""), [0, 0, 0, 0, 0]);
        assert_eq!(health_request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(health_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(health_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(health_status(&[0, 0, 0, 0, 9, 8, 1]), None);
        assert_eq!(health_status(&[0]), None);
    }
}
