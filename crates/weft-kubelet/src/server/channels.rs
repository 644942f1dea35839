//! The streams of exec and attach inside WebSocket messages: the first byte of each binary
//! message is the channel (`v4.channel.k8s.io`, `v5.channel.k8s.io`; KEP-4006). Pure.

use serde::Deserialize;
use serde_json::{Value, json};

/// Names of the protocol, the preferred one first.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Channel of standard output.
pub const STDOUT: u8 = 1;
/// Channel of standard error.
pub const STDERR: u8 = 2;
/// Channel of the final `Status`.
pub const ERROR: u8 = 3;

/// A message from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// Bytes for standard input.
    Stdin(&'a [u8]),
    /// End of standard input (v5).
    CloseStdin,
    /// Size of the terminal: columns and rows.
    Resize(u16, u16),
    /// Nothing that matters here.
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Reads a message.
pub fn parse(message: &[u8]) -> Incoming<'_> {
    match message.split_first() {
        Some((0, data)) => Incoming::Stdin(data),
        Some((4, data)) => match serde_json::from_slice::<Size>(data) {
            Ok(s) => Incoming::Resize(s.width, s.height),
            Err(_) => Incoming::Other,
        },
        Some((255, [0])) => Incoming::CloseStdin,
        _ => Incoming::Other,
    }
}

/// A message to the client.
pub fn message(channel: u8, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 1);
    out.push(channel);
    out.extend_from_slice(data);
    out
}

/// The `Status` that ends a stream; `code` is the command's exit code.
pub fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

/// The `Status` of a stream that failed.
pub fn failure(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message,
        "details": {"causes": [{"message": message}]}, "code": 500})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(parse(b"\0ab"), Incoming::Stdin(b"ab"));
        assert_eq!(parse(&[255, 0]), Incoming::CloseStdin);
        assert_eq!(parse(&[255, 1]), Incoming::Other);
        assert_eq!(parse(b"\x04{\"Width\":80,\"Height\":24}"), Incoming::Resize(80, 24));
        for m in [&b""[..], b"\x04", b"\x04{}", b"\x04{\"Width\":-1,\"Height\":99999}", b"\x07x"] {
            assert_eq!(parse(m), Incoming::Other);
        }
        assert_eq!(message(STDOUT, b"x"), b"\x01x");
    }

    #[test]
    fn the_exit_code_is_where_kubectl_looks_for_it() {
        assert_eq!(exit_status(0)["status"], "Success");
        let s = exit_status(3);
        assert_eq!(s["reason"], "NonZeroExitCode");
        assert_eq!(s["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }
}
