//! The server on loopback, asked with bytes made here.

use super::*;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use weft_model::{IpFamily, NamespacedName, Service, ServiceKind, TrafficPolicy};

const PATIENCE: Duration = Duration::from_secs(20);

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).expect("a short label"));
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, 1, 0, 1]);
    out
}

/// Id, response code and number of answers.
fn summary(reply: &[u8]) -> (u16, u8, u16) {
    assert!(reply.len() >= 12 && reply[2] & 0x80 != 0, "{reply:?}");
    let word = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
    (word(0), reply[3] & 0xF, word(6))
}

fn snapshot(generation: u64, ip: &str) -> Option<Arc<Snapshot>> {
    let id = NamespacedName::new("shop", "web");
    let service = Service {
        id: id.clone(),
        kind: ServiceKind::Virtual,
        cluster_ips: vec![ip.parse().expect("an address")],
        families: vec![IpFamily::V4],
        ports: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external: weft_model::External::default(),
        affinity_timeout_s: None,
        publish_not_ready: false,
        foreign_proxy: false,
        created_s: 0,
        balance: weft_model::Balance::default(),
    };
    let mut s = Snapshot { generation, ..Snapshot::default() };
    s.services.insert(id, Arc::new(service));
    Some(Arc::new(s))
}

struct Running {
    address: SocketAddr,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    served: watch::Receiver<u64>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), DnsError>>,
}

impl Running {
    fn start() -> Self {
        let zone = Zone::new("cluster.local").expect("a zone");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let server = Server::bind(zone, &[listen]).expect("binds");
        let (snapshots, rx) = watch::channel(None);
        let cancel = CancellationToken::new();
        Self {
            address: server.local_addrs()[0],
            snapshots,
            served: server.served(),
            cancel: cancel.clone(),
            task: tokio::spawn(server.run(rx, cancel)),
        }
    }

    async fn publish(&mut self, generation: u64, ip: &str) {
        self.snapshots.send_replace(snapshot(generation, ip));
        let served = timeout(PATIENCE, self.served.wait_for(|g| *g == generation));
        served.await.expect("in time").expect("the server runs");
    }

    async fn udp(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        socket.send_to(query, self.address).await.expect("sends");
        let mut reply = vec![0; 65_536];
        let (len, from) =
            timeout(PATIENCE, socket.recv_from(&mut reply)).await.expect("in time").expect("reads");
        assert_eq!(from, self.address);
        reply.truncate(len);
        reply
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let len = u16::try_from(message.len()).expect("short");
    stream.write_u16(len).await.expect("writes");
    stream.write_all(message).await.expect("writes");
}

async fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let len = stream.read_u16().await.expect("a length");
        let mut message = vec![0; usize::from(len)];
        stream.read_exact(&mut message).await.expect("a message");
        message
    };
    timeout(PATIENCE, read).await.expect("in time")
}

/// Whether the server closes the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match timeout(PATIENCE, stream.read(&mut byte)).await.expect("in time") {
        Ok(n) => n == 0,
        Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
    }
}

const WEB: &str = "web.shop.svc.cluster.local";

#[tokio::test]
async fn udp_follows_the_snapshots() {
    let mut server = Running::start();
    assert_eq!(summary(&server.udp(&query(1, WEB)).await), (1, 2, 0), "SERVFAIL at first");
    server.publish(1, "10.96.0.7").await;
    let reply = server.udp(&query(2, WEB)).await;
    assert_eq!(summary(&reply), (2, 0, 1));
    assert_eq!(reply[reply.len() - 4..], [10, 96, 0, 7]);
    server.publish(2, "10.96.0.8").await;
    let reply = server.udp(&query(3, WEB)).await;
    assert_eq!(reply[reply.len() - 4..], [10, 96, 0, 8]);
    assert_eq!(summary(&server.udp(&query(4, "x.shop.svc.cluster.local")).await), (4, 3, 0));
    assert_eq!(summary(&server.udp(&query(5, "example.com")).await), (5, 5, 0));
}

