//! TLS with a certificate of its own, made for the first client.

use crate::Config;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::TlsAcceptor;

/// Makes key and certificate once, when they are first needed: most stand-ins never do.
#[derive(Debug, Default)]
pub(crate) struct Tls(Mutex<Option<Arc<ServerConfig>>>);

impl Tls {
    pub fn acceptor(&self, config: &Config) -> io::Result<TlsAcceptor> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tls = match &*made {
            Some(tls) => tls.clone(),
            None => made.insert(Arc::new(make(config).map_err(io::Error::other)?)).clone(),
        };
        Ok(tls.into())
    }
}

fn make(config: &Config) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let Config { namespace, pod, .. } = config;
    let mut names = vec!["localhost".to_owned()];
    // What is no DNS name cannot stand in a certificate; clients cannot verify it anyway.
    let services = format!("*.{namespace}.svc.cluster.local");
    for name in [pod.clone(), services] {
        if rcgen::string::Ia5String::try_from(name.as_str()).is_ok() && !name.contains("..") {
            names.push(name);
        }
    }
    names.extend(config.pod_ips.iter().map(ToString::to_string));
    let made = rcgen::generate_simple_self_signed(names)?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
