use super::*;
use serde_json::{Value, json};

fn parse<T: serde::de::DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).expect("a well-formed object")
}

fn svc(spec: Value) -> Lowered<Service> {
    service(&parse(json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec})))
}

fn slice_of(v: Value) -> Lowered<EndpointSlice> {
    let mut object = json!({
        "metadata": {
            "namespace": "shop", "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"}
        },
        "addressType": "IPv4",
        "endpoints": [],
        "ports": []
    });
    for (k, v) in v.as_object().expect("an object") {
        object[k] = v.clone();
    }
    endpoint_slice(&parse(object))
}

fn one_endpoint(v: Value) -> Endpoint {
    let lowered = slice_of(json!({"endpoints": [v]}));
    assert_eq!(lowered.diagnostics, []);
    let endpoints = lowered.value.expect("a slice").endpoints;
    assert_eq!(endpoints.len(), 1);
    endpoints.into_iter().next().expect("one")
}

fn complaint<T>(lowered: &Lowered<T>) -> (&str, &str) {
    assert_eq!(lowered.diagnostics.len(), 1, "{:?}", lowered.diagnostics);
    (lowered.diagnostics[0].field.as_str(), lowered.diagnostics[0].message.as_str())
}

#[test]
fn cluster_ip_service() {
    let got = svc(json!({
        "type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ports": [{"name": "http", "port": 80, "targetPort": "web"},
                  {"name": "dns", "port": 53, "protocol": "UDP"}]
    }));
    assert_eq!(got.diagnostics, []);
    let s = got.value.expect("a Service");
    assert_eq!(s.id, NamespacedName::new("shop", "web"));
    assert_eq!(s.kind, ServiceKind::Virtual);
    assert_eq!(s.cluster_ips, ["10.96.0.7", "fd00::7"].map(|a| a.parse::<IpAddr>().expect("ip")));
    assert_eq!(s.families, [IpFamily::V4, IpFamily::V6]);
    assert_eq!(s.ports.len(), 2);
    assert_eq!((s.ports[0].protocol, s.ports[0].port.get()), (Protocol::Tcp, 80));
    assert_eq!((s.ports[1].protocol, &*s.ports[1].name), (Protocol::Udp, "dns"));
    assert_eq!(s.affinity_timeout_s, None);
    assert!(!s.publish_not_ready && !s.foreign_proxy);
    assert_eq!(s.created_s, 0, "the object says nothing");
}

#[test]
fn families_come_from_the_addresses_of_an_older_api() {
    let s = svc(json!({"clusterIP": "fd00::7", "ports": [{"port": 80}]})).value.expect("one");
    assert_eq!(s.families, [IpFamily::V6]);
    assert_eq!(&*s.ports[0].name, "");
}

