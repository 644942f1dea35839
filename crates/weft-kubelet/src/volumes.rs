//! Volumes on disk, and the mounts of a container.

use crate::atomic::{self, Owner};
use crate::beneath::Root;
use crate::claims::{self, Claims, Source};
use crate::ctx::Ctx;
use crate::error::{Error, Result, file};
use crate::fields::View;
use crate::payload::{self, TOKEN_SECONDS, Tokens};
use crate::sources::{self, Sources};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, Pod, PodSpec, Volume, VolumeMount,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
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

/// Who owns the files of a pod's own volumes.
pub fn owner(pod: &Pod) -> Owner {
    owner_in(pod.metadata.uid.as_deref().unwrap_or_default(), pod)
}

/// The same, where the files belong to the ids that another object has on the machine.
fn owner_in(object: &str, pod: &Pod) -> Owner {
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let group = security.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
    Owner {
        uid: weft_sandbox::host_id(object, 0),
        gid: weft_sandbox::host_id(object, group.unwrap_or(0)),
        group: group.is_some(),
    }
}

/// Where a volume lies on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A directory that containers cannot replace.
    root: PathBuf,
    /// The volume, relative to it. Of a hostPath every part may be a container's work.
    path: PathBuf,
    /// The PersistentVolume whose ids the files have: they outlive the pod, whose ids no other
    /// pod has. Every pod sees them as its own.
    volume: Option<String>,
}

impl Place {
    fn of_pod(root: PathBuf, path: PathBuf) -> Self {
        Self { root, path, volume: None }
    }

    /// Who owns what the kubelet makes there.
    fn owner(&self, pod: &Pod) -> Owner {
        self.volume.as_deref().map_or_else(|| owner(pod), |volume| owner_in(volume, pod))
    }

    /// In the machine's view.
    pub fn full(&self) -> PathBuf {
        // `join("")` would add a slash.
        if self.path.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(&self.path)
        }
    }

    /// The mount of it.
    pub fn mount(self, target: impl Into<PathBuf>, read_only: bool) -> Mount {
        let source = self.full();
        let ids = self.volume.map(|volume| weft_sandbox::host_id(&volume, 0));
        Mount { source, beneath: Some(self.root), ids, target: target.into(), read_only }
    }
}

fn place(ctx: &Ctx, pod: &Pod, v: &Volume, claimed: Option<&Source>) -> Result<Place> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if let Some(h) = host_path_of(v, claimed) {
        let path = h.path.trim_start_matches('/');
        // None: the node's whole root.
        let path = if path.is_empty() { Ok(PathBuf::new()) } else { payload::inside(path) };
        return Ok(Place::of_pod(ctx.args.dir.join("hostroot"), path?));
    }
    if let Some(Source::Provisioned(volume)) = claimed {
        let (root, path) = (ctx.volumes_dir(), name(volume)?);
        return Ok(Place { root, path, volume: Some(volume.clone()) });
    }
    let known = v.empty_dir.is_some()
        || v.ephemeral.is_some()
        || v.config_map.is_some()
        || v.secret.is_some()
        || v.projected.is_some()
        || v.downward_api.is_some();
    if !known {
        return Err(Error::Config(format!("volume \"{}\" is of a kind the lab has not", v.name)));
    }
    Ok(Place::of_pod(ctx.pod_dir(uid).join("volumes"), name(&v.name)?))
}

/// The hostPath of a volume: its own, or that of somebody's PersistentVolume.
fn host_path_of<'a>(
    v: &'a Volume,
    claimed: Option<&'a Source>,
) -> Option<&'a HostPathVolumeSource> {
    match claimed {
        Some(Source::HostPath(path)) => Some(path),
        _ => v.host_path.as_ref(),
    }
}

/// A single name: with a slash in it, a volume would lie in another one.
fn name(name: &str) -> Result<PathBuf> {
    let path = payload::inside(name)?;
    match path.components().count() {
        1 => Ok(path),
        _ => Err(Error::Config(format!("{name:?} is not the name of a volume"))),
    }
}

/// Says where a path of a volume went wrong.
fn refused<E: std::fmt::Display>(pod: &Pod, v: &Volume, path: &str) -> impl FnOnce(E) -> Error {
    let (ns, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    let pod = format!("{}/{}", ns.unwrap_or("default"), name.unwrap_or_default());
    let place = format!("pod {pod}: volume \"{}\": path {path:?}", v.name);
    move |e| Error::Config(format!("{place}: {e}"))
}

/// Names the volume whose claim cannot be had.
fn refused_claim(v: &Volume) -> impl FnOnce(Error) -> Error {
    move |e| match e {
        Error::Config(why) => Error::Config(format!("volume \"{}\": {why}", v.name)),
        other => other,
    }
}

/// The words for what containers can cause; the kernel's for the rest.
fn explain(e: std::io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::ELOOP) => "a symbolic link is in the way, which volumes do not follow".into(),
        Some(libc::EXDEV) => "it leaves the volume".into(),
        Some(libc::ENOTDIR) => "a part of it is not a directory".into(),
        _ => e.to_string(),
    }
}

