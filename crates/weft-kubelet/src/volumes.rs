//! Volumes on disk, and the mounts of a container.

use crate::atomic::{self, Owner};
use crate::ctx::Ctx;
use crate::error::{Error, Result, file};
use crate::fields::View;
use crate::payload::{self, TOKEN_SECONDS, Tokens};
use crate::sources::{self, Sources};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume, VolumeMount};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use weft_sandbox::Mount;

/// Where containers find their service account.
pub const ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Name of the volume that is added for it.
pub const ACCOUNT_VOLUME: &str = "kube-api-access-weft";

/// The volume that Kubernetes' admission adds to pods that do not opt out.
pub fn account_volume() -> Volume {
    serde_json::from_value(json!({"name": ACCOUNT_VOLUME, "projected": {"defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS + 7}},
            {"configMap": {"name": "kube-root-ca.crt",
                "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}))
    .expect("invariant: a constant volume parses")
}

/// Whether a pod of this specification gets the service account volume from the kubelet: it
/// does not opt out, and no container mounts something there already.
pub fn wants_account(spec: &PodSpec) -> bool {
    spec.automount_service_account_token != Some(false)
        && !crate::plan::containers(spec).any(|(_, c)| mounts_account(c))
}

fn mounts_account(c: &Container) -> bool {
    c.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == ACCOUNT_DIR)
}

/// Who owns the files of a pod's volumes.
pub fn owner(pod: &Pod) -> Owner {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let group = security.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
    Owner {
        uid: weft_sandbox::host_id(uid, 0),
        gid: weft_sandbox::host_id(uid, group.unwrap_or(0)),
        group: group.is_some(),
    }
}

/// Where a volume lies on the machine.
fn place(ctx: &Ctx, pod: &Pod, v: &Volume) -> Result<PathBuf> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let ns = pod.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(h) = &v.host_path {
        return under(&ctx.args.dir.join("hostroot"), h.path.trim_start_matches('/'));
    }
    // A claim is a directory of the node, shared by the pods here that name it.
    if let Some(c) = &v.persistent_volume_claim {
        return under(&ctx.args.dir.join("volumes"), &format!("{ns}_{}", c.claim_name));
    }
    if v.ephemeral.is_some() {
        return under(&ctx.pod_dir(uid).join("volumes"), &v.name);
    }
    let known = v.empty_dir.is_some()
        || v.config_map.is_some()
        || v.secret.is_some()
        || v.projected.is_some()
        || v.downward_api.is_some();
    if !known {
        return Err(Error::Config(format!("volume \"{}\" is of a kind the lab has not", v.name)));
    }
    under(&ctx.pod_dir(uid).join("volumes"), &v.name)
}

/// A path below a directory; an empty one is the directory itself.
fn under(dir: &Path, path: &str) -> Result<PathBuf> {
    if path.is_empty() { Ok(dir.to_owned()) } else { Ok(dir.join(payload::inside(path)?)) }
}

/// Makes a volume, or brings its files up to date. Returns where it lies.
pub fn prepare(
    ctx: &Ctx,
    view: &View<'_>,
    v: &Volume,
    sources: &Sources,
    tokens: &Tokens,
) -> Result<PathBuf> {
    let dir = place(ctx, view.pod, v)?;
    let owner = owner(view.pod);
    if let Some(files) = payload::files(v, view, sources, tokens)? {
        atomic::write(&dir, &files, owner)?;
        return Ok(dir);
    }
    if let Some(h) = &v.host_path {
        host_path(&dir, h.type_.as_deref().unwrap_or_default(), &h.path)?;
        return Ok(dir);
    }
    if !dir.exists() {
        fs::create_dir_all(&dir).map_err(file("create", &dir))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(file("open", &dir))?;
        let _ = chown(&dir, Some(owner.uid), Some(owner.gid));
    }
    Ok(dir)
}

/// Checks or makes what a hostPath volume names, by its type.
fn host_path(path: &Path, kind: &str, shown: &str) -> Result<()> {
    let meta = fs::metadata(path).ok();
    let wrong = |what: &str| Err(Error::Config(format!("hostPath {shown} is not {what}")));
    let dir = |p: &Path| fs::create_dir_all(p).map_err(file("create", p));
    match (kind, meta) {
        ("", None) | ("DirectoryOrCreate", None) => dir(path),
        ("", Some(_)) => Ok(()),
        ("FileOrCreate", None) => {
            path.parent().map_or(Ok(()), dir)?;
            fs::write(path, "").map_err(file("create", path))
        }
        ("Directory" | "DirectoryOrCreate", Some(m)) if m.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(m)) if m.is_file() => Ok(()),
        ("Socket", Some(m)) if m.file_type().is_socket() => Ok(()),
        ("CharDevice", Some(m)) if m.file_type().is_char_device() => Ok(()),
        ("BlockDevice", Some(m)) if m.file_type().is_block_device() => Ok(()),
        (kind, _) => wrong(&format!("a {kind}")),
    }
}

/// The mount of one `volumeMount`. `env` serves `subPathExpr`.
pub fn mount(
    dir: &Path,
    v: &Volume,
    m: &VolumeMount,
    env: &[(String, String)],
    owner: Owner,
) -> Result<Mount> {
    let sub = match (&m.sub_path, &m.sub_path_expr) {
        (_, Some(e)) if !e.is_empty() => {
            crate::env::expand_args(std::slice::from_ref(e), env).remove(0)
        }
        (Some(s), _) => s.clone(),
        _ => String::new(),
    };
    let mut source = dir.to_owned();
    if !sub.is_empty() {
        source = dir.join(payload::inside(&sub)?);
        if !source.exists() {
            fs::create_dir_all(&source).map_err(file("create", &source))?;
            let _ = fs::set_permissions(&source, fs::Permissions::from_mode(0o777));
            let _ = chown(&source, Some(owner.uid), Some(owner.gid));
        }
        // A container may have put a link there: what it names must lie in the volume.
        let real = source.canonicalize().map_err(file("resolve", &source))?;
        let root = dir.canonicalize().map_err(file("resolve", dir))?;
        if !real.starts_with(&root) {
            return Err(Error::Config(format!("subPath {sub:?} leaves volume \"{}\"", v.name)));
        }
        source = real;
    }
    let filled = v.config_map.is_some()
        || v.secret.is_some()
        || v.projected.is_some()
        || v.downward_api.is_some();
    Ok(Mount {
        source,
        target: PathBuf::from(&m.mount_path),
        // Files that the kubelet writes are not the container's to change.
        read_only: m.read_only.unwrap_or(false) || filled,
    })
}

/// The volumes that a container mounts, with the added one.
pub fn all(spec: &PodSpec, account: bool) -> Vec<Volume> {
    let mut out: Vec<Volume> = spec.volumes.clone().unwrap_or_default();
    out.extend(account.then(account_volume));
    out
}

/// Reads what the volumes need: contents and tokens.
pub async fn fetch(
    ctx: &Ctx,
    pod: &Pod,
    volumes: &[Volume],
    have: &Tokens,
) -> Result<(Sources, Tokens)> {
    let ns = pod.metadata.namespace.as_deref().unwrap_or("default");
    let wanted = volumes.iter().flat_map(sources::of_volume).collect();
    let sources = ctx.read(ns, wanted).await?;
    let mut tokens = Tokens::new();
    for (audience, life) in volumes.iter().flat_map(payload::tokens_of) {
        let key = (audience, life);
        let token = match have.get(&key) {
            Some(t) => t.clone(),
            None => ctx.token(pod, &key.0, key.1).await?,
        };
        tokens.insert(key, token);
    }
    Ok((sources, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(v: serde_json::Value) -> VolumeMount {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        let v: Volume = serde_json::from_value(json!({"name": "v", "emptyDir": {}})).unwrap();
        let owner = Owner { uid: 0, gid: 0, group: false };
        let env = [("POD".to_owned(), "p1".to_owned())];
        let go = |m| mount(dir.path(), &v, &vm(m), &env, owner);
        let m = go(json!({"name": "v", "mountPath": "/m", "subPathExpr": "logs/$(POD)"})).unwrap();
        assert_eq!(m.source, dir.path().canonicalize().unwrap().join("logs/p1"));
        assert!(!m.read_only);
        assert!(go(json!({"name": "v", "mountPath": "/m", "subPath": "../x"})).is_err());
        assert!(go(json!({"name": "v", "mountPath": "/m", "subPath": "out"})).is_err());
    }

    #[test]
    fn host_path_types() {
        let dir = tempfile::tempdir().unwrap();
        let p = |n: &str| dir.path().join(n);
        assert!(host_path(&p("a"), "Directory", "/a").is_err());
        host_path(&p("a"), "DirectoryOrCreate", "/a").unwrap();
        host_path(&p("a"), "Directory", "/a").unwrap();
        assert!(host_path(&p("a"), "File", "/a").is_err());
        host_path(&p("d/f"), "FileOrCreate", "/d/f").unwrap();
        host_path(&p("d/f"), "File", "/d/f").unwrap();
        host_path(&p("any"), "", "/any").unwrap();
        assert!(p("any").is_dir());
    }

    #[test]
    fn the_account_is_mounted_unless_opted_out_or_there() {
        let spec = |v| serde_json::from_value::<PodSpec>(v).unwrap();
        assert!(wants_account(&spec(json!({"containers": [{"name": "c"}]}))));
        let off = json!({"automountServiceAccountToken": false, "containers": [{"name": "c"}]});
        assert!(!wants_account(&spec(off)));
        let own = json!({"containers": [{"name": "c", "volumeMounts":
            [{"name": "x", "mountPath": format!("{ACCOUNT_DIR}/")}]}]});
        assert!(!wants_account(&spec(own)));
        assert_eq!(payload::tokens_of(&account_volume()).count(), 1);
    }
}
