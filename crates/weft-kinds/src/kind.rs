//! What the server knows about one resource, and the row from which a built-in one is made.

use std::sync::Arc;

use serde_json::Value;

use crate::custom::Custom;
use crate::schema::{self, Type};

/// Verbs of an ordinary stored resource, as discovery lists them.
pub const VERBS_ALL: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Verbs of a subresource that is read and written (`status`, `scale`).
pub const VERBS_GET_UPDATE: &[&str] = &["get", "patch", "update"];
/// Verbs of a resource that is only asked (reviews, `binding`, `eviction`).
pub const VERBS_CREATE: &[&str] = &["create"];

/// One resource of the API: everything about it that is not code.
///
/// Built-in kinds are made once, from the table; others come and go while the server runs. So
/// functions take `&Kind`, and what outlives a request holds an `Arc`.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group; empty for core.
    pub group: String,
    /// API version within the group.
    pub version: String,
    /// Kind as objects carry it.
    pub kind: String,
    /// Kind of a list of these.
    pub list_kind: String,
    /// Resource name in URLs.
    pub plural: String,
    /// Lower-case singular, accepted by kubectl.
    pub singular: String,
    /// Short names, accepted by kubectl.
    pub short_names: Vec<String>,
    /// Categories (`all`).
    pub categories: Vec<String>,
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
    pub selectable: Vec<String>,
    /// When `metadata.generation` grows.
    pub generation: Generation,
    /// Whether deletion is graceful (a deletionTimestamp first): pods only.
    pub graceful: bool,
    /// What `metadata.name` may look like.
    pub name_rule: NameRule,
    /// What the objects are made of.
    pub schema: Schema,
    /// The kind that holds this one's objects, when it is a second view of the same objects
    /// (`events.k8s.io/v1` over core Events, `autoscaling/v1` over `v2`).
    pub stored_as: Option<Arc<Kind>>,
}

/// What the objects of a kind are made of.
#[derive(Debug, Clone)]
pub enum Schema {
    /// A type of the embedded table.
    Builtin(&'static Type),
    /// The structural schema of a definition's version.
    Custom(Arc<Custom>),
}

/// A built-in kind as the table states it; the fields mean what those of [`Kind`] do.
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) list_kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    pub(crate) verbs: &'static [&'static str],
    pub(crate) stored: bool,
    pub(crate) status: bool,
    pub(crate) scale: Option<[&'static str; 3]>,
    pub(crate) subresources: &'static [Subresource],
    pub(crate) selectable: &'static [&'static str],
    pub(crate) generation: Generation,
    pub(crate) graceful: bool,
    pub(crate) name_rule: NameRule,
    /// Name of the object's type in the embedded type table, such as `core.v1.Pod`.
    pub(crate) type_name: &'static str,
    /// Group and version of the row whose kind holds the objects.
    pub(crate) stored_as: Option<(&'static str, &'static str)>,
}

impl Row {
    /// The kind itself; `stored_as` is the kind that the row names, if it names one.
    pub(crate) fn make(&self, stored_as: Option<Arc<Kind>>) -> Kind {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Kind {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            kind: self.kind.to_owned(),
            list_kind: self.list_kind.to_owned(),
            plural: self.plural.to_owned(),
            singular: self.singular.to_owned(),
            short_names: owned(self.short_names),
            categories: owned(self.categories),
            namespaced: self.namespaced,
            verbs: self.verbs,
            stored: self.stored,
            status: self.status,
            scale: self.scale.map(|[spec, status, selector]| Scale {
                spec_replicas: spec.to_owned(),
                status_replicas: status.to_owned(),
                selector: selector.to_owned(),
            }),
            subresources: self.subresources,
            selectable: owned(self.selectable),
            generation: self.generation,
            graceful: self.graceful,
            name_rule: self.name_rule,
            schema: Schema::Builtin(
                schema::find(self.type_name)
                    .expect("invariant: every row names a type of the table"),
            ),
            stored_as,
        }
    }
}

/// Where the scale subresource finds its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// JSON pointer of the desired count.
    pub spec_replicas: String,
    /// JSON pointer of the observed count.
    pub status_replicas: String,
    /// JSON pointer of the label selector.
    pub selector: String,
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

/// A subresource of one kind, `status` and `scale` among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubresourceOf<'a> {
    /// Last path segment.
    pub name: &'a str,
    /// Group of the body's kind.
    pub group: &'a str,
    /// Version of the body's kind.
    pub version: &'a str,
    /// Kind of the body.
    pub kind: &'a str,
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
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Resource name with group as error messages write it: `pods`, `deployments.apps`.
    pub fn qualified_plural(&self) -> String {
        qualified(&self.plural, &self.group)
    }

    /// Kind with group as error messages write it: `Pod`, `Deployment.apps`.
    pub fn qualified_kind(&self) -> String {
        qualified(&self.kind, &self.group)
    }

    /// URL path of the group version: `/api/v1`, `/apis/apps/v1`.
    pub fn group_path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// The kind that holds the objects of this one: itself, except for second views.
    pub fn storage(&self) -> &Kind {
        self.stored_as.as_deref().unwrap_or(self)
    }

    /// Name of the built-in type, such as `core.v1.Pod`: the key of the tables of rules. Empty
    /// for a kind that is not built in.
    pub fn type_name(&self) -> &'static str {
        match &self.schema {
            Schema::Builtin(of) => of.name,
            Schema::Custom(_) => "",
        }
    }

    /// The schema of a custom resource.
    pub fn custom(&self) -> Option<&Custom> {
        match &self.schema {
            Schema::Builtin(_) => None,
            Schema::Custom(custom) => Some(custom),
        }
    }

    /// All subresources: status, scale, and those of the row.
    pub fn all_subresources(&self) -> Vec<SubresourceOf<'_>> {
        let common = |name, group, version, kind| {
            let verbs = VERBS_GET_UPDATE;
            SubresourceOf { name, group, version, kind, verbs }
        };
        let status = self.status.then(|| common("status", &self.group, &self.version, &*self.kind));
        let scale = self.scale.as_ref().map(|_| common("scale", "autoscaling", "v1", "Scale"));
        let own = self.subresources.iter().map(|s| SubresourceOf {
            name: s.name,
            group: s.group,
            version: s.version,
            kind: s.kind,
            verbs: s.verbs,
        });
        status.into_iter().chain(scale).chain(own).collect()
    }

    /// Removes from a custom resource what its schema does not know.
    pub fn prune(&self, object: &mut Value) {
        if let Some(custom) = self.custom() {
            custom.schema().prune(object);
        }
    }

    /// The value of a field selector's field in `object`; `None` for a field that cannot be
    /// selected, an empty string for one that is not set.
    pub fn field(&self, object: &Value, path: &str) -> Option<String> {
        let known = matches!(path, "metadata.name" | "metadata.namespace")
            || self.selectable.iter().any(|known| known == path);
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
