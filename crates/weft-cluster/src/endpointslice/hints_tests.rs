//! Golden cases of hints, worked out by hand from KEP-2433 and KEP-3015.

use k8s_openapi::api::discovery::v1::{EndpointHints, ForNode, ForZone};
use serde_json::json;

use super::hints::{Mode, clear, close, mode, proportional};
use super::*;

fn endpoint_in(zone: Option<&str>, number: usize, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![format!("10.0.0.{number}")],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        node_name: Some(format!("node-{number}")),
        zone: zone.map(str::to_owned),
        ..Endpoint::default()
    }
}

/// A draft of a slice that is there, with so many ready endpoints a zone.
fn draft(zones: &[(&str, usize)], changed: bool) -> Draft {
    let each = zones.iter().flat_map(|(zone, count)| std::iter::repeat_n(*zone, *count));
    let endpoints: Vec<Endpoint> =
        each.enumerate().map(|(number, zone)| endpoint_in(Some(zone), number, true)).collect();
    Draft { before: None, ports: Vec::new(), endpoints, changed }
}

fn shares(of: &[(&str, f64)]) -> BTreeMap<String, f64> {
    of.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect()
}

/// From which zone to which, and how often.
fn flows(drafts: &[Draft]) -> BTreeMap<(String, String), usize> {
    let mut all = BTreeMap::new();
    for endpoint in drafts.iter().flat_map(|draft| &draft.endpoints) {
        let Some(hints) = &endpoint.hints else { continue };
        for zone in hints.for_zones.iter().flatten() {
            let from = endpoint.zone.clone().unwrap_or_default();
            *all.entry((from, zone.name.clone())).or_default() += 1;
        }
    }
    all
}

fn flow(from: &str, to: &str, count: usize) -> ((String, String), usize) {
    ((from.into(), to.into()), count)
}

#[test]
fn the_annotation_wins_over_the_field() {
    let service = |annotations, distribution: Option<&str>| -> Service {
        serde_json::from_value(json!({"metadata": {"annotations": annotations},
            "spec": {"trafficDistribution": distribution}}))
        .expect("a Service")
    };
    let mode_key = "service.kubernetes.io/topology-mode";
    let old_key = "service.kubernetes.io/topology-aware-hints";
    let near = Some("PreferClose");
    let cases = [
        (json!({}), None, Mode::None),
        (json!({}), near, Mode::Close { nodes: false }),
        (json!({}), Some("PreferSameZone"), Mode::Close { nodes: false }),
        (json!({}), Some("PreferSameNode"), Mode::Close { nodes: true }),
        (json!({}), Some("example.com/other"), Mode::None),
        (json!({mode_key: "Auto"}), near, Mode::Auto),
        (json!({mode_key: "auto"}), None, Mode::Auto),
        (json!({mode_key: "Disabled"}), near, Mode::Close { nodes: false }),
        (json!({mode_key: "Auto", old_key: "Disabled"}), None, Mode::None),
        (json!({old_key: "Auto"}), None, Mode::Auto),
    ];
    for (annotations, distribution, wanted) in cases {
        assert_eq!(mode(&service(annotations.clone(), distribution)), wanted, "{annotations}");
    }
}

#[test]
fn close_names_zone_and_node_of_ready_endpoints() {
    let endpoints = vec![
        endpoint_in(Some("a"), 1, true),
        endpoint_in(Some("b"), 2, false),
        endpoint_in(None, 3, true),
    ];
    let of = |zone: Option<&str>, node: Option<&str>| EndpointHints {
        for_zones: zone.map(|name| vec![ForZone { name: name.into() }]),
        for_nodes: node.map(|name| vec![ForNode { name: name.into() }]),
    };
    let mut drafts = [Draft { before: None, ports: Vec::new(), endpoints, changed: false }];
    let hints = |drafts: &[Draft]| -> Vec<Option<EndpointHints>> {
        drafts[0].endpoints.iter().map(|one| one.hints.clone()).collect()
    };
    close(&mut drafts, false);
    assert!(drafts[0].changed);
    assert_eq!(hints(&drafts), [Some(of(Some("a"), None)), None, None]);
    close(&mut drafts, true);
    let near = [Some(of(Some("a"), Some("node-1"))), None, Some(of(None, Some("node-3")))];
    assert_eq!(hints(&drafts), near);
    drafts[0].changed = false;
    close(&mut drafts, true);
    assert!(!drafts[0].changed, "right already");
    clear(&mut drafts);
    assert!(drafts[0].changed);
    assert_eq!(hints(&drafts), [None, None, None]);
}

