//! The files that Kubernetes writes into every container: /etc/hosts, resolv.conf, hostname and
//! nsswitch.conf. Pure text; the format is the kubelet's own (`pkg/kubelet/kubelet_pods.go`,
//! `pkg/kubelet/network/dns/dns.go`).

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::fmt::Write;
use std::net::IpAddr;

/// Limits of glibc and of Kubernetes' validation.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// What DNS configuration needs to know of the cluster and the node.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Addresses of the cluster's DNS.
    pub cluster: Vec<IpAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// The node's own resolv.conf, for `Default`.
    pub node: String,
}

#[derive(Debug, Default, PartialEq)]
struct Resolv {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

fn parse_resolv(text: &str) -> Resolv {
    let mut r = Resolv::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => r.nameservers.extend(words.next().map(str::to_owned)),
            Some("search") => r.searches = words.map(str::to_owned).collect(),
            Some("options") => r.options.extend(words.map(|w| match w.split_once(':') {
                Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
                None => (w.to_owned(), None),
            })),
            _ => {}
        }
    }
    r
}

/// Text of a pod's resolv.conf.
pub fn resolv_conf(namespace: &str, spec: &PodSpec, dns: &DnsConfig) -> String {
    let host = spec.host_network.unwrap_or(false);
    let mut r = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => Resolv::default(),
        "Default" => parse_resolv(&dns.node),
        // hostNetwork pods follow the node unless they say ClusterFirstWithHostNet.
        "ClusterFirst" if host => parse_resolv(&dns.node),
        _ => {
            let d = &dns.domain;
            let node = parse_resolv(&dns.node);
            let mut searches = vec![format!("{namespace}.svc.{d}"), format!("svc.{d}"), d.clone()];
            searches.extend(node.searches);
            Resolv {
                nameservers: dns.cluster.iter().map(IpAddr::to_string).collect(),
                searches,
                options: vec![("ndots".into(), Some("5".into()))],
            }
        }
    };
    if let Some(c) = &spec.dns_config {
        r.nameservers.extend(c.nameservers.iter().flatten().cloned());
        r.searches.extend(c.searches.iter().flatten().cloned());
        for o in c.options.iter().flatten() {
            let Some(name) = o.name.clone() else { continue };
            r.options.retain(|(n, _)| *n != name);
            r.options.push((name, o.value.clone()));
        }
    }
    unique(&mut r.nameservers, NAMESERVERS_MAX);
    unique(&mut r.searches, SEARCHES_MAX);
    let mut out = String::new();
    if !r.searches.is_empty() {
        let _ = writeln!(out, "search {}", r.searches.join(" "));
    }
    for n in &r.nameservers {
        let _ = writeln!(out, "nameserver {n}");
    }
    if !r.options.is_empty() {
        let options = r.options.iter().map(|(k, v)| match v {
            Some(v) if !v.is_empty() => format!("{k}:{v}"),
            _ => k.clone(),
        });
        let _ = writeln!(out, "options {}", options.collect::<Vec<_>>().join(" "));
    }
    out
}

fn unique(list: &mut Vec<String>, max: usize) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|s| seen.insert(s.clone()));
    list.truncate(max);
}

/// Host name of a pod: `spec.hostname` or its name, cut to 63 as the kubelet does.
pub fn hostname(pod: &Pod, node: &str) -> String {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.host_network).unwrap_or(false) {
        return node.to_owned();
    }
    let over = spec.and_then(|s| s.hostname_override.as_deref());
    let given = over.or(spec.and_then(|s| s.hostname.as_deref())).filter(|h| !h.is_empty());
    let name = given.unwrap_or(pod.metadata.name.as_deref().unwrap_or_default());
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// `<hostname>.<subdomain>.<namespace>.svc.<domain>` where the pod has a subdomain.
pub fn fqdn(pod: &Pod, node: &str, domain: &str) -> Option<String> {
    let sub = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let ns = pod.metadata.namespace.as_deref().unwrap_or("default");
    Some(format!("{}.{sub}.{ns}.svc.{domain}", hostname(pod, node)))
}

