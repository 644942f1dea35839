//! The files of volumes that are filled from the API: configMap, secret, downwardAPI, projected.
//! Pure: contents in, files out.

use crate::error::{Error, Result};
use crate::fields::View;
use crate::sources::{Kind, Sources};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Files by path relative to the volume: contents and mode.
pub type Files = BTreeMap<PathBuf, (Vec<u8>, u32)>;

/// Bound service account tokens by audience (empty: the API's own) and seconds of life.
pub type Tokens = BTreeMap<(String, i64), String>;

const DEFAULT_MODE: i32 = 0o644;

/// Life of a token where the manifest names none, in seconds.
pub const TOKEN_SECONDS: i64 = 3600;

/// A path that stays inside the volume.
pub fn inside(path: &str) -> Result<PathBuf> {
    let p = Path::new(path);
    let plain = p.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || !plain {
        return Err(Error::Config(format!("path {path:?} leaves the volume")));
    }
    Ok(p.components().filter(|c| matches!(c, Component::Normal(_))).collect())
}

/// The tokens that a volume holds.
pub fn tokens_of(v: &Volume) -> impl Iterator<Item = (String, i64)> {
    let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
    sources.filter_map(|s| s.service_account_token.as_ref()).map(|t| {
        let life = t.expiration_seconds.unwrap_or(TOKEN_SECONDS).max(600);
        (t.audience.clone().unwrap_or_default(), life)
    })
}

/// The files of a volume; `None` for a volume of another kind.
pub fn files(
    v: &Volume,
    view: &View<'_>,
    sources: &Sources,
    tokens: &Tokens,
) -> Result<Option<Files>> {
    let mut out = Files::new();
    if let Some(s) = &v.config_map {
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        let id = (Kind::ConfigMap, s.name.as_str());
        keys(&mut out, sources, id, s.items.as_deref(), mode, s.optional)?;
    } else if let Some(s) = &v.secret {
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        let id = (Kind::Secret, s.secret_name.as_deref().unwrap_or_default());
        keys(&mut out, sources, id, s.items.as_deref(), mode, s.optional)?;
    } else if let Some(s) = &v.downward_api {
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        downward(&mut out, view, s.items.as_deref(), mode)?;
    } else if let Some(p) = &v.projected {
        let mode = p.default_mode.unwrap_or(DEFAULT_MODE);
        for s in p.sources.iter().flatten() {
            if let Some(c) = &s.config_map {
                let id = (Kind::ConfigMap, c.name.as_str());
                keys(&mut out, sources, id, c.items.as_deref(), mode, c.optional)?;
            } else if let Some(c) = &s.secret {
                let id = (Kind::Secret, c.name.as_str());
                keys(&mut out, sources, id, c.items.as_deref(), mode, c.optional)?;
            } else if let Some(d) = &s.downward_api {
                downward(&mut out, view, d.items.as_deref(), mode)?;
            } else if let Some(t) = &s.service_account_token {
                let life = t.expiration_seconds.unwrap_or(TOKEN_SECONDS).max(600);
                let key = (t.audience.clone().unwrap_or_default(), life);
                if let Some(token) = tokens.get(&key) {
                    put(&mut out, &t.path, token.clone().into_bytes(), mode)?;
                }
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

fn put(out: &mut Files, path: &str, bytes: Vec<u8>, mode: i32) -> Result<()> {
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    out.insert(inside(path)?, (bytes, mode));
    Ok(())
}

fn keys(
    out: &mut Files,
    sources: &Sources,
    (kind, name): (Kind, &str),
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<()> {
    let Some(data) = sources.get(&(kind, name.to_owned())) else {
        if optional == Some(true) {
            return Ok(());
        }
        return Err(Error::Config(format!("{} \"{name}\" not found", kind.lower())));
    };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (k, v) in data {
            put(out, k, v.clone(), mode)?;
        }
        return Ok(());
    };
    for i in items {
        match data.get(&i.key) {
            Some(v) => put(out, &i.path, v.clone(), i.mode.unwrap_or(mode))?,
            None if optional == Some(true) => {}
            None => {
                return Err(Error::Config(format!(
                    "{} \"{name}\" references non-existent key: {}",
                    kind.lower(),
                    i.key
                )));
            }
        }
    }
    Ok(())
}

fn downward(
    out: &mut Files,
    view: &View<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
) -> Result<()> {
    for i in items.unwrap_or_default() {
        let text = if let Some(f) = &i.field_ref {
            view.field(&f.field_path)?
        } else if let Some(r) = &i.resource_field_ref {
            view.resource(r, None)?
        } else {
            continue;
        };
        put(out, &i.path, text.into_bytes(), i.mode.unwrap_or(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn show(volume: serde_json::Value, sources: &Sources) -> Result<Vec<(String, String, u32)>> {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"b": "2", "a": "1\"x"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}}}]}}))
        .unwrap();
        let none = BTreeMap::new();
        let view = View { pod: &pod, pod_ips: &[], host_ips: &[], allocatable: &none };
        let tokens = Tokens::from([((String::new(), 3607), "tok".to_owned())]);
        let mut v = volume;
        v["name"] = json!("v");
        let files = files(&serde_json::from_value(v).unwrap(), &view, sources, &tokens)?;
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Ok(files
            .unwrap()
            .into_iter()
            .map(|(p, (b, m))| (p.display().to_string(), text(b), m))
            .collect())
    }

    fn sources() -> Sources {
        let data = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())];
        Sources::from([
            ((Kind::ConfigMap, "cm".to_owned()), data.clone().into()),
            ((Kind::Secret, "s".to_owned()), data.into()),
        ])
    }

    fn row(p: &str, t: &str, m: u32) -> (String, String, u32) {
        (p.into(), t.into(), m)
    }

    #[test]
    fn keys_items_and_modes() {
        let all = show(json!({"configMap": {"name": "cm", "defaultMode": 0o400}}), &sources());
        assert_eq!(all.unwrap(), [row("a", "1", 0o400), row("b", "2", 0o400)]);
        let items = json!({"secret": {"secretName": "s", "items":
            [{"key": "a", "path": "x/y", "mode": 0o600}]}});
        assert_eq!(show(items, &sources()).unwrap(), [row("x/y", "1", 0o600)]);
        let missing = json!({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}});
        assert!(show(missing, &sources()).is_err());
        assert!(show(json!({"configMap": {"name": "no"}}), &sources()).is_err());
        let optional = json!({"configMap": {"name": "no", "optional": true}});
        assert_eq!(show(optional, &sources()).unwrap(), []);
    }

    #[test]
    fn projected_and_downward() {
        let v = json!({"projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "cpu", "resourceFieldRef":
                    {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]}}]}});
        assert_eq!(
            show(v, &sources()).unwrap(),
            [
                row("ca.crt", "1", 0o644),
                row("cpu", "1500", 0o644),
                row("labels", "a=\"1\\\"x\"\nb=\"2\"", 0o644),
                row("namespace", "ns", 0o644),
                row("token", "tok", 0o644),
            ]
        );
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        for p in ["..", "../x", "a/../../x", "/etc/passwd", ""] {
            assert!(inside(p).is_err(), "{p:?}");
        }
        assert_eq!(inside("./a/./b").unwrap(), Path::new("a/b"));
    }
}
