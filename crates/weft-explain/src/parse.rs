//! The two ends of a question as text. `node/…`, `svc/…` and `pod/…` are prefixes: a namespace
//! of such a name is written `pod/node/NAME`.

use crate::AskError;
use std::net::IpAddr;
use weft_model::{NamespacedName, Port, Protocol};

/// SRC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Pod(NamespacedName),
    Node(String),
    Outside,
    Address(IpAddr),
}

/// The host of DST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Pod(NamespacedName),
    Service(NamespacedName),
    Node(String),
    Address(IpAddr),
    /// A pod of this name, else a name for DNS.
    Name(String),
}

/// A port as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortText {
    Number(Port),
    Name(String),
}

/// DST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct To {
    pub host: Host,
    pub port: Option<PortText>,
    pub protocol: Option<Protocol>,
}

fn in_namespace(text: &str, namespace: &str) -> Option<NamespacedName> {
    let (ns, name) = text.split_once('/').unwrap_or((namespace, text));
    let good = |t: &str| !t.is_empty() && !t.contains('/');
    (good(ns) && good(name)).then(|| NamespacedName::new(ns, name))
}

const FROM_RULE: &str = "use [NAMESPACE/]POD, node/NODE, client, outside or an IP address";
const TO_RULE: &str = "use [NAMESPACE/]POD, svc/[NAMESPACE/]NAME, node/NODE, an IP address or a \
                       name, then [:PORT][/PROTOCOL]";

pub(crate) fn from(text: &str, namespace: &str) -> Result<From, AskError> {
    let bad = || AskError::Syntax { what: "SRC", text: text.to_owned(), rule: FROM_RULE };
    if let Ok(address) = text.parse() {
        return Ok(From::Address(address));
    }
    if matches!(text, "client" | "outside") {
        return Ok(From::Outside);
    }
    if let Some(node) = text.strip_prefix("node/") {
        return Ok(From::Node(node.to_owned()));
    }
    let pod = text.strip_prefix("pod/").unwrap_or(text);
    in_namespace(pod, namespace).map(From::Pod).ok_or_else(bad)
}

pub(crate) fn to(text: &str, namespace: &str) -> Result<To, AskError> {
    let bad = || AskError::Syntax { what: "DST", text: text.to_owned(), rule: TO_RULE };
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, last)) if !is_prefix(rest) => match last.to_ascii_uppercase().parse() {
            Ok(protocol) => (rest, Some(protocol)),
            // `10.0.0.1:80/x` is no namespace and name.
            Err(e) if rest.contains(':') => return Err(AskError::Port(e)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    };
    let (host, port) = split_port(rest).ok_or_else(bad)?;
    let port = match port {
        None => None,
        Some(text) => Some(match text.parse::<i32>() {
            Ok(n) => PortText::Number(Port::try_from(n)?),
            Err(_) if text.is_empty() => return Err(bad()),
            Err(_) => PortText::Name(text.to_owned()),
        }),
    };
    let host = if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        Host::Address(address)
    } else if let Some(node) = host.strip_prefix("node/") {
        Host::Node(node.to_owned())
    } else if let Some(service) = after(host, &["svc/", "service/", "services/"]) {
        Host::Service(in_namespace(service, namespace).ok_or_else(bad)?)
    } else if let Some(pod) = host.strip_prefix("pod/") {
        Host::Pod(in_namespace(pod, namespace).ok_or_else(bad)?)
    } else if host.contains('/') {
        Host::Pod(in_namespace(host, namespace).ok_or_else(bad)?)
    } else if host.is_empty() {
        return Err(bad());
    } else {
        Host::Name(host.to_owned())
    };
    Ok(To { host, port, protocol })
}

/// Whether `text/…` names an object: `svc/tcp` is a Service.
fn is_prefix(text: &str) -> bool {
    matches!(text, "node" | "svc" | "service" | "services" | "pod")
}

fn after<'a>(text: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    prefixes.iter().find_map(|p| text.strip_prefix(p))
}

/// Host and port. An IPv6 address has colons of its own: with a port it stands in brackets.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.parse::<IpAddr>().is_ok() {
        return Some((text, None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => port.is_empty().then_some((host, None)),
        };
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => Some((host, Some(port))),
        Some(_) => None,
        None => Some((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(namespace: &str, name: &str) -> NamespacedName {
        NamespacedName::new(namespace, name)
    }

    #[test]
    fn sources_are_told_apart() {
        let read = |t| from(t, "default");
        assert_eq!(read("web-0"), Ok(From::Pod(id("default", "web-0"))));
        assert_eq!(read("shop/web-0"), Ok(From::Pod(id("shop", "web-0"))));
        assert_eq!(read("pod/client"), Ok(From::Pod(id("default", "client"))));
        assert_eq!(read("pod/node/x"), Ok(From::Pod(id("node", "x"))));
        assert_eq!(read("node/node1"), Ok(From::Node("node1".into())));
        assert_eq!(read("client"), Ok(From::Outside));
        assert_eq!(read("fd00::1"), Ok(From::Address("fd00::1".parse().expect("ip"))));
        for bad in ["", "a/b/c", "/x", "x/"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn destinations_are_told_apart() {
        let read = |t| to(t, "default");
        let number = |n: i32| Some(PortText::Number(Port::try_from(n).expect("port")));
        let cases = [
            ("svc/web:80", Host::Service(id("default", "web")), number(80), None),
            (
                "svc/shop/web:http/udp",
                Host::Service(id("shop", "web")),
                Some(PortText::Name("http".into())),
                Some(Protocol::Udp),
            ),
            ("svc/tcp", Host::Service(id("default", "tcp")), None, None),
            ("svc/tcp/tcp", Host::Service(id("default", "tcp")), None, Some(Protocol::Tcp)),
            ("web.shop:80/TCP", Host::Name("web.shop".into()), number(80), Some(Protocol::Tcp)),
            ("shop/web-0:8080", Host::Pod(id("shop", "web-0")), number(8080), None),
            ("node/node1:30080", Host::Node("node1".into()), number(30080), None),
            ("10.96.0.1", Host::Address("10.96.0.1".parse().expect("ip")), None, None),
            ("fd00::a", Host::Address("fd00::a".parse().expect("ip")), None, None),
            (
                "[fd00::a]:53/udp",
                Host::Address("fd00::a".parse().expect("ip")),
                number(53),
                Some(Protocol::Udp),
            ),
        ];
        for (text, host, port, protocol) in cases {
            assert_eq!(read(text), Ok(To { host, port, protocol }), "{text}");
        }
        for bad in ["", ":80", "web:", "web:70000", "10.0.0.1:80/x", "svc/", "a/b/c:1", "fd00::a:x"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
