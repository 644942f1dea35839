//! Texts to API objects.

use crate::{
    Step,
    limits::{FILE_BYTES_MAX, FILES_MAX},
    line::Lines,
    line_of,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use serde_yaml_ng::Value as Yaml;
use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// A text with the name that people know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path of the file.
    pub name: Arc<str>,
    /// What is in it.
    pub text: Arc<str>,
}

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// An object and where it stands.
#[derive(Clone, Debug)]
pub struct Object {
    /// Index into [`Documents::sources`].
    pub source: usize,
    /// Number of the document in its text.
    pub document: usize,
    /// Its place, where the document is a list.
    pub item: Option<usize>,
    /// The object.
    pub value: Value,
}

impl Object {
    /// `kind`.
    pub fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// Kind and name, as complaints begin.
    pub fn title(&self) -> String {
        let meta = &self.value["metadata"];
        let name = meta["name"].as_str().unwrap_or_default();
        match (self.kind(), meta["namespace"].as_str()) {
            (kind @ "NetworkPolicy", namespace) => {
                format!("{kind} {}/{name}", namespace.unwrap_or("default"))
            }
            (kind, Some(namespace)) => format!("{kind} {namespace}/{name}"),
            (kind, None) => format!("{kind} {name}"),
        }
    }

    /// The group in `apiVersion`.
    pub fn group(&self) -> &str {
        let version = self.value["apiVersion"].as_str().unwrap_or_default();
        version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// The texts.
    pub sources: Vec<Source>,
    /// The objects, lists taken apart.
    pub objects: Vec<Object>,
    /// Where things stand in each source, once somebody asked.
    pub(crate) lines: Vec<OnceLock<Lines>>,
}

impl Documents {
    /// Reads all texts; the first that is no YAML is the error.
    pub fn parse(sources: Vec<Source>) -> Result<Self, Problem> {
        if sources.len() > FILES_MAX {
            let message = format!("more than {FILES_MAX} files");
            return Err(Problem { file: sources[FILES_MAX].name.clone(), line: None, message });
        }
        let mut objects = Vec::new();
        for (source, text) in sources.iter().enumerate() {
            if text.text.len() > FILE_BYTES_MAX {
                let message = format!("is larger than {FILE_BYTES_MAX} bytes");
                return Err(Problem { file: text.name.clone(), line: None, message });
            }
            let documents = serde_yaml_ng::Deserializer::from_str(&text.text);
            for (document, yaml) in documents.enumerate() {
                let value = Yaml::deserialize(yaml).map_err(|e| Problem {
                    file: text.name.clone(),
                    line: e.location().map(|l| l.line()),
                    message: e.to_string(),
                })?;
                let value = json(value);
                match value {
                    Value::Object(mut map) if map.contains_key("items") => {
                        let Some(Value::Array(items)) = map.remove("items") else { continue };
                        objects.extend(items.into_iter().enumerate().map(|(item, value)| Object {
                            source,
                            document,
                            item: Some(item),
                            value,
                        }));
                    }
                    value if value.is_object() => {
                        objects.push(Object { source, document, item: None, value });
                    }
                    _ => {}
                }
            }
        }
        let lines = vec![OnceLock::new(); sources.len()];
        Ok(Self { sources, objects, lines })
    }

    /// The line of a place inside an object.
    pub fn line(&self, object: &Object, path: &[Step<'_>]) -> Option<usize> {
        self.line_at(object.source, object.document, object.item, path)
    }

    /// As [`Self::line`], by the parts of the object's place.
    pub fn line_at(
        &self,
        source: usize,
        document: usize,
        item: Option<usize>,
        path: &[Step<'_>],
    ) -> Option<usize> {
        let list = item.map(|i| [Step::Key("items"), Step::Item(i)]);
        let whole: Vec<Step<'_>> = list.into_iter().flatten().chain(path.iter().copied()).collect();
        let text = &self.sources.get(source)?.text;
        let lines = self.lines.get(source)?.get_or_init(|| Lines::of(text));
        lines.line(document, &whole).or_else(|| line_of(text, document, &whole))
    }

    /// A problem with an object.
    pub fn problem(
        &self,
        object: &Object,
        path: &[Step<'_>],
        message: impl fmt::Display,
    ) -> Problem {
        Problem {
            file: self.sources[object.source].name.clone(),
            line: self.line(object, path),
            message: message.to_string(),
        }
    }
}

/// As the API reads YAML: keys are texts, tags mean nothing.
fn json(yaml: Yaml) -> Value {
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(b) => Value::Bool(b),
        Yaml::Number(n) => {
            let whole = n.as_i64().map(Value::from).or_else(|| n.as_u64().map(Value::from));
            whole.unwrap_or_else(|| n.as_f64().map_or(Value::Null, Value::from))
        }
        Yaml::String(s) => Value::String(s),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(json).collect()),
        Yaml::Mapping(entries) => {
            let text = |key: Yaml| match key {
                Yaml::String(s) => Some(s),
                Yaml::Number(n) => Some(n.to_string()),
                Yaml::Bool(b) => Some(b.to_string()),
                _ => None,
            };
            let entries = entries.into_iter();
            let map: Map<String, Value> =
                entries.filter_map(|(k, v)| Some((text(k)?, json(v)))).collect();
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => json(tagged.value),
    }
}
