//! A structural schema, compiled: what the walks over objects need, and nothing else.

pub(crate) mod correlate;
mod default;
mod lists;
mod parse;
mod prune;
#[cfg(test)]
mod tests;
mod validate;

use crate::{
    format::Format,
    pattern::Pattern,
    rules::{Compiled, Rule},
};
use serde_json::Value;
use std::sync::OnceLock;

/// How a list is merged and compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListType {
    /// One value.
    #[default]
    Atomic,
    /// Each item stands for itself.
    Set,
    /// Items are found by the keys of the schema.
    Map,
}

/// What members an object may have besides its properties.
#[derive(Debug, Default)]
pub enum Additional {
    /// None.
    #[default]
    None,
    /// Any, or explicitly none.
    Bool(bool),
    /// Those that fit.
    Schema(Box<Schema>),
}

/// Types of JSON, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Types(u8);

impl Types {
    pub(crate) const OBJECT: Self = Self(1);
    pub(crate) const ARRAY: Self = Self(2);
    pub(crate) const STRING: Self = Self(4);
    pub(crate) const INTEGER: Self = Self(8);
    pub(crate) const NUMBER: Self = Self(16);
    pub(crate) const BOOLEAN: Self = Self(32);

    pub(crate) fn find(name: &str) -> Self {
        match name {
            "object" => Self::OBJECT,
            "array" => Self::ARRAY,
            "string" => Self::STRING,
            "integer" => Self::INTEGER,
            "number" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            _ => Self(0),
        }
    }

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A node of a structural schema, or of a value validation inside one.
#[derive(Debug, Default)]
pub struct Schema {
    pub(crate) types: Types,
    /// `type` as written; empty without one.
    pub(crate) type_name: String,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) list: ListType,
    pub(crate) map_keys: Vec<String>,
    pub(crate) atomic: bool,
    pub(crate) items: Option<Box<Schema>>,
    /// By name, sorted.
    pub(crate) properties: Vec<(String, Schema)>,
    pub(crate) additional: Additional,
    /// What the value must fulfil besides its type.
    pub(crate) values: Option<Box<Values>>,
    /// Whether there is a default in here or below.
    pub(crate) any_default: bool,
    /// Whether there is a set, a map or an embedded resource in here or below.
    pub(crate) any_list: bool,
    /// `x-kubernetes-validations` of this node.
    pub(crate) rules: Vec<Rule>,
    /// The rules compiled, in their order.
    pub(crate) programs: OnceLock<Vec<Compiled>>,
    /// Whether there is a rule in here or below.
    pub(crate) any_rule: bool,
}

/// Value validations of one node.
#[derive(Debug, Default)]
pub(crate) struct Values {
    pub(crate) format: Option<(String, Format)>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_maximum: bool,
    pub(crate) minimum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) max_length: Option<i64>,
    pub(crate) min_length: Option<i64>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) max_items: Option<i64>,
    pub(crate) min_items: Option<i64>,
    pub(crate) unique_items: bool,
    pub(crate) max_properties: Option<i64>,
    pub(crate) min_properties: Option<i64>,
    pub(crate) required: Vec<String>,
    pub(crate) enumeration: Vec<Value>,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) not: Option<Schema>,
}

impl Schema {
    /// The schema of that property, if it is a named one.
    pub fn property(&self, name: &str) -> Option<&Schema> {
        let found = self.properties.binary_search_by(|(known, _)| known.as_str().cmp(name));
        found.ok().map(|at| &self.properties[at].1)
    }

    /// The schema of that member: its property's, or that of additional members.
    pub fn member(&self, name: &str) -> Option<&Schema> {
        self.property(name).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    /// The named members, in the order of their names.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &Schema)> {
        self.properties.iter().map(|(name, schema)| (name.as_str(), schema))
    }

    /// Whether members are named by the schema, so that one that is removed leaves a struct and
    /// not an empty map.
    pub fn is_struct(&self) -> bool {
        !self.properties.is_empty()
    }

    /// The schema of items.
    pub fn items(&self) -> Option<&Schema> {
        self.items.as_deref()
    }

    /// How a list is merged.
    pub fn list_type(&self) -> ListType {
        self.list
    }

    /// The keys of a list of type map.
    pub fn map_keys(&self) -> &[String] {
        &self.map_keys
    }

    /// Whether an object is one value for server-side apply.
    pub fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// The value that stands for a missing one.
    pub fn default_value(&self) -> Option<&Value> {
        self.default.as_ref()
    }

    /// Additional members.
    pub fn additional(&self) -> &Additional {
        &self.additional
    }

    /// Whether members that the schema does not know are kept.
    pub fn preserves_unknown(&self) -> bool {
        self.preserve_unknown
    }
}
