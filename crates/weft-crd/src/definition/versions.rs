//! The spec of a definition: versions, subresources, columns, selectable fields, conversion.

use super::{
    SELECTABLE_MAX, list, names, openapi, string,
    text::{label_1035, subdomain},
};
use crate::{
    Schema, Violation, ViolationKind,
    columns::Column,
    path::Path,
    rules::{self, field_path},
};
use serde_json::Value;
use std::sync::OnceLock;

/// Longest deprecation warning.
const WARNING_BYTES_MAX: usize = 256;
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// One version of a definition, as the server uses it. The schema is compiled on first use.
#[derive(Debug)]
pub struct Version {
    /// Its name: `v1beta1`.
    pub name: String,
    /// What clients are told when they use it, if it is deprecated.
    pub warning: Option<String>,
    /// Whether `/status` exists.
    pub status: bool,
    /// Where `/scale` finds its numbers, if it exists.
    pub scale: Option<ScalePaths>,
    /// Fields that selectors may ask for, as dotted paths.
    pub selectable: Vec<String>,
    /// What `kubectl get` prints besides the name.
    pub columns: Vec<Column>,
    /// `openAPIV3Schema` as it was given.
    pub source: Value,
    schema: OnceLock<Schema>,
}

/// Paths of the scale subresource, each with a leading dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Of the desired count.
    pub spec_replicas: String,
    /// Of the observed count.
    pub status_replicas: String,
    /// Of the selector's text; may be empty.
    pub selector: String,
}

impl Version {
    /// The version `name` of a valid definition.
    pub fn of(definition: &Value, name: &str) -> Option<Self> {
        let spec = &definition["spec"];
        let json = list(spec, "versions").iter().find(|v| v["name"] == name)?;
        let subresources = &json["subresources"];
        let scale = subresources.get("scale").filter(|s| s.is_object()).map(|scale| ScalePaths {
            spec_replicas: string(scale, "specReplicasPath").to_owned(),
            status_replicas: string(scale, "statusReplicasPath").to_owned(),
            selector: string(scale, "labelSelectorPath").to_owned(),
        });
        let paths = list(json, "selectableFields").iter().map(|field| string(field, "jsonPath"));
        let kind = string(&spec["names"], "kind");
        let default = || format!("{}/{name} {kind} is deprecated", string(spec, "group"));
        let warning = (json["deprecated"] == true).then(|| {
            let given = string(json, "deprecationWarning");
            if given.is_empty() { default() } else { given.to_owned() }
        });
        Some(Self {
            name: name.to_owned(),
            warning,
            status: subresources.get("status").is_some_and(Value::is_object),
            scale,
            selectable: paths.map(|path| path.trim_start_matches('.').to_owned()).collect(),
            columns: Column::parse_all(json),
            source: json["schema"]["openAPIV3Schema"].clone(),
            schema: OnceLock::new(),
        })
    }

    /// The compiled schema.
    pub fn schema(&self) -> &Schema {
        self.schema.get_or_init(|| Schema::parse(&self.source))
    }

    /// All that is wrong with an object, besides its metadata. Findings of rules about parts
    /// that an update leaves alone go to `warnings`.
    pub fn validate(
        &self,
        new: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Vec<Violation> {
        let schema = self.schema();
        let mut out = Vec::new();
        schema.check_values("", new, old, &mut out);
        if let Some(scale) = &self.scale {
            scale.check(new, &mut out);
        }
        schema.check_embedded(new, &Path::ROOT, &mut out);
        let repeated = |object: &Value| {
            let mut found = Vec::new();
            schema.check_lists(object, &Path::ROOT, &mut found);
            found
        };
        let lists = repeated(new);
        // What repeated itself before may go on.
        if lists.is_empty() || old.is_none_or(|old| repeated(old).is_empty()) {
            out.extend(lists);
        }
        if !schema.any_rule {
            return out;
        }
        if out.iter().any(|violation| violation.kind.blocks_rules()) {
            let why = "some validation rules were not checked because the object was invalid; \
                       correct the existing errors to complete validation";
            out.push(Violation::invalid("", Value::Null, why));
        } else {
            rules::evaluate(schema, new, old, "", &mut out, warnings);
        }
        out
    }
}

impl ScalePaths {
    /// Replicas are numbers of 32 bits, not negative.
    fn check(&self, object: &Value, out: &mut Vec<Violation>) {
        let wrong = |value: &Value, wanted: &str| {
            format!("accessor error: {value} is of the wrong type, expected {wanted}")
        };
        for path in [&self.spec_replicas, &self.status_replicas] {
            let Some(value) = follow(object, path) else { continue };
            let why = match value.as_i64() {
                None => wrong(value, "int64"),
                Some(n) if n < 0 => "should be a non-negative integer".to_owned(),
                Some(n) if n > i64::from(i32::MAX) => {
                    format!("should be less than or equal to {}", i32::MAX)
                }
                Some(_) => continue,
            };
            out.push(Violation::invalid(path.as_str(), value.as_i64().unwrap_or(0), why));
        }
        if !self.selector.is_empty()
            && let Some(value) = follow(object, &self.selector).filter(|v| !v.is_string())
        {
            out.push(Violation::invalid(self.selector.as_str(), "", wrong(value, "string")));
        }
    }
}

fn follow<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.').split('.').try_fold(object, |value, name| value.get(name))
}

