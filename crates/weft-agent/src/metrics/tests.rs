//! The page, read by a parser that takes nothing but what the format allows.

use super::{
    text::{Histogram, Kind, Page},
    *,
};
use crate::state::State;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;
use weft_kube::Tally;
use weft_model::Snapshot;

/// One sample: name, labels as they are written, value.
type Sample = (String, Vec<(String, String)>, f64);

/// Reads a page of the text format 0.0.4, and complains about everything that a scraper could
/// stumble over.
fn parse(page: &str) -> Result<Vec<Sample>, String> {
    let name_ok = |n: &str| {
        !n.is_empty()
            && !n.starts_with(|c: char| c.is_ascii_digit())
            && n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    if !page.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let (mut all, mut begun) = (Vec::<Sample>::new(), BTreeSet::new());
    // Name and type of the family that is being read.
    let mut family: Option<(String, Option<String>)> = None;
    for line in page.lines() {
        let bad = |why: &str| Err(format!("{why}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            if !name_ok(name) || help.is_empty() || !begun.insert(name.to_owned()) {
                return bad("a HELP that is no good or a second one");
            }
            family = Some((name.to_owned(), None));
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return bad("no type") };
            match &mut family {
                Some((f, of @ None)) if f == name => *of = Some(kind.to_owned()),
                _ => return bad("a TYPE that does not follow its HELP"),
            }
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return bad("an unknown type");
            }
            continue;
        }
        let Some((of, Some(kind))) = &family else { return bad("a sample without a family") };
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, mut rest) = line.split_at(end);
        let suffix = name.strip_prefix(of.as_str());
        let fits = match kind.as_str() {
            "histogram" => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
            _ => suffix == Some(""),
        };
        if !fits {
            return bad("a sample of another family");
        }
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let Some((label, value)) = rest.split_once("=\"") else { return bad("no label") };
                if !name_ok(label) || label.contains(':') {
                    return bad("a label's name");
                }
                let mut text = String::new();
                let mut chars = value.char_indices();
                let end = loop {
                    match chars.next() {
                        Some((at, '"')) => break at,
                        Some((_, '\\')) => match chars.next() {
                            Some((_, 'n')) => text.push('\n'),
                            Some((_, c @ ('\\' | '"'))) => text.push(c),
                            _ => return bad("an escape"),
                        },
                        Some((_, c)) => text.push(c),
                        None => return bad("a value without end"),
                    }
                };
                labels.push((label.to_owned(), text));
                rest = &value[end + 1..];
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            let Some(after) = rest.strip_prefix('}') else { return bad("labels without end") };
            rest = after;
        }
        let Some(Ok(value)) = rest.strip_prefix(' ').map(str::parse::<f64>) else {
            return bad("no number");
        };
        if kind == "counter" && (value.is_nan() || value < 0.0) {
            return bad("a counter below 0");
        }
        if all.iter().any(|(n, l, _)| n == name && *l == labels) {
            return bad("a sample twice");
        }
        all.push((name.to_owned(), labels, value));
    }
    histograms(&all)?;
    Ok(all)
}

/// Buckets rise, and the last one is the count.
fn histograms(all: &[Sample]) -> Result<(), String> {
    let plain = |labels: &[(String, String)]| -> Vec<(String, String)> {
        labels.iter().filter(|(n, _)| n != "le").cloned().collect()
    };
    for (name, labels, count) in all.iter().filter(|(n, ..)| n.ends_with("_count")) {
        let of = name.trim_end_matches("_count");
        let buckets: Vec<(f64, f64)> = all
            .iter()
            .filter(|(n, l, _)| *n == format!("{of}_bucket") && plain(l) == *labels)
            .filter_map(|(_, l, v)| {
                let (_, le) = l.iter().find(|(n, _)| n == "le")?;
                Some((le.replace("+Inf", "inf").parse().ok()?, *v))
            })
            .collect();
        let rising = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        if !rising || buckets.last() != Some(&(f64::INFINITY, *count)) {
            return Err(format!("{of}{labels:?}: {buckets:?}, count {count}"));
        }
    }
    Ok(())
}

fn value(all: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let same = |l: &[(String, String)]| {
        l.len() == labels.len() && l.iter().zip(labels).all(|((a, b), (c, d))| a == c && b == d)
    };
    all.iter().find(|(n, l, _)| n == name && same(l)).map(|(.., v)| *v)
}

