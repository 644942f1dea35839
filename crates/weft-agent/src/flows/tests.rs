//! The hub and its followers, without a kernel.

use super::{tell::record, *};
use std::{
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};
use tokio::net::UnixStream;
use weft_cni::{
    Answer,
    flow::{FlowFilter, FlowLine, FlowRequest, Party},
};
use weft_model::{Labels, Map, NamespacedName, Node, Pod, PodPhase};
use weft_policy::{PolicyId, Reason, RuleId};

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("address and port")
}

/// Flow number `n`, at TCP port `n`.
fn flow(n: u16, verdict: FlowVerdict) -> Flow {
    let policy = PolicyId::Network(NamespacedName::new("shop", "db"));
    Flow {
        event: VerdictEvent {
            at: UNIX_EPOCH + Duration::from_micros(1_500_000),
            link: 7,
            direction: Direction::Ingress,
            own: SocketAddr::new("10.244.1.2".parse().expect("address"), n),
            peer: socket("10.244.2.5:40000"),
            protocol: 6,
            verdict,
            reason: 16,
            generation: 3,
            through_service: false,
            from_node: false,
            cut: false,
        },
        own: Who::Pod(NamespacedName::new("shop", "db-0")),
        peer: Who::Pod(NamespacedName::new("web", "cli")),
        why: Why::Policy(Reason::Rule(RuleId { policy, direction: Direction::Ingress, index: 1 })),
    }
}

#[test]
fn a_flow_is_told_from_its_beginning_to_its_end() {
    let told = record(&flow(5432, FlowVerdict::Denied), "node1");
    assert_eq!(told.time, "1970-01-01T00:00:01.500000Z");
    assert_eq!((told.from.pod.as_deref(), told.from.port), (Some("web/cli"), Some(40_000)));
    assert_eq!((told.to.pod.as_deref(), told.to.port), (Some("shop/db-0"), Some(5432)));
    assert_eq!((told.policy.as_deref(), told.rule), (Some("NetworkPolicy shop/db"), Some(1)));
    assert_eq!((&*told.reason, &*told.text), ("rule", "NetworkPolicy shop/db ingress[1]"));
    let mut other = flow(0, FlowVerdict::Allowed);
    other.event.direction = Direction::Egress;
    other.event.protocol = 1;
    other.peer = Who::Node("node2".parse().expect("name"));
    other.why = Why::Unknown(16);
    let told = record(&other, "node1");
    assert_eq!((told.from.pod.as_deref(), told.from.port), (Some("shop/db-0"), None));
    assert_eq!((told.to.node.as_deref(), &*told.protocol), (Some("node2"), "ICMP"));
    assert_eq!((&*told.reason, told.policy), ("unknown", None));
    assert!(told.text.contains("16"), "{}", told.text);
}

/// Asks on one end of a pair of sockets; gives the other end's lines.
async fn ask(flows: &Arc<Flows>, request: FlowRequest) -> std::os::unix::net::UnixStream {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    theirs.set_nonblocking(true).expect("non-blocking");
    let stream = UnixStream::from_std(theirs).expect("a socket");
    let flows = flows.clone();
    tokio::spawn(async move {
        // A follower that has gone is no error of ours.
        let _ = serve(stream, &flows, "node1", &request).await;
    });
    ours
}

/// Reads the answer and the lines behind it, on a thread of its own, until `enough`.
async fn lines(
    from: std::os::unix::net::UnixStream,
    enough: impl Fn(&[FlowLine]) -> bool + Send + 'static,
) -> (Answer, Vec<FlowLine>, std::os::unix::net::UnixStream) {
    let read = move || {
        let timeout = Some(Duration::from_secs(30));
        from.set_read_timeout(timeout).expect("a time-out");
        let mut all = BufReader::new(from);
        let mut next = || {
            let mut line = String::new();
            let read = all.by_ref().take(1 << 20).read_line(&mut line).expect("a line in time");
            (read > 0).then_some(line)
        };
        let answer = serde_json::from_str(&next().expect("an answer")).expect("JSON");
        let mut found = Vec::new();
        while !enough(&found) {
            let Some(line) = next() else { break };
            found.push(serde_json::from_str(&line).expect("a line"));
        }
        (answer, found, all.into_inner())
    };
    tokio::task::spawn_blocking(read).await.expect("no panic")
}