/// Checks a spec; `old` is the one before.
pub(super) fn spec(spec: &Value, old: Option<&Value>, out: &mut Vec<Violation>) {
    let root = Path::root("spec");
    match string(spec, "group") {
        "" => out.push(Violation::required("spec.group", "")),
        group => {
            let errors = subdomain(group);
            if !errors.is_empty() {
                out.push(Violation::invalid("spec.group", group, errors.join(",")));
            } else if !group.contains('.') {
                let why = "should be a domain with at least one dot";
                out.push(Violation::invalid("spec.group", group, why));
            }
        }
    }
    one_of("spec.scope", string(spec, "scope"), &["Cluster", "Namespaced"], out);
    let versions = list(spec, "versions");
    for (i, version) in versions.iter().enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let field = format!("spec.versions[{i}].schema.openAPIV3Schema");
            out.push(Violation::required(field, ""));
        }
    }
    let shared = Shared::of(versions);
    let all = root.child("versions");
    for (i, version) in versions.iter().enumerate() {
        let path = all.index(i);
        let name = string(version, "name");
        let errors = label_1035(name);
        if !errors.is_empty() {
            out.push(Violation::invalid(path.child("name"), name, errors.join(",")));
        }
        deprecation(version, &path, out);
        let before = old.and_then(|old| list(old, "versions").iter().find(|v| v["name"] == name));
        shared.check(false, version, before, &path, "schema", out);
    }
    unique(spec, versions, out);
    for key in ["plural", "singular", "kind", "listKind"] {
        if string(&spec["names"], key).is_empty() {
            out.push(Violation::required(root.child("names").child(key), ""));
        }
    }
    names::check(&spec["names"], &root.child("names"), out);
    if let Some(first) = versions.first() {
        let before = old.and_then(|old| list(old, "versions").first());
        shared.check(true, first, before, &root, "validation", out);
    }
    conversion(&spec["conversion"], &root.child("conversion"), out);
}

/// What all versions have in common: it is checked once.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(versions: &[Value]) -> Self {
        let same = |key: &str| {
            let first = versions.first().and_then(|v| v.get(key));
            versions.iter().all(|v| v.get(key) == first)
        };
        Self {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        }
    }

    /// Checks what is shared, or what is not.
    fn check(
        &self,
        shared: bool,
        version: &Value,
        before: Option<&Value>,
        path: &Path<'_>,
        schema: &str,
        out: &mut Vec<Violation>,
    ) {
        if self.schema == shared {
            schema_of(version, before, &path.child(schema), out);
        }
        if self.subresources == shared {
            subresources(&version["subresources"], &path.child("subresources"), out);
        }
        if self.columns == shared {
            columns(version, path, out);
        }
        if self.selectable == shared {
            selectable(version, path, out);
        }
    }
}

fn one_of(field: &str, value: &str, known: &[&str], out: &mut Vec<Violation>) {
    if value.is_empty() {
        out.push(Violation::required(field, ""));
    } else if !known.contains(&value) {
        out.push(Violation::not_supported(field, value, known));
    }
}

fn unique(spec: &Value, versions: &[Value], out: &mut Vec<Violation>) {
    let repeated = versions
        .iter()
        .enumerate()
        .any(|(i, v)| versions[..i].iter().any(|other| other["name"] == v["name"]));
    let shown = || spec["versions"].clone();
    if repeated {
        out.push(Violation::invalid("spec.versions", shown(), "must contain unique version names"));
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        out.push(Violation::invalid("spec.versions", shown(), why));
    }
}

fn deprecation(version: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let mut refuse = |why: String| {
        out.push(Violation::invalid(path.child("deprecationWarning"), warning, why));
    };
    if version["deprecated"] != true {
        return refuse("can only be set for deprecated versions".into());
    }
    if warning.len() > WARNING_BYTES_MAX {
        refuse(format!("must be <= {WARNING_BYTES_MAX} characters long"));
    }
    if warning.is_empty() {
        refuse("must not be an empty string".into());
    }
    let unprintable = |c: char| c.is_control() || (c.is_whitespace() && c != ' ');
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| unprintable(*c)) {
        refuse(format!(
            "must only contain printable UTF-8 characters; non-printable character found at \
             index {at}"
        ));
    }
}