/// Makes a volume, or brings its files up to date. Returns where it lies.
pub fn prepare(
    ctx: &Ctx,
    view: &View<'_>,
    v: &Volume,
    contents: &Contents,
    tokens: &Tokens,
) -> Result<Place> {
    let claimed = claims::of_volume(v).and_then(|name| contents.claims.get(name));
    let host_path_of = host_path_of(v, claimed);
    let shown = host_path_of.map_or(v.name.as_str(), |h| h.path.as_str());
    let place = place(ctx, view.pod, v, claimed).map_err(refused(view.pod, v, shown))?;
    let owner = place.owner(view.pod);
    if let Some(files) = payload::files(v, view, &contents.sources, tokens)? {
        atomic::write(&place.full(), &files, owner)?;
        return Ok(place);
    }
    let root = Root::open(&place.root).map_err(file("open", &place.root))?;
    let done = match host_path_of {
        Some(h) => host_path(&root, &place.path, h.type_.as_deref().unwrap_or_default()),
        None => {
            root.directory(&place.path, Some((owner.uid, owner.gid))).map(drop).map_err(explain)
        }
    };
    done.map_err(refused(view.pod, v, shown))?;
    if let Some(bytes) = v.empty_dir.as_ref().and_then(own_size) {
        mount_sized(&place.full(), bytes, owner).map_err(refused(view.pod, v, shown))?;
    }
    Ok(place)
}

/// The size of an emptyDir that gets a file system of its own: one in memory, or one with a
/// limit. The others share the node's disk. 0: no limit but that of the memory's file system.
fn own_size(v: &EmptyDirVolumeSource) -> Option<u64> {
    let limit = v.size_limit.as_ref().and_then(|q| crate::quantity::units(&q.0));
    match (limit, v.medium.as_deref()) {
        (Some(bytes), _) if bytes > 0 => Some(bytes),
        (_, Some("Memory")) => Some(0),
        _ => None,
    }
}

/// Mounts a tmpfs of that size where it is not mounted yet.
fn mount_sized(at: &Path, bytes: u64, owner: Owner) -> std::io::Result<()> {
    let above = at.parent().unwrap_or(at);
    if std::fs::metadata(at)?.dev() != std::fs::metadata(above)?.dev() {
        return Ok(());
    }
    let mut options = format!("mode=0777,uid={},gid={}", owner.uid, owner.gid);
    if bytes > 0 {
        // A size below a page would be none.
        options.push_str(&format!(",size={}", bytes.max(4096)));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("emptydir"), at, Some("tmpfs"), flags, Some(options.as_str()))?)
}

/// Removes what the kubelet keeps of a pod, with the volumes that are mounts. Goes on after an
/// error: the node's directory is taken down whole with the lab.
pub fn remove(pod_dir: &Path) {
    for volume in std::fs::read_dir(pod_dir.join("volumes")).into_iter().flatten().flatten() {
        match umount2(&volume.path(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Most are plain directories.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => {
                tracing::warn!(volume = %volume.path().display(), %error, "not unmounted");
                // Never through a mount.
                return;
            }
        }
    }
    let _ = std::fs::remove_dir_all(pod_dir);
}

/// Checks or makes what a hostPath volume names, by its type.
fn host_path(root: &Root, path: &Path, kind: &str) -> Result<(), String> {
    let meta = root.find(path).map_err(explain)?;
    if path.as_os_str().is_empty() {
        // The node's whole root. The lab makes it for root alone, whom no container has.
        root.share().map_err(explain)?;
    }
    match (kind, meta) {
        ("" | "DirectoryOrCreate", None) => root.directory(path, None).map(drop).map_err(explain),
        ("", Some(_)) => Ok(()),
        ("FileOrCreate", None) => root.file(path, None).map_err(explain),
        ("Directory" | "DirectoryOrCreate", Some(m)) if m.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(m)) if m.is_file() => Ok(()),
        ("Socket", Some(m)) if m.file_type().is_socket() => Ok(()),
        ("CharDevice", Some(m)) if m.file_type().is_char_device() => Ok(()),
        ("BlockDevice", Some(m)) if m.file_type().is_block_device() => Ok(()),
        (kind, _) => Err(format!("hostPath is not a {kind}")),
    }
}