#[test]
fn headless_and_external_services_have_no_cluster_ips() {
    let s = svc(json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4"]}));
    let s = s.value.expect("headless");
    assert_eq!((s.kind, s.cluster_ips.len()), (ServiceKind::Headless, 0));
    assert_eq!(s.families, [IpFamily::V4]);
    let s = svc(json!({"type": "ExternalName", "externalName": "db.example"})).value.expect("one");
    assert_eq!(s.kind, ServiceKind::ExternalName("db.example".into()));
    let bad = svc(json!({"type": "ExternalName"}));
    assert_eq!(complaint(&bad).0, "spec.externalName");
    assert_eq!(bad.value, None);
}

#[test]
fn a_bad_service_is_left_out_and_named() {
    let cases = [
        (json!({"clusterIPs": ["10.0.0.300"]}), "spec.clusterIPs[0]", "'10.0.0.300'"),
        (json!({"clusterIPs": ["10.0.0.3"], "ports": [{"port": 0}]}), "spec.ports[0].port", "0"),
        (
            json!({"clusterIPs": ["10.0.0.3"], "ports": [{"port": 1}, {"port": 70000}]}),
            "spec.ports[1].port",
            "70000",
        ),
        (
            json!({"clusterIPs": ["10.0.0.3"], "ports": [{"port": 1, "protocol": "DCCP"}]}),
            "spec.ports[0].protocol",
            "'DCCP'",
        ),
        (json!({"clusterIPs": ["10.0.0.3"], "ipFamilies": ["IPX"]}), "spec.ipFamilies[0]", "'IPX'"),
        (json!({"type": "Wormhole"}), "spec.type", "'Wormhole'"),
        (json!({"type": "NodePort", "clusterIP": ""}), "spec.clusterIPs", "allocated"),
    ];
    for (spec, field, text) in cases {
        let got = svc(spec.clone());
        assert_eq!(got.value, None, "{spec}");
        let (f, m) = complaint(&got);
        assert_eq!(f, field, "{spec}");
        assert!(m.contains(text), "{spec}: {m}");
    }
    let shown = svc(json!({"type": "Wormhole"})).diagnostics[0].to_string();
    assert_eq!(shown, "Service shop/web: spec.type: 'Wormhole' is not a type of Service");
}

#[test]
fn balance_is_an_annotation() {
    let with = |value: Value| {
        service(&parse(json!({
            "metadata": {"namespace": "a", "name": "b", "annotations": {"weft.dev/lb": value}},
            "spec": {"clusterIPs": ["10.0.0.3"]}
        })))
    };
    for (value, expected) in
        [("maglev", Balance::Maglev), ("random", Balance::Random), ("", Balance::Random)]
    {
        let lowered = with(json!(value));
        assert_eq!(lowered.diagnostics, []);
        assert_eq!(lowered.value.expect("one").balance, expected);
    }
    let odd = with(json!("Maglev"));
    let (field, text) = complaint(&odd);
    assert_eq!(field, "metadata.annotations[weft.dev/lb]");
    assert!(text.contains("'Maglev'"), "{text}");
    assert_eq!(odd.value.expect("served all the same").balance, Balance::Random);
}

#[test]
fn service_options() {
    let s = service(&parse(json!({
        "metadata": {"namespace": "a", "name": "b", "creationTimestamp": "1970-01-02T00:00:01Z",
                     "labels": {"service.kubernetes.io/service-proxy-name": "mesh"}},
        "spec": {"clusterIPs": ["10.0.0.3"], "sessionAffinity": "ClientIP",
                 "internalTrafficPolicy": "Local", "publishNotReadyAddresses": true}
    })));
    let s = s.value.expect("one");
    assert!(s.foreign_proxy && s.publish_not_ready);
    assert_eq!(s.created_s, 86_401);
    assert_eq!(s.affinity_timeout_s, Some(10_800));
    assert_eq!(s.internal_policy, TrafficPolicy::Local);
    let s = svc(json!({"clusterIPs": ["10.0.0.3"], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}));
    assert_eq!(s.value.expect("one").affinity_timeout_s, Some(5));
}

#[test]
fn conditions_that_are_not_set_have_the_meaning_the_api_gives_them() {
    let cases = [
        (json!({}), (true, true, false)),
        (json!({"ready": false}), (false, false, false)),
        (json!({"ready": true}), (true, true, false)),
        (json!({"ready": false, "serving": true, "terminating": true}), (false, true, true)),
        (json!({"ready": true, "serving": false}), (true, false, false)),
    ];
    for (conditions, want) in cases {
        let e = one_endpoint(json!({"addresses": ["10.244.1.5"], "conditions": conditions}));
        assert_eq!((e.ready, e.serving, e.terminating), want, "{conditions}");
    }
    let e = one_endpoint(json!({"addresses": ["10.244.1.5"]}));
    assert!(e.ready && e.serving && !e.terminating);
}

#[test]
fn the_first_of_several_addresses_counts() {
    let e = one_endpoint(json!({"addresses": ["10.244.1.5", "10.244.1.6"]}));
    assert_eq!(e.address.to_string(), "10.244.1.5");
}

#[test]
fn the_rest_of_an_endpoint() {
    let e = one_endpoint(json!({
        "addresses": ["10.244.1.5"], "hostname": "web-0", "nodeName": "node1", "zone": "z1",
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-0"}
    }));
    assert_eq!(e.hostname.as_deref(), Some("web-0"));
    assert_eq!(e.node.expect("a node").as_str(), "node1");
    assert_eq!(e.zone.as_deref(), Some("z1"));
    assert_eq!(e.pod, Some(NamespacedName::new("shop", "web-0")));
    let e = one_endpoint(json!({
        "addresses": ["10.244.1.5"], "hostname": "", "targetRef": {"kind": "VM", "name": "x"}
    }));
    assert_eq!((e.hostname, e.pod), (None, None));
    // The namespace of the slice where the reference has none.
    let e = one_endpoint(json!({
        "addresses": ["10.244.1.5"], "targetRef": {"kind": "Pod", "name": "x"}
    }));
    assert_eq!(e.pod, Some(NamespacedName::new("shop", "x")));
}

#[test]
fn slices_that_do_not_concern_the_network_are_ignored_silently() {
    let fqdn = slice_of(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b"]}]}));
    assert_eq!(fqdn, Lowered { value: None, diagnostics: vec![] });
    let alone = slice_of(json!({"metadata": {"namespace": "shop", "name": "x"}}));
    assert_eq!(alone, Lowered { value: None, diagnostics: vec![] });
}

#[test]
fn one_bad_endpoint_does_not_cost_the_others() {
    let got = slice_of(json!({"endpoints": [
        {"addresses": ["10.244.1.5"]}, {"addresses": []}, {"addresses": ["10.244.1"]},
        {"addresses": ["fd00::1"]}, {"addresses": ["10.244.1.6"], "nodeName": "UPPER"}
    ]}));
    let fields: Vec<&str> = got.diagnostics.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "endpoints[1].addresses[0]",
            "endpoints[2].addresses[0]",
            "endpoints[3].addresses[0]",
            "endpoints[4].nodeName"
        ]
    );
    let addresses: Vec<String> =
        got.value.expect("a slice").endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(addresses, ["10.244.1.5", "10.244.1.6"]);
}

