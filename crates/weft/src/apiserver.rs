//! `weft apiserver`: the embedded API and its controllers as a command of their own.

use anyhow::{Context, Result, anyhow, ensure};
use ipnet::IpNet;
use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    ops::RangeInclusive,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Instant,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use weft_apiserver::{Pki, kubeconfig, lock_directory};
use weft_controlplane::{ControlPlane, Credentials, write_atomic};

/// Arguments of `weft apiserver`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep objects, certificates and tokens here, so that they survive a restart; in memory
    /// without
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where to write a kubeconfig with every right, readable by you alone
    /// [default: DIR/kubeconfig with --data-dir]
    #[arg(long, value_name = "FILE", required_unless_present = "data_dir")]
    kubeconfig: Option<PathBuf>,
    /// Address and port to serve TLS on; port 0 takes a free one; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    listen: Vec<SocketAddr>,
    /// Address by which pods and nodes reach this server, put into the endpoints of the Service
    /// `kubernetes`; may be repeated [default: the --listen addresses other machines can reach]
    #[arg(long, value_name = "ADDRESS")]
    advertise_address: Vec<IpAddr>,
    /// Range of ClusterIPs, the primary family's first
    #[arg(
        long,
        value_name = "CIDR[,CIDR]",
        value_delimiter = ',',
        default_value = "10.96.0.0/16,fd00:10:96::/112",
        value_parser = service_cidr
    )]
    service_cidr: Vec<IpNet>,
    /// Ports given to NodePort and LoadBalancer Services
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: RangeInclusive<u16>,
    /// Serve the API alone: nothing schedules, rolls out, fills EndpointSlices or empties
    /// namespaces
    #[arg(long)]
    no_controllers: bool,
    /// Serve with this certificate and the chain behind it (PEM) instead of one of the server's
    /// own authority; the kubeconfig trusts the last certificate of the file
    #[arg(long, value_name = "FILE", visible_alias = "tls-cert-file", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM)
    #[arg(
        long,
        value_name = "FILE",
        visible_alias = "tls-private-key-file",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// Let in whoever has a client certificate of these authorities (PEM), too: the common name
    /// is the user, the organisations are the groups
    #[arg(long, value_name = "FILE", visible_alias = "client-ca-file")]
    client_ca: Option<PathBuf>,
    /// Acknowledge a write once the disk has it (fdatasync), not only the operating system
    #[arg(long, visible_alias = "sync", requires = "data_dir")]
    durable: bool,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> Result<()> {
    let started = Instant::now();
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    check_cidrs(&args.service_cidr)?;
    // The directory's lock first: of two servers on one directory, the second must not even
    // take a port.
    let state = State::open(args.data_dir.as_deref())?;
    let (listeners, bound) = listen(&args.listen)?;
    let advertise = advertised(&args, &bound);
    let mut pki = state.pki(&certified(&args, &bound, &advertise))?;
    take_files(&mut pki, &args)?;
    let url = format!("https://{}", reachable(bound[0]));
    let api = weft_apiserver::Config {
        service_cidrs: args.service_cidr.clone(),
        node_ports: args.service_node_port_range.clone(),
        advertise,
        advertise_port: bound[0].port(),
        tokens: vec![state.credentials.admin_token("weft-admin")],
        token_key: Some(state.credentials.key().context("tokens.json is damaged")?),
        data_dir: state.dir.as_ref().map(|d| d.join("objects")),
        sync: args.durable,
        // There are no nodes here whose kubelets could be asked.
        kubelet_socket: std::sync::Arc::new(|_| PathBuf::from("/nonexistent/kubelet.sock")),
        ..weft_apiserver::Config::default()
    };
    let controllers = (!args.no_controllers).then(|| weft_cluster::Config {
        ca_pem: pki.trusted_pem().to_owned(),
        ..weft_cluster::Config::default()
    });
    // The API's errors name their cause themselves.
    let plane = ControlPlane::new(api, controllers).map_err(|e| anyhow!("{e}"))?;
    let stop = CancellationToken::new();
    let tls = pki.tls().context("set up TLS")?;
    let mut running = tokio::spawn(plane.run(Some((listeners, tls)), stop.clone()));

    // Last, so that whoever waits for the file finds a server behind it.
    let file = args.kubeconfig.or_else(|| state.dir.as_ref().map(|d| d.join("kubeconfig")));
    let file = file.context("invariant: one of --kubeconfig and --data-dir is there")?;
    let text = kubeconfig(&url, pki.trusted_pem(), state.credentials.admin());
    write_atomic(&file, text.as_bytes(), 0o600)?;
    tracing::info!(
        %url,
        kubeconfig = %file.display(),
        elapsed_ms = started.elapsed().as_millis() as u64,
        "ready"
    );
    tokio::select! {
        ended = &mut running => return Ok(ended.context("the control plane panicked")??),
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
    }
    stop.cancel();
    Ok(running.await.context("the control plane panicked")??)
}

/// Certificates that are given rather than made.
fn take_files(pki: &mut Pki, args: &Args) -> Result<()> {
    let read = |flag: &str, path: &Path| {
        fs::read_to_string(path).with_context(|| format!("{flag}: cannot read {}", path.display()))
    };
    if let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) {
        pki.serve_with(&read("--tls-cert", certificate)?, &read("--tls-key", key)?)
            .map_err(|e| anyhow!("--tls-cert {}: {e}", certificate.display()))?;
    }
    if let Some(path) = &args.client_ca {
        pki.trust_clients_of(&read("--client-ca", path)?)
            .map_err(|e| anyhow!("--client-ca {}: {e}", path.display()))?;
    }
    Ok(())
}

