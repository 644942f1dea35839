//! Who a client certificate stands for: its subject's common name, in the groups that are its
//! organisations.
//!
//! The chain and the encoding were checked by the TLS library; here only the subject is looked
//! for, by lengths that are checked all the same.

use super::{CREDENTIAL, Identity};
use sha2::{Digest, Sha256};
use std::fmt::Write;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
/// `[0]`: the version of the certificate.
const VERSION: u8 = 0xa0;
/// id-at-commonName, id-at-organizationName (X.520) and Kubernetes' own for a UID.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const USER_ID: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbe, 0x0f, 0x02];

/// The user of a certificate (DER); `None` if it names nobody.
pub(crate) fn of_certificate(der: &[u8]) -> Option<Identity> {
    let mut who = Identity::default();
    for (oid, value) in subject(der)? {
        if oid == COMMON_NAME {
            who.user = value;
        } else if oid == ORGANIZATION {
            who.groups.push(value);
        } else if oid == USER_ID {
            who.uid = value;
        }
    }
    if who.user.is_empty() {
        return None;
    }
    let mut id = "X509SHA256=".to_owned();
    for byte in Sha256::digest(der) {
        let _ = write!(id, "{byte:02x}");
    }
    who.extra.push((CREDENTIAL.to_owned(), vec![id]));
    Some(who.authenticated())
}

/// The subject's attributes: object identifier and text.
fn subject(der: &[u8]) -> Option<Vec<(&[u8], String)>> {
    let (_, certificate, _) = element(der)?;
    let (SEQUENCE, mut rest, _) = element(certificate)? else { return None };
    // Version, serial number, algorithm, issuer, validity; then the subject.
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    for _ in 0..4 {
        rest = element(rest)?.2;
    }
    let (SEQUENCE, mut names, _) = element(rest)? else { return None };
    let mut found = Vec::new();
    while !names.is_empty() {
        let (SET, mut set, next) = element(names)? else { return None };
        names = next;
        while !set.is_empty() {
            let (SEQUENCE, pair, next) = element(set)? else { return None };
            set = next;
            let (OID, oid, value) = element(pair)? else { return None };
            let (_, value, _) = element(value)?;
            found.push((oid, std::str::from_utf8(value).ok()?.to_owned()));
        }
    }
    Some(found)
}

/// One element of DER: tag, content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0usize, |n, b| n << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::{super::AUTHENTICATED, *};
    use proptest::prelude::*;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    #[test]
    fn subjects_name_users_and_groups() {
        let pki = crate::Pki::ephemeral(&[]).unwrap();
        let (pem, _) = pki.client("jane", "devs").unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let who = of_certificate(&der).unwrap();
        assert_eq!(who.user, "jane");
        assert_eq!(who.groups, ["devs", AUTHENTICATED]);
        assert!(who.extra[0].1[0].starts_with("X509SHA256="));
        for cut in 0..der.len() {
            of_certificate(&der[..cut]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            of_certificate(&bytes);
        }
    }
}
