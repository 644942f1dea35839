//! `weft status` and `weft check`: how agents fare, asked on their sockets, each finding with
//! its remedy.

use crate::explain::say;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use weft_cni::Request;
use weft_lab::{
    paths::{LabPaths, STATE_ROOT},
    state::LabState,
};

/// Where an agent of a real node has its socket.
const AGENT_DIR: &str = "/run/weft/agent";

/// Which agents are asked: those of a lab, or the one of this machine
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Name of a running lab [default: the only one that runs, else this machine's agent]
    #[arg(long, conflicts_with = "agent_dir")]
    name: Option<String>,
    /// Folder of this machine's agent (its --state-dir)
    #[arg(long, value_name = "DIR")]
    agent_dir: Option<PathBuf>,
    /// Directory of all labs' state
    #[arg(long, env = "WEFT_STATE_DIR", default_value = STATE_ROOT, hide = true)]
    state_dir: PathBuf,
}

/// How agents fare.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    which: Which,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// An interface: stable field names (docs/metrics.md, docs/why.md)
    Json,
}

/// What both commands print.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Health {
    /// Whether nothing is wrong; warnings do not count.
    ok: bool,
    nodes: Vec<NodeHealth>,
    findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeHealth {
    name: String,
    /// Whether every stage was applied once.
    ready: bool,
    /// `vxlan` or `native`; empty where the agent does not answer.
    network: String,
    /// Generation of the latest picture of the API.
    generation: u64,
    /// The one that fabric, services and policy have all applied.
    applied: u64,
    /// Pods with a network.
    pods: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Severity {
    Error,
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    severity: Severity,
    node: String,
    /// A stage, `agent`, or `kernel`.
    about: String,
    message: String,
    remedy: String,
}

/// An agent to ask.
pub(crate) struct Agent {
    /// Its node, as far as it is known before it is asked.
    pub node: String,
    dir: PathBuf,
    log: Option<PathBuf>,
}

impl Agent {
    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// What it answers.
    pub fn ask(&self, request: &Request) -> Result<Value, String> {
        let answer = weft_cni::call(&self.socket(), request).map_err(|e| e.to_string())?;
        answer.status.ok_or_else(|| answer.reason.unwrap_or_else(|| "no status".to_owned()))
    }
}

/// Runs `weft status` (`brief`: the nodes) or `weft check`; 0 only where nothing is wrong.
pub fn run(args: CheckArgs, brief: bool) -> Result<i32> {
    let agents = agents(&args.which)?;
    let asked = agents.iter().map(|a| (a, a.ask(&Request::Status)));
    let health = judge(asked.map(|(a, said)| (a.node.clone(), a.log.clone(), said)).collect());
    match args.output {
        Output::Json => say(&serde_json::to_string_pretty(&health)?)?,
        Output::Text => say(health.render(brief).trim_end())?,
    }
    Ok(if health.ok { 0 } else { 1 })
}

/// The agents that are meant.
pub(crate) fn agents(args: &Which) -> Result<Vec<Agent>> {
    let own = |dir: &Path| Agent { node: "this node".to_owned(), dir: dir.to_owned(), log: None };
    if let Some(dir) = &args.agent_dir {
        return Ok(vec![own(dir)]);
    }
    let root = args.state_dir.canonicalize().unwrap_or_else(|_| args.state_dir.clone());
    let has_own = Path::new(AGENT_DIR).join("agent.sock").exists();
    // With several labs the question is which of them: this machine's agent is none.
    if args.name.is_none() && has_own && weft_lab::state::running(&root).is_empty() {
        return Ok(vec![own(Path::new(AGENT_DIR))]);
    }
    match weft_lab::state::choose(&root, args.name.as_deref()) {
        Ok(lab) => of_lab(&lab),
        Err(e) if has_own => bail!("{e}; or ask this machine's agent: --agent-dir {AGENT_DIR}"),
        Err(e) => Err(e),
    }
}

fn of_lab(lab: &LabPaths) -> Result<Vec<Agent>> {
    let Some(state) = LabState::read(lab)? else { bail!("the lab has gone") };
    let agent = |node: String| {
        let dir = lab.node(&node);
        Agent { log: Some(dir.join("agent.log")), dir, node }
    };
    Ok(state.config.node_names().map(agent).collect())
}

type Asked = (String, Option<PathBuf>, Result<Value, String>);

/// From what the agents said to what is wrong.
fn judge(all: Vec<Asked>) -> Health {
    let (mut nodes, mut findings) = (Vec::new(), Vec::new());
    for (asked, log, said) in all {
        let log = log.map_or_else(|| "its log".to_owned(), |l| l.display().to_string());
        let status = match said {
            Ok(status) => status,
            Err(why) => {
                findings.push(Finding {
                    severity: Severity::Error,
                    node: asked.clone(),
                    about: "agent".to_owned(),
                    message: format!("the agent does not answer: {why}"),
                    remedy: format!(
                        "what is in the kernel goes on working; {log} says why the agent ended. In \
                         a lab its supervisor starts it again, and `weft lab up` the supervisor"
                    ),
                });
                nodes.push(NodeHealth {
                    name: asked,
                    ready: false,
                    network: String::new(),
                    generation: 0,
                    applied: 0,
                    pods: 0,
                });
                continue;
            }
        };
        let name = status["node"].as_str().unwrap_or(&asked).to_owned();
        let stages = || status["stages"].as_object().into_iter().flatten();
        let generation = |v: &Value| v["generation"].as_u64().unwrap_or_default();
        nodes.push(NodeHealth {
            name: name.clone(),
            ready: status["ready"] == true,
            network: status["network"].as_str().unwrap_or_default().to_owned(),
            generation: generation(&status),
            // Others count by themselves.
            applied: ["fabric", "services", "policy"]
                .map(|s| generation(&status["stages"][s]))
                .into_iter()
                .min()
                .unwrap_or_default(),
            pods: status["pods"].as_u64().unwrap_or_default(),
        });
        let mut find = |severity, about: &str, message: &str, remedy: String| {
            let (node, about, message) = (name.clone(), about.to_owned(), message.to_owned());
            findings.push(Finding { severity, node, about, message, remedy });
        };
        let texts = |of: &Value, name: &str| -> Vec<String> {
            let all = of[name].as_array().into_iter().flatten();
            all.filter_map(|t| t.as_str().map(str::to_owned)).collect()
        };
        let mut errors = 0;
        for (stage, of) in stages() {
            for text in texts(of, "errors") {
                errors += 1;
                find(Severity::Error, stage, &text, remedy(&text, &log));
            }
            for text in texts(of, "diagnostics") {
                find(Severity::Warning, stage, &text, remedy_of_input(stage, &log));
            }
        }
        if status["ready"] != true && errors == 0 {
            let reason = status["reason"].as_str().unwrap_or("not ready");
            find(Severity::Error, "agent", reason, remedy(reason, &log));
        }
        for feature in status["features"].as_array().into_iter().flatten() {
            if feature["ok"] == false {
                let optional = feature["optional"] == true;
                let text = |name: &str| feature[name].as_str().unwrap_or_default();
                let message = format!("{}: {}", text("name"), text("detail"));
                let (severity, remedy) = match optional {
                    true => (Severity::Warning, "nothing has to be done: Weft does without it"),
                    false => (Severity::Error, "use a kernel that has it: 5.15 or later"),
                };
                find(severity, "kernel", &message, remedy.to_owned());
            }
        }
    }
    findings.sort();
    let ok = findings.iter().all(|f| f.severity != Severity::Error);
    Health { ok, nodes, findings }
}

/// What to do about what a stage says of its input.
fn remedy_of_input(stage: &str, log: &str) -> String {
    match stage {
        "services" => {
            "change that object; an Event on it names the field, and all others are served"
                .to_owned()
        }
        "policy" => {
            "make that policy's lists smaller; an Event on it says what is closed (where no policy \
             is named, none is at fault)"
                .to_owned()
        }
        "fabric" => {
            "it passes by itself where a node has just joined; else correct that node's addresses, \
             pod ranges or link"
                .to_owned()
        }
        "sockets" => {
            "nothing has to be done: such clients end by their own time-outs, where another \
             kernel would end them at once"
                .to_owned()
        }
        _ => format!("nothing has to be done; {log} has more"),
    }
}

/// What to do about an error, by what it is about.
fn remedy(error: &str, log: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|w| error.contains(w));
    if has(&["API has not been read", "watch"]) {
        format!("the API server does not answer, or refuses: {log} has its words")
    } else if has(&["no uplink"]) {
        "give a link the node's InternalIP, or the node a default route".to_owned()
    } else if has(&["is full", "max_entries"]) {
        "the kernel's map has no room: those Services are named, all others are served".to_owned()
    } else if has(&["not permitted", "EPERM", "Permission denied"]) {
        "run the agent as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN".to_owned()
    } else if has(&["not applied yet"]) {
        format!("wait a moment; if it stays, {log} says what it waits for")
    } else {
        format!("the agent tries again by itself; if it stays, {log} has more")
    }
}

