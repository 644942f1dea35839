//! Rules of ConfigMaps and Secrets.

use serde_json::Value;

use super::meta::members;
use super::{Errors, string, text};

/// Keys' values together.
const BYTES_MAX: usize = 1024 * 1024;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

fn frozen(e: &mut Errors, new: &Value, old: Option<&Value>, fields: &[&str]) {
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&Value::Bool(true))) else {
        return;
    };
    if new.get("immutable") != Some(&Value::Bool(true)) {
        e.forbidden("immutable", IMMUTABLE);
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            e.forbidden(*field, IMMUTABLE);
        }
    }
}

pub(super) fn config_map(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let mut bytes = 0;
    for (key, value) in members(new.get("data")) {
        e.each(&format!("data[{key}]"), key, text::config_key(key));
        bytes += value.as_str().map_or(0, str::len);
        if new.get("binaryData").is_some_and(|data| data.get(key).is_some()) {
            e.invalid(
                format!("data[{key}]"),
                key.as_str(),
                "duplicate of key present in binaryData",
            );
        }
    }
    for (key, value) in members(new.get("binaryData")) {
        e.each(&format!("binaryData[{key}]"), key, text::config_key(key));
        bytes += value.as_str().map_or(0, decoded_len);
    }
    if bytes > BYTES_MAX {
        e.too_long("", BYTES_MAX);
    }
    frozen(e, new, old, &["data", "binaryData"]);
}

/// Bytes that base64 text stands for.
fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

pub(super) fn secret(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let data = new.get("data");
    let mut bytes = 0;
    for (key, value) in members(data) {
        e.each(&format!("data[{key}]"), key, text::config_key(key));
        bytes += value.as_str().map_or(0, decoded_len);
    }
    if bytes > BYTES_MAX {
        e.too_long("data", BYTES_MAX);
    }
    let kind = string(new, "type");
    let needed: &[&str] = match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if data.and_then(|data| data.get(key)).is_none() {
            e.required(format!("data[{key}]"), "");
        }
    }
    let has = |key: &str| data.is_some_and(|data| data.get(key).is_some());
    if kind == "kubernetes.io/basic-auth" && !has("username") && !has("password") {
        e.required("data[username]", "");
        e.required("data[password]", "");
    }
    if kind == "kubernetes.io/service-account-token" {
        const NAME: &str = "kubernetes.io/service-account.name";
        let account = new.pointer("/metadata/annotations").map_or("", |a| string(a, NAME));
        if account.is_empty() {
            e.required(format!("metadata.annotations[{NAME}]"), "");
        }
    }
    if let Some(old) = old {
        e.immutable("type", new.get("type"), old.get("type"));
    }
    frozen(e, new, old, &["data"]);
}
