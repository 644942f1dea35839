//! Who asks: bearer tokens, service-account tokens, client certificates, in-process callers; and
//! as whom they ask (impersonation).

mod impersonate;
mod x509;

pub(crate) use impersonate::impersonated;
pub(crate) use x509::of_certificate;

use crate::config::Config;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Where a request came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The same process: trusted.
    InProcess,
    /// A connection: needs a token, unless its certificate says who it is.
    Network(Option<Arc<Identity>>),
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    /// What else is known, by key.
    pub(crate) extra: Vec<(String, Vec<String>)>,
}

/// The group of everybody who is known.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

impl Identity {
    pub(crate) fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { user: "system:anonymous".to_owned(), groups, ..Self::default() }
    }

    /// One of those who are known, and in their group once, whoever says so besides.
    fn authenticated(mut self) -> Self {
        if !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    /// `authentication.k8s.io/v1` UserInfo.
    pub(crate) fn user_info(&self) -> Value {
        let mut info = json!({"username": self.user});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        if !self.groups.is_empty() {
            info["groups"] = self.groups.clone().into();
        }
        for (key, values) in &self.extra {
            info["extra"][key] = values.clone().into();
        }
        info
    }
}

/// The audience of tokens for this server: Kubernetes' default, its issuer.
pub(crate) const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// The objects that a service account's token lives with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bound<'a> {
    pub(crate) namespace: &'a str,
    /// Name and uid.
    pub(crate) account: (&'a str, &'a str),
    /// Resource, name and uid of what else the token ends with.
    pub(crate) object: Option<(&'a str, &'a str, &'a str)>,
}

/// Whether the objects still exist.
pub(crate) type Alive<'a> = &'a dyn Fn(&Bound<'_>) -> bool;

/// A token, and what it is judged by.
#[derive(Clone, Copy)]
pub(crate) struct Presented<'a> {
    pub(crate) token: &'a str,
    /// In seconds since 1970.
    pub(crate) now: i64,
    /// For one of whom it has to be.
    pub(crate) audiences: &'a [&'a str],
    pub(crate) alive: Alive<'a>,
}

pub(crate) struct Authenticator {
    /// SHA-256 of each token and its bearer: equal-length digests compare without telling where
    /// they differ, and the tokens themselves are not kept.
    tokens: Vec<([u8; 32], Identity)>,
    key: [u8; 32],
}

impl Authenticator {
    pub(crate) fn new(config: &Config) -> Self {
        let tokens = config
            .tokens
            .iter()
            .map(|t| {
                let (user, groups) = (t.user.clone(), t.groups.clone());
                let who = Identity { user, groups, ..Identity::default() };
                (digest(t.token.as_bytes()), who.authenticated())
            })
            .collect();
        Self { tokens, key: config.token_key.unwrap_or_else(rand::random) }
    }

    /// The identity of a request, `None` for 401.
    pub(crate) fn identify(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        now: i64,
        alive: Alive<'_>,
    ) -> Option<Identity> {
        match peer {
            Peer::InProcess => {
                return Some(Identity {
                    user: "system:apiserver".into(),
                    groups: vec!["system:masters".into(), AUTHENTICATED.into()],
                    ..Identity::default()
                });
            }
            Peer::Network(Some(known)) => return Some((**known).clone()),
            Peer::Network(None) => {}
        }
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        let given = Presented { token: token.trim(), now, audiences: &[AUDIENCE], alive };
        let bearer = || Some(self.bearer(given)?.0);
        scheme.eq_ignore_ascii_case("bearer").then(bearer).flatten()
    }

    /// The bearer of a token, and for which of the wanted audiences it is; also for TokenReview.
    pub(crate) fn bearer(&self, presented: Presented<'_>) -> Option<(Identity, Vec<String>)> {
        let given = digest(presented.token.as_bytes());
        let mut found = None;
        for (known, identity) in &self.tokens {
            if equal(known, &given) {
                found = Some(identity.clone());
            }
        }
        match found {
            // These are for this server alone.
            Some(who) if presented.audiences.contains(&AUDIENCE) => {
                Some((who, vec![AUDIENCE.to_owned()]))
            }
            Some(_) => None,
            None => self.service_account(presented),
        }
    }

