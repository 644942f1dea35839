//! The embedded Kubernetes API: storage, watch, verbs and HTTP.
