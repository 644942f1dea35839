//! The row type of the table of kinds.

use serde_json::Value;

/// Verbs of an ordinary stored resource, as discovery lists them.
pub const VERBS_ALL: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Verbs of a subresource that is read and written (`status`, `scale`).
pub const VERBS_GET_UPDATE: &[&str] = &["get", "patch", "update"];
/// Verbs of a resource that is only asked (reviews, `binding`, `eviction`).
pub const VERBS_CREATE: &[&str] = &["create"];

/// One resource of the API: everything about it that is not code.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// API version within the group.
    pub version: &'static str,
    /// Kind as objects carry it.
    pub kind: &'static str,
    /// Kind of a list of these.
    pub list_kind: &'static str,
    /// Resource name in URLs.
    pub plural: &'static str,
    /// Lower-case singular, accepted by kubectl.
    pub singular: &'static str,
    /// Short names, accepted by kubectl.
    pub short_names: &'static [&'static str],
    /// Categories (`all`).
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs of the resource itself.
    pub verbs: &'static [&'static str],
    /// Whether objects are stored; reviews are answered and forgotten.
    pub stored: bool,
    /// Whether `/status` exists: then `status` is reset on create and kept on update.
    pub status: bool,
    /// Paths for the `/scale` subresource.
    pub scale: Option<Scale>,
    /// Further subresources (`log`, `exec`, `binding` …), without `status` and `scale`.
    pub subresources: &'static [Subresource],
    /// Field selectors beyond `metadata.name` and `metadata.namespace`, as dotted paths.
    pub selectable: &'static [&'static str],
    /// When `metadata.generation` grows.
    pub generation: Generation,
    /// Whether deletion is graceful (a deletionTimestamp first): pods only.
    pub graceful: bool,
    /// What `metadata.name` may look like.
    pub name_rule: NameRule,
    /// Name of the object's type in the embedded type table, such as `core.v1.Pod`.
    pub type_name: &'static str,
    /// Group and version of the row that holds this one's storage, when it is a second view
    /// of the same objects (`events.k8s.io/v1` over core Events).
    pub stored_as: Option<(&'static str, &'static str)>,
}

/// Where the scale subresource finds its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// JSON pointer of the desired count.
    pub spec_replicas: &'static str,
    /// JSON pointer of the observed count.
    pub status_replicas: &'static str,
    /// JSON pointer of the label selector.
    pub selector: &'static str,
}

/// A subresource that discovery lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// Last path segment.
    pub name: &'static str,
    /// Group of the body's kind.
    pub group: &'static str,
    /// Version of the body's kind.
    pub version: &'static str,
    /// Kind of the body.
    pub kind: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

/// When `metadata.generation` grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The kind has no generation.
    Never,
    /// Set to 1 on create and bumped when anything but metadata and status changes.
    Spec,
}

/// What `metadata.name` may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, up to 253 characters: most kinds.
    Subdomain,
    /// RFC 1123 label, up to 63 characters: Namespaces, StatefulSets.
    Label,
    /// RFC 1035 label, up to 63 characters, beginning with a letter: Services.
    Label1035,
    /// A path segment: anything but `.`, `..`, `/` and `%` (RBAC).
    PathSegment,
    /// An IP address in canonical form (IPAddress).
    IpAddress,
}

impl Kind {
    /// `apiVersion` as objects carry it: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Resource name with group as error messages write it: `pods`, `deployments.apps`.
    pub fn qualified_plural(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// Kind with group as error messages write it: `Pod`, `Deployment.apps`.
    pub fn qualified_kind(&self) -> String {
        qualified(self.kind, self.group)
    }

    /// URL path of the group version: `/api/v1`, `/apis/apps/v1`.
    pub fn group_path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// The row that holds the objects of this one: itself, except for second views.
    pub fn storage(&'static self) -> &'static Kind {
        match self.stored_as {
            Some((group, version)) => crate::lookup_kind(group, version, self.kind)
                .expect("invariant: stored_as names a row (asserted by a test)"),
            None => self,
        }
    }

    /// The value of a field selector's field in `object`; `None` for a field that cannot be
    /// selected, an empty string for one that is not set.
    pub fn field(&self, object: &Value, path: &str) -> Option<String> {
        let known = matches!(path, "metadata.name" | "metadata.namespace")
            || self.selectable.contains(&path);
        if !known {
            return None;
        }
        let found = path.split('.').try_fold(object, |value, key| value.get(key));
        Some(match found {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None if path == "spec.unschedulable" => "false".to_owned(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        })
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}
