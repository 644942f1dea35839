//! The runtime's side: executing a plugin as any container runtime does.

use crate::{
    INPUT_LEN_MAX,
    error::{CniError, code},
    types::{AddResult, Attachment, Conflist},
};
use serde_json::{Map, Value, json};
use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How long a plugin may take.
pub const PLUGIN_TIMEOUT: Duration = Duration::from_secs(90);
/// How often a running plugin is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// What a plugin is asked about: one container's attachment.
#[derive(Clone, Debug, Default)]
pub struct Invocation {
    /// CNI_CONTAINERID: unique for the life of the pod's sandbox.
    pub container_id: String,
    /// CNI_NETNS: path of the pod's network namespace; may be empty for DEL.
    pub netns: String,
    /// CNI_IFNAME: `eth0`.
    pub ifname: String,
    /// CNI_ARGS as pairs, as in `K8S_POD_NAME=x`.
    pub args: Vec<(String, String)>,
    /// CNI_PATH: folders with plugins.
    pub path: Vec<PathBuf>,
}

impl Invocation {
    /// The environment for `command` (ADD, DEL, CHECK, GC, STATUS, VERSION).
    pub fn environment(&self, command: &str) -> Vec<(&'static str, String)> {
        let args: Vec<String> = self.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let path: Vec<String> = self.path.iter().map(|p| p.display().to_string()).collect();
        vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", self.container_id.clone()),
            ("CNI_NETNS", self.netns.clone()),
            ("CNI_IFNAME", self.ifname.clone()),
            ("CNI_ARGS", args.join(";")),
            ("CNI_PATH", path.join(":")),
        ]
    }

    /// Runs all plugins of `list` for ADD and returns the last result.
    pub fn add(&self, list: &Conflist) -> Result<AddResult, CniError> {
        let mut previous = None;
        for plugin in &list.plugins {
            let output = self.execute("ADD", list, plugin, previous.as_ref(), None)?;
            let value: Value = serde_json::from_slice(&output)
                .map_err(|e| CniError::new(code::DECODE, "the plugin printed no JSON result", e))?;
            previous = Some(value);
        }
        let value = previous
            .ok_or_else(|| CniError::new(code::INVALID_CONFIG, "the list has no plugin", ""))?;
        serde_json::from_value(value)
            .map_err(|e| CniError::new(code::DECODE, "the plugin's result cannot be read", e))
    }

    /// Runs all plugins of `list` for DEL, last first; `previous` is the result of ADD.
    pub fn del(&self, list: &Conflist, previous: Option<&AddResult>) -> Result<(), CniError> {
        let previous = previous.map(|p| json!(p));
        for plugin in list.plugins.iter().rev() {
            self.execute("DEL", list, plugin, previous.as_ref(), None)?;
        }
        Ok(())
    }

    /// Runs all plugins of `list` for CHECK.
    pub fn check(&self, list: &Conflist, previous: &AddResult) -> Result<(), CniError> {
        let previous = json!(previous);
        for plugin in &list.plugins {
            self.execute("CHECK", list, plugin, Some(&previous), None)?;
        }
        Ok(())
    }

    /// Runs all plugins of `list` for GC: what is not in `valid` may be released.
    pub fn gc(&self, list: &Conflist, valid: &[Attachment]) -> Result<(), CniError> {
        for plugin in &list.plugins {
            self.execute("GC", list, plugin, None, Some(valid))?;
        }
        Ok(())
    }

    /// Runs all plugins of `list` for STATUS.
    pub fn status(&self, list: &Conflist) -> Result<(), CniError> {
        for plugin in &list.plugins {
            self.execute("STATUS", list, plugin, None, None)?;
        }
        Ok(())
    }

    fn execute(
        &self,
        command: &str,
        list: &Conflist,
        plugin: &Map<String, Value>,
        previous: Option<&Value>,
        valid: Option<&[Attachment]>,
    ) -> Result<Vec<u8>, CniError> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        // A type is a file name: a path would leave CNI_PATH.
        if kind.is_empty() || kind.contains('/') {
            let msg = format!("the plugin type '{kind}' is invalid");
            return Err(CniError::new(code::INVALID_CONFIG, msg, ""));
        }
        let program = self.path.iter().map(|dir| dir.join(kind)).find(|p| p.is_file());
        let program = program.ok_or_else(|| {
            CniError::new(code::INVALID_CONFIG, format!("no plugin '{kind}' in CNI_PATH"), "")
        })?;
        let mut config = plugin.clone();
        config.insert("cniVersion".to_owned(), json!(list.version().to_string()));
        config.insert("name".to_owned(), json!(list.name));
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        if let Some(valid) = valid {
            config.insert("cni.dev/valid-attachments".to_owned(), json!(valid));
        }
        let input = Value::Object(config).to_string();
        let (status, output) = self.spawn(&program, command, input.as_bytes())?;
        if status.success() {
            return Ok(output);
        }
        Err(serde_json::from_slice(&output).unwrap_or_else(|_| {
            let msg = format!("the plugin '{kind}' failed on {command} with {status}");
            CniError::new(code::IO, msg, String::from_utf8_lossy(&output))
        }))
    }

    fn spawn(
        &self,
        program: &Path,
        command: &str,
        input: &[u8],
    ) -> Result<(ExitStatus, Vec<u8>), CniError> {
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            CniError::new(code::IO, format!("{what} the plugin {}", program.display()), e)
        };
        let mut child = Command::new(program)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.environment(command))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| failed("cannot execute", &e))?;
        let mut stdin = child.stdin.take().expect("invariant: stdin is piped");
        let stdout = child.stdout.take().expect("invariant: stdout is piped");
        let reader = std::thread::spawn(move || {
            let mut output = Vec::new();
            stdout.take(INPUT_LEN_MAX as u64).read_to_end(&mut output).map(|_| output)
        });
        // A plugin that exits without reading is judged by its status, not by EPIPE.
        let _ = stdin.write_all(input);
        drop(stdin);
        let status = wait(&mut child).map_err(|e| failed("waiting for", &e))?;
        let output = reader.join().unwrap_or_else(|_| Ok(Vec::new()));
        Ok((status, output.map_err(|e| failed("reading from", &e))?))
    }
}

