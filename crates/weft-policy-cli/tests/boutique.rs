//! The Online Boutique with its own network policies: what the application needs passes, and
//! nothing else does. Both lists are written down.

use std::{collections::BTreeMap, fs, path::PathBuf};
use weft_model::{IpFamilies, IpFamily};
use weft_policy_cli::{Cluster, Documents, Party, Source, matrix};

/// What the services call, from their environment (`*_SERVICE_ADDR`, `REDIS_ADDR`) and the
/// Services' target ports.
const NEEDED: [(&str, &str, &str); 16] = [
    ("frontend", "productcatalogservice", "TCP/3550"),
    ("frontend", "currencyservice", "TCP/7000"),
    ("frontend", "cartservice", "TCP/7070"),
    ("frontend", "recommendationservice", "TCP/8080"),
    ("frontend", "shippingservice", "TCP/50051"),
    ("frontend", "checkoutservice", "TCP/5050"),
    ("frontend", "adservice", "TCP/9555"),
    ("checkoutservice", "productcatalogservice", "TCP/3550"),
    ("checkoutservice", "shippingservice", "TCP/50051"),
    ("checkoutservice", "paymentservice", "TCP/50051"),
    ("checkoutservice", "emailservice", "TCP/8080"),
    ("checkoutservice", "currencyservice", "TCP/7000"),
    ("checkoutservice", "cartservice", "TCP/7070"),
    ("recommendationservice", "productcatalogservice", "TCP/3550"),
    ("cartservice", "redis-cart", "TCP/6379"),
    ("loadgenerator", "frontend", "everything"),
];

/// Wider than the application needs, but what the policies say: the frontend is for everybody.
/// Every workload but the frontend and the load generator may be reached as above alone.
const FRONTEND_IS_OPEN: &str = "frontend";

const WORKLOADS: [&str; 12] = [
    "adservice",
    "cartservice",
    "checkoutservice",
    "currencyservice",
    "emailservice",
    "frontend",
    "loadgenerator",
    "paymentservice",
    "productcatalogservice",
    "recommendationservice",
    "redis-cart",
    "shippingservice",
];

fn boutique() -> Option<Cluster> {
    let dir = "../../../shared/upstream/online-boutique";
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(dir);
    let Ok(entries) = fs::read_dir(&dir) else {
        println!("SKIP online boutique: ../shared/upstream/online-boutique is not there");
        return None;
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    let sources = files.iter().map(|f| Source {
        name: f.file_name().unwrap_or_default().to_string_lossy().as_ref().into(),
        text: fs::read_to_string(f).unwrap_or_default().into(),
    });
    let documents = Documents::parse(sources.collect()).unwrap_or_else(|e| panic!("{e}"));
    Some(Cluster::of(documents).unwrap_or_else(|e| panic!("{e}")))
}

#[test]
fn everything_needed_passes_and_everything_else_is_denied() {
    let Some(cluster) = boutique() else { return };
    assert_eq!((cluster.input.network_policies.len(), &cluster.complaints[..]), (13, &[][..]));
    let names: Vec<&str> = cluster.groups.iter().map(|g| &*g.id.name).collect();
    assert_eq!(names, WORKLOADS);
    let mut expected: BTreeMap<(String, String), &str> = BTreeMap::new();
    let id = |name: &str| match name {
        "outside" => name.to_owned(),
        name => format!("default/{name}"),
    };
    for from in WORKLOADS.iter().chain(&["outside"]) {
        for to in WORKLOADS.iter().chain(&["outside"]) {
            let needed = NEEDED.iter().find(|(f, t, _)| f == from && t == to).map(|(_, _, p)| *p);
            // Nobody limits what goes out, so what is outside is reached.
            let open = *to == FRONTEND_IS_OPEN || *to == "outside";
            let allowed = needed.unwrap_or(if open { "everything" } else { "nothing" });
            expected.insert((id(from), id(to)), allowed);
        }
    }
    for families in [IpFamilies::Ipv4, IpFamilies::Ipv6] {
        let matrix = matrix(&cluster, families).expect("small");
        assert_eq!(matrix.cells.len(), 13 * 13);
        for cell in &matrix.cells {
            let key = (cell.from.clone(), cell.to.clone());
            if key.0 == "outside" && key.1 == "outside" {
                continue;
            }
            assert_eq!(cell.allowed, expected[&key], "{} → {}", cell.from, cell.to);
        }
    }
}

#[test]
fn names_resolve_and_nodes_probe() {
    let Some(cluster) = boutique() else { return };
    let evaluator = weft_policy::Evaluator::new(&cluster.input);
    let judged = |from: &Party, to: &Party, port: i32, protocol| {
        let port = weft_model::Port::try_from(port).expect("a port");
        let transport = weft_policy::Transport::Port(protocol, port);
        let flow = cluster.flow(from, to, IpFamily::V4, transport).expect("addresses");
        evaluator.evaluate(&flow).allowed()
    };
    for name in WORKLOADS {
        for pod in cluster.parties(name, "default").expect("it is there") {
            assert!(judged(&pod, &Party::Dns, 53, weft_model::Protocol::Udp), "{pod} asks DNS");
            assert!(judged(&Party::OwnNode, &pod, 1, weft_model::Protocol::Tcp), "{pod} is probed");
        }
    }
}