/// The mount of one `volumeMount`. `env` serves `subPathExpr`.
pub fn mount_of(
    place: &Place,
    pod: &Pod,
    v: &Volume,
    m: &VolumeMount,
    env: &[(String, String)],
) -> Result<Mount> {
    let sub = match (&m.sub_path, &m.sub_path_expr) {
        (_, Some(e)) if !e.is_empty() => {
            crate::env::expand_args(std::slice::from_ref(e), env).remove(0)
        }
        (Some(s), _) => s.clone(),
        _ => String::new(),
    };
    let filled = v.config_map.is_some()
        || v.secret.is_some()
        || v.projected.is_some()
        || v.downward_api.is_some();
    let mut place = place.clone();
    if !sub.is_empty() {
        let inner = payload::inside(&sub).map_err(refused(pod, v, &sub))?;
        let path = place.path.join(&inner);
        place.path = match filled.then(|| resolve(&place, &inner)).flatten() {
            Some(real) => real,
            None => {
                sub_path(&place.root, &path, place.owner(pod)).map_err(refused(pod, v, &sub))?;
                path
            }
        };
    }
    // Files that the kubelet writes are not the container's to change.
    let read_only =
        filled || v.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true));
    Ok(place.mount(&m.mount_path, m.read_only.unwrap_or(false) || read_only))
}

/// What a subPath names: anything that is there, else a new directory.
fn sub_path(root: &Path, path: &Path, owner: Owner) -> Result<(), String> {
    let root = Root::open(root).map_err(explain)?;
    match root.find(path).map_err(explain)? {
        Some(_) => Ok(()),
        None => root.directory(path, Some((owner.uid, owner.gid))).map(drop).map_err(explain),
    }
}

/// Where a file lies that [`atomic`] has written: it makes links of its own, and no container
/// can write there. Relative to the place's root.
fn resolve(place: &Place, inner: &Path) -> Option<PathBuf> {
    let dir = place.full().canonicalize().ok()?;
    let real = dir.join(inner).canonicalize().ok()?;
    Some(place.path.join(real.strip_prefix(dir).ok()?))
}

/// The volumes that a container mounts, with the added one.
pub fn all(spec: &PodSpec, account: bool) -> Vec<Volume> {
    let mut out: Vec<Volume> = spec.volumes.clone().unwrap_or_default();
    out.extend(account.then(account_volume));
    out
}

/// What volumes are made of, as far as the API knows.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Files.
    pub sources: Sources,
    /// Places.
    pub claims: Claims,
}