/// What outlives the process, where a directory was given.
struct State {
    dir: Option<PathBuf>,
    credentials: Credentials,
    /// Held while the process lives.
    _lock: Option<File>,
}

impl State {
    fn open(dir: Option<&Path>) -> Result<Self> {
        let Some(dir) = dir else {
            return Ok(Self { dir: None, credentials: Credentials::random(), _lock: None });
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("--data-dir: cannot make {}", dir.display()))?;
        let lock = lock_directory(dir).map_err(|e| match e.kind() {
            // It says where.
            std::io::ErrorKind::ResourceBusy => anyhow!("--data-dir: {e}"),
            _ => anyhow!("--data-dir: cannot write into {}: {e}", dir.display()),
        })?;
        let credentials =
            Credentials::load_or_create(&dir.join("tokens.json"), Credentials::random)?;
        Ok(Self { dir: Some(dir.to_owned()), credentials, _lock: Some(lock) })
    }

    fn pki(&self, addresses: &[IpAddr]) -> Result<Pki> {
        let made = match &self.dir {
            Some(dir) => Pki::load_or_create(&dir.join("pki"), addresses),
            None => Pki::ephemeral(addresses),
        };
        made.map_err(|e| anyhow!("make certificates: {e}"))
    }
}

/// Binds every address; a port of 0 becomes the one that was free.
fn listen(addresses: &[SocketAddr]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>)> {
    let mut listeners = Vec::new();
    let mut bound = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).with_context(|| {
            format!("--listen {address}: cannot listen there (port 0 takes a free one)")
        })?;
        bound.push(listener.local_addr().context("read the port")?);
        listeners.push(listener);
    }
    Ok((listeners, bound))
}

/// The endpoints of the Service `kubernetes`: addresses that mean the same machine everywhere.
fn advertised(args: &Args, bound: &[SocketAddr]) -> Vec<IpAddr> {
    if !args.advertise_address.is_empty() {
        return args.advertise_address.clone();
    }
    let elsewhere = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified();
    bound.iter().map(SocketAddr::ip).filter(elsewhere).collect()
}

/// Every address that the server's certificate must name.
fn certified(args: &Args, bound: &[SocketAddr], advertise: &[IpAddr]) -> Vec<IpAddr> {
    let service = args.service_cidr.iter().filter_map(|c| c.hosts().find(|a| *a != c.network()));
    let mut all: Vec<IpAddr> = bound
        .iter()
        .map(SocketAddr::ip)
        .filter(|ip| !ip.is_unspecified())
        .chain(advertise.iter().copied())
        .chain(service)
        .collect();
    all.sort();
    all.dedup();
    all
}

/// The address for the kubeconfig: `0.0.0.0` is one to listen on, not one to call.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn service_cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| "not a CIDR such as 10.96.0.0/16".to_owned())?;
    if net.trunc() != net {
        return Err(format!("has host bits set: use {}", net.trunc()));
    }
    // Kubernetes' own least size.
    if net.max_prefix_len() - net.prefix_len() < 3 {
        return Err("holds fewer than 8 addresses".to_owned());
    }
    Ok(net)
}

fn check_cidrs(cidrs: &[IpNet]) -> Result<()> {
    let families = |v4: bool| cidrs.iter().filter(|c| c.addr().is_ipv4() == v4).count();
    ensure!(
        families(true) <= 1 && families(false) <= 1,
        "--service-cidr: at most one range of each family"
    );
    Ok(())
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let shape = || "not a range such as 30000-32767".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(shape)?;
    let port = |t: &str| t.trim().parse::<u16>().map_err(|_| shape());
    let (first, last) = (port(first)?, port(last)?);
    if first == 0 {
        return Err("port 0 cannot be given to a Service".to_owned());
    }
    if first > last {
        return Err(format!("ends before it begins: use {last}-{first}"));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused_with_a_reason() {
        assert_eq!(port_range("30000-30100"), Ok(30000..=30100));
        for (bad, why) in [
            ("", "not a range"),
            ("30000", "not a range"),
            ("a-b", "not a range"),
            ("1-70000", "not a range"),
            ("0-5", "port 0"),
            ("200-100", "use 100-200"),
        ] {
            let error = port_range(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(service_cidr("10.96.0.0/16").is_ok());
        for (bad, why) in [
            ("10.96.0.1/16", "use 10.96.0.0/16"),
            ("10.96.0.0/30", "fewer than 8"),
            ("fd00::/126", "fewer than 8"),
            ("ten", "not a CIDR"),
        ] {
            let error = service_cidr(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        let two = ["10.0.0.0/16", "10.1.0.0/16"].map(|c| c.parse().unwrap());
        assert!(check_cidrs(&two).is_err());
    }

    #[test]
    fn a_kubeconfig_names_an_address_to_call() {
        let call = |a: &str| reachable(a.parse().unwrap()).to_string();
        assert_eq!(call("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(call("[::]:1"), "[::1]:1");
        assert_eq!(call("192.0.2.1:1"), "192.0.2.1:1");
    }
}