#[test]
fn ports_of_a_slice() {
    let got = slice_of(json!({"ports": [
        {"name": "http", "port": 8080, "protocol": "TCP"}, {"port": null, "protocol": "UDP"},
        {"name": "bad", "port": 0}, {"name": "odd", "port": 1, "protocol": "x"}
    ]}));
    let fields: Vec<&str> = got.diagnostics.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(fields, ["ports[2].port", "ports[3].protocol"]);
    let ports = got.value.expect("a slice").ports;
    assert_eq!(ports.len(), 2);
    assert_eq!(ports[0].port.expect("a number").get(), 8080);
    // Not set: all ports.
    assert_eq!((ports[1].port, &*ports[1].name), (None, ""));
    // No list of ports at all is an empty list.
    assert_eq!(slice_of(json!({"ports": null})).value.expect("a slice").ports, []);
}

#[test]
fn nodes() {
    let got = node(&parse(json!({
        "metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": "node1"},
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "InternalIP", "address": "172.30.1.11"},
                {"type": "InternalIP", "address": "172.30.1.12"},
                {"type": "InternalIP", "address": "fd00:30:1::11"}
            ],
            "conditions": [{"type": "Ready", "status": "True"}]
        }
    })));
    assert_eq!(got.diagnostics, []);
    let n = got.value.expect("a node");
    let ips: Vec<String> = n.internal_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["172.30.1.11", "fd00:30:1::11"]);
    let cidrs: Vec<String> = n.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
    assert_eq!((n.zone.as_deref(), n.ready), (Some("z1"), true));

    let n = node(&parse(json!({"metadata": {"name": "node2"}}))).value.expect("a bare node");
    assert_eq!((n.internal_ips.len(), n.pod_cidrs.len(), n.zone, n.ready), (0, 0, None, false));

    let got = node(&parse(json!({
        "metadata": {"name": "node3"}, "spec": {"podCIDRs": ["10.244.3.0/33", "fd00::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "nonsense"}],
                   "conditions": [{"type": "Ready", "status": "Unknown"}]}
    })));
    let fields: Vec<&str> = got.diagnostics.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(fields, ["status.addresses[0].address", "spec.podCIDRs[0]"]);
    let n = got.value.expect("the other family still works");
    assert_eq!((n.pod_cidrs.len(), n.ready), (1, false));
}

