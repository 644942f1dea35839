//! From a container in a manifest to a container in the sandbox: volumes, files, environment,
//! program.

use crate::ctx::Ctx;
use crate::env;
use crate::error::{Error, Result, file};
use crate::fields::View;
use crate::files;
use crate::payload::Tokens;
use crate::plan::Role;
use crate::program::{self, Choice, Port, StandIn};
use crate::quantity;
use crate::sources;
use crate::volumes;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weft_sandbox::{ContainerSpec, Limits, Mount, Program};

/// Default of `terminationMessagePath`.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a start needs.
pub struct Request {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// Its role.
    pub role: Role,
    /// Number of the run.
    pub run: u32,
    /// Addresses of the pod.
    pub ips: Vec<IpAddr>,
    /// Volumes of the pod, the service account's included.
    pub volumes: Vec<Volume>,
    /// Tokens fetched before.
    pub tokens: Tokens,
}

/// A container ready to start.
pub struct Prepared {
    /// What the sandbox gets; `None`: an init container that is complete as it stands.
    pub spec: Option<ContainerSpec>,
    /// Ports of the stand-in, where it is one.
    pub stand_in: Option<Vec<Port>>,
    /// Tokens in use now.
    pub tokens: Tokens,
}

/// Prepares a container. Errors say what of the pod is missing or wrong.
pub async fn prepare(ctx: &Arc<Ctx>, r: Request) -> Result<Prepared> {
    let ns = r.pod.metadata.namespace.clone().unwrap_or_else(|| "default".into());
    let mounted = |v: &Volume| {
        let named = r.container.volume_mounts.iter().flatten().any(|m| m.name == v.name);
        named || v.name == volumes::ACCOUNT_VOLUME
    };
    let wanted: Vec<Volume> = r.volumes.iter().filter(|v| mounted(v)).cloned().collect();
    let (contents, tokens) = volumes::fetch(ctx, &r.pod, &wanted, &r.tokens).await?;
    let variables = ctx.read(&ns, sources::of_env(&r.container)).await?;
    let ctx = Arc::clone(ctx);
    let prepared = tokio::task::spawn_blocking(move || {
        let view = View {
            pod: &r.pod,
            pod_ips: &r.ips,
            host_ips: &ctx.node_ips,
            allocatable: &ctx.allocatable,
        };
        let services = ctx.services();
        let links = r.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
        let service_env = env::service_variables(&ns, services.iter(), links);
        let mut env = env::build(&view, &r.container, &variables, &service_env)?;
        let hostname = files::hostname(&r.pod, &ctx.args.node);
        if !env.iter().any(|(k, _)| k == "HOSTNAME") {
            env.insert(0, ("HOSTNAME".into(), hostname));
        }
        let mut mounts = Vec::new();
        for v in &wanted {
            let place = volumes::prepare(&ctx, &view, v, &contents, &tokens)?;
            for m in r.container.volume_mounts.iter().flatten().filter(|m| m.name == v.name) {
                mounts.push(volumes::mount_of(&place, &r.pod, v, m, &env)?);
            }
            if v.name == volumes::ACCOUNT_VOLUME {
                mounts.push(place.mount(volumes::ACCOUNT_DIR, true));
            }
        }
        for m in r.container.volume_mounts.iter().flatten() {
            if !wanted.iter().any(|v| v.name == m.name) {
                return Err(Error::Config(format!("volume \"{}\" is not in the pod", m.name)));
            }
        }
        etc(&ctx, &r, &mut mounts)?;
        // Outer mounts first, so that inner ones are not hidden.
        mounts.sort_by_key(|m| m.target.components().count());
        container(&ctx, &r, env, mounts, tokens)
    });
    prepared.await.map_err(|e| Error::Config(e.to_string()))?
}

/// Writes /etc/hosts and its like, and the termination log, and mounts them unless the pod
/// mounts something of its own there.
fn etc(ctx: &Ctx, r: &Request, mounts: &mut Vec<Mount>) -> Result<()> {
    let pod = &r.pod;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return Ok(()) };
    let ns = pod.metadata.namespace.as_deref().unwrap_or("default");
    let dir = ctx.pod_dir(uid).join("etc");
    fs::create_dir_all(&dir).map_err(file("create", &dir))?;
    let node_hosts = match spec.host_network {
        Some(true) => fs::read_to_string("/etc/hosts").unwrap_or_default(),
        _ => String::new(),
    };
    let (node, domain) = (&ctx.args.node, &ctx.args.cluster_domain);
    let host = match (spec.set_hostname_as_fqdn, files::fqdn(pod, node, domain)) {
        (Some(true), Some(f)) => f,
        _ => files::hostname(pod, node),
    };
    for (name, text) in [
        ("hosts", files::hosts(pod, &r.ips, node, domain, &node_hosts)),
        ("resolv.conf", files::resolv_conf(ns, spec, &ctx.dns)),
        ("hostname", format!("{host}\n")),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".into()),
    ] {
        let source = dir.join(name);
        // Only once: containers of the pod share these files and may write to /etc/hosts.
        if !source.exists() {
            fs::write(&source, text).map_err(file("write", &source))?;
            fs::set_permissions(&source, fs::Permissions::from_mode(0o644))
                .map_err(file("open", &source))?;
        }
        let target = Path::new("/etc").join(name);
        if source.exists() && !mounts.iter().any(|m| m.target == target) {
            mounts.push(Mount { source, beneath: None, ids: None, target, read_only: false });
        }
    }
    let term = termination_file(ctx, uid, &r.container.name);
    if let Some(dir) = term.parent() {
        fs::create_dir_all(dir).map_err(file("create", dir))?;
    }
    fs::write(&term, "").map_err(file("write", &term))?;
    fs::set_permissions(&term, fs::Permissions::from_mode(0o666)).map_err(file("open", &term))?;
    let path = r.container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    let target = PathBuf::from(path.unwrap_or(TERMINATION_LOG));
    mounts.push(Mount { source: term, beneath: None, ids: None, target, read_only: false });
    Ok(())
}

