//! Any bytes are answered or ignored, and a reply fits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};
use weft_dns::{DnsIndex, Transport, Verdict, Zone, answer};
use weft_model::{IpFamily, NamespacedName, Port, Protocol, Service, ServiceKind, ServicePort, Snapshot, TrafficPolicy};

static INDEX: LazyLock<DnsIndex> = LazyLock::new(|| {
    let mut snapshot = Snapshot { generation: 1, ..Snapshot::default() };
    for (name, kind) in [
        ("web", ServiceKind::Virtual),
        ("none", ServiceKind::Headless),
        ("ext", ServiceKind::ExternalName("web.shop.svc.cluster.local".into())),
    ] {
        let id = NamespacedName::new("shop", name);
        let service = Service {
            id: id.clone(),
            cluster_ips: match kind {
                ServiceKind::Virtual => vec!["10.96.0.7".parse().expect("an address")],
                _ => Vec::new(),
            },
            kind,
            families: vec![IpFamily::V4],
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::try_from(80).expect("a port"),
                node_port: None,
            }],
            internal_policy: TrafficPolicy::Cluster,
 external: weft_model::External::default(),
            affinity_timeout_s: None,
            publish_not_ready: false,
            foreign_proxy: false,
        };
        snapshot.services.insert(id, Arc::new(service));
    }
    DnsIndex::build(&snapshot, &Zone::new("cluster.local").expect("a zone"), None)
});

fuzz_target!(|query: &[u8]| {
    let mut reply = Vec::new();
    for (transport, limit) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        let verdict = answer(Some(&INDEX), query, transport, &mut reply);
        assert_eq!(verdict == Verdict::Ignore, reply.is_empty());
        assert!(reply.len() <= limit);
    }
});
