//! Who answers, and whom it sees.

use crate::{Config, Port};
use http::HeaderMap;
use http::request::Parts;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The two ends of a connection or datagram, and who we are.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub config: Arc<Config>,
    pub port: Arc<Port>,
    /// As the socket has it: what the network made of the sender's address.
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub tls: bool,
}

impl Peer {
    /// The pod's address of the client's family, else its first; the address that was reached
    /// where none is known.
    fn pod_ip(&self) -> IpAddr {
        let same = |ip: &&IpAddr| ip.is_ipv4() == self.server.is_ipv4();
        let ips = &self.config.pod_ips;
        *ips.iter().find(same).or(ips.first()).unwrap_or(&self.server.ip())
    }

    /// `<namespace>/<pod> <node> <pod IP> client=<address>`.
    pub fn line(&self) -> String {
        let Config { namespace, pod, node, .. } = &*self.config;
        format!("{namespace}/{pod} {node} {} client={}\n", self.pod_ip(), self.client)
    }

    /// The JSON of an HTTP answer; field names are those of the Gateway API's echo server where
    /// it has them.
    pub fn json(&self, request: &Parts, body_len: u64) -> Value {
        let Config { namespace, pod, node, container, image, .. } = &*self.config;
        let uri = &request.uri;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| request.headers.get(http::header::HOST)?.to_str().ok())
            .unwrap_or_default();
        json!({
            "path": path,
            "host": host,
            "method": request.method.as_str(),
            "proto": proto(request.version),
            "headers": headers(&request.headers),
            "namespace": namespace,
            "pod": pod,
            "node": node,
            "podIP": self.pod_ip(),
            "podIPs": self.config.pod_ips,
            "clientAddress": self.client,
            "serverAddress": self.server,
            "container": container,
            "image": image,
            "port": self.port.port,
            "portName": self.port.name,
            "tls": self.tls,
            "bodyBytes": body_len,
        })
    }

    /// One line of the log.
    pub fn log(&self, what: &str) {
        println!("{} client={} {what}", self.server, self.client);
    }
}

pub(crate) fn proto(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// Names as Go writes them (`User-Agent`), each with the list of its values.
fn headers(headers: &HeaderMap) -> Value {
    let mut out = Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        out.insert(canonical(name.as_str()), values.into());
    }
    Value::Object(out)
}

fn canonical(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|letter| {
            let out = if start { letter.to_ascii_uppercase() } else { letter };
            start = letter == '-';
            out
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_names_the_address_of_the_family() {
        let config = Config {
            namespace: "shop".into(),
            pod: "web-0".into(),
            node: "node1".into(),
            pod_ips: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            ..Config::default()
        };
        let mut peer = Peer {
            config: Arc::new(config),
            port: Arc::new(Port { port: 80, protocol: Default::default(), name: None }),
            client: "10.244.2.7:4000".parse().unwrap(),
            server: "10.244.1.5:80".parse().unwrap(),
            tls: false,
        };
        assert_eq!(peer.line(), "shop/web-0 node1 10.244.1.5 client=10.244.2.7:4000\n");
        peer.client = "[fd00:1::7]:4000".parse().unwrap();
        peer.server = "[fd00::5]:80".parse().unwrap();
        assert_eq!(peer.line(), "shop/web-0 node1 fd00::5 client=[fd00:1::7]:4000\n");
        peer.config = Arc::new(Config::default());
        assert_eq!(peer.line(), "/  fd00::5 client=[fd00:1::7]:4000\n");
    }

    #[test]
    fn header_names() {
        assert_eq!(canonical("user-agent"), "User-Agent");
        assert_eq!(canonical("x-b3-traceid"), "X-B3-Traceid");
    }
}
