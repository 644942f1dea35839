//! Servers that say who they are, clients, and tables.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};
use weft_model::{NamespacedName, Port, Protocol};
use weft_services::{Backend, Frontend, LoadBalancer, ServiceTables};

/// Nothing here leaves the machine, so this is forever.
pub const TIMEOUT: Duration = Duration::from_secs(5);

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The same address as an AF_INET6 socket sees it.
pub fn mapped(text: &str) -> SocketAddr {
    let SocketAddr::V4(v4) = addr(text) else { panic!("{text} is not IPv4") };
    SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port())
}

/// Accepts, says its own address, closes when the client does.
pub fn tcp_server(at: &str) {
    let listener = TcpListener::bind(at).unwrap_or_else(|e| panic!("bind {at}: {e}"));
    let name = at.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

/// Answers each datagram with its own address.
pub fn udp_server(at: &str) {
    let socket = UdpSocket::bind(at).unwrap_or_else(|e| panic!("bind {at}: {e}"));
    let name = at.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            let (_, client) = socket.recv_from(&mut buffer).expect("receive");
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
}

/// Connects and asks who answered.
pub fn tcp_ask(to: SocketAddr) -> io::Result<(String, TcpStream)> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok((name, stream))
}

/// A UDP socket that can send to `to`.
pub fn udp_client(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("bind");
    socket.set_read_timeout(Some(TIMEOUT)).expect("timeout");
    socket
}

/// Sends to `to`; who answered, and where the answer seems to come from.
pub fn udp_ask(socket: &UdpSocket, to: SocketAddr) -> io::Result<(String, SocketAddr)> {
    socket.send_to(b"who?", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

fn port(n: u16) -> Port {
    Port::try_from(i32::from(n)).expect("port")
}

/// Adds a frontend; one without backends goes where the planner puts it.
pub fn add(
    tables: &mut ServiceTables,
    at: (IpAddr, u16),
    protocol: Protocol,
    backends: &[(IpAddr, u16)],
) {
    let frontend = Frontend { addr: at.0, port: port(at.1), protocol };
    if backends.is_empty() {
        tables.without_backends.insert(frontend);
        return;
    }
    let backends = backends.iter().map(|&(addr, n)| Backend { addr, port: port(n) });
    let mut backends: Vec<_> = backends.collect();
    backends.sort_unstable();
    let service = NamespacedName::new("default", "test");
    let lb = LoadBalancer {
        service,
        backends: backends.into(),
        affinity_timeout_s: None,
        balance: Default::default(),
    };
    tables.frontends.insert(frontend, Arc::new(lb));
}

/// Changes the first frontends.
pub fn change(tables: &mut ServiceTables, count: usize, change: impl Fn(&mut LoadBalancer)) {
    for (frontend, mut lb) in
        tables.frontends.clone().iter().take(count).map(|(f, lb)| (*f, lb.clone()))
    {
        change(Arc::make_mut(&mut lb));
        tables.frontends.insert(frontend, lb);
    }
}

/// Takes one backend from each of the first frontends.
pub fn shrink(tables: &mut ServiceTables, count: usize) {
    change(tables, count, |lb| lb.backends = lb.backends[..lb.backends.len() - 1].into());
}

/// Tables with these frontends.
pub fn tables(rows: &[(Protocol, &str, &[&str])]) -> ServiceTables {
    let pair = |text: &str| (addr(text).ip(), addr(text).port());
    let mut tables = ServiceTables::default();
    for &(protocol, at, backends) in rows {
        let backends: Vec<_> = backends.iter().map(|b| pair(b)).collect();
        add(&mut tables, pair(at), protocol, &backends);
    }
    tables
}