/// Text of a pod's /etc/hosts; for hostNetwork the node's own, with the aliases behind it.
pub fn hosts(pod: &Pod, ips: &[IpAddr], node: &str, domain: &str, node_hosts: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut out = String::new();
    if spec.and_then(|s| s.host_network).unwrap_or(false) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(node_hosts);
    } else {
        out.push_str(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        let name = hostname(pod, node);
        for ip in ips {
            let _ = match fqdn(pod, node, domain) {
                Some(f) => writeln!(out, "{ip}\t{f}\t{name}"),
                None => writeln!(out, "{ip}\t{name}"),
            };
        }
    }
    let aliases = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for a in aliases {
            let names = a.hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(out, "{}\t{names}", a.ip);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec
        }))
        .unwrap()
    }

    fn dns() -> DnsConfig {
        DnsConfig {
            cluster: vec!["10.96.0.10".parse().unwrap(), "fd00:10:96::a".parse().unwrap()],
            domain: "cluster.local".into(),
            node: "nameserver 172.30.1.1\nsearch lan\noptions ndots:1 rotate\n".into(),
        }
    }

    fn resolv(spec: serde_json::Value) -> String {
        resolv_conf("shop", pod(spec).spec.as_ref().unwrap(), &dns())
    }

    const CLUSTER: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local lan\n\
        nameserver 10.96.0.10\nnameserver fd00:10:96::a\noptions ndots:5\n";
    const NODE: &str = "search lan\nnameserver 172.30.1.1\noptions ndots:1 rotate\n";

    #[test]
    fn each_dns_policy() {
        assert_eq!(resolv(json!({})), CLUSTER);
        assert_eq!(resolv(json!({"dnsPolicy": "Default"})), NODE);
        assert_eq!(resolv(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"})), NODE);
        let both = json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
        assert_eq!(resolv(both), CLUSTER);
        assert_eq!(resolv(json!({"dnsPolicy": "None"})), "");
    }

    #[test]
    fn dns_config_is_merged_and_wins() {
        let spec = json!({"dnsConfig": {
            "nameservers": ["1.2.3.4", "10.96.0.10", "5.6.7.8"], "searches": ["my.dns", "lan"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]
        }});
        assert_eq!(
            resolv(spec),
            "search shop.svc.cluster.local svc.cluster.local cluster.local lan my.dns\n\
             nameserver 10.96.0.10\nnameserver fd00:10:96::a\nnameserver 1.2.3.4\n\
             options ndots:2 edns0\n"
        );
        let none = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}});
        assert_eq!(resolv(none), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn hosts_file_as_the_kubelet_writes_it() {
        let ips: Vec<IpAddr> = vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let p = pod(json!({"subdomain": "web", "hostAliases": [
            {"ip": "127.0.0.9", "hostnames": ["foo.local", "bar.local"]}]}));
        let text = hosts(&p, &ips, "node1", "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.244.1.2\tweb-0.web.shop.svc.cluster.local\tweb-0\n\
             fd00::2\tweb-0.web.shop.svc.cluster.local\tweb-0\n\
             \n# Entries added by HostAliases.\n127.0.0.9\tfoo.local\tbar.local\n"
        ));
        let host = pod(json!({"hostNetwork": true}));
        let text = hosts(&host, &ips, "node1", "cluster.local", "127.0.0.1 localhost\n");
        assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n");
        assert_eq!(hostname(&host, "node1"), "node1");
    }

    #[test]
    fn long_names_are_cut_without_a_dangling_dash() {
        let name = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        let mut p = pod(json!({}));
        p.metadata.name = Some(name);
        assert_eq!(hostname(&p, "n"), "a".repeat(62));
    }
}
