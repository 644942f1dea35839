//! Log, exec, attach and port-forward: the request goes on to the kubelet of the pod's node.
//!
//! The server only finds the node and the container; what is streamed it does not understand.
//! After an upgrade (WebSocket or SPDY) both connections are spliced.

use crate::{
    ApiServer,
    error::ApiError,
    http::{
        ApiBody,
        body::BoxError,
        params::{Params, encode},
        reply,
        route::Target,
    },
    store::Key,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{path::Path, time::Duration};
use tokio::net::UnixStream;
use weft_kinds::status;

/// A kubelet that does not take the connection by then counts as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Never sent on: they belong to the connection, or are nobody else's business.
const NOT_FORWARDED: &[HeaderName] = &[
    header::AUTHORIZATION,
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::ACCEPT_ENCODING,
    header::COOKIE,
];

/// Whether the subresource is a stream to the kubelet.
pub(crate) fn is_stream(target: &Target) -> bool {
    target.kind.kind == "Pod"
        && target.name.is_some()
        && matches!(target.subresource.as_deref(), Some("log" | "exec" | "attach" | "portforward"))
}

pub(crate) async fn stream<B>(
    server: &ApiServer,
    mut request: Request<B>,
    target: &Target,
    params: &Params,
) -> Result<Response<ApiBody>, ApiError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let sub = target.subresource.as_deref().unwrap_or_default();
    let get_only = sub == "log";
    if request.method() != Method::GET && (get_only || request.method() != Method::POST) {
        return Err(status::method_not_allowed().into());
    }
    let (namespace, name) =
        (target.namespace.as_deref().unwrap_or(""), target.name.as_deref().unwrap_or(""));
    let pod = server.0.existing(&target.kind, &Key::new(namespace, name))?.value();
    if sub == "log" && pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        // Kubernetes: a pod without a node has an empty log, which is no error.
        container(&pod, name, params.get("container"))?;
        return Ok(reply::bytes(200, "text/plain", Bytes::new()));
    }
    let (node, path) = destination(&pod, namespace, name, sub, params)?;
    let socket = (server.0.config.kubelet_socket)(&node);
    let query = request.uri().query().map(kubelet_query).unwrap_or_default();
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };

    let upgrade = request.headers().contains_key(header::UPGRADE);
    let client = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let mut onward = Request::new(body.map_err(Into::into).boxed_unsync());
    *onward.method_mut() = parts.method;
    *onward.uri_mut() =
        uri.parse().map_err(|_| status::bad_request("the names in the path are not valid"))?;
    *onward.headers_mut() = forwarded(&parts.headers);
    onward.headers_mut().insert(header::HOST, header::HeaderValue::from_static("kubelet"));

    let away = |why: &dyn std::fmt::Display| {
        ApiError::from(status::internal(format_args!(
            "the kubelet of node {node:?} cannot be reached: {why}"
        )))
    };
    let mut response = send(&socket, onward).await.map_err(|e| away(&e))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade {
            return Err(away(&"it changed protocols without being asked"));
        }
        let kubelet = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (Ok(client), Ok(kubelet)) = (client.await, kubelet.await) else { return };
            let (mut a, mut b) = (TokioIo::new(client), TokioIo::new(kubelet));
            // Either end may simply go away.
            if let Err(error) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
                tracing::debug!(%error, "stream ended");
            }
        });
    }
    let (parts, body) = response.into_parts();
    let mut reply = Response::new(body.map_err(Into::into).boxed_unsync());
    *reply.status_mut() = parts.status;
    for (k, v) in &parts.headers {
        if *k != header::CONTENT_LENGTH && *k != header::TRANSFER_ENCODING {
            reply.headers_mut().append(k.clone(), v.clone());
        }
    }
    Ok(reply)
}

async fn send(
    socket: &Path,
    request: Request<UnsyncBoxBody<Bytes, BoxError>>,
) -> Result<Response<hyper::body::Incoming>, BoxError> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await??;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the kubelet's connection ended");
        }
    });
    Ok(sender.send_request(request).await?)
}

fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (k, v) in headers {
        if !NOT_FORWARDED.contains(k) {
            out.append(k.clone(), v.clone());
        }
    }
    out
}

/// Node and kubelet path of a pod's stream.
fn destination(
    pod: &Value,
    namespace: &str,
    name: &str,
    sub: &str,
    params: &Params,
) -> Result<(String, String), ApiError> {
    let container = match sub {
        "portforward" => String::new(),
        _ => container(pod, name, params.get("container"))?,
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(status::bad_request(format!("pod {name} does not have a host assigned")).into());
    }
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if sub != "log" && matches!(phase, "Succeeded" | "Failed") {
        return Err(status::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        ))
        .into());
    }
    let segment = match sub {
        "log" => "containerLogs",
        "portforward" => "portForward",
        other => other,
    };
    let mut path = format!("/{segment}/{}/{}", encode(namespace), encode(name));
    if !container.is_empty() {
        path = format!("{path}/{}", encode(&container));
    }
    Ok((node.to_owned(), path))
}

/// The container asked for, or the only one there is.
fn container(pod: &Value, name: &str, asked: Option<&str>) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array();
        list.into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    match asked {
        Some(c) => {
            let known =
                main.contains(&c) || init.contains(&c) || names("ephemeralContainers").contains(&c);
            if known {
                Ok(c.to_owned())
            } else {
                Err(status::bad_request(format!("container {c} is not valid for pod {name}"))
                    .into())
            }
        }
        None if main.len() == 1 => Ok(main[0].to_owned()),
        None => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                main.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(status::bad_request(message).into())
        }
    }
}

/// The query without `container`, and with the kubelet's own names beside stdin, stdout, stderr.
fn kubelet_query(query: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for part in query.split('&') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if key == "container" || key.is_empty() {
            continue;
        }
        out.push(part.to_owned());
        let on = !matches!(value, "false" | "0");
        match key {
            "stdin" if on => out.push("input=1".to_owned()),
            "stdout" if on => out.push("output=1".to_owned()),
            "stderr" if on => out.push("error=1".to_owned()),
            _ => {}
        }
    }
    out.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}]}, "status": {"phase": "Running"}})
    }

    #[test]
    fn containers_are_found_or_named() {
        let params = |q: &str| Params::parse(q);
        let to = |sub: &str, q: &str| destination(&pod(), "ns", "p", sub, &params(q));
        assert_eq!(
            to("log", "container=b").unwrap(),
            ("n1".into(), "/containerLogs/ns/p/b".into())
        );
        assert_eq!(to("exec", "container=i").unwrap().1, "/exec/ns/p/i");
        assert_eq!(to("portforward", "").unwrap().1, "/portForward/ns/p");
        let e = to("log", "").unwrap_err();
        assert!(
            e.message().contains("choose one of: [a b] or one of the init containers: [i]"),
            "{e:?}"
        );
        let e = to("log", "container=x").unwrap_err();
        assert_eq!((e.code(), e.message()), (400, "container x is not valid for pod p"));
        let mut nowhere = pod();
        nowhere["spec"]["nodeName"] = Value::Null;
        let e = destination(&nowhere, "ns", "p", "exec", &params("container=a")).unwrap_err();
        assert_eq!(e.message(), "pod p does not have a host assigned");
    }

    #[test]
    fn queries_speak_both_dialects() {
        assert_eq!(
            kubelet_query("command=ls&command=-l&container=a&stdout=true&stdin=false&tty=true"),
            "command=ls&command=-l&stdout=true&output=1&stdin=false&tty=true"
        );
    }
}