impl Health {
    fn render(&self, brief: bool) -> String {
        let mut out = String::new();
        if brief {
            let head = ["NODE", "READY", "NETWORK", "PODS", "APPLIED", "FINDINGS"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            for node in &self.nodes {
                let of = |s| {
                    let mine = |f: &&Finding| f.node == node.name && f.severity == s;
                    self.findings.iter().filter(mine).count()
                };
                let found = match (of(Severity::Error), of(Severity::Warning)) {
                    (0, 0) => "none".to_owned(),
                    (0, w) => format!("{w} warnings"),
                    (e, w) => format!("{e} errors, {w} warnings: `weft check`"),
                };
                rows.push(vec![
                    node.name.clone(),
                    if node.ready { "yes" } else { "no" }.to_owned(),
                    if node.network.is_empty() { "-".to_owned() } else { node.network.clone() },
                    node.pods.to_string(),
                    format!("{}/{}", node.applied, node.generation),
                    found,
                ]);
            }
            return weft_explain::table(&rows, "");
        }
        for f in &self.findings {
            let mark = if f.severity == Severity::Error { "✗" } else { "!" };
            out += &format!("{mark} {} {}: {}\n    {}\n", f.node, f.about, f.message, f.remedy);
        }
        let nodes = self.nodes.len();
        let errors = self.findings.iter().filter(|f| f.severity == Severity::Error).count();
        out += &match errors {
            0 => format!("✓ {nodes} agents are well\n"),
            n => format!("{n} errors on {nodes} agents\n"),
        };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(change: impl FnOnce(&mut Value)) -> Value {
        let stage = || json!({"generation": 4, "errors": [], "diagnostics": []});
        let mut status = json!({
            "node": "node1", "network": "vxlan", "ready": true, "generation": 4, "pods": 2,
            "stages": {"fabric": stage(), "services": stage(), "dns": stage(), "policy": stage()},
            "features": [{"name": "tcx", "ok": false, "optional": true, "detail": "older"}],
        });
        change(&mut status);
        status
    }

    fn of(said: Result<Value, String>) -> Health {
        judge(vec![("node1".to_owned(), None, said)])
    }

    #[test]
    fn findings_have_remedies_and_only_errors_count() {
        let well = of(Ok(status(|_| {})));
        assert!(well.ok && well.findings.len() == 1, "{well:?}");
        let warned = of(Ok(status(|s| {
            s["stages"]["services"]["diagnostics"] = json!(["Service a/b: …"]);
        })));
        assert!(warned.ok && warned.findings.len() == 2, "{warned:?}");
        for (stage, word, foreign) in [
            ("services", "Event", "node"),
            ("policy", "policy", "node"),
            ("fabric", "node", "object"),
            ("sockets", "nothing has to be done", "object"),
            ("podLinks", "log", "object"),
        ] {
            let health = of(Ok(status(|s| {
                s["features"] = json!([]);
                s["stages"][stage] =
                    json!({"generation": 4, "errors": [], "diagnostics": ["what it says"]});
            })));
            let remedy = &health.findings[0].remedy;
            assert!(health.ok && remedy.contains(word) && !remedy.contains(foreign), "{remedy}");
        }
        let cases = [
            (of(Err("No such file".to_owned())), "agent", "goes on working"),
            (
                of(Ok(status(|s| s["stages"]["fabric"]["errors"] = json!(["no uplink: …"])))),
                "fabric",
                "default route",
            ),
            (
                of(Ok(status(|s| {
                    s["ready"] = json!(false);
                    s["reason"] = json!("the Kubernetes API has not been read yet");
                }))),
                "agent",
                "API server",
            ),
            (of(Ok(status(|s| s["features"][0]["optional"] = json!(false)))), "kernel", "5.15"),
        ];
        for (health, about, remedy) in cases {
            let error = &health.findings[0];
            assert!(!health.ok && error.severity == Severity::Error, "{health:?}");
            assert!(error.about == about && error.remedy.contains(remedy), "{error:?}");
        }
    }
}
