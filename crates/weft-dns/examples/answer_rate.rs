//! How long an answer and an index take: `cargo run --example answer_rate -p weft-dns`.
//!
//! Prints medians of rounds on one thread, with the check of the answers outside the timed part.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};
use weft_dns::{DnsIndex, Rcode, Transport, Verdict, Zone, answer};
use weft_model::{
    IpFamily, NamespacedName, Port, Protocol, Service, ServiceKind, ServicePort, Snapshot,
    TrafficPolicy,
};

const SERVICES: u32 = 10_000;
const ROUNDS: usize = 21;
const QUERIES: u32 = 20_000;

fn snapshot() -> Result<Snapshot, Box<dyn std::error::Error>> {
    let mut s = Snapshot { generation: 1, ..Snapshot::default() };
    for i in 0..SERVICES {
        let id = NamespacedName::new(&format!("ns{}", i % 50), &format!("service-{i}"));
        let service = Service {
            id: id.clone(),
            kind: ServiceKind::Virtual,
            cluster_ips: vec![std::net::Ipv4Addr::from(0x0A60_0000 + i).into()],
            families: vec![IpFamily::V4],
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::try_from(80)?,
                node_port: None,
            }],
            internal_policy: TrafficPolicy::Cluster,
            external: weft_model::External::default(),
            affinity_timeout_s: None,
            publish_not_ready: false,
            foreign_proxy: false,
            created_s: 0,
            balance: weft_model::Balance::default(),
        };
        s.services.insert(id, Arc::new(service));
    }
    Ok(s)
}

fn query(name: &str) -> Vec<u8> {
    let mut out = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        out.extend(u8::try_from(label.len()));
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, 1, 0, 1]);
    out
}

fn median(mut round: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let zone = Zone::new("cluster.local")?;
    let snapshot = snapshot()?;
    let index = DnsIndex::build(&snapshot, &zone, None);
    for (what, name, code) in [
        ("A of a Service", "service-7.ns7.svc.cluster.local", Rcode::NoError),
        ("A that does not exist", "www.example.com.ns7.svc.cluster.local", Rcode::NxDomain),
    ] {
        let query = query(name);
        let mut reply = Vec::new();
        let verdict = answer(Some(&index), &query, Transport::Udp, &mut reply);
        if verdict != Verdict::Reply(code) {
            return Err(format!("{name}: {verdict:?}").into());
        }
        let time = median(|| {
            for _ in 0..QUERIES {
                black_box(answer(Some(&index), black_box(&query), Transport::Udp, &mut reply));
            }
        });
        println!("{what}: {:.0} ns", time.as_secs_f64() * 1e9 / f64::from(QUERIES));
    }
    let fresh = median(|| drop(black_box(DnsIndex::build(&snapshot, &zone, None))));
    println!("index of {SERVICES} Services: {:.2} ms", fresh.as_secs_f64() * 1e3);
    let next = median(|| drop(black_box(DnsIndex::build(&snapshot, &zone, Some(&index)))));
    println!("the same after an earlier one: {:.2} ms", next.as_secs_f64() * 1e3);
    Ok(())
}
