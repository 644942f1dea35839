//! `weft lab apply`: manifests to the API, for machines without kubectl.
//!
//! All files are read and all kinds resolved before the first change, so that a broken file
//! changes nothing. Objects are then applied by server-side apply, in order.

use anyhow::{Context, Result};
use http::{Method, Request};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use crate::error::LabError;

/// Field manager of what `weft lab apply` writes.
const MANAGER: &str = "weft-lab";
/// Most bytes of one manifest file.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// One object of a manifest, and where it stands.
#[derive(Clone, Debug)]
pub struct Document {
    source: String,
    object: Value,
}

impl Document {
    fn text(&self, field: &str) -> &str {
        self.object.pointer(field).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Reads files, the YAML and JSON files of directories, or standard input for `-`.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .take(FILE_BYTES_MAX + 1)
                .read_to_string(&mut text)
                .context("read standard input")?;
            if text.len() as u64 > FILE_BYTES_MAX {
                return Err(LabError::input("standard input: larger than 32 MiB").into());
            }
            documents.extend(parse("standard input", &text)?);
            continue;
        }
        for file in manifest_files(path)? {
            let name = file.display().to_string();
            let size = fs::metadata(&file).with_context(|| format!("read {name}"))?.len();
            if size > FILE_BYTES_MAX {
                return Err(LabError::input(format!("{name}: larger than 32 MiB")).into());
            }
            let text = fs::read_to_string(&file).with_context(|| format!("read {name}"))?;
            documents.extend(parse(&name, &text)?);
        }
    }
    if documents.is_empty() {
        return Err(LabError::input("no objects in the given files").into());
    }
    Ok(documents)
}

fn manifest_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"))
        .collect();
    files.sort();
    if files.is_empty() {
        let why = format!("{}: no .yaml, .yml or .json file in it", path.display());
        return Err(LabError::input(why).into());
    }
    Ok(files)
}

/// Splits a YAML stream; `List` objects are taken apart.
fn parse(source: &str, text: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for (n, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let place = format!("{source}, document {}", n + 1);
        let object = Value::deserialize(document)
            .map_err(|e| LabError::input(format!("{place}: malformed YAML: {e}")))?;
        match object {
            Value::Null => {}
            Value::Object(mut o) if o.get("kind").and_then(Value::as_str) == Some("List") => {
                for object in
                    o.remove("items").and_then(|i| i.as_array().cloned()).into_iter().flatten()
                {
                    documents.push(checked(&place, object)?);
                }
            }
            object => documents.push(checked(&place, object)?),
        }
    }
    Ok(documents)
}

fn checked(place: &str, object: Value) -> Result<Document> {
    let document = Document { source: place.to_owned(), object };
    for field in ["/apiVersion", "/kind", "/metadata/name"] {
        if document.text(field).is_empty() {
            let field = field.trim_start_matches('/').replace('/', ".");
            return Err(LabError::input(format!("{place}: {field} is missing")).into());
        }
    }
    Ok(document)
}

/// Where objects of a kind live.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resource {
    plural: String,
    namespaced: bool,
}

type Resources = BTreeMap<(String, String), Resource>;

const DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Reads aggregated discovery (KEP-3352).
async fn discover(client: &kube::Client) -> Result<Resources> {
    let mut found = Resources::new();
    for path in ["/api", "/apis"] {
        let request = Request::get(path).header("Accept", DISCOVERY).body(Vec::new())?;
        let list: Value = client.request(request).await.context("read the API's discovery")?;
        collect(&list, &mut found);
    }
    Ok(found)
}

