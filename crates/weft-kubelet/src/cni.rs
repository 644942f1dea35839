//! Runs CNI plugins as any container runtime does (CNI specification 1.1, sections 2 to 5):
//! executes the plugin's binary with `CNI_*` in the environment and its configuration on
//! standard input. Lists are chained through `prevResult`; DEL goes backwards.

use crate::error::{Error, Result, file};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// A plugin that has not answered by then is killed.
const PLUGIN_SECONDS_MAX: u64 = 60;
/// Longest configuration list read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A configuration list as found in `net.d`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfList {
    name: String,
    version: String,
    plugins: Vec<Value>,
    disable_check: bool,
}

/// The pod that a call is about.
#[derive(Clone, Debug)]
pub struct Target {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// Namespace, name and UID of the pod.
    pub pod: [String; 3],
    /// Its host ports, as the CNI conventions write them.
    pub port_mappings: Vec<Value>,
}

/// Parses a `.conflist`, or a `.conf` of a single plugin.
pub fn parse(bytes: &[u8]) -> Result<ConfList> {
    let bad = |m: String| Error::Cni(format!("configuration: {m}"));
    let v: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    let text = |k: &str| v.get(k).and_then(Value::as_str).map(str::to_owned);
    let plugins = match v.get("plugins") {
        Some(Value::Array(a)) => a.clone(),
        Some(_) => return Err(bad("plugins is not a list".into())),
        None => vec![v.clone()],
    };
    for p in &plugins {
        let kind = p.get("type").and_then(Value::as_str);
        let Some(kind) = kind else { return Err(bad("a plugin without type".into())) };
        // The type names a file in the plugin directory and nothing outside it.
        if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
            return Err(bad(format!("type {kind:?} is not a file name")));
        }
    }
    if plugins.is_empty() {
        return Err(bad("plugins is empty".into()));
    }
    Ok(ConfList {
        name: text("name").ok_or_else(|| bad("no name".into()))?,
        version: text("cniVersion").unwrap_or_else(|| "1.0.0".into()),
        plugins,
        disable_check: v.get("disableCheck").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// The configuration in `dir`: the first file by name, as the runtimes choose it.
pub async fn load(dir: &Path) -> Result<ConfList> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(dir).await.map_err(file("read", dir))?;
    while let Some(e) = entries.next_entry().await.map_err(file("read", dir))? {
        let path = e.path();
        if matches!(path.extension().and_then(|e| e.to_str()), Some("conflist" | "conf" | "json")) {
            names.push(path);
        }
    }
    names.sort();
    let path = names
        .first()
        .ok_or_else(|| Error::Cni(format!("no network configuration in {}", dir.display())))?;
    let size = tokio::fs::metadata(path).await.map_err(file("read", path))?.len();
    if size > CONFIG_BYTES_MAX {
        return Err(Error::Cni(format!("{} is too long", path.display())));
    }
    parse(&tokio::fs::read(path).await.map_err(file("read", path))?)
}

/// The configuration that one plugin of a list gets on standard input. Host ports are told to
/// plugins that say that they can do them (CNI conventions, "dynamic plugin specific fields").
pub fn plugin_config(
    list: &ConfList,
    index: usize,
    prev: Option<&Value>,
    port_mappings: &[Value],
) -> Value {
    let mut c = list.plugins[index].clone();
    if let Some(c) = c.as_object_mut() {
        let capabilities = c.remove("capabilities").unwrap_or_default();
        if capabilities["portMappings"] == true && !port_mappings.is_empty() {
            c.insert("runtimeConfig".to_owned(), json!({"portMappings": port_mappings}));
        }
    }
    c["cniVersion"] = json!(list.version);
    c["name"] = json!(list.name);
    if let Some(prev) = prev {
        c["prevResult"] = prev.clone();
    }
    c
}

/// The addresses in an ADD result, those of the primary family first (in their own order).
pub fn addresses(result: &Value, primary_v6: bool) -> Result<Vec<IpAddr>> {
    let mut ips = Vec::new();
    for ip in result.get("ips").and_then(Value::as_array).into_iter().flatten() {
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let addr = text.split('/').next().unwrap_or_default();
        ips.push(addr.parse().map_err(|_| Error::Cni(format!("bad address {text:?}")))?);
    }
    if ips.is_empty() {
        return Err(Error::Cni("the result has no address".into()));
    }
    ips.sort_by_key(|ip: &IpAddr| ip.is_ipv6() != primary_v6);
    Ok(ips)
}

/// Where plugins and configurations live.
#[derive(Clone, Debug)]
pub struct Cni {
    /// Directory of configurations.
    pub conf: PathBuf,
    /// Directory of plugins.
    pub bin: PathBuf,
}

impl Cni {
    /// ADD through the whole list; the last result.
    pub async fn add(&self, list: &ConfList, target: &Target) -> Result<Value> {
        let mut prev = None;
        for i in 0..list.plugins.len() {
            let config = plugin_config(list, i, prev.as_ref(), &target.port_mappings);
            prev = Some(self.call("ADD", list, i, Some(target), &config).await?);
        }
        prev.ok_or_else(|| Error::Cni("empty list".into()))
    }

    /// DEL through the whole list, backwards; every plugin is called, the first error is told.
    pub async fn del(&self, list: &ConfList, target: &Target, prev: Option<&Value>) -> Result<()> {
        let mut first = Ok(());
        for i in (0..list.plugins.len()).rev() {
            let config = plugin_config(list, i, prev, &target.port_mappings);
            if let Err(e) = self.call("DEL", list, i, Some(target), &config).await {
                first = first.and(Err(e));
            }
        }
        first
    }

    /// STATUS of every plugin (1.1); older configurations have none and count as ready.
    pub async fn status(&self, list: &ConfList) -> Result<()> {
        for i in 0..list.plugins.len() {
            let config = plugin_config(list, i, None, &[]);
            self.call("STATUS", list, i, None, &config).await?;
        }
        Ok(())
    }

    async fn call(
        &self,
        command: &str,
        list: &ConfList,
        index: usize,
        target: Option<&Target>,
        config: &Value,
    ) -> Result<Value> {
        let kind = list.plugins[index]["type"].as_str().unwrap_or_default();
        let path = self.bin.join(kind);
        let mut cmd = tokio::process::Command::new(&path);
        cmd.env_clear().env("CNI_COMMAND", command).env("CNI_PATH", &self.bin);
        cmd.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if let Some(t) = target {
            let [ns, name, uid] = &t.pod;
            cmd.env("CNI_CONTAINERID", &t.container_id).env("CNI_NETNS", &t.netns);
            cmd.env("CNI_IFNAME", "eth0").env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={ns};K8S_POD_NAME={name};\
                     K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={uid}",
                    t.container_id
                ),
            );
        }
        cmd.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        cmd.kill_on_drop(true);
        let mut child = cmd.spawn().map_err(file("execute", &path))?;
        let mut stdin = child.stdin.take().expect("invariant: stdin is piped");
        let input = config.to_string();
        let run = async {
            // A plugin that fails before reading closes the pipe; its answer says more.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let out = tokio::time::timeout(Duration::from_secs(PLUGIN_SECONDS_MAX), run)
            .await
            .map_err(|_| Error::Cni(format!("{kind} {command}: no answer")))?
            .map_err(file("execute", &path))?;
        if out.status.success() {
            return Ok(serde_json::from_slice(&out.stdout).unwrap_or(Value::Null));
        }
        let answer: Value = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
        let msg = answer.get("msg").and_then(Value::as_str).unwrap_or_default();
        let details = answer.get("details").and_then(Value::as_str).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&out.stderr);
        let said = [msg, details, stderr.trim()].into_iter().filter(|s| !s.is_empty());
        let said: String = said.collect::<Vec<_>>().join(": ").chars().take(1000).collect();
        Err(Error::Cni(format!("{kind} {command}: {said} ({})", out.status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_list_is_chained_and_a_single_plugin_is_a_list() {
        let list = parse(
            br#"{"cniVersion":"1.1.0","name":"weft","plugins":[{"type":"a","x":1},{"type":"b"}]}"#,
        )
        .unwrap();
        let c = plugin_config(&list, 1, Some(&json!({"ips":[]})), &[]);
        assert_eq!(
            c,
            json!({"type":"b","cniVersion":"1.1.0","name":"weft","prevResult":{"ips":[]}})
        );
        assert_eq!(parse(br#"{"name":"n","type":"t"}"#).unwrap().plugins.len(), 1);
    }

    #[test]
    fn host_ports_are_told_to_who_can_map_them() {
        let list = parse(
            br#"{"name":"n","plugins":[{"type":"a","capabilities":{"portMappings":true}},{"type":"b"}]}"#,
        )
        .unwrap();
        let ports = [json!({"hostPort": 80, "containerPort": 8080})];
        let told = |i, ports| plugin_config(&list, i, None, ports)["runtimeConfig"].clone();
        assert_eq!(told(0, &ports), json!({"portMappings": ports}));
        assert_eq!(told(1, &ports), Value::Null);
        assert_eq!(told(0, &[]), Value::Null);
        assert_eq!(plugin_config(&list, 0, None, &ports)["capabilities"], Value::Null);
    }

    #[test]
    fn a_type_cannot_leave_the_plugin_directory() {
        for t in ["../x", "/bin/sh", "", ".hidden"] {
            let conf = json!({"name":"n","plugins":[{"type":t}]}).to_string();
            assert!(parse(conf.as_bytes()).is_err(), "{t:?}");
        }
    }

    #[test]
    fn addresses_follow_the_primary_family() {
        let r = json!({"ips":[{"address":"10.0.0.1/32"},{"address":"fd00::1/128"}]});
        let show =
            |v6| addresses(&r, v6).unwrap().iter().map(|i| i.to_string()).collect::<Vec<_>>();
        assert_eq!(show(false), ["10.0.0.1", "fd00::1"]);
        assert_eq!(show(true), ["fd00::1", "10.0.0.1"]);
        assert!(addresses(&json!({}), false).is_err());
    }

    /// A plugin that writes down what it was called with, in the order of the calls.
    fn plugin(dir: &Path, name: &str, body: &str) {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn add_runs_forward_del_backward_and_errors_name_the_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let body = |n: &str| {
            format!(
                "cat >>{0}; echo \" {n} $CNI_COMMAND $CNI_ARGS\" >>{0}\n\
                 echo '{{\"ips\":[{{\"address\":\"10.0.0.{n}/32\"}}]}}'",
                log.display()
            )
        };
        plugin(dir.path(), "one", &body("1"));
        plugin(dir.path(), "two", &body("2"));
        plugin(dir.path(), "bad", "echo '{\"code\":11,\"msg\":\"try again\"}'; exit 1");
        let cni = Cni { conf: dir.path().into(), bin: dir.path().into() };
        let list = parse(br#"{"name":"n","plugins":[{"type":"one"},{"type":"two"}]}"#).unwrap();
        let target = Target {
            container_id: "c".into(),
            netns: "/x".into(),
            pod: ["ns".into(), "p".into(), "u".into()],
            port_mappings: Vec::new(),
        };
        let r = cni.add(&list, &target).await.unwrap();
        assert_eq!(addresses(&r, false).unwrap(), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        cni.del(&list, &target, Some(&r)).await.unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        let order: Vec<_> = text
            .lines()
            .map(|l| {
                l.rsplit("} ").next().unwrap().split(' ').take(2).collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(order, ["1 ADD", "2 ADD", "2 DEL", "1 DEL"], "{text}");
        assert!(text.contains("K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;"), "{text}");
        let bad = parse(br#"{"name":"n","plugins":[{"type":"bad"}]}"#).unwrap();
        let e = cni.add(&bad, &target).await.unwrap_err().to_string();
        assert!(e.contains("bad ADD") && e.contains("try again"), "{e}");
    }
}
