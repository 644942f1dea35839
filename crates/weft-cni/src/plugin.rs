//! The executable: environment and stdin in, JSON on stdout out.

use crate::{
    INPUT_LEN_MAX,
    client::{self, Request},
    error::{CniError, code},
    types::{AddResult, PluginConfig},
    version::{CURRENT, SUPPORTED, Version},
};
use serde_json::{Value, json};
use std::{
    env,
    io::{Read, Write},
    path::Path,
};

/// Longest interface name (IFNAMSIZ without the NUL).
const IFNAME_LEN_MAX: usize = 15;
/// Longest container id that is taken.
const CONTAINER_ID_LEN_MAX: usize = 253;

/// Runs the plugin once: reads CNI_* and stdin, prints the result or the error, returns the
/// exit status.
pub fn main() -> i32 {
    serve(run)
}

/// [`main`] for any plugin: `run` gets command, environment and input.
pub(crate) fn serve(
    run: impl FnOnce(&str, Variable<'_>, &[u8]) -> Result<Option<Value>, CniError>,
) -> i32 {
    let mut input = Vec::new();
    let command = env::var("CNI_COMMAND").unwrap_or_default();
    let read = std::io::stdin().lock().take(INPUT_LEN_MAX as u64 + 1).read_to_end(&mut input);
    let variable = |name: &str| env::var(name).ok();
    let outcome = match read {
        Ok(_) => run(&command, &variable, &input),
        Err(e) => Err(CniError::new(code::IO, "cannot read the configuration from stdin", e)),
    };
    let (text, status) = match outcome {
        Ok(None) => return 0,
        Ok(Some(value)) => (value, 0),
        Err(mut e) => {
            if e.cni_version.is_empty() {
                e.cni_version = answer_version(&input);
            }
            (json!(e), 1)
        }
    };
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => status,
        Err(_) => 1,
    }
}

/// The version for an error: that of the input where it is one of ours.
fn answer_version(input: &[u8]) -> String {
    let given = serde_json::from_slice::<Value>(input).ok();
    let given = given.as_ref().and_then(|v| v.get("cniVersion")).and_then(Value::as_str);
    match given {
        Some(v) if SUPPORTED.contains(&v) => v.to_owned(),
        _ => CURRENT.to_string(),
    }
}

/// One checked call of the plugin.
struct Call {
    command: &'static str,
    container_id: String,
    netns: String,
    ifname: String,
    args: String,
    config: PluginConfig,
    version: Version,
}

pub(crate) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Serves one command; `Ok(None)` prints nothing.
fn run(command: &str, variable: Variable<'_>, input: &[u8]) -> Result<Option<Value>, CniError> {
    if command == "VERSION" {
        let given = serde_json::from_slice::<Value>(input).ok();
        let version = given
            .and_then(|v| Some(v.get("cniVersion")?.as_str()?.to_owned()))
            .unwrap_or_else(|| CURRENT.to_string());
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": SUPPORTED})));
    }
    let call = parse(command, variable, input)?;
    let socket = call.config.agent_socket.clone().ok_or_else(|| {
        CniError::new(
            code::INVALID_CONFIG,
            "the configuration has no 'agentSocket'",
            "give the path of the weft agent's socket",
        )
    })?;
    let request = Request::Cni {
        command: call.command.to_owned(),
        container_id: call.container_id,
        netns: call.netns,
        ifname: call.ifname,
        args: call.args,
        config: serde_json::to_value(&call.config)
            .map_err(|e| CniError::new(code::DECODE, "cannot encode the configuration", e))?,
    };
    let answer = client::call(Path::new(&socket), &request).map_err(|e| {
        let mut away = client::away(Path::new(&socket), &e);
        if call.command == "STATUS" {
            away.code = code::NOT_AVAILABLE;
        }
        away
    })?;
    if !answer.ok {
        return Err(answer.error.unwrap_or_else(|| {
            CniError::new(
                code::TRY_AGAIN,
                "the weft agent refused",
                answer.reason.unwrap_or_default(),
            )
        }));
    }
    if call.command != "ADD" {
        return Ok(None);
    }
    let result: AddResult = answer.result.ok_or_else(|| {
        CniError::new(code::DECODE, "the weft agent answered without a result", "")
    })?;
    Ok(Some(json!(result.in_version(call.version))))
}

