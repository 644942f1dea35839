//! The `loopback` plugin. containerd before 2.0 asks for it beside every network, and a node
//! may have no other plugins than ours.

use crate::{
    error::{CniError, code},
    plugin::{self, Variable},
    version::{CURRENT, Version},
};
use serde_json::{Value, json};
use std::path::Path;

/// The oldest version whose results look as they do today; containerd asks with 0.3.1.
const OLDEST: Version = Version::new(0, 3, 0);

/// Brings `lo` up in the namespace at the path; the error is a sentence.
pub type BringUp<'a> = &'a dyn Fn(&Path) -> Result<(), String>;

/// Runs the plugin once, as [`crate::main`] does.
pub fn main(up: BringUp<'_>) -> i32 {
    plugin::serve(|command, variable, input| run(command, variable, input, up))
}

fn run(
    command: &str,
    variable: Variable<'_>,
    input: &[u8],
    up: BringUp<'_>,
) -> Result<Option<Value>, CniError> {
    let config: Value = serde_json::from_slice(input)
        .map_err(|e| CniError::new(code::DECODE, "the configuration cannot be read", e))?;
    let given = config.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if command == "VERSION" {
        let versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        return Ok(Some(json!({"cniVersion": given, "supportedVersions": versions})));
    }
    let version = given.parse::<Version>().ok().filter(|v| (OLDEST..=CURRENT).contains(v));
    let version = version.ok_or_else(|| {
        let msg = format!("CNI version '{given}' is not supported");
        CniError::new(code::INCOMPATIBLE_VERSION, msg, "")
    })?;
    match command {
        "ADD" | "CHECK" => {
            let netns = variable("CNI_NETNS").filter(|n| !n.is_empty()).ok_or_else(|| {
                CniError::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is not set", "")
            })?;
            up(Path::new(&netns)).map_err(|e| {
                CniError::new(code::SETUP_FAILED, "the loopback link could not be brought up", e)
            })?;
            Ok((command == "ADD").then(|| result(given, version, &netns)))
        }
        // It goes with its namespace.
        "DEL" | "GC" | "STATUS" => Ok(None),
        other => {
            let msg = format!("CNI_COMMAND '{other}' is unknown");
            Err(CniError::new(code::INVALID_ENVIRONMENT, msg, ""))
        }
    }
}

fn result(given: &str, version: Version, netns: &str) -> Value {
    let ip = |family: &str, address: &str| match version < Version::new(1, 0, 0) {
        true => json!({"version": family, "interface": 0, "address": address}),
        false => json!({"interface": 0, "address": address}),
    };
    json!({
        "cniVersion": given,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns}],
        "ips": [ip("4", "127.0.0.1/8"), ip("6", "::1/128")],
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn call(command: &str, version: &str) -> (Result<Option<Value>, CniError>, Vec<String>) {
        let calls = RefCell::new(Vec::new());
        let up = |path: &Path| {
            calls.borrow_mut().push(path.display().to_string());
            Ok(())
        };
        let variable = |name: &str| (name == "CNI_NETNS").then(|| "/run/netns/x".to_owned());
        let input = json!({"cniVersion": version, "name": "lo", "type": "loopback"}).to_string();
        let answer = run(command, &variable, input.as_bytes(), &up);
        (answer, calls.into_inner())
    }

    #[test]
    fn containerd_s_call_brings_the_link_up_and_gets_its_format() {
        let (answer, calls) = call("ADD", "0.3.1");
        let answer = answer.expect("fine").expect("a result");
        assert_eq!(calls, ["/run/netns/x"]);
        assert_eq!(
            (&answer["cniVersion"], &answer["ips"][0]["version"]),
            (&json!("0.3.1"), &json!("4"))
        );
        let (answer, _) = call("ADD", "1.1.0");
        assert_eq!(answer.expect("fine").expect("a result")["ips"][0].get("version"), None);
        for command in ["DEL", "GC", "STATUS"] {
            let (answer, calls) = call(command, "1.1.0");
            assert!(answer.expect("fine").is_none() && calls.is_empty(), "{command}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_an_error_of_the_specification() {
        assert_eq!(call("ADD", "0.2.0").0.expect_err("too old").code, code::INCOMPATIBLE_VERSION);
        assert_eq!(call("ADD", "2.0.0").0.expect_err("unknown").code, code::INCOMPATIBLE_VERSION);
        assert_eq!(call("X", "1.0.0").0.expect_err("unknown").code, code::INVALID_ENVIRONMENT);
        let input = br#"{"cniVersion":"1.0.0"}"#;
        let fails = |_: &Path| Err("no such namespace".to_owned());
        let netns = |_: &str| Some("/gone".to_owned());
        let e = run("ADD", &netns, input, &fails).expect_err("fails");
        assert_eq!((e.code, e.details.as_str()), (code::SETUP_FAILED, "no such namespace"));
        let e = run("ADD", &|_| None, input, &fails).expect_err("no namespace");
        assert_eq!(e.code, code::INVALID_ENVIRONMENT);
    }
}
