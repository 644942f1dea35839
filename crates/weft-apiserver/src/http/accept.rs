//! In which form the client wants its answer.

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

/// One media range.
pub(crate) struct Media<'a> {
    pub(crate) kind: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl Media<'_> {
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }

    /// Whether JSON satisfies it.
    pub(crate) fn json(&self) -> bool {
        matches!(self.kind, "application/json" | "application/*" | "*/*" | "")
    }
}

/// The media ranges of `Accept`, in order; everything when there is none.
pub(crate) fn ranges(headers: &HeaderMap) -> Vec<Media<'_>> {
    let value = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    value
        .split(',')
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or("");
            Media { kind, params: parts.filter_map(|p| p.split_once('=')).collect() }
        })
        .collect()
}

/// The first form that can be served; `None` is 406.
pub(crate) fn format(headers: &HeaderMap) -> Option<Format> {
    ranges(headers).iter().filter(|m| m.json()).find_map(|m| {
        let version = match m.param("v") {
            Some("v1beta1") => "v1beta1",
            _ => "v1",
        };
        match m.param("as") {
            None => Some(Format::Json),
            Some("Table") => Some(Format::Table(version)),
            Some("PartialObjectMetadata") => Some(Format::Metadata(version)),
            Some("PartialObjectMetadataList") => Some(Format::MetadataList(version)),
            Some(_) => None,
        }
    })
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
        format(&h)
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
        assert_eq!(format(&HeaderMap::new()), Some(Format::Json));
    }
}
