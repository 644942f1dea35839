//! Certificates of a cluster, and the kubeconfig that trusts them.

use crate::{
    Error,
    auth::{self, Identity},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    DigitallySignedStruct,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::{io::Write, net::IpAddr, path::Path, sync::Arc};

const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";

/// Names by which pods and people reach the API server besides its addresses.
const SERVER_NAMES: [&str; 5] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
];

/// A cluster's certificate authority and the server certificate that it signed.
///
/// The authority is kept in a directory, so that kubeconfigs outlive a restart; the server
/// certificate is made anew at every start, for the addresses of that start.
pub struct Pki {
    /// The authority's certificate, PEM.
    pub ca_pem: String,
    ca_key: KeyPair,
    /// The server's certificate and what is behind it.
    chain: Vec<CertificateDer<'static>>,
    /// What clients have to trust, PEM, where that is not the authority.
    trusted_pem: Option<String>,
    /// Whose client certificates are accepted besides the authority's.
    client_cas: Vec<CertificateDer<'static>>,
    server_key: PrivateKeyDer<'static>,
}

impl Pki {
    /// Takes the authority from `dir`, or makes one and keeps it there, and signs a server
    /// certificate for `addresses`, the loopback addresses and the `kubernetes` Service's names.
    pub fn load_or_create(dir: &Path, addresses: &[IpAddr]) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
        match (std::fs::read_to_string(&cert_path), std::fs::read_to_string(&key_path)) {
            (Ok(cert), Ok(key)) => Self::signed_by(cert, KeyPair::from_pem(&key)?, addresses),
            _ => {
                let key = KeyPair::generate()?;
                let cert = ca_params()?.self_signed(&key)?.pem();
                write_private(&key_path, &key.serialize_pem())?;
                std::fs::write(&cert_path, &cert).map_err(|e| Error::io("write", &cert_path, e))?;
                Self::signed_by(cert, key, addresses)
            }
        }
    }

    /// A new authority that is kept nowhere, and a server certificate.
    pub fn ephemeral(addresses: &[IpAddr]) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let cert = ca_params()?.self_signed(&key)?.pem();
        Self::signed_by(cert, key, addresses)
    }

    fn signed_by(ca_pem: String, ca_key: KeyPair, addresses: &[IpAddr]) -> Result<Self, Error> {
        let params = ca_params()?;
        let issuer = Issuer::from_params(&params, &ca_key);
        let key = KeyPair::generate()?;
        let mut p = CertificateParams::new(SERVER_NAMES.map(str::to_owned))?;
        p.distinguished_name.push(DnType::CommonName, "weft-apiserver");
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.use_authority_key_identifier_extension = true;
        let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1])];
        p.subject_alt_names
            .extend(addresses.iter().chain(&loopback).map(|a| SanType::IpAddress(*a)));
        let cert = p.signed_by(&key, &issuer)?;
        let server_key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|e| Error::Certificate(e.to_owned()))?;
        let chain = vec![cert.der().clone(), one(&ca_pem)?];
        let (trusted_pem, client_cas) = (None, Vec::new());
        Ok(Self { ca_pem, ca_key, chain, trusted_pem, client_cas, server_key })
    }

    /// Serves with this certificate, the chain behind it, and its key, all PEM. Clients trust the
    /// last certificate of the chain.
    pub fn serve_with(&mut self, chain_pem: &str, key_pem: &str) -> Result<(), Error> {
        let (chain, last) = (all(chain_pem)?, chain_pem.rfind(PEM_BEGIN).unwrap_or(0));
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| Error::Certificate(format!("the key: {e}")))?;
        (self.chain, self.server_key) = (chain, key);
        self.trusted_pem = Some(chain_pem[last..].to_owned());
        // Whether the key is that of the certificate.
        self.tls().map(drop)
    }

    /// Accepts client certificates of these authorities (PEM), too.
    pub fn trust_clients_of(&mut self, authorities_pem: &str) -> Result<(), Error> {
        self.client_cas.extend(all(authorities_pem)?);
        self.tls().map(drop)
    }

    /// The server's certificate with the chain behind it, and its key, both PEM: what
    /// [`serve_with`](Self::serve_with) takes.
    pub fn server_pem(&self) -> (String, String) {
        let pem = |label: &str, der: &[u8]| {
            let text = BASE64_STANDARD.encode(der);
            let lines: Vec<&str> =
                text.as_bytes().chunks(64).filter_map(|l| std::str::from_utf8(l).ok()).collect();
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
        };
        let chain = self.chain.iter().map(|c| pem("CERTIFICATE", c)).collect();
        (chain, pem("PRIVATE KEY", self.server_key.secret_der()))
    }

    /// The certificate that clients have to trust, PEM.
    pub fn trusted_pem(&self) -> &str {
        self.trusted_pem.as_deref().unwrap_or(&self.ca_pem)
    }

    /// A certificate for a client, and its key, both PEM: the server takes the common name for
    /// the user and the organisation for a group.
    pub fn client(&self, user: &str, group: &str) -> Result<(String, String), Error> {
        let params = ca_params()?;
        let issuer = Issuer::from_params(&params, &self.ca_key);
        let key = KeyPair::generate()?;
        let mut p = CertificateParams::new(Vec::new())?;
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(DnType::OrganizationName, group);
        p.distinguished_name.push(DnType::CommonName, user);
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let cert = p.signed_by(&key, &issuer)?;
        Ok((cert.pem(), key.serialize_pem()))
    }

    /// What [`serve`](crate::ApiServer::serve) needs.
    pub fn tls(&self) -> Result<Tls, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(one(&self.ca_pem)?)?;
        for ca in &self.client_cas {
            roots.add(ca.clone())?;
        }
        let known = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| Error::Certificate(e.to_string()))?;
        let asked = Arc::new(AnyCertificate(known.clone()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(asked)
            .with_single_cert(self.chain.clone(), self.server_key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Tls { config: Arc::new(config), clients: known })
    }
}

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// The certificates of a file; at least one.
fn all(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(Error::Certificate("there is none".to_owned())),
        Err(e) => Err(Error::Certificate(e.to_string())),
    }
}