fn schema_of(version: &Value, before: Option<&Value>, path: &Path<'_>, out: &mut Vec<Violation>) {
    let schema = &version["schema"]["openAPIV3Schema"];
    // What was accepted once is not checked again until it changes.
    let unchanged = before.is_some_and(|before| {
        before["schema"]["openAPIV3Schema"] == *schema
            && before["subresources"] == version["subresources"]
    });
    if schema.is_object() && !unchanged {
        let status = version["subresources"]["status"].is_object();
        openapi::check(schema, status, &path.child("openAPIV3Schema"), out);
    }
}

const SIMPLE: &str = "must be a simple json path starting with .";

fn subresources(json: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    let Some(scale) = json.get("scale").filter(|s| s.is_object()) else { return };
    let at = path.child("scale");
    for (key, under) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (field, value) = (at.child(key), string(scale, key));
        if value.is_empty() {
            out.push(Violation::required(field, ""));
        } else if !value.starts_with('.') {
            out.push(Violation::invalid(field, value, SIMPLE));
        } else if !value.starts_with(under) {
            let why = format!("should be a json path under {}", under.trim_end_matches('.'));
            out.push(Violation::invalid(field, value, why));
        }
    }
    let (field, value) = (at.child("labelSelectorPath"), string(scale, "labelSelectorPath"));
    if value.is_empty() || value.starts_with(".spec.") || value.starts_with(".status.") {
        return;
    }
    let under = "should be a json path under either .spec or .status";
    let why = if value.starts_with('.') { under } else { SIMPLE };
    out.push(Violation::invalid(field, value, why));
}

fn columns(version: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    let all = path.child("additionalPrinterColumns");
    for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let path = all.index(i);
        if string(column, "name").is_empty() {
            out.push(Violation::required(path.child("name"), ""));
        }
        let must = format!("must be one of {}", COLUMN_TYPES.join(","));
        match string(column, "type") {
            "" => out.push(Violation::required(path.child("type"), must)),
            kind if !COLUMN_TYPES.contains(&kind) => {
                out.push(Violation::invalid(path.child("type"), kind, must));
            }
            _ => {}
        }
        let format = string(column, "format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let must = format!("must be one of {}", COLUMN_FORMATS.join(","));
            out.push(Violation::invalid(path.child("format"), format, must));
        }
        match string(column, "jsonPath") {
            "" => out.push(Violation::required(path.child("JSONPath"), "")),
            given if !given.starts_with('.') => {
                out.push(Violation::invalid(path.child("JSONPath"), given, SIMPLE));
            }
            _ => {}
        }
    }
}

fn selectable(version: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    let fields = list(version, "selectableFields");
    if fields.is_empty() {
        return;
    }
    let schema = Schema::parse(&version["schema"]["openAPIV3Schema"]);
    let all = path.child("selectableFields");
    let mut known: Vec<String> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let index = all.index(i);
        let path = index.child("jsonPath");
        let given = string(field, "jsonPath");
        if given.is_empty() {
            out.push(Violation::required(path, ""));
            continue;
        }
        let (text, found) = match field_path(given, &schema, false) {
            Ok(found) => found,
            Err(why) => {
                let why = format!("is an invalid path: {why}");
                out.push(Violation::invalid(path, given, why));
                continue;
            }
        };
        if text.split(['.', '[']).next() == Some("metadata") {
            let why = "must not point to fields in metadata";
            out.push(Violation::invalid(path, given, why));
        }
        if !matches!(found.type_name.as_str(), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string \
                       fields and strings with formats are allowed.";
            out.push(Violation::invalid(path, given, why));
        }
        if known.contains(&text) {
            let value = Some(given.into());
            out.push(Violation::new(ViolationKind::Duplicate, path, value, ""));
        } else {
            known.push(text);
        }
    }
    if known.len() > SELECTABLE_MAX {
        out.push(Violation::too_many(all, known.len(), SELECTABLE_MAX as i64));
    }
}

fn conversion(json: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    if !json.is_object() {
        return;
    }
    let strategy = string(json, "strategy");
    one_of(&path.child("strategy").to_string(), strategy, &["None", "Webhook"], out);
    let config = &json["webhook"]["clientConfig"];
    let field = path.child("webhookClientConfig");
    if strategy != "Webhook" {
        if json["webhook"].is_object() {
            let why = "should not be set when strategy is not set to Webhook";
            out.push(Violation::forbidden(field, why));
        }
        return;
    }
    if !config.is_object() {
        out.push(Violation::required(field, "required when strategy is set to Webhook"));
    } else if config.get("url").is_some() == config.get("service").is_some() {
        out.push(Violation::required(field, "exactly one of url or service is required"));
    }
    let reviewed = list(&json["webhook"], "conversionReviewVersions");
    let field = path.child("conversionReviewVersions");
    if reviewed.is_empty() {
        out.push(Violation::required(field, ""));
    } else if !reviewed.iter().any(|v| *v == "v1" || *v == "v1beta1") {
        let why = "must include at least one of v1, v1beta1";
        out.push(Violation::invalid(field, Value::Array(reviewed.to_vec()), why));
    }
}
