//! In which form the client wants its answer.

use super::params::Params;
use http::{HeaderMap, header};

/// The form of an object or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// As stored.
    Json,
    /// Rows and columns; the version of `meta.k8s.io`.
    Table(&'static str),
    /// Only metadata; the version of `meta.k8s.io`.
    Metadata(&'static str),
    /// Only metadata of a list.
    MetadataList(&'static str),
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    /// JSON that people read.
    Pretty,
    Yaml,
}

/// What can be served, as a 406 names it.
pub(crate) const SERVED: &[&str] = &["application/json", "application/yaml"];

/// One media range.
pub(crate) struct Media<'a> {
    pub(crate) kind: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl Media<'_> {
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }

    /// Its weight in thousandths; none is 1.
    fn weight(&self) -> u32 {
        let given = self.param("q").and_then(|q| q.parse::<f32>().ok()).filter(|q| q.is_finite());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        given.map_or(1000, |q| (q.clamp(0.0, 1.0) * 1000.0) as u32)
    }

    /// How exactly it says what it wants.
    fn specificity(&self) -> u32 {
        match self.kind {
            "*/*" | "" => 0,
            kind if kind.ends_with("/*") => 1,
            _ => 2,
        }
    }

    /// Whether JSON satisfies it.
    pub(crate) fn json(&self) -> bool {
        matches!(self.kind, "application/json" | "application/*" | "*/*" | "")
    }
}

/// The media ranges of `Accept`, the most wanted first; everything when there is none. Ranges of
/// one weight stay in the client's order, but wildcards come last.
pub(crate) fn ranges(headers: &HeaderMap) -> Vec<Media<'_>> {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut all: Vec<Media<'_>> = lines
        .flat_map(|line| line.split(','))
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or("");
            Media { kind, params: parts.filter_map(|p| p.split_once('=')).collect() }
        })
        .filter(|m| m.weight() > 0)
        .collect();
    if !headers.contains_key(header::ACCEPT) {
        all.push(Media { kind: "*/*", params: Vec::new() });
    }
    all.sort_by_key(|m| std::cmp::Reverse((m.weight(), m.specificity())));
    all
}

/// The first form that can be served, and how; `None` is 406.
pub(crate) fn format(headers: &HeaderMap) -> Option<(Format, Encoding)> {
    ranges(headers).iter().find_map(|m| {
        let encoding = match m.kind {
            "application/yaml" => Encoding::Yaml,
            _ if m.json() => Encoding::Json,
            _ => return None,
        };
        let version = match m.param("v") {
            Some("v1beta1") => "v1beta1",
            _ => "v1",
        };
        let format = match m.param("as") {
            None => Format::Json,
            Some("Table") => Format::Table(version),
            Some("PartialObjectMetadata") => Format::Metadata(version),
            Some("PartialObjectMetadataList") => Format::MetadataList(version),
            Some(_) => return None,
        };
        Some((format, encoding))
    })
}

/// Whether JSON is for people: they ask for it, or use a program that shows it to them.
pub(crate) fn pretty(headers: &HeaderMap, params: &Params) -> bool {
    match params.get("pretty") {
        Some(value) => matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => {
            let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
            let agent = agent.unwrap_or_default();
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|program| agent.starts_with(program))
        }
    }
}

/// Whether the client takes gzip.
pub(crate) fn gzip(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Option<Format> {
        let mut h = HeaderMap::new();
        h.insert(header::ACCEPT, accept.parse().unwrap());
        format(&h).map(|(format, _)| format)
    }

    #[test]
    fn weights_and_exactness_decide() {
        let encoding = |accept: &str| {
            let mut h = HeaderMap::new();
            h.insert(header::ACCEPT, accept.parse().unwrap());
            format(&h).map(|(_, encoding)| encoding)
        };
        assert_eq!(encoding("*/*, application/yaml"), Some(Encoding::Yaml));
        assert_eq!(encoding("application/yaml;q=0.5, application/json"), Some(Encoding::Json));
        assert_eq!(
            encoding("application/json;q=0.1, application/yaml;q=0.9"),
            Some(Encoding::Yaml)
        );
        assert_eq!(encoding("application/json;q=0"), None);
        assert_eq!(encoding("application/json;q=NaN"), Some(Encoding::Json));
        assert_eq!(encoding("text/html,application/xhtml+xml,*/*;q=0.8"), Some(Encoding::Json));
        assert_eq!(encoding("text/plain"), None);
    }

    #[test]
    fn first_servable_form_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl), Some(Format::Table("v1")));
        assert_eq!(of("application/vnd.kubernetes.protobuf, application/json"), Some(Format::Json));
        assert_eq!(
            of(
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
            ),
            Some(Format::MetadataList("v1"))
        );
        assert_eq!(of("*/*"), Some(Format::Json));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(format(&HeaderMap::new()), Some((Format::Json, Encoding::Json)));
    }
}