/// Waits for the end of a plugin, and kills it after [`PLUGIN_TIMEOUT`].
fn wait(child: &mut Child) -> std::io::Result<ExitStatus> {
    let deadline = Instant::now() + PLUGIN_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            return child.wait();
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn with_plugin(script: &str) -> (tempfile::TempDir, Invocation) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("weft-cni");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        let invocation = Invocation {
            container_id: "abc".to_owned(),
            netns: "/run/netns/x".to_owned(),
            ifname: "eth0".to_owned(),
            args: vec![("K8S_POD_NAME".to_owned(), "p".to_owned())],
            path: vec![dir.path().to_owned()],
        };
        (dir, invocation)
    }

    #[test]
    fn the_plugin_gets_environment_and_configuration() {
        let (dir, invocation) = with_plugin(
            "d=$(dirname $0); env | grep CNI_ | sort > $d/env; cat > $d/in; \
             echo '{\"ips\":[{\"address\":\"10.0.0.2/32\"}]}'",
        );
        let result = invocation.add(&Conflist::weft("/a.sock")).expect("fine");
        assert_eq!(result.addresses(), vec!["10.0.0.2".parse::<std::net::IpAddr>().expect("ip")]);
        let env = fs::read_to_string(dir.path().join("env")).expect("env");
        for expected in ["CNI_COMMAND=ADD", "CNI_IFNAME=eth0", "CNI_ARGS=K8S_POD_NAME=p"] {
            assert!(env.lines().any(|l| l == expected), "{env}");
        }
        let input: Value =
            serde_json::from_slice(&fs::read(dir.path().join("in")).expect("in")).expect("json");
        assert_eq!(input["agentSocket"], "/a.sock");
        assert_eq!(input["name"], "weft");
    }

    #[test]
    fn errors_of_the_plugin_arrive_with_their_code() {
        let (_dir, invocation) =
            with_plugin("echo '{\"cniVersion\":\"1.1.0\",\"code\":11,\"msg\":\"later\"}'; exit 1");
        let e = invocation.del(&Conflist::weft("/a.sock"), None).expect_err("refused");
        assert_eq!((e.code, e.msg.as_str()), (11, "later"));
    }

    #[test]
    fn a_plugin_type_cannot_leave_the_path() {
        let (_dir, invocation) = with_plugin("exit 0");
        let mut list = Conflist::weft("/a.sock");
        list.plugins[0].insert("type".to_owned(), "../../bin/true".into());
        assert!(invocation.status(&list).is_err());
    }
}
