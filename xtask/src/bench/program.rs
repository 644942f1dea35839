//! Programming Services: cold start, one endpoint's change to the kernel and to the first packet,
//! memory; interleaved with what a ruleset of kube-proxy's kind takes for one Service more. The
//! stages of the agent run in `crates/weft-agent/examples/program-load`.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

use super::{header, stats::Spread};
use crate::{setup, sh};

/// Services and endpoints of each.
const USUAL: (usize, usize) = (10_000, 10);
/// 44,000 Services; 264,000 endpoints.
const LARGE: (usize, usize) = (44_000, 6);
const COLD_STARTS: usize = 5;

type Figures = BTreeMap<String, Vec<f64>>;

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let load = setup::example("program-load")?;
    header("program");
    println!("load average {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    for (services, endpoints) in [USUAL, LARGE] {
        let peer = services == USUAL.0;
        let mut all = figures(&load, "changes", services, endpoints)?;
        for _ in 1..if peer { COLD_STARTS } else { 2 } {
            for (name, values) in figures(&load, "memory", services, endpoints)? {
                all.entry(format!("memory_{name}")).or_default().extend(values);
            }
        }
        report(&all, services, endpoints)?;
    }
    Ok(())
}

fn report(all: &Figures, services: usize, endpoints: usize) -> Result<()> {
    let get = |name: &str| all.get(name).with_context(|| format!("no figure {name}"));
    let one = |name: &str| get(name).map(|v| v[0]);
    println!("\n{services} Services with {endpoints} endpoints each");
    println!(
        "cold start, lists to kernel          {:.0} ms: lists {:.0}, plan {:.0}, apply {:.0}",
        one("cold_ms")?,
        one("cold_lists_ms")?,
        one("cold_plan_ms")?,
        one("cold_apply_ms")?
    );
    println!(
        "plan and apply again, N={}            {} ms",
        get("memory_program_ms")?.len(),
        Spread::of(get("memory_program_ms")?)
    );
    let change = get("change_ms")?;
    println!(
        "one endpoint, event to kernel, N={} p50 {:.3} ms, p99 {:.3} ms, longest {:.3} ms",
        change.len(),
        quantile(change, 0.5),
        quantile(change, 0.99),
        quantile(change, 1.0)
    );
    let packet = get("first_packet_ms")?;
    println!(
        "to the new backend's answer, N={}   p50 {:.3} ms, p99 {:.3} ms",
        packet.len(),
        quantile(packet, 0.5),
        quantile(packet, 0.99)
    );
    if let Ok(nft) = get("nft_change_ms") {
        let ratio = quantile(nft, 0.5) / quantile(change, 0.5);
        println!(
            "nft, a Service more, N={}            {} ms: {ratio:.0} times as long",
            nft.len(),
            Spread::of(nft)
        );
        println!("nft, all Services                    {:.0} ms", one("nft_cold_ms")?);
    }
    let kib = |name| get(name).map(|v| quantile(v, 0.5));
    let (empty, full) = (kib("memory_empty_kib")?, kib("memory_after_kib")?);
    let each = (full - empty) * 1024.0 / (services * endpoints) as f64;
    println!(
        "memory of the stages                 {:.0} MiB (empty {:.0} MiB): {:.0} bytes an endpoint, {:.0} a Service",
        full / 1024.0,
        empty / 1024.0,
        each,
        each * endpoints as f64
    );
    Ok(())
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

fn figures(load: &Path, what: &str, services: usize, endpoints: usize) -> Result<Figures> {
    let mut command = sh::as_root(load);
    command.args([what, &services.to_string(), &endpoints.to_string()]);
    let out = sh::output("program-load", &mut command)?;
    if !out.status.success() {
        bail!("program-load {what}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let mut figures = Figures::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let value: Value = serde_json::from_str(line).context("decode a figure")?;
        let name = value["name"].as_str().context("a figure without a name")?.to_owned();
        let values = value["values"].as_array().context("a figure without values")?;
        figures.insert(name, values.iter().filter_map(Value::as_f64).collect());
    }
    Ok(figures)
}
