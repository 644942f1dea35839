//! `metadata.managedFields` decoded: who owns what.

use super::FieldSet;
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// Entries of updaters that are kept apart; the oldest beyond that become one.
const UPDATERS_MAX: usize = 10;
/// The manager of those.
const ANCIENT: &str = "ancient-changes";

/// One manager's fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(super) manager: String,
    /// Whether the fields were applied, and not updated.
    pub(super) applied: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) set: FieldSet,
}

/// All managers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Managed(pub(super) Vec<Entry>);

impl Entry {
    fn parse(value: &Value) -> Option<Self> {
        let text = |key: &str| match &value[key] {
            Value::Null => Some(String::new()),
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        let applied = match value["operation"].as_str()? {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if value["fieldsType"] != "FieldsV1" || !matches!(value["fieldsV1"], Value::Object(_)) {
            return None;
        }
        Some(Self {
            manager: text("manager")?,
            applied,
            api_version: text("apiVersion")?,
            subresource: text("subresource")?,
            time: Some(text("time")?).filter(|t| !t.is_empty()),
            set: FieldSet::parse(&value["fieldsV1"]),
        })
    }

    fn to_value(&self) -> Value {
        let mut out = Map::new();
        let mut put = |key: &str, text: &str| drop(out.insert(key.to_owned(), text.into()));
        put("manager", &self.manager);
        put("operation", if self.applied { "Apply" } else { "Update" });
        put("apiVersion", &self.api_version);
        if let Some(time) = &self.time {
            put("time", time);
        }
        put("fieldsType", "FieldsV1");
        out.insert("fieldsV1".to_owned(), self.set.to_value());
        if !self.subresource.is_empty() {
            out.insert("subresource".to_owned(), self.subresource.as_str().into());
        }
        Value::Object(out)
    }

    /// Whether both are the same manager's; appliers are, whatever version they use.
    fn same(&self, other: &Self) -> bool {
        self.applied == other.applied
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    /// The order of entries in objects.
    fn order(&self, other: &Self) -> Ordering {
        let key = |e: &Self| {
            (e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone())
        };
        other.applied.cmp(&self.applied).then_with(|| key(self).cmp(&key(other)))
    }

    /// The manager as conflicts name it.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applied {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

impl Managed {
    /// The entries of an object; none if one of them cannot be read.
    pub(crate) fn parse(list: &Value) -> Option<Self> {
        let mut all = Self::default();
        for value in list.as_array().into_iter().flatten() {
            let entry = Entry::parse(value)?;
            all.take(&entry);
            all.0.push(entry);
        }
        Some(all)
    }

    /// What a write begins with: the entries that it brings, the stored ones if it brings none
    /// that can be read (clients that do not know them must not lose them), and nothing if it
    /// brings one empty entry, which asks for that. A subresource cannot bring any.
    pub(crate) fn of_write(old: &Value, new: &Value, subresource: &str) -> Self {
        let stored = || Self::parse(&old["metadata"]["managedFields"]).unwrap_or_default();
        if !subresource.is_empty() {
            return stored();
        }
        let given = &new["metadata"]["managedFields"];
        match given.as_array().map(Vec::as_slice) {
            Some([Value::Object(one)]) if one.is_empty() => Self::default(),
            // What was read with the object, mostly.
            _ if *given == old["metadata"]["managedFields"] => stored(),
            _ => Self::parse(given).filter(|m| !m.0.is_empty()).unwrap_or_else(stored),
        }
    }

    /// Puts the entries into an object, in their order.
    pub(crate) fn write(mut self, object: &mut Value) {
        self.0.retain(|e| !e.set.is_empty());
        let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return };
        if self.0.is_empty() {
            metadata.shift_remove("managedFields");
            return;
        }
        self.0.sort_by(Entry::order);
        let list = self.0.iter().map(Entry::to_value).collect();
        metadata.insert("managedFields".to_owned(), list);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the same manager's entry out.
    pub(super) fn take(&mut self, like: &Entry) -> Option<Entry> {
        let at = self.0.iter().position(|e| e.same(like))?;
        Some(self.0.swap_remove(at))
    }

    /// Keeps the number of updaters bounded: the oldest of one version become one entry.
    pub(super) fn cap(&mut self) {
        let mut updaters = self.0.iter().filter(|e| !e.applied).count();
        if updaters <= UPDATERS_MAX {
            return;
        }
        self.0.sort_by(Entry::order);
        let (applied, rest): (Vec<Entry>, Vec<Entry>) = self.0.drain(..).partition(|e| e.applied);
        self.0 = applied;
        let mut rest = rest.into_iter();
        let mut first: Vec<Entry> = Vec::new();
        while updaters > UPDATERS_MAX {
            let Some(entry) = rest.next() else { break };
            let Some(bucket) = first.iter_mut().find(|e| e.api_version == entry.api_version) else {
                first.push(entry);
                continue;
            };
            bucket.manager = ANCIENT.to_owned();
            bucket.subresource.clear();
            bucket.time = entry.time;
            bucket.set.extend(entry.set);
            updaters -= 1;
        }
        self.0.extend(first);
        // An older bucket of that version may be among the rest.
        for entry in rest {
            match self.0.iter_mut().find(|e| e.same(&entry)) {
                Some(bucket) => bucket.set.extend(entry.set),
                None => self.0.push(entry),
            }
        }
    }
}