#[test]
fn auto_follows_the_cpus() {
    let even = shares(&[("a", 0.5), ("b", 0.5)]);
    let mut drafts = [draft(&[("a", 3), ("b", 3)], true)];
    proportional(&mut drafts, Some(&even)).expect("hints");
    assert_eq!(flows(&drafts), [flow("a", "a", 3), flow("b", "b", 3)].into());

    // Zone a has all endpoints: half of them serve b.
    let mut drafts = [draft(&[("a", 6)], true)];
    proportional(&mut drafts, Some(&even)).expect("hints");
    assert_eq!(flows(&drafts), [flow("a", "a", 3), flow("a", "b", 3)].into());

    // b has three quarters of the CPUs: of 4 + 4 it gets two more.
    let uneven = shares(&[("a", 0.25), ("b", 0.75)]);
    let mut drafts = [draft(&[("a", 4), ("b", 4)], true)];
    proportional(&mut drafts, Some(&uneven)).expect("hints");
    assert_eq!(flows(&drafts), [flow("a", "a", 2), flow("a", "b", 2), flow("b", "b", 4)].into());

    // A zone without nodes keeps none for itself, its endpoints are lent only as they are wanted.
    let mut drafts = [draft(&[("a", 3), ("b", 2), ("c", 1)], true)];
    proportional(&mut drafts, Some(&even)).expect("hints");
    let to_c = flows(&drafts).keys().filter(|(_, to)| to == "c").count();
    assert_eq!(to_c, 1, "only its own");
}

#[test]
fn auto_gives_up_rather_than_overload() {
    let even = shares(&[("a", 0.5), ("b", 0.5)]);
    let said = |drafts: &mut [Draft], ratios| proportional(drafts, ratios).expect_err("no hints");
    assert_eq!(
        said(&mut [draft(&[("a", 1)], true)], Some(&even)),
        "Insufficient number of endpoints (1 endpoints, 2 zones)"
    );
    // 3 endpoints for shares of 34, 33 and 33 %: each wants one. For 75 and 25 %: 2 and 1.
    let mut three = [draft(&[("a", 3)], true)];
    proportional(&mut three, Some(&shares(&[("a", 0.34), ("b", 0.33), ("c", 0.33)])))
        .expect("1 each");
    proportional(&mut three, Some(&shares(&[("a", 0.75), ("b", 0.25)]))).expect("2 and 1");
    // 3 for 41, 41 and 18 %: the two large ones want 2 each.
    let bad = shares(&[("a", 0.41), ("b", 0.41), ("c", 0.18)]);
    assert_eq!(
        said(&mut three, Some(&bad)),
        "Unable to allocate minimum required endpoints to each zone without exceeding overload \
         threshold (3 endpoints, 3 zones)"
    );
    assert!(flows(&three).is_empty(), "the earlier hints are gone");
    assert!(three[0].changed);
    assert!(said(&mut three, None).starts_with("Insufficient Node information"));
    let mut nowhere = [draft(&[("a", 4)], true)];
    nowhere[0].endpoints[1].zone = None;
    assert_eq!(
        said(&mut nowhere, Some(&even)),
        "One or more endpoints do not have a zone specified"
    );
}

#[test]
fn auto_leaves_alone_what_is_right() {
    let even = shares(&[("a", 0.5), ("b", 0.5)]);
    let mut drafts = [draft(&[("a", 3), ("b", 3)], true), draft(&[("a", 2), ("b", 2)], true)];
    proportional(&mut drafts, Some(&even)).expect("hints");
    drafts.iter_mut().for_each(|draft| draft.changed = false);
    proportional(&mut drafts, Some(&even)).expect("hints");
    assert!(drafts.iter().all(|draft| !draft.changed));
    // A new slice of zone a alone: only it is written, and it makes up for the difference.
    let mut drafts = drafts.into_iter().chain([draft(&[("a", 2)], true)]).collect::<Vec<_>>();
    proportional(&mut drafts, Some(&even)).expect("hints");
    assert_eq!(drafts.iter().map(|draft| draft.changed).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(flows(&drafts[2..]), [flow("a", "a", 1), flow("a", "b", 1)].into());
}
