//! Any text is manifests with expectations, which are judged, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_policy_cli::{Cluster, Documents, Source, lint, parse_suite, run};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = parse_suite(text);
    let source = Source { name: "input".into(), text: text.into() };
    let Ok(documents) = Documents::parse(vec![source]) else { return };
    let Ok(cluster) = Cluster::of(documents) else { return };
    let _ = run(&cluster).map(|r| (r.text(true), r.junit()));
    let _ = lint(&cluster);
});