fn collect(list: &Value, found: &mut Resources) {
    let array = |v: &Value, field: &str| v[field].as_array().cloned().unwrap_or_default();
    for group in array(list, "items") {
        let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        for version in array(&group, "versions") {
            let v = version["version"].as_str().unwrap_or_default();
            let api_version = if name.is_empty() { v.to_owned() } else { format!("{name}/{v}") };
            for resource in array(&version, "resources") {
                let kind = resource.pointer("/responseKind/kind").and_then(Value::as_str);
                let (Some(kind), Some(plural)) = (kind, resource["resource"].as_str()) else {
                    continue;
                };
                let namespaced = resource["scope"] == "Namespaced";
                found.insert(
                    (api_version.clone(), kind.to_owned()),
                    Resource { plural: plural.to_owned(), namespaced },
                );
            }
        }
    }
}

/// Path of an object's collection.
fn collection(document: &Document, resource: &Resource) -> String {
    let api_version = document.text("/apiVersion");
    let root = if api_version.contains('/') { "/apis" } else { "/api" };
    let namespace = match document.text("/metadata/namespace") {
        "" => "default",
        n => n,
    };
    if resource.namespaced {
        format!("{root}/{api_version}/namespaces/{namespace}/{}", resource.plural)
    } else {
        format!("{root}/{api_version}/{}", resource.plural)
    }
}

/// Applies documents in order, telling each outcome; returns the exit status.
pub async fn apply(
    client: &kube::Client,
    documents: Vec<Document>,
    say: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<i32> {
    let resources = discover(client).await?;
    let mut planned = Vec::new();
    for document in documents {
        let (version, kind) = (document.text("/apiVersion"), document.text("/kind"));
        let Some(resource) = resources.get(&(version.to_owned(), kind.to_owned())) else {
            let why = format!(
                "{}: unknown kind {kind} in {version}: the lab's API does not serve it",
                document.source
            );
            return Err(LabError::input(why).into());
        };
        planned.push((collection(&document, resource), resource.plural.clone(), document));
    }
    let mut failed = 0;
    for (path, plural, document) in planned {
        let group = document.text("/apiVersion").rsplit_once('/').map(|(g, _)| format!(".{g}"));
        let name =
            format!("{plural}{}/{}", group.unwrap_or_default(), document.text("/metadata/name"));
        match apply_one(client, &path, &document).await {
            Ok(outcome) => say(&format!("{name} {outcome}"))?,
            Err(e) => {
                failed += 1;
                eprintln!("error: {}: {name}: {}", document.source, reason(&e));
            }
        }
    }
    Ok(i32::from(failed > 0))
}

/// The API's own words, which name the field, without kube's wrapping.
fn reason(e: &anyhow::Error) -> String {
    match e.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.message.clone(),
        _ => format!("{e:#}"),
    }
}

async fn apply_one(client: &kube::Client, path: &str, document: &Document) -> Result<&'static str> {
    let name = document.text("/metadata/name");
    let object_path = format!("{path}/{name}");
    let before = match client.request::<Value>(Request::get(&object_path).body(Vec::new())?).await {
        Ok(object) => Some(version_of(&object)),
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(e) => return Err(e.into()),
    };
    let body = serde_json::to_vec(&document.object).context("encode object")?;
    // Also where it is not there yet: what is made otherwise has another owner, and a field that
    // a later file does not have would stay.
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{object_path}?fieldManager={MANAGER}&fieldValidation=Strict&force=true"))
        .header("Content-Type", "application/apply-patch+yaml");
    let after: Value = client.request(request.body(body)?).await?;
    Ok(match before {
        None => "created",
        Some(version) if version == version_of(&after) => "unchanged",
        Some(_) => "configured",
    })
}

fn version_of(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_lists_are_taken_apart() {
        let text = "---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n---\n\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n";
        let found = parse("x.yaml", text).expect("parses");
        assert_eq!(found.iter().map(|d| d.text("/metadata/name")).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn malformed_yaml_names_file_and_line() {
        let e = parse("x.yaml", "a: [1,\nb: }").expect_err("refused").to_string();
        assert!(e.contains("x.yaml, document 1") && e.contains("line"), "{e}");
        let e = parse("x.yaml", "kind: Pod\napiVersion: v1\n").expect_err("refused").to_string();
        assert!(e.contains("metadata.name is missing"), "{e}");
    }
}
