//! The secrets that must be the same after a restart: kubeconfigs and pods hold them.

use crate::{Error, write_atomic};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, fs, path::Path};

/// The administrator's bearer token, and the key that signs tokens of service accounts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    admin: String,
    /// 32 bytes in hexadecimal.
    signing_key: String,
}

impl Credentials {
    /// New random ones.
    pub fn random() -> Self {
        Self { admin: weft_apiserver::random_token(), signing_key: weft_apiserver::random_token() }
    }

    /// Reads a file of credentials, or makes it with what `make` returns. The file may hold
    /// more than these: `T` says what.
    pub fn load_or_create<T>(path: &Path, make: impl FnOnce() -> T) -> Result<T, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        let damaged =
            |e: serde_json::Error| Error::Damaged { path: path.to_owned(), reason: e.to_string() };
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(damaged),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let made = make();
                let bytes = serde_json::to_vec(&made).map_err(damaged)?;
                write_atomic(path, &bytes, 0o600)?;
                Ok(made)
            }
            Err(e) => Err(Error::file("read", path, e)),
        }
    }

    /// The administrator's token.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// The administrator, as the API is told of him.
    pub fn admin_token(&self, user: &str) -> weft_apiserver::Token {
        weft_apiserver::Token {
            token: self.admin.clone(),
            user: user.to_owned(),
            groups: vec!["system:masters".into()],
        }
    }

    /// The signing key's bytes; `None` if the text is not such a key.
    pub fn key(&self) -> Option<[u8; 32]> {
        let digits = self.signing_key.as_bytes();
        let mut key = [0; 32];
        if digits.len() != 2 * key.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(self.signing_key.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(key)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn they_survive_and_only_their_owner_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        let first = Credentials::load_or_create(&path, Credentials::random).unwrap();
        let again = Credentials::load_or_create(&path, Credentials::random).unwrap();
        assert_eq!(first, again);
        assert!(first.key().is_some());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(first.admin()));
        fs::write(&path, "{").unwrap();
        let error = Credentials::load_or_create(&path, Credentials::random).unwrap_err();
        assert!(error.to_string().contains("is damaged"), "{error}");
        for bad in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            let c = Credentials { admin: String::new(), signing_key: bad.into() };
            assert_eq!(c.key(), None, "{bad}");
        }
    }
}
