//! A client that costs little: requests are bytes made beforehand, answers are read up to their
//! `content-length`.

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A server and how to speak to it.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    token: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Target {
    pub fn of(kubeconfig: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let v: Value = serde_yaml_ng::from_str(&text).context("the kubeconfig is no YAML")?;
        let cluster = &v["clusters"][0]["cluster"];
        let url = cluster["server"].as_str().context("no server")?;
        let ca = cluster["certificate-authority-data"].as_str().context("no authority")?;
        let ca = BASE64_STANDARD.decode(ca).context("the authority is no base64")?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&ca)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            address: url.trim_start_matches("https://").parse().context("the server's address")?,
            token: v["users"][0]["user"]["token"].as_str().unwrap_or_default().to_owned(),
            tls: Arc::new(tls),
        })
    }

    /// A whole HTTP/1.1 request. `media` is the type of the body, or of the answer without one.
    pub fn request(&self, method: &str, path: &str, media: &str, body: &[u8]) -> Vec<u8> {
        let media = if body.is_empty() {
            format!("accept: {media}")
        } else {
            format!("content-type: {media}\r\ncontent-length: {}", body.len())
        };
        let mut out = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n{media}\r\n\r\n",
            self.address, self.token
        )
        .into_bytes();
        out.extend_from_slice(body);
        out
    }
}

/// One TLS connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// What was read and belongs to no answer yet.
    buffer: Vec<u8>,
}

pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Response {
    pub fn expect(&self, status: u16) -> Result<()> {
        if self.status != status {
            bail!("{} {}", self.status, String::from_utf8_lossy(&self.body));
        }
        Ok(())
    }
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(target.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(target.address.ip().into());
        let stream = TlsConnector::from(target.tls.clone()).connect(name, stream).await?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub async fn send(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await.context("send")?;
        self.stream.flush().await.context("flush")
    }

    /// What comes next; nothing at the end of the stream.
    pub async fn read(&mut self) -> Result<&mut Vec<u8>> {
        self.buffer.reserve(16 << 10);
        let n = self.stream.read_buf(&mut self.buffer).await.context("read")?;
        if n == 0 {
            bail!("the server closed the connection");
        }
        Ok(&mut self.buffer)
    }

    pub async fn exchange(&mut self, request: &[u8]) -> Result<Response> {
        self.send(request).await?;
        let (end, status, length) = loop {
            if let Some(head) = head(&self.buffer)? {
                break head;
            }
            self.read().await?;
        };
        self.buffer.reserve((end + length).saturating_sub(self.buffer.len()));
        while self.buffer.len() < end + length {
            self.read().await?;
        }
        let rest = self.buffer.split_off(end + length);
        let mut body = std::mem::replace(&mut self.buffer, rest);
        body.drain(..end);
        Ok(Response { status, body })
    }
}

/// End of the headers, status and `content-length`, once the headers are there.
fn head(data: &[u8]) -> Result<Option<(usize, u16, usize)>> {
    let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&data[..end]).context("headers")?.to_ascii_lowercase();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).context("status line")?;
    let length = text.lines().find_map(|l| l.strip_prefix("content-length: "));
    let length = length.context("no content-length")?.parse().context("content-length")?;
    Ok(Some((end + 4, status, length)))
}
