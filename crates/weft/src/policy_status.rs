//! `weft policy status`: what is in force on each node, as the agents say.

use crate::check::{self, Output, Which};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use weft_cni::Request;

/// How policies are in force.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// [NAMESPACE/]NAME of a NetworkPolicy, or NAME of a ClusterNetworkPolicy; all where not given
    #[arg(value_name = "POLICY")]
    policy: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

type Asked = (String, Result<Value, String>);

/// What is in force: the text, what could not be asked, and whether every node has the newest,
/// without complaints.
pub fn answer(args: StatusArgs) -> Result<(String, Vec<String>, bool)> {
    let request = Request::Policy { name: args.policy.clone() };
    let agents = check::agents(&args.which)?;
    let asked: Vec<Asked> = agents.iter().map(|a| (a.node.clone(), a.ask(&request))).collect();
    let status = gather(asked);
    let failed = list(&status["failed"]);
    let failed =
        failed.map(|f| format!("the agent of {}: {}", text(&f["node"]), text(&f["error"])));
    let mut problems: Vec<String> = failed.collect();
    let found = list(&status["nodes"]).any(|n| list(&n["policies"]).next().is_some());
    if let (Some(name), false) = (&args.policy, found) {
        problems.push(format!("no node knows a policy {name}"));
    }
    let said = match args.output {
        Output::Json => serde_json::to_string_pretty(&status)?,
        Output::Text => render(&status, args.policy.is_some()),
    };
    Ok((said, problems, status["ok"] == true))
}

/// What all nodes say.
fn gather(asked: Vec<Asked>) -> Value {
    let (mut nodes, mut failed) = (Vec::new(), Vec::new());
    for (node, said) in asked {
        match said {
            Ok(report) => nodes.push(report),
            Err(error) => failed.push(json!({"node": node, "error": error})),
        }
    }
    let well =
        |n: &Value| n["newest"] == true && n["complaints"].as_array().is_none_or(Vec::is_empty);
    let ok = failed.is_empty() && !nodes.is_empty() && nodes.iter().all(well);
    json!({"ok": ok, "nodes": nodes, "failed": failed})
}

/// Sums over nodes of what one policy did.
#[derive(Default)]
struct Sum {
    pods: BTreeSet<String>,
    pod_count: u64,
    audit: bool,
    /// By rule as it is shown; what no rule allowed is last.
    rules: BTreeMap<(String, u64), [u64; 4]>,
    no_rule: [u64; 4],
}

fn counts(of: &Value) -> [u64; 4] {
    ["allowed", "denied", "audited", "dropped"].map(|c| of[c].as_u64().unwrap_or_default())
}

fn add(sum: &mut [u64; 4], more: [u64; 4]) {
    sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
}

fn list(of: &Value) -> impl Iterator<Item = &Value> {
    of.as_array().into_iter().flatten()
}

fn text(of: &Value) -> String {
    of.as_str().unwrap_or_default().to_owned()
}

fn render(status: &Value, one: bool) -> String {
    let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<String>>();
    let mut nodes = vec![row(&["NODE", "IN FORCE", "NEWEST", "PODS", "ENTRIES", "COMPLAINTS"])];
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    let mut complaints = BTreeSet::new();
    let mut more = 0;
    for node in list(&status["nodes"]) {
        let number = |field: &str| node[field].as_u64().unwrap_or_default().to_string();
        let said: Vec<String> = list(&node["complaints"]).map(text).collect();
        let newest = if node["newest"] == true { "yes" } else { "no" };
        let count = if said.is_empty() { "none".to_owned() } else { said.len().to_string() };
        let mut cells = row(&[node["node"].as_str().unwrap_or_default()]);
        cells.extend([format!("{}/{}", number("applied"), number("wanted")), newest.to_owned()]);
        cells.extend([number("pods"), number("entries"), count]);
        nodes.push(cells);
        complaints.extend(said);
        more = more.max(node["more"].as_u64().unwrap_or_default());
        for policy in list(&node["policies"]) {
            let sum = sums.entry(text(&policy["policy"])).or_default();
            sum.pods.extend(list(&policy["pods"]).map(text));
            sum.pod_count += policy["podCount"].as_u64().unwrap_or_default();
            sum.audit |= policy["audit"] == true;
            add(&mut sum.no_rule, counts(&policy["noRule"]));
            for rule in list(&policy["rules"]) {
                let index = rule["index"].as_u64().unwrap_or_default();
                let of_rule = sum.rules.entry((text(&rule["direction"]), index)).or_default();
                add(of_rule, counts(&rule["counts"]));
            }
        }
    }
    for failed in list(&status["failed"]) {
        let node = failed["node"].as_str().unwrap_or_default();
        nodes.push(row(&[node, "-", "-", "-", "-", failed["error"].as_str().unwrap_or_default()]));
    }
    let mut out = weft_explain::table(&nodes, "");
    for complaint in complaints {
        out += &format!("! {complaint}\n");
    }
    out.push('\n');
    if one {
        for (name, sum) in &sums {
            out += &whole(name, sum);
        }
        return out;
    }
    let mut rows = vec![row(&["POLICY", "PODS", "ALLOWED", "DENIED", "WOULD DENY", "DROPPED"])];
    for (name, sum) in &sums {
        let mut all = sum.no_rule;
        sum.rules.values().for_each(|r| add(&mut all, *r));
        let name = if sum.audit { format!("{name}, on trial") } else { name.clone() };
        let mut cells = vec![name, sum.pod_count.to_string()];
        cells.extend(all.map(|n| n.to_string()));
        rows.push(cells);
    }
    match rows.len() {
        1 => out += "there are no policies\n",
        _ => out += &weft_explain::table(&rows, ""),
    }
    if more > 0 {
        out += &format!("and {more} more: ask for one by its name\n");
    }
    out
}