/// Reads what the volumes need: contents and tokens. A claim without a volume is an error: its
/// pod waits.
pub async fn fetch(
    ctx: &Ctx,
    pod: &Pod,
    volumes: &[Volume],
    have: &Tokens,
) -> Result<(Contents, Tokens)> {
    let ns = pod.metadata.namespace.as_deref().unwrap_or("default");
    let wanted = volumes.iter().flat_map(sources::of_volume).collect();
    let mut contents = Contents { sources: ctx.read(ns, wanted).await?, ..Contents::default() };
    for (v, name) in volumes.iter().filter_map(|v| Some((v, claims::of_volume(v)?))) {
        let source = ctx.claim(ns, name).await.map_err(refused_claim(v))?;
        contents.claims.insert(name.to_owned(), source);
    }
    let mut tokens = Tokens::new();
    for (audience, life) in volumes.iter().flat_map(payload::tokens_of) {
        let key = (audience, life);
        let token = match have.get(&key) {
            Some(t) => t.clone(),
            None => ctx.token(pod, &key.0, key.1).await?,
        };
        tokens.insert(key, token);
    }
    Ok((contents, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(v: serde_json::Value) -> VolumeMount {
        serde_json::from_value(v).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p"}})).unwrap()
    }

    #[test]
    fn sub_paths_follow_no_link_and_make_nothing_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        std::fs::create_dir_all(at("outside")).unwrap();
        std::fs::create_dir_all(at("volumes/v")).unwrap();
        std::os::unix::fs::symlink(at("outside"), at("volumes/v/out")).unwrap();
        std::os::unix::fs::symlink("../../outside", at("volumes/v/up")).unwrap();
        let v: Volume = serde_json::from_value(json!({"name": "v", "emptyDir": {}})).unwrap();
        let env = [("POD".to_owned(), "p1".to_owned())];
        let place = Place::of_pod(at("volumes"), "v".into());
        let go = |m| mount_of(&place, &pod(), &v, &vm(m), &env);
        let m = go(json!({"name": "v", "mountPath": "/m", "subPathExpr": "logs/$(POD)"})).unwrap();
        assert_eq!((m.source, m.beneath), (at("volumes/v/logs/p1"), Some(at("volumes"))));
        assert!(!m.read_only && at("volumes/v/logs/p1").is_dir());
        for bad in ["../x", "out", "out/new", "up", "up/new/deep", "/outside"] {
            let refused = go(json!({"name": "v", "mountPath": "/m", "subPath": bad}));
            if bad.starts_with('/') {
                assert!(refused.is_err(), "{bad}");
                continue;
            }
            let e = refused.unwrap_err().to_string();
            assert!(e.contains("ns/p") && e.contains("\"v\"") && e.contains(bad), "{e}");
        }
        assert_eq!(std::fs::read_dir(at("outside")).unwrap().count(), 0);
    }

    #[test]
    fn sub_paths_of_written_files_follow_the_writers_links() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of_pod(dir.path().into(), "cm".into());
        let files = [("k".into(), (b"text".to_vec(), 0o644))].into();
        let me = std::os::unix::fs::MetadataExt::uid(&dir.path().metadata().unwrap());
        atomic::write(&place.full(), &files, Owner { uid: me, gid: me, group: false }).unwrap();
        let v = json!({"name": "cm", "configMap": {"name": "cm"}});
        let v: Volume = serde_json::from_value(v).unwrap();
        let m = vm(json!({"name": "cm", "mountPath": "/k", "subPath": "k"}));
        let m = mount_of(&place, &pod(), &v, &m, &[]).unwrap();
        assert!(m.read_only && m.source.symlink_metadata().unwrap().is_file());
        assert_eq!(m.ids, None);
        let root = Root::open(m.beneath.as_deref().unwrap()).unwrap();
        let rest = m.source.strip_prefix(dir.path()).unwrap();
        assert!(root.find(rest).unwrap().is_some(), "no link is left on the way");
    }

    #[test]
    fn what_is_claimed_has_the_ids_of_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pvc-1")).unwrap();
        let volume = Some("pvc-1".to_owned());
        let place = Place { root: dir.path().into(), path: "pvc-1".into(), volume };
        let (pod, mut group) = (pod(), pod());
        group.spec = serde_json::from_value(json!({"containers": [],
            "securityContext": {"fsGroup": 5}}))
        .unwrap();
        let ids = weft_sandbox::host_id("pvc-1", 0);
        let (own, shared) = (place.owner(&pod), place.owner(&group));
        assert_eq!((own.uid, own.gid, shared.gid), (ids, ids, ids + 5));
        assert_ne!(owner(&pod).uid, ids);
        for read_only in [false, true] {
            let claim = json!({"claimName": "c", "readOnly": read_only});
            let v = json!({"name": "v", "persistentVolumeClaim": claim});
            let v: Volume = serde_json::from_value(v).unwrap();
            let m = vm(json!({"name": "v", "mountPath": "/m", "subPath": "a"}));
            let m = mount_of(&place, &pod, &v, &m, &[]).unwrap();
            assert_eq!((m.ids, m.read_only), (Some(ids), read_only));
            assert_eq!(m.source, dir.path().join("pvc-1/a"));
        }
    }

    #[test]
    fn host_path_types() {
        let dir = tempfile::tempdir().unwrap();
        let p = |n: &str| dir.path().join("root").join(n);
        let root = Root::open(&p("")).unwrap();
        std::fs::set_permissions(p(""), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        let host_path = |path: &str, kind| host_path(&root, Path::new(path), kind);
        assert!(host_path("a", "Directory").is_err());
        host_path("a", "DirectoryOrCreate").unwrap();
        host_path("a", "Directory").unwrap();
        assert!(host_path("a", "File").is_err());
        host_path("d/f", "FileOrCreate").unwrap();
        host_path("d/f", "File").unwrap();
        host_path("any", "").unwrap();
        host_path("", "").unwrap();
        let mode = |n| std::os::unix::fs::MetadataExt::mode(&p(n).metadata().unwrap()) & 0o7777;
        assert_eq!(
            [mode("a"), mode("d"), mode("any")],
            [0o777; 3],
            "containers' users write there"
        );
        assert_eq!((mode("d/f"), mode("")), (0o666, 0o777));
        std::os::unix::fs::symlink(dir.path(), p("out")).unwrap();
        for kind in ["", "DirectoryOrCreate", "FileOrCreate", "Directory", "File"] {
            let e = host_path("out/new", kind).unwrap_err();
            assert!(e.contains("symbolic link"), "{e}");
            assert!(host_path("out", kind).is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
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
