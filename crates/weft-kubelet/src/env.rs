//! A container's environment, as `pkg/kubelet/kubelet_pods.go` makes it: envFrom, then env with
//! `$(VAR)` expansion, then service variables where nothing of that name stands.

use crate::error::{Error, Result};
use crate::fields;
use crate::sources::{Kind, Sources};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Service};

/// Variables in order, later ones replacing earlier ones of the same name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Env(Vec<(String, String)>);

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => *v = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The variables.
    pub fn into_vec(self) -> Vec<(String, String)> {
        self.0
    }
}

/// Replaces `$(NAME)` by its value, `$$` by `$`, and leaves what is unknown as it stands
/// (`third_party/forked/golang/expansion`).
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix('(')
            && let Some(end) = tail.find(')')
        {
            let name = &tail[..end];
            match lookup(name) {
                Some(v) => out.push_str(&v),
                None => out.push_str(&rest[at..at + 3 + end]),
            }
            rest = &tail[end + 1..];
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Expands a command line with the finished environment.
pub fn expand_args(args: &[String], env: &[(String, String)]) -> Vec<String> {
    let get = |n: &str| env.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone());
    args.iter().map(|a| expand(a, get)).collect()
}

/// The environment of a container.
pub fn build(
    view: &fields::View<'_>,
    c: &Container,
    sources: &Sources,
    services: &[(String, String)],
) -> Result<Vec<(String, String)>> {
    let mut env = Env::default();
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let source = if let Some(r) = &from.config_map_ref {
            (Kind::ConfigMap, &r.name, r.optional)
        } else if let Some(r) = &from.secret_ref {
            (Kind::Secret, &r.name, r.optional)
        } else {
            continue;
        };
        let (kind, name, optional) = source;
        let Some(data) = sources.get(&(kind, name.clone())) else {
            if optional == Some(true) {
                continue;
            }
            return Err(Error::Config(format!("{} \"{name}\" not found", kind.lower())));
        };
        for (k, v) in data {
            let key = format!("{prefix}{k}");
            // What no process could be given is left out, as the kubelet does.
            if !key.is_empty() && !key.contains(['=', '\0']) && !v.contains(&0) {
                env.set(&key, String::from_utf8_lossy(v).into_owned());
            }
        }
    }
    let service = |n: &str| services.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone());
    for e in c.env.iter().flatten() {
        let value = match &e.value_from {
            None => {
                let text = e.value.as_deref().unwrap_or_default();
                expand(text, |n| env.get(n).map(str::to_owned).or_else(|| service(n)))
            }
            Some(from) => match value_from(view, c, from, sources)? {
                Some(v) => v,
                None => continue,
            },
        };
        env.set(&e.name, value);
    }
    for (k, v) in services {
        if env.get(k).is_none() {
            env.set(k, v.clone());
        }
    }
    Ok(env.into_vec())
}

fn value_from(
    view: &fields::View<'_>,
    c: &Container,
    from: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>> {
    if let Some(f) = &from.field_ref {
        return view.field(&f.field_path).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        return view.resource(r, Some(&c.name)).map(Some);
    }
    let (kind, name, key, optional) = if let Some(r) = &from.config_map_key_ref {
        (Kind::ConfigMap, &r.name, &r.key, r.optional)
    } else if let Some(r) = &from.secret_key_ref {
        (Kind::Secret, &r.name, &r.key, r.optional)
    } else {
        return Err(Error::Config("an environment variable has an unknown source".into()));
    };
    let data = sources.get(&(kind, name.clone()));
    match data.and_then(|d| d.get(key)) {
        Some(v) => Ok(Some(String::from_utf8_lossy(v).into_owned())),
        None if optional == Some(true) => Ok(None),
        None if data.is_none() => {
            Err(Error::Config(format!("{} \"{name}\" not found", kind.lower())))
        }
        None => {
            let kind = if kind == Kind::Secret { "Secret" } else { "ConfigMap" };
            let ns = view.namespace();
            Err(Error::Config(format!("couldn't find key {key} in {kind} {ns}/{name}")))
        }
    }
}

/// The variables that tell a pod of the Services of its namespace and of the API's
/// (`pkg/kubelet/envvars/envvars.go`). With `links` false only the API's.
pub fn service_variables<'a>(
    namespace: &str,
    services: impl IntoIterator<Item = &'a Service>,
    links: bool,
) -> Vec<(String, String)> {
    let mut chosen: Vec<&Service> = services
        .into_iter()
        .filter(|s| {
            let m = &s.metadata;
            let ns = m.namespace.as_deref().unwrap_or_default();
            let master = ns == "default" && m.name.as_deref() == Some("kubernetes");
            master || links && ns == namespace
        })
        .collect();
    // The API's first, so that a Service of that name in the pod's namespace has the last word.
    chosen.sort_by_key(|s| {
        (s.metadata.namespace.as_deref() == Some(namespace), s.metadata.name.clone())
    });
    let mut env = Env::default();
    for s in chosen {
        let Some(spec) = &s.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" || ports.is_empty() {
            continue;
        }
        let upper = |n: &str| n.to_uppercase().replace('-', "_");
        let base = upper(s.metadata.name.as_deref().unwrap_or_default());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        env.set(&format!("{base}_SERVICE_HOST"), ip.to_owned());
        env.set(&format!("{base}_SERVICE_PORT"), ports[0].port.to_string());
        for p in ports {
            if let Some(name) = p.name.as_deref().filter(|n| !n.is_empty()) {
                env.set(&format!("{base}_SERVICE_PORT_{}", upper(name)), p.port.to_string());
            }
        }
        for (i, p) in ports.iter().enumerate() {
            let proto = p.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", proto.to_lowercase(), p.port);
            if i == 0 {
                env.set(&format!("{base}_PORT"), url.clone());
            }
            let prefix = format!("{base}_PORT_{}_{}", p.port, proto.to_uppercase());
            env.set(&prefix, url);
            env.set(&format!("{prefix}_PROTO"), proto.to_lowercase());
            env.set(&format!("{prefix}_PORT"), p.port.to_string());
            env.set(&format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    env.into_vec()
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