fn parse(command: &str, variable: Variable<'_>, input: &[u8]) -> Result<Call, CniError> {
    let command = match command {
        "ADD" => "ADD",
        "DEL" => "DEL",
        "CHECK" => "CHECK",
        "GC" => "GC",
        "STATUS" => "STATUS",
        "" => return Err(environment("CNI_COMMAND is not set")),
        other => return Err(environment(format!("CNI_COMMAND '{other}' is unknown"))),
    };
    if input.len() > INPUT_LEN_MAX {
        let msg = format!("the configuration is longer than {INPUT_LEN_MAX} bytes");
        return Err(CniError::new(code::INVALID_CONFIG, msg, ""));
    }
    let config: PluginConfig = serde_json::from_slice(input)
        .map_err(|e| CniError::new(code::DECODE, "the configuration cannot be read", e))?;
    let version = check_version(command, &config.cni_version)?;
    if !is_identifier(&config.name) {
        let msg = format!("the network name '{}' is invalid", config.name);
        return Err(CniError::new(code::INVALID_CONFIG, msg, ""));
    }
    let get = |name: &str| variable(name).unwrap_or_default();
    let call = Call {
        command,
        container_id: get("CNI_CONTAINERID"),
        netns: get("CNI_NETNS"),
        ifname: get("CNI_IFNAME"),
        args: get("CNI_ARGS"),
        config,
        version,
    };
    let needs_attachment = matches!(command, "ADD" | "DEL" | "CHECK");
    if needs_attachment {
        check_container_id(&call.container_id).map_err(environment)?;
        check_ifname(&call.ifname).map_err(environment)?;
    }
    if matches!(command, "ADD" | "CHECK") && call.netns.is_empty() {
        return Err(environment("CNI_NETNS is not set"));
    }
    if command == "CHECK" && call.config.prev_result.is_none() {
        return Err(CniError::new(code::INVALID_CONFIG, "CHECK needs 'prevResult'", ""));
    }
    Ok(call)
}

fn check_version(command: &str, given: &str) -> Result<Version, CniError> {
    let refuse = || {
        let msg = format!("CNI version '{given}' is not supported for {command}");
        let details = format!("supported: {}", SUPPORTED.join(", "));
        CniError::new(code::INCOMPATIBLE_VERSION, msg, details)
    };
    let version: Version = given.parse().map_err(|()| refuse())?;
    // GC and STATUS came with 1.1.0.
    let needs = if matches!(command, "GC" | "STATUS") { CURRENT } else { Version::new(0, 4, 0) };
    if version.is_supported() && version >= needs { Ok(version) } else { Err(refuse()) }
}