#[test]
fn labels_and_help_are_escaped() {
    let mut page = Page::default();
    page.family("a_total", Kind::Counter, "One\nline \\ only")
        .sample(&[("x", "a\"b\\c\nd"), ("y", "")], 3)
        .sample(&[], 4);
    let mut histogram = Histogram::new(vec![0.5, 1.0]);
    for v in [0.5, 0.7, 9.0] {
        histogram.observe(v);
    }
    page.family("b_seconds", Kind::Histogram, "Times").histogram(&[("f", "4")], &histogram);
    let all = parse(&page.finish()).expect("a page");
    assert_eq!(value(&all, "a_total", &[("x", "a\"b\\c\nd"), ("y", "")]), Some(3.0));
    for (le, count) in [("0.5", 1.0), ("1", 2.0), ("+Inf", 3.0)] {
        assert_eq!(value(&all, "b_seconds_bucket", &[("f", "4"), ("le", le)]), Some(count));
    }
    assert_eq!(value(&all, "b_seconds_sum", &[("f", "4")]), Some(10.2));
}

#[test]
fn the_parser_is_strict() {
    let head = "# HELP a A\n# TYPE a gauge\n";
    assert!(parse(&format!("{head}a 1\n")).is_ok());
    for bad in [
        "a 1\n",
        "# TYPE a gauge\na 1\n",
        &format!("{head}a 1"),
        &format!("{head}b 1\n"),
        &format!("{head}a 1\na 1\n"),
        &format!("{head}a x\n"),
        &format!("{head}a{{b=\"\\x\"}} 1\n"),
        &format!("{head}a{{b=\"\" 1\n"),
        &format!("{head}{head}a 1\n"),
        "# HELP a A\n# TYPE a counter\na -1\n",
        "# HELP a A\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_count 1\n",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_whole_page_can_be_read() {
    let state = Arc::new(State::new("n1".to_owned(), "vxlan"));
    state.record("services", |s| {
        s.generation = 7;
        s.errors = vec!["one".to_owned()];
        s.counts.insert("frontends", 12);
    });
    let snapshot = Arc::new(Snapshot { generation: 9, ..Snapshot::default() });
    let metrics = Arc::new(Metrics::default());
    let ago = SystemTime::now() - Duration::from_millis(300);
    let triggers = vec![(IpFamily::V4, ago)];
    metrics.synced(Duration::from_millis(3), Some(Applied { triggers }));
    metrics.synced(Duration::from_millis(3), None);
    metrics.probed("/healthz", 200);
    metrics.probed("/healthz", 503);
    metrics.probed("/livez", 200);
    metrics.probed("/other", 404);
    metrics.refresh(|| Some(Stats { tcp_connects: 5, ..Stats::default() }));
    let sources = Sources {
        node: "n1".parse().expect("name"),
        metrics,
        tally: Arc::new(Tally::default()),
        state,
        snapshots: watch::channel(Some(snapshot)).1,
    };
    let text = sources.page();
    let all = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let is = |name: &str, labels: &[(&str, &str)], wanted: f64| {
        assert_eq!(value(&all, name, labels), Some(wanted), "{name}{labels:?}\n{text}");
    };
    let programming = "kubeproxy_network_programming_duration_seconds";
    is(&format!("{programming}_count"), &[("ip_family", "IPv4")], 1.0);
    is(&format!("{programming}_bucket"), &[("ip_family", "IPv4"), ("le", "0.25")], 0.0);
    is(&format!("{programming}_bucket"), &[("ip_family", "IPv4"), ("le", "0.5")], 1.0);
    is(&format!("{programming}_bucket"), &[("ip_family", "IPv4"), ("le", "300")], 1.0);
    is(&format!("{programming}_count"), &[("ip_family", "IPv6")], 0.0);
    is("kubeproxy_sync_proxy_rules_duration_seconds_count", &[], 2.0);
    is("kubeproxy_sync_proxy_rules_duration_seconds_bucket", &[("le", "0.004")], 2.0);
    is("kubeproxy_sync_proxy_rules_duration_seconds_bucket", &[("le", "16.384")], 2.0);
    is("weft_sync_failures_total", &[], 1.0);
    is("kubeproxy_proxy_healthz_total", &[("code", "200")], 1.0);
    is("kubeproxy_proxy_healthz_total", &[("code", "503")], 1.0);
    is("kubeproxy_proxy_livez_total", &[("code", "200")], 1.0);
    is("weft_snapshot_generation", &[], 9.0);
    is("weft_stage_generation", &[("stage", "services")], 7.0);
    is("weft_stage_errors", &[("stage", "services")], 1.0);
    is("weft_stage_entries", &[("stage", "services"), ("kind", "frontends")], 12.0);
    is("weft_socket_translations_total", &[("kind", "tcp_connect")], 5.0);
    let external = [("ip_family", "IPv6"), ("traffic_policy", "external")];
    is("kubeproxy_sync_proxy_rules_no_local_endpoints_total", &external, 0.0);
    let synced = value(&all, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", &[]);
    assert!(synced.is_some_and(|s| s > 1e9), "{synced:?}");
    for name in [
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_sync_proxy_rules_service_changes_pending",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
    ] {
        assert!(value(&all, name, &[]).is_some(), "{name}\n{text}");
    }
}