/// File behind a container's termination message path.
pub fn termination_file(ctx: &Ctx, uid: &str, container: &str) -> PathBuf {
    ctx.pod_dir(uid).join("termination").join(container)
}

/// Supplementary groups: the pod's own and the one that owns its volumes.
fn groups(pod: &Pod) -> Vec<u32> {
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let listed = security
        .into_iter()
        .flat_map(|s| s.supplemental_groups.iter().flatten().copied().chain(s.fs_group));
    listed.filter_map(|g| u32::try_from(g).ok()).collect()
}

fn container(
    ctx: &Ctx,
    r: &Request,
    env: Vec<(String, String)>,
    mounts: Vec<Mount>,
    tokens: Tokens,
) -> Result<Prepared> {
    let c = &r.container;
    let pod = &r.pod;
    let meta = &pod.metadata;
    let uid = meta.uid.as_deref().unwrap_or_default();
    let cwd = c.working_dir.as_deref().filter(|d| !d.is_empty()).map(PathBuf::from);
    let command = env::expand_args(c.command.as_deref().unwrap_or_default(), &env);
    let args = env::expand_args(c.args.as_deref().unwrap_or_default(), &env);
    let path = env.iter().find(|(k, _)| k == "PATH").map_or(program::PATH, |(_, v)| v.as_str());
    let choice = program::choose(r.role, &command, &args, |p| {
        program::on_host(p, path, cwd.as_deref(), &mounts)
    })?;
    let mut stand_in = None;
    let program = match choice {
        Choice::Complete => return Ok(Prepared { spec: None, stand_in: None, tokens }),
        Choice::Run(argv) => Program::Command(argv),
        Choice::StandIn => {
            let ports = program::stand_in_ports(pod, &c.name, ctx.services().iter());
            let config = StandIn {
                namespace: meta.namespace.as_deref().unwrap_or("default"),
                pod: meta.name.as_deref().unwrap_or_default(),
                node: &ctx.args.node,
                pod_ips: &r.ips,
                container: &c.name,
                image: c.image.as_deref().unwrap_or_default(),
                ports: ports.clone(),
            };
            stand_in = Some(ports);
            let json = serde_json::to_string(&config);
            Program::StandIn(json.map_err(|e| Error::Config(e.to_string()))?)
        }
    };
    let own = c.security_context.as_ref();
    let all = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let id = |own: Option<i64>, all: Option<i64>| own.or(all).and_then(|n| u32::try_from(n).ok());
    let privileged = own.and_then(|s| s.privileged).unwrap_or(false);
    if privileged && !ctx.args.allow_privileged {
        return Err(Error::Config(
            "privileged containers are not allowed in this lab (--allow-privileged)".into(),
        ));
    }
    let user = id(own.and_then(|s| s.run_as_user), all.and_then(|s| s.run_as_user));
    let non_root = own.and_then(|s| s.run_as_non_root).or(all.and_then(|s| s.run_as_non_root));
    if non_root == Some(true) && user == Some(0) {
        return Err(Error::Config("container's runAsUser breaks non-root policy".into()));
    }
    let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
    let log = ctx.log(uid, &c.name, r.run);
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).map_err(file("create", dir))?;
    }
    let spec = ContainerSpec {
        name: c.name.clone(),
        program,
        env,
        cwd: if stand_in.is_some() { None } else { cwd },
        mounts,
        limits: Limits {
            memory_bytes: limits.and_then(|l| l.get("memory")).and_then(|q| quantity::units(&q.0)),
            pids: None,
        },
        read_only_root: own.and_then(|s| s.read_only_root_filesystem).unwrap_or(false),
        // A manifest that only says "not root" relies on its image's user; any will do.
        uid: user.or((non_root == Some(true)).then_some(65534)),
        gid: id(own.and_then(|s| s.run_as_group), all.and_then(|s| s.run_as_group)),
        groups: groups(pod),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
        privileged,
        log,
    };
    Ok(Prepared { spec: Some(spec), stand_in, tokens })
}
