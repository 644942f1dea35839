//! The options of a request, as `CreateOptions`, `UpdateOptions`, `PatchOptions` and `ListOptions`
//! of `meta.k8s.io` check them.

use super::params::Params;
use crate::{error::ApiError, verbs::FieldValidation};
use http::{HeaderMap, Method, header};
use serde_json::json;
use weft_kinds::{FieldError, FieldErrorKind, status};

/// Bytes of a field manager's name.
const MANAGER_BYTES_MAX: usize = 128;

/// What a write is told by its query.
pub(super) struct Options {
    pub(super) dry_run: bool,
    pub(super) validation: FieldValidation,
    /// `fieldManager`, or the client's name from User-Agent; may be empty.
    pub(super) manager: String,
}

impl Options {
    pub(super) fn parse(
        method: &Method,
        params: &Params,
        headers: &HeaderMap,
        apply: bool,
    ) -> Result<Self, ApiError> {
        let mut errors = Errors(Vec::new());
        let given = params.get("fieldManager");
        if method == Method::PATCH {
            match (apply, given, params.get("force")) {
                (true, None, _) => errors.add(
                    "fieldManager",
                    FieldErrorKind::Required,
                    json!(null),
                    "is required for apply patch",
                ),
                (false, _, Some(_)) => errors.add(
                    "force",
                    FieldErrorKind::Forbidden,
                    json!(null),
                    "may not be specified for non-apply patch",
                ),
                _ => {}
            }
        }
        let manager = given.unwrap_or_default();
        if manager.len() > MANAGER_BYTES_MAX {
            let detail = format!("may not be more than {MANAGER_BYTES_MAX} bytes");
            errors.add("fieldManager", FieldErrorKind::TooLong, json!(null), &detail);
        }
        if let Some((at, c)) = manager.char_indices().find(|(_, c)| !printable(*c)) {
            let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            errors.add("fieldManager", FieldErrorKind::Invalid, json!(manager), &detail);
        }
        let wanted: Vec<&str> = params.all("dryRun").filter(|v| !v.is_empty()).collect();
        if wanted.iter().any(|v| *v != "All") {
            let detail = "supported values: \"All\"";
            errors.add("dryRun", FieldErrorKind::NotSupported, json!(wanted), detail);
        }
        let validation = match params.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                let detail = "supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"";
                errors.add("fieldValidation", FieldErrorKind::NotSupported, json!(other), detail);
                FieldValidation::Warn
            }
        };
        let kind = match *method {
            Method::POST => "CreateOptions",
            Method::PUT => "UpdateOptions",
            Method::PATCH => "PatchOptions",
            _ => "DeleteOptions",
        };
        errors.refuse(kind)?;
        let manager = match given {
            Some(manager) => manager.to_owned(),
            None => of_agent(headers),
        };
        Ok(Self { dry_run: !wanted.is_empty(), validation, manager })
    }
}

/// The name before the version in User-Agent, as far as it can be printed.
fn of_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).map(|v| String::from_utf8_lossy(v.as_bytes()));
    let agent = agent.unwrap_or_default();
    let mut name = String::new();
    for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| printable(*c)) {
        if name.len() + c.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// Go's `unicode.IsPrint`, nearly: of white space only the ordinary one.
fn printable(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace() || c == '\u{fffd}')
}

/// Checks what a list or watch asks for together.
pub(super) fn check_list(params: &Params, watch: bool) -> Result<(), ApiError> {
    let mut errors = Errors(Vec::new());
    let initial = params.flag("sendInitialEvents").is_some();
    let rule = params.get("resourceVersionMatch");
    let mut forbid = |field: &str, why: &str| {
        errors.add(field, FieldErrorKind::Forbidden, json!(null), why);
    };
    let field = "resourceVersionMatch";
    let supported = if watch {
        if initial && rule != Some("NotOlderThan") {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            forbid(field, why);
        }
        if rule.is_some() && !initial {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            forbid(field, why);
        }
        &["NotOlderThan"][..]
    } else {
        if initial {
            forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if rule.is_some() && params.get("resourceVersion").is_none() {
            forbid(field, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if rule == Some("Exact") && params.get("resourceVersion") == Some("0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            forbid(field, why);
        }
        &["Exact", "NotOlderThan", ""][..]
    };
    if rule.is_some() && params.get("continue").is_some() {
        forbid(field, "resourceVersionMatch is forbidden when continue is provided");
    }
    if let Some(rule) = rule.filter(|r| !supported.contains(r)) {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", quoted.join(", "));
        errors.add(field, FieldErrorKind::NotSupported, json!(rule), &detail);
    }
    errors.refuse("ListOptions")
}

struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, field: &str, kind: FieldErrorKind, bad: serde_json::Value, detail: &str) {
        let bad_value = (!bad.is_null()).then_some(bad);
        self.0.push(FieldError { field: field.into(), kind, bad_value, detail: detail.into() });
    }

    fn refuse(self, kind: &str) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(status::invalid_options(kind, &self.0).into())
    }
}