    /// A token for a service account: a JWT signed with HMAC-SHA-256.
    pub(crate) fn issue(&self, namespace: &str, name: &str, claims: Value) -> String {
        let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let mut payload = json!({
            "iss": AUDIENCE,
            "jti": uuid::Uuid::new_v4().to_string(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        if let (Some(to), Value::Object(from)) = (payload.as_object_mut(), claims) {
            to.extend(from);
        }
        let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(payload.to_string()));
        let mac = BASE64_URL_SAFE_NO_PAD.encode(hmac(&self.key, signed.as_bytes()));
        format!("{signed}.{mac}")
    }

    fn service_account(&self, presented: Presented<'_>) -> Option<(Identity, Vec<String>)> {
        let Presented { token, now, audiences, alive } = presented;
        let (signed, mac) = token.rsplit_once('.')?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).ok()?;
        if !equal(&hmac(&self.key, signed.as_bytes()), mac.as_slice().try_into().ok()?) {
            return None;
        }
        let payload = BASE64_URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        if claims["exp"].as_i64()? < now || claims["nbf"].as_i64()? > now {
            return None;
        }
        let own = claims["aud"].as_array()?.iter().filter_map(Value::as_str);
        let meant: Vec<String> = own.filter(|a| audiences.contains(a)).map(str::to_owned).collect();
        if meant.is_empty() {
            return None;
        }
        let user = claims["sub"].as_str()?.to_owned();
        let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let bound = &claims["kubernetes.io"];
        let uid = bound["serviceaccount"]["uid"].as_str()?;
        // A token for a pod names the pod's node, too, but does not end with it.
        let object = match ["pod", "secret", "node"].into_iter().find(|k| !bound[*k].is_null()) {
            None => None,
            Some(key) => {
                let of = &bound[key];
                let resource = if key == "pod" {
                    "pods"
                } else if key == "node" {
                    "nodes"
                } else {
                    "secrets"
                };
                Some((resource, of["name"].as_str()?, of["uid"].as_str()?))
            }
        };
        if !alive(&Bound { namespace, account: (name, uid), object }) {
            return None;
        }
        let groups = service_account_groups(namespace);
        let mut extra = Vec::new();
        let mut note = |key: &str, value: &Value| {
            if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
                extra.push((key.to_owned(), vec![text.to_owned()]));
            }
        };
        if let Some(id) = claims["jti"].as_str() {
            note(CREDENTIAL, &format!("JTI={id}").into());
        }
        for (key, of) in
            [("node-name", "node"), ("node-uid", "node"), ("pod-name", "pod"), ("pod-uid", "pod")]
        {
            let part = if key.ends_with("uid") { "uid" } else { "name" };
            note(&format!("authentication.kubernetes.io/{key}"), &bound[of][part]);
        }
        let uid = uid.to_owned();
        Some((Identity { user, uid, groups, extra }, meant))
    }
}

/// The groups of a namespace's service accounts.
fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        AUTHENTICATED.to_owned(),
    ]
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Compares without a branch on the content.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// HMAC-SHA-256 (RFC 2104).
fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator() -> Authenticator {
        Authenticator::new(&Config {
            tokens: vec![crate::Token {
                token: "secret".into(),
                user: "admin".into(),
                // One group that everybody has anyway.
                groups: vec![AUTHENTICATED.into(), "system:masters".into()],
            }],
            ..Config::default()
        })
    }

    #[test]
    fn only_known_tokens_pass() {
        let a = authenticator();
        let ask = |value: &str| {
            let mut h = HeaderMap::new();
            h.insert(header::AUTHORIZATION, value.parse().unwrap());
            a.identify(&Peer::Network(None), &h, 0, &|_| true)
        };
        assert_eq!(ask("Bearer secret").unwrap().user, "admin");
        assert_eq!(ask("Bearer secret").unwrap().groups, [AUTHENTICATED, "system:masters"]);
        assert_eq!(ask("bearer secret").unwrap().user, "admin");
        for bad in ["Bearer secre", "Bearer secrets", "Bearer ", "Basic secret", "secret"] {
            assert_eq!(ask(bad), None, "{bad}");
        }
        assert_eq!(a.identify(&Peer::Network(None), &HeaderMap::new(), 0, &|_| true), None);
        assert!(a.identify(&Peer::InProcess, &HeaderMap::new(), 0, &|_| true).is_some());
    }

    #[test]
    fn service_account_tokens_expire_and_cannot_be_forged() {
        let a = authenticator();
        let claims = |aud: &str| {
            json!({"exp": 100, "nbf": 10, "aud": [aud], "kubernetes.io": {
                "serviceaccount": {"name": "web", "uid": "u1"}, "pod": {"name": "p", "uid": "u2"}}})
        };
        let t = a.issue("ns", "web", claims(AUDIENCE));
        let given = |token, now, audiences, alive| Presented { token, now, audiences, alive };
        let ask = |a: &Authenticator, t: &str, now| {
            Some(a.bearer(Presented { token: t, now, audiences: &[AUDIENCE], alive: &|_| true })?.0)
        };
        let who = ask(&a, &t, 99).unwrap();
        assert_eq!(who.user, "system:serviceaccount:ns:web");
        assert!(who.groups.contains(&"system:serviceaccounts:ns".to_owned()));
        assert_eq!(ask(&a, &t, 101), None);
        assert_eq!(ask(&a, &t, 9), None, "not yet");
        assert_eq!(ask(&authenticator(), &t, 99), None, "another server's key");
        assert_eq!(ask(&a, &format!("{t}x"), 99), None);
        let other = a.issue("ns", "web", claims("vault"));
        assert_eq!(ask(&a, &other, 99), None, "for somebody else");
        assert!(a.bearer(given(&other, 99, &["vault"], &|_| true)).is_some());
        let bound =
            Bound { namespace: "ns", account: ("web", "u1"), object: Some(("pods", "p", "u2")) };
        let exactly = |b: &Bound<'_>| *b == bound;
        assert!(a.bearer(given(&t, 99, &[AUDIENCE], &exactly)).is_some());
        assert_eq!(a.bearer(given(&t, 99, &[AUDIENCE], &|_| false)), None);
    }

    #[test]
    fn hmac_matches_rfc_4231() {
        let mut key = [0u8; 32];
        key[..20].fill(0x0b);
        let mac = hmac(&key, b"Hi There");
        assert_eq!(mac[..4], [0xb0, 0x34, 0x4c, 0x61]);
    }

    #[test]
    fn tokens_are_not_printed() {
        let t = crate::Token { token: "hush".into(), user: "u".into(), groups: vec![] };
        assert!(!format!("{t:?}").contains("hush"));
    }
}
