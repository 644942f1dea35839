//! The peer: the same hyper and the same TLS with nothing behind them. What it takes is what the
//! connections themselves cost.
//!
//! POST echoes its body and tells every watcher of it; GET `…watch=…` is such a watcher; GET
//! `/bytes/N` sends N bytes from memory; any other GET is answered at once.

use anyhow::{Error, Result};
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use std::{
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::broadcast};
use weft_apiserver::kubeconfig;

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct Peer {
    events: broadcast::Sender<Bytes>,
    /// The body of the last `/bytes/N`.
    bytes: Mutex<Bytes>,
}

/// Serves until killed; writes a kubeconfig for itself.
pub async fn run(file: &Path) -> Result<()> {
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).map_err(Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    std::fs::write(file, kubeconfig(&url, &own.cert.pem(), "none"))?;
    let peer = Arc::new(Peer { events: broadcast::channel(64).0, bytes: Mutex::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, peer) = (acceptor.clone(), peer.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |r| answer(peer.clone(), r));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(peer: Arc<Peer>, r: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let full = |b: Bytes| Full::new(b).boxed_unsync();
    if r.method() != Method::GET {
        let created = r.method() == Method::POST;
        let body = r.into_body().collect().await?.to_bytes();
        // No watcher is no error.
        let _ = peer.events.send(body.clone());
        let mut response = Response::new(full(body));
        *response.status_mut() = if created { 201 } else { 200 }.try_into().unwrap();
        return Ok(response);
    }
    let wanted = r.uri().path().strip_prefix("/bytes/").and_then(|n| n.parse::<usize>().ok());
    if let Some(n) = wanted {
        let mut bytes = peer.bytes.lock().unwrap();
        if bytes.len() != n {
            *bytes = vec![b'x'; n].into();
        }
        return Ok(Response::new(full(bytes.clone())));
    }
    if r.uri().query().is_some_and(|q| q.contains("watch")) {
        let frames = stream::unfold(peer.events.subscribe(), |mut events| async move {
            let bytes = events.recv().await.ok()?;
            Some((Ok(Frame::data(bytes)), events))
        });
        return Ok(Response::new(StreamBody::new(frames).boxed_unsync()));
    }
    Ok(Response::new(full(Bytes::from_static(br#"{"metadata":{"resourceVersion":"1"}}"#))))
}