#[tokio::test]
async fn udp_survives_rubbish() {
    let mut server = Running::start();
    server.publish(1, "10.96.0.7").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    for len in [0, 1, 11, 12, 4096, 9000] {
        socket.send_to(&vec![0; len], server.address).await.expect("sends");
    }
    for _ in 0..200 {
        socket.send_to(&[0xFF; 40], server.address).await.expect("sends");
    }
    assert_eq!(summary(&server.udp(&query(9, WEB)).await), (9, 0, 1));
}

#[tokio::test]
async fn many_queries_on_one_connection() {
    let mut server = Running::start();
    server.publish(1, "10.96.0.7").await;
    let mut stream = server.connect().await;
    for id in 0..50 {
        write_framed(&mut stream, &query(id, WEB)).await;
    }
    for id in 0..50 {
        assert_eq!(summary(&read_framed(&mut stream).await), (id, 0, 1));
    }
    // In pieces.
    let message = query(7, WEB);
    stream.write_all(&[0]).await.expect("writes");
    tokio::task::yield_now().await;
    stream.write_all(&[u8::try_from(message.len()).expect("short")]).await.expect("writes");
    for byte in message {
        stream.write_all(&[byte]).await.expect("writes");
    }
    assert_eq!(summary(&read_framed(&mut stream).await), (7, 0, 1));
    // What is not answered ends the connection.
    write_framed(&mut stream, &[0; 3]).await;
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn one_client_has_a_bounded_number_of_connections() {
    let mut server = Running::start();
    server.publish(1, "10.96.0.7").await;
    let mut open = Vec::new();
    for id in 0..32 {
        let mut stream = server.connect().await;
        write_framed(&mut stream, &query(id, WEB)).await;
        read_framed(&mut stream).await;
        open.push(stream);
    }
    let mut refused = server.connect().await;
    assert!(is_closed(&mut refused).await);
    // A place becomes free when a connection ends.
    open.pop();
    let again = async {
        loop {
            let mut stream = server.connect().await;
            let len = u16::try_from(query(1, WEB).len()).expect("short");
            let mut framed = len.to_be_bytes().to_vec();
            framed.extend_from_slice(&query(1, WEB));
            let mut reply = [0; 2];
            if stream.write_all(&framed).await.is_ok()
                && stream.read_exact(&mut reply).await.is_ok()
            {
                break;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("a place is free again");
}

#[tokio::test]
async fn ends_when_told_and_when_its_source_ends() {
    let server = Running::start();
    server.cancel.cancel();
    let result = timeout(PATIENCE, server.task).await.expect("in time").expect("no panic");
    assert!(result.is_ok());
    // The address is free again.
    let zone = Zone::new("cluster.local").expect("a zone");
    Server::bind(zone, &[server.address]).expect("binds");

    let server = Running::start();
    drop(server.snapshots);
    let result = timeout(PATIENCE, server.task).await.expect("in time").expect("no panic");
    assert!(matches!(result, Err(DnsError::SourceEnded)));
}

#[tokio::test]
async fn addresses_may_come_later_but_must_be_named() {
    let zone = Zone::new("cluster.local").expect("a zone");
    // Addresses for documentation: no machine has them.
    let later = ["192.0.2.53:0", "[2001:db8::53]:0"].map(|a| a.parse().expect("an address"));
    let server = Server::bind(zone.clone(), &later).expect("binds before the address is there");
    assert_eq!(server.local_addrs().len(), 2);
    for any in ["0.0.0.0:0", "[::]:0"] {
        let any = any.parse().expect("an address");
        assert!(matches!(Server::bind(zone.clone(), &[any]), Err(DnsError::Wildcard(_))));
    }
    let taken = server.local_addrs()[0];
    let error = Server::bind(zone, &[taken]).expect_err("already bound");
    assert_eq!(error.to_string(), format!("cannot listen for DNS on {taken} (UDP)"));
}