fn one(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| Error::Certificate(e.to_string()))
}

/// The TLS side of a listener.
#[derive(Clone)]
pub struct Tls {
    pub(crate) config: Arc<rustls::ServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// Whom the client's certificate stands for, if the authority signed it and it is valid now.
    pub(crate) fn client(&self, connection: &rustls::ServerConnection) -> Option<Identity> {
        let (first, rest) = connection.peer_certificates()?.split_first()?;
        match self.clients.verify_client_cert(first, rest, UnixTime::now()) {
            Ok(_) => auth::of_certificate(first),
            Err(error) => {
                tracing::debug!(%error, "a client certificate is not accepted");
                None
            }
        }
    }
}

/// Lets every certificate through the handshake whose key the client has. Whom it stands for is
/// asked afterwards: as in kube-apiserver, a certificate that is not valid is a 401, or another
/// credential counts.
#[derive(Debug)]
struct AnyCertificate(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn ca_params() -> Result<CertificateParams, Error> {
    let mut p = CertificateParams::new(Vec::new())?;
    p.distinguished_name.push(DnType::CommonName, "weft-ca");
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    p.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(p)
}

/// Writes a file that only its owner reads.
fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
        .open(path)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| Error::io("write", path, e))
}

/// The text of a kubeconfig for one cluster and one token.
pub fn kubeconfig(server_url: &str, ca_pem: &str, token: &str) -> String {
    let ca = BASE64_STANDARD.encode(ca_pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: weft\n  cluster:\n    server: {server_url}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: admin\n  user:\n    token: {token}\ncontexts:\n\
         - name: weft\n  context:\n    cluster: weft\n    user: admin\ncurrent-context: weft\n"
    )
}

/// The text of a kubeconfig for one cluster and one client certificate (PEM).
pub fn kubeconfig_with_certificate(
    server_url: &str,
    ca_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
) -> String {
    let with_token = kubeconfig(server_url, ca_pem, "");
    let (certificate, key) =
        (BASE64_STANDARD.encode(certificate_pem), BASE64_STANDARD.encode(key_pem));
    with_token.replace(
        "    token: \n",
        &format!("    client-certificate-data: {certificate}\n    client-key-data: {key}\n"),
    )
}

/// A new random bearer token: 256 bits in hexadecimal.
pub fn random_token() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_is_kept_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let a = Pki::load_or_create(dir.path(), &["10.96.0.1".parse().unwrap()]).unwrap();
        let b = Pki::load_or_create(dir.path(), &[]).unwrap();
        assert_eq!(a.ca_pem, b.ca_pem);
        assert_ne!(a.chain, b.chain);
        a.tls().unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = dir.path().join(CA_KEY).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn certificates_that_are_given_are_served_and_checked() {
        let own = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (first, second) = (own("one.example"), own("two.example"));
        let chain = first.cert.pem() + &second.cert.pem();
        let mut pki = Pki::ephemeral(&[]).unwrap();
        pki.serve_with(&chain, &first.signing_key.serialize_pem()).unwrap();
        assert_eq!(pki.chain, [first.cert.der().clone(), second.cert.der().clone()]);
        assert_eq!(pki.trusted_pem(), second.cert.pem());
        let other = Pki::ephemeral(&[]).unwrap();
        pki.trust_clients_of(&other.ca_pem).unwrap();
        pki.tls().unwrap();
        assert!(pki.serve_with(&chain, &second.signing_key.serialize_pem()).is_err(), "its key");
        assert!(Pki::ephemeral(&[]).unwrap().serve_with("", "").is_err());
        assert!(Pki::ephemeral(&[]).unwrap().trust_clients_of("nothing").is_err());
    }

    #[test]
    fn kubeconfig_is_yaml_with_what_clients_read() {
        let text = kubeconfig("https://127.0.0.1:6443", "PEM", "tok");
        let v: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(v["clusters"][0]["cluster"]["certificate-authority-data"], "UEVN");
        assert_eq!(v["users"][0]["user"]["token"], "tok");
        assert_eq!(v["current-context"], "weft");
    }
}