#[test]
fn the_way_in_from_outside() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.7"], "externalTrafficPolicy": "Local",
        "externalIPs": ["198.51.100.1", "nonsense"], "healthCheckNodePort": 32000,
        "loadBalancerSourceRanges": ["203.0.113.9/24", " 2001:db8::/32"],
        "ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "name": "b", "nodePort": 0}]
    });
    let status = json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "lb.example"},
        {"ip": "2001:db8::1", "ipMode": "VIP"}
    ]}});
    let meta = json!({"namespace": "shop", "name": "web"});
    let whole =
        |spec: &Value| service(&parse(json!({"metadata": meta, "spec": spec, "status": status})));
    let got = whole(&spec);
    // The bad address costs nothing but itself.
    assert_eq!(complaint(&got), ("spec.externalIPs[1]", "'nonsense' is not an IP address"));
    let s = got.value.expect("a Service");
    assert_eq!(s.ports[0].node_port.map(Port::get), Some(30080));
    assert_eq!(s.ports[1].node_port, None);
    let e = &s.external;
    assert_eq!(e.policy, TrafficPolicy::Local);
    assert_eq!(e.health_port.map(Port::get), Some(32000));
    let texts = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&e.addresses), ["198.51.100.1"]);
    assert_eq!(texts(&e.balancer_addresses), ["192.0.2.1", "2001:db8::1"]);
    let ranges: Vec<String> = e.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["203.0.113.0/24", "2001:db8::/32"]);

    // Not a load balancer (any more): its addresses mean nothing.
    let mut node_port = spec.clone();
    node_port["type"] = json!("NodePort");
    let e = whole(&node_port).value.expect("a Service").external;
    assert!(e.balancer_addresses.is_empty() && e.source_ranges.is_empty());
    assert_eq!((e.health_port, e.addresses.len()), (None, 1));

    // Ranges that nobody understands admit nobody.
    let mut closed = spec;
    closed["loadBalancerSourceRanges"] = json!(["everybody"]);
    let got = whole(&closed);
    assert_eq!(got.diagnostics.len(), 2);
    assert!(got.value.expect("a Service").external.balancer_addresses.is_empty());
}

#[test]
fn hints_of_endpoints() {
    let e = one_endpoint(json!({
        "addresses": ["10.244.1.2"],
        "hints": {"forZones": [{"name": "za"}, {"name": "zb"}], "forNodes": [{"name": "n1"}]}
    }));
    assert_eq!(e.zone_hints.iter().map(|z| &**z).collect::<Vec<_>>(), ["za", "zb"]);
    assert_eq!(e.node_hints.iter().map(|z| &**z).collect::<Vec<_>>(), ["n1"]);
}

#[test]
fn nodes_that_leave_are_not_eligible_for_load_balancers() {
    let eligible = |meta: Value, spec: Value| {
        let mut metadata = json!({"name": "n1"});
        metadata.as_object_mut().expect("object").extend(meta.as_object().expect("o").clone());
        node(&parse(json!({"metadata": metadata, "spec": spec}))).value.expect("a node").eligible
    };
    assert!(eligible(json!({}), json!({"taints": [{"key": "other", "effect": "NoSchedule"}]})));
    let leaving = json!({"taints": [{"key": LEAVING_TAINT, "effect": "NoSchedule"}]});
    assert!(!eligible(json!({}), leaving));
    assert!(!eligible(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({})));
}

#[test]
fn policies_are_on_trial_where_they_or_their_namespace_say_so() {
    for (value, audit) in [("enabled", true), ("Enabled", false), ("", false)] {
        let metadata = json!({"namespace": "ns", "name": "p",
                              "annotations": {"weft.dev/policy-audit": value}});
        let namespace = serde_json::from_value(json!({"metadata": metadata})).expect("one");
        assert_eq!(labelled_namespace(&namespace).value.map(|n| n.audit), Some(audit));
        let policy = serde_json::from_value(json!({"metadata": metadata, "spec": {}}));
        let policy = network_policy(&policy.expect("a policy")).value;
        assert_eq!(policy.map(|p| p.audit), Some(audit));
        let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
        let policy = serde_json::from_value(json!({"metadata": metadata, "spec": spec}));
        let policy = cluster_network_policy(&policy.expect("a policy")).value;
        assert_eq!(policy.map(|p| p.audit), Some(audit), "{value}");
    }
}