/// One policy with its rules.
fn whole(name: &str, sum: &Sum) -> String {
    let trial = if sum.audit { ", on trial: it denies nothing" } else { "" };
    let pods = match sum.pods.len() as u64 {
        0 => "selects no pod".to_owned(),
        named => {
            let all: Vec<&str> = sum.pods.iter().map(String::as_str).collect();
            let rest = sum.pod_count.saturating_sub(named);
            let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            format!("{} pods: {}{rest}", sum.pod_count, all.join(", "))
        }
    };
    let head = ["RULE", "ALLOWED", "DENIED", "WOULD DENY", "DROPPED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut push = |name: String, counts: [u64; 4]| {
        let mut cells = vec![name];
        cells.extend(counts.map(|n| n.to_string()));
        rows.push(cells);
    };
    for ((direction, index), counts) in &sum.rules {
        push(format!("{direction}[{index}]"), *counts);
    }
    if name.starts_with("NetworkPolicy") {
        push("none of them".to_owned(), sum.no_rule);
    }
    format!("{name}{trial}\n  {pods}\n{}", weft_explain::table(&rows, "  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: &str, newest: bool, allowed: u64) -> Value {
        let counts = |allowed: u64, denied: u64| json!({"allowed": allowed, "denied": denied, "audited": 0, "dropped": denied});
        json!({
            "node": node, "wanted": 7, "applied": if newest { 7 } else { 6 }, "newest": newest,
            "generation": 3, "pods": 2, "entries": 5, "more": 0, "complaints": [],
            "policies": [{
                "policy": "NetworkPolicy shop/db", "audit": false, "podCount": 1,
                "pods": [format!("shop/db-{node}")], "noRule": counts(0, 2),
                "rules": [{"direction": "ingress", "index": 0, "counts": counts(allowed, 0)}],
            }],
        })
    }

    #[test]
    fn nodes_are_added_up_and_one_that_is_behind_is_not_well() {
        let both = |second| {
            gather(vec![
                ("node1".to_owned(), Ok(report("node1", true, 3))),
                ("node2".to_owned(), second),
            ])
        };
        let well = both(Ok(report("node2", true, 4)));
        assert_eq!(well["ok"], true);
        assert_eq!(
            render(&well, false),
            "NODE   IN FORCE  NEWEST  PODS  ENTRIES  COMPLAINTS\n\
             node1  7/7       yes     2     5        none\n\
             node2  7/7       yes     2     5        none\n\
             \n\
             POLICY                 PODS  ALLOWED  DENIED  WOULD DENY  DROPPED\n\
             NetworkPolicy shop/db  2     7        4       0           4\n"
        );
        assert!(render(&well, true).ends_with(
            "NetworkPolicy shop/db\n  2 pods: shop/db-node1, shop/db-node2\n  \
             RULE          ALLOWED  DENIED  WOULD DENY  DROPPED\n  \
             ingress[0]    7        0       0           0\n  \
             none of them  0        4       0           4\n"
        ));
        let behind = both(Ok(report("node2", false, 0)));
        assert_eq!(behind["ok"], false);
        assert!(render(&behind, false).contains("node2  6/7       no"), "{behind:#}");
        let away = both(Err("No such file".to_owned()));
        assert_eq!((&away["ok"], &away["failed"][0]["node"]), (&false.into(), &"node2".into()));
        assert!(render(&away, false).contains("No such file"));
        let mut complains = report("node2", true, 0);
        complains["complaints"] = json!(["ingress of 2 pods is closed"]);
        let complains = both(Ok(complains));
        assert_eq!(complains["ok"], false);
        assert!(render(&complains, false).contains("! ingress of 2 pods is closed"));
        assert_eq!(gather(Vec::new())["ok"], false);
    }
}