fn ports(lines: &[FlowLine]) -> Vec<u16> {
    let port = |line: &FlowLine| match line {
        FlowLine::Flow(record) => record.to.port,
        FlowLine::Lost(_) => None,
    };
    lines.iter().filter_map(port).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_ones_are_kept_and_new_ones_follow() {
    let flows = Arc::new(Flows::default());
    for n in 1..=RECENT_MAX as u16 + 10 {
        let verdict = if n % 2 == 0 { FlowVerdict::Allowed } else { FlowVerdict::Denied };
        flows.publish(flow(n, verdict));
    }
    let all = FlowRequest { last: u32::MAX, ..FlowRequest::default() };
    let (answer, found, _) = lines(ask(&flows, all).await, |_| false).await;
    assert!(answer.ok);
    assert_eq!((found.len(), ports(&found)[0]), (RECENT_MAX, 11), "the oldest have gone");
    let filter = FlowFilter { denied: true, ..FlowFilter::default() };
    let last = FlowRequest { last: 2, filter, follow: true };
    let follower = ask(&flows, last).await;
    let (_, found, follower) = lines(follower, |found| found.len() == 2).await;
    assert_eq!(ports(&found), [RECENT_MAX as u16 + 7, RECENT_MAX as u16 + 9]);
    assert_eq!(flows.counts().followers, 1);
    // A follower that goes makes room.
    drop(follower);
    while flows.counts().followers > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(flows.counts().seen, RECENT_MAX as u64 + 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_ones_come_once_and_filtered() {
    let flows = Arc::new(Flows::default());
    flows.publish(flow(1, FlowVerdict::Denied));
    let to = Some(Party::Pod("shop/db-0".to_owned()));
    let filter = FlowFilter { to, port: Some(3), ..FlowFilter::default() };
    let filtered = ask(&flows, FlowRequest { follow: true, last: 9, filter }).await;
    let plain = FlowRequest { follow: true, last: 9, filter: FlowFilter::default() };
    let plain = ask(&flows, plain).await;
    while flows.counts().followers < 2 || flows.news.receiver_count() < 2 {
        tokio::task::yield_now().await;
    }
    for n in 2..=4 {
        flows.publish(flow(n, FlowVerdict::Allowed));
    }
    let (_, found, _) = lines(plain, |found| found.len() == 4).await;
    assert_eq!(ports(&found), [1, 2, 3, 4]);
    let (_, found, _) = lines(filtered, |found| !found.is_empty()).await;
    assert_eq!(ports(&found), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_too_slow_is_told_how_many_were_lost() {
    let flows = Arc::new(Flows::default());
    let all = FlowRequest { follow: true, ..FlowRequest::default() };
    let follower = ask(&flows, all).await;
    while flows.news.receiver_count() < 1 {
        tokio::task::yield_now().await;
    }
    // Much more than a socket's buffer and the lag together hold.
    let sent = 50_000u64;
    for n in 0..sent {
        flows.publish(flow(n as u16, FlowVerdict::Allowed));
    }
    flows.lose(5);
    let count = |lines: &[FlowLine]| -> (u64, u64) {
        lines.iter().fold((0, 0), |(told, lost), line| match line {
            FlowLine::Flow(_) => (told + 1, lost),
            FlowLine::Lost(n) => (told, lost + n),
        })
    };
    let whole = move |lines: &[FlowLine]| {
        let (told, lost) = count(lines);
        told + lost >= sent + 5
    };
    let (_, found, _) = lines(follower, whole).await;
    let (told, lost) = count(&found);
    assert!(told > 0 && lost > 5, "{told} told, {lost} lost");
    assert_eq!(told + lost, sent + 5);
    assert_eq!(flows.counts().lost, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_only_so_many_places() {
    let flows = Arc::new(Flows::default());
    let mut held = Vec::new();
    let follow = || FlowRequest { follow: true, ..FlowRequest::default() };
    for _ in 0..FOLLOWERS_MAX {
        held.push(ask(&flows, follow()).await);
    }
    while flows.counts().followers < FOLLOWERS_MAX {
        tokio::task::yield_now().await;
    }
    let (answer, ..) = lines(ask(&flows, follow()).await, |_| true).await;
    assert!(!answer.ok && answer.reason.is_some_and(|r| r.contains("as many")));
}

#[test]
fn what_the_kernel_lost_is_told_once() {
    let flows = Flows::default();
    let lost = |events_lost| {
        let stats = weft_bpf::PolicyStats { events_lost, ..Default::default() };
        flows.count(Counters { stats, reasons: Vec::new() });
        flows.counts().lost
    };
    // Those from before this agent do not count.
    assert_eq!([lost(7), lost(7), lost(10), lost(10)], [0, 0, 3, 3]);
}

#[test]
fn reasons_that_are_no_rules_have_names() {
    let name = |number| reason_name(&Why::of(number, None));
    assert_eq!(name(weft_bpf::reason::OWN_NODE), "ownNode");
    assert_eq!(name(weft_bpf::reason::UNKNOWN), "notJudged");
    assert_eq!((name(5), Why::of(5, None)), ("unknown", Why::Unknown(5)));
}

#[test]
fn addresses_follow_their_owners() {
    let id = |name: &str| NamespacedName::new("shop", name);
    let address = |text: &str| -> IpAddr { text.parse().expect("address") };
    let pod = |name: &str, ip: &str, host_network| {
        let pod = Pod {
            id: id(name),
            labels: Labels::default(),
            node: None,
            addresses: vec![address(ip)],
            host_network,
            phase: PodPhase::Running,
            ports: Vec::new(),
            incarnation: 0,
            sockets_alone: false,
        };
        (pod.id.clone(), Arc::new(pod))
    };
    let node = Node {
        name: "node1".parse().expect("name"),
        internal_ips: vec![address("172.30.1.11")],
        pod_cidrs: vec!["10.244.1.0/24".parse().expect("range")],
        zone: None,
        ready: true,
        eligible: true,
    };
    let nodes: Map<_, _> = [(node.name.clone(), Arc::new(node))].into_iter().collect();
    let mut all = Addresses::default();
    let first: Map<_, _> = [
        pod("a", "10.244.1.2", false),
        pod("b", "10.244.1.3", false),
        pod("h", "172.30.1.11", true),
    ]
    .into_iter()
    .collect();
    all.update(&first, &nodes);
    let who = |all: &Addresses, ip: &str| all.who(address(ip));
    assert_eq!(who(&all, "10.244.1.2"), Who::Pod(id("a")));
    assert_eq!(who(&all, "172.30.1.11"), Who::Node("node1".parse().expect("name")));
    assert_eq!(who(&all, "10.244.1.1"), Who::Node("node1".parse().expect("name")));
    assert_eq!(who(&all, "10.244.1.9"), Who::Nobody);
    // `a` goes, and its address is `z`'s; `b` takes another one.
    let second: Map<_, _> =
        [pod("b", "10.244.1.4", false), pod("z", "10.244.1.2", false)].into_iter().collect();
    all.update(&second, &nodes);
    assert_eq!(who(&all, "10.244.1.2"), Who::Pod(id("z")));
    assert_eq!(who(&all, "10.244.1.3"), Who::Nobody);
    assert_eq!(who(&all, "10.244.1.4"), Who::Pod(id("b")));
    all.update(&Map::default(), &Map::default());
    for ip in ["10.244.1.1", "10.244.1.2", "10.244.1.4", "172.30.1.11"] {
        assert_eq!(who(&all, ip), Who::Nobody, "{ip}");
    }
}