fn environment(msg: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, msg, "")
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*` (spec: network names and container ids).
fn is_identifier(s: &str) -> bool {
    s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Checks a container id by the rule of the specification; the error is a sentence.
pub fn check_container_id(id: &str) -> Result<(), String> {
    match id {
        "" => Err("CNI_CONTAINERID is not set".to_owned()),
        _ if id.len() <= CONTAINER_ID_LEN_MAX && is_identifier(id) => Ok(()),
        _ => Err(format!("CNI_CONTAINERID '{id}' is invalid")),
    }
}

/// Checks an interface name by the rules of the kernel; the error is a sentence.
pub fn check_ifname(name: &str) -> Result<(), String> {
    let fine = !matches!(name, "." | "..")
        && name.len() <= IFNAME_LEN_MAX
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':'));
    match name {
        "" => Err("CNI_IFNAME is not set".to_owned()),
        _ if fine => Ok(()),
        _ => Err(format!("CNI_IFNAME '{name}' is invalid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{
        io::{BufRead, BufReader},
        os::unix::net::UnixListener,
        path::PathBuf,
    };

    fn vars(netns: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| {
            Some(
                match name {
                    "CNI_CONTAINERID" => "abc",
                    "CNI_NETNS" => netns,
                    "CNI_IFNAME" => "eth0",
                    _ => return None,
                }
                .to_owned(),
            )
        }
    }

    fn config(version: &str, socket: &Path) -> Vec<u8> {
        json!({"cniVersion": version, "name": "weft", "type": "weft-cni",
               "agentSocket": socket, "prevResult": {}})
        .to_string()
        .into_bytes()
    }

    /// An agent that answers one request with `answer`.
    fn agent(answer: &'static str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("request");
            stream.write_all(answer.as_bytes()).expect("answer");
        });
        (dir, path)
    }

    #[test]
    fn version_needs_no_agent_and_lists_what_is_spoken() {
        let out = run("VERSION", &|_| None, br#"{"cniVersion":"0.3.1"}"#).expect("fine");
        let out = out.expect("a result");
        assert_eq!(out["cniVersion"], "0.3.1");
        assert_eq!(out["supportedVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
    }

    #[test]
    fn agent_away_means_try_again_for_add_and_del_and_not_available_for_status() {
        let gone = Path::new("/nonexistent/agent.sock");
        for (command, expected) in [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("STATUS", 50)] {
            let e = run(command, &vars("/run/netns/x"), &config("1.1.0", gone)).expect_err("away");
            assert_eq!(e.code, expected, "{command}: {e}");
        }
    }

    #[test]
    fn an_agent_that_dies_in_the_middle_means_try_again() {
        let (_dir, path) = agent("");
        let e = run("DEL", &vars(""), &config("1.0.0", &path)).expect_err("no answer");
        assert_eq!(e.code, code::TRY_AGAIN);
    }

    #[test]
    fn results_come_in_the_version_of_the_configuration() {
        let answer = r#"{"ok":true,"result":{"interfaces":[{"name":"eth0","mtu":1450}],
            "ips":[{"address":"10.244.1.2/32","interface":0}]}}"#;
        for (version, ip_version) in [("0.4.0", json!("4")), ("1.1.0", Value::Null)] {
            let (_dir, path) = agent(answer);
            let out = run("ADD", &vars("/run/netns/x"), &config(version, &path));
            let out = out.expect("fine").expect("a result");
            assert_eq!(out["cniVersion"], version);
            assert_eq!(out["ips"][0]["version"], ip_version);
        }
    }

    #[test]
    fn errors_of_the_agent_are_passed_on() {
        let (_dir, path) = agent(r#"{"ok":false,"error":{"code":100,"msg":"full"}}"#);
        let e = run("ADD", &vars("/run/netns/x"), &config("1.1.0", &path)).expect_err("full");
        assert_eq!((e.code, e.msg.as_str()), (100, "full"));
    }

    #[test]
    fn calls_that_break_the_specification_get_its_codes() {
        let gone = Path::new("/nonexistent");
        let good = config("1.1.0", gone);
        let none: Variable<'_> = &|_| None;
        let cases: Vec<(&str, Variable<'_>, Vec<u8>, u32)> = vec![
            ("", none, good.clone(), 4),
            ("FROB", none, good.clone(), 4),
            ("ADD", none, good.clone(), 4),
            ("GC", none, config("1.0.0", gone), 1),
            ("STATUS", none, config("0.3.0", gone), 1),
            ("GC", none, b"{".to_vec(), 6),
            ("GC", none, br#"{"cniVersion":"1.1.0","name":"a b","type":"x"}"#.to_vec(), 7),
            ("GC", none, br#"{"cniVersion":"1.1.0","name":"a","type":"x"}"#.to_vec(), 7),
            ("GC", none, vec![b' '; INPUT_LEN_MAX + 1], 7),
        ];
        for (command, variable, input, expected) in cases {
            let e = run(command, variable, &input).expect_err(command);
            assert_eq!(e.code, expected, "{command}: {e}");
        }
        let e = run("ADD", &vars(""), &good).expect_err("no netns");
        assert_eq!(e.code, 4);
    }

    proptest! {
        #[test]
        fn no_input_panics(command in "(ADD|DEL|CHECK|GC|STATUS|VERSION|x)", input: Vec<u8>) {
            let _ = run(&command, &vars("/x"), &input);
            let _ = answer_version(&input);
        }

        #[test]
        fn ids_with_slashes_never_pass(id in ".*/.*") {
            prop_assert!(check_container_id(&id).is_err());
            prop_assert!(check_ifname(&id).is_err());
        }
    }
}
