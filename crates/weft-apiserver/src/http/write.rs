//! Requests that change something: which verb they are, and their bodies.

use super::{body, params::Params, route::Target};
use crate::{
    ApiServer,
    error::ApiError,
    store::Key,
    verbs::{
        Ctx, Outcome, Part,
        delete::{DeleteOptions, Propagation},
        from_storage,
        read::{self, List},
        scale::ScaleChange,
        update::Patch,
    },
};
use http::{HeaderMap, Method};
use serde_json::Value;
use weft_kinds::{
    decode::{self, Decoded},
    status,
};

/// One request with its body.
pub(super) struct Incoming<'a> {
    pub(super) target: &'a Target,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
    pub(super) params: &'a Params,
}

/// What it is answered with.
pub(super) enum Answer {
    Object(Outcome),
    List(List),
}

type Result<T> = std::result::Result<T, ApiError>;

pub(super) fn answer(
    server: &ApiServer,
    ctx: &mut Ctx,
    method: &Method,
    r: &Incoming<'_>,
) -> Result<Answer> {
    let target = r.target;
    let outcome = match (method.as_str(), &target.name, target.subresource.as_deref()) {
        ("POST", None, None) => r.create(server, ctx)?,
        _ if !target.kind.stored => return Err(status::method_not_allowed().into()),
        ("POST", Some(name), Some(sub)) => r.create_sub(server, ctx, &r.key(name), sub)?,
        ("PUT", Some(name), sub) => r.put(server, ctx, &r.key(name), sub)?,
        ("PATCH", Some(name), sub) => r.patch(server, ctx, &r.key(name), sub)?,
        ("DELETE", Some(name), None) => {
            let options = r.delete_options()?;
            server.0.delete(ctx, &target.kind, &r.key(name), &options)?
        }
        ("DELETE", None, None) if target.kind.verbs.contains(&"deletecollection") => {
            return Ok(Answer::List(r.delete_collection(server, ctx)?));
        }
        _ => return Err(status::method_not_allowed().into()),
    };
    Ok(Answer::Object(outcome))
}

/// The part of an object that a subresource is.
pub(super) fn part(target: &Target, sub: &str) -> Option<Part> {
    let listed = || target.kind.subresources.iter().any(|s| s.name == sub);
    match sub {
        "status" if target.kind.status => Some(Part::Status),
        "finalize" if listed() => Some(Part::Finalize),
        "ephemeralcontainers" if listed() => Some(Part::EphemeralContainers),
        "resize" if listed() => Some(Part::Resize),
        _ => None,
    }
}

impl Incoming<'_> {
    fn key(&self, name: &str) -> Key {
        Key::new(self.target.namespace.as_deref().unwrap_or(""), name)
    }

    /// The body as an object of the target's kind.
    fn object(&self) -> Result<Decoded> {
        let kind = &*self.target.kind;
        body::object(self.headers, self.body, (&kind.api_version(), &kind.kind), kind)
    }

    fn part(&self, sub: Option<&str>) -> Result<Part> {
        match sub {
            None => Ok(Part::Main),
            Some(s) => part(self.target, s).ok_or_else(|| status::unknown_resource().into()),
        }
    }

    fn is_scale(&self, sub: Option<&str>) -> bool {
        sub == Some("scale") && self.target.kind.scale.is_some()
    }

    fn create(&self, server: &ApiServer, ctx: &mut Ctx) -> Result<Outcome> {
        let (kind, decoded) = (&*self.target.kind, self.object()?);
        if server.0.registry().terminating(kind) {
            return Err(crate::registry::terminating());
        }
        if !kind.stored {
            return server.0.review(ctx, kind, self.target.namespace.as_deref(), decoded.object);
        }
        server.0.create(ctx, kind, self.target.namespace.as_deref(), decoded)
    }

    fn create_sub(
        &self,
        server: &ApiServer,
        ctx: &mut Ctx,
        key: &Key,
        sub: &str,
    ) -> Result<Outcome> {
        let kind = &*self.target.kind;
        let Some(row) = kind.subresources.iter().find(|s| s.name == sub) else {
            return Err(status::unknown_resource().into());
        };
        let version = if row.group.is_empty() {
            row.version.to_owned()
        } else {
            format!("{}/{}", row.group, row.version)
        };
        let type_name = match sub {
            "binding" => "core.v1.Binding",
            "eviction" => "policy.v1.Eviction",
            "token" => "authentication.v1.TokenRequest",
            _ => return Err(status::method_not_allowed().into()),
        };
        let mut decoded = body::parse(self.headers, self.body)?;
        // Evictions come as policy/v1 and, from old clients, as policy/v1beta1.
        if sub != "eviction" {
            body::type_meta(&mut decoded.object, &version, row.kind)?;
        }
        let object = body::conform_named(type_name, decoded)?;
        match sub {
            "binding" => server.0.bind(ctx, kind, key, &object),
            "eviction" => server.0.evict(ctx, kind, key, &object),
            "token" => server.0.token(ctx, kind, key, &object),
            _ => Err(status::method_not_allowed().into()),
        }
    }

    fn put(
        &self,
        server: &ApiServer,
        ctx: &mut Ctx,
        key: &Key,
        sub: Option<&str>,
    ) -> Result<Outcome> {
        let kind = &*self.target.kind;
        if self.is_scale(sub) {
            let mut decoded = body::parse(self.headers, self.body)?;
            body::type_meta(&mut decoded.object, "autoscaling/v1", "Scale")?;
            return server.0.set_scale(ctx, kind, key, &ScaleChange::Put(decoded.object));
        }
        let part = self.part(sub)?;
        let decoded = self.object()?;
        ctx.strict(kind, decoded.strict)?;
        server.0.update(ctx, kind, key, part, decoded.object)
    }

    fn patch(
        &self,
        server: &ApiServer,
        ctx: &mut Ctx,
        key: &Key,
        sub: Option<&str>,
    ) -> Result<Outcome> {
        let kind = &*self.target.kind;
        let bad = |e: decode::DecodeError| status::bad_request(e.to_string());
        let mut json = || -> Result<Value> {
            let decoded = decode::json_value(self.body).map_err(bad)?;
            ctx.strict(kind, decoded.strict)?;
            Ok(decoded.object)
        };
        let patch = match body::content_type(self.headers) {
            "application/json-patch+json" => Patch::Json(json()?),
            "application/merge-patch+json" => Patch::Merge(json()?),
            "application/strategic-merge-patch+json" if kind.custom().is_none() => {
                Patch::Strategic(json()?)
            }
            body::APPLY => {
                let decoded = decode::yaml_value(self.body).map_err(bad)?;
                let force = self.params.flag("force") == Some(true);
                return server.0.apply(ctx, kind, key, self.part(sub)?, decoded, force);
            }
            _ => {
                let all = [
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                    body::APPLY,
                ];
                let mut accepted = all.to_vec();
                // Only built-in types have merge keys.
                accepted.retain(|t| kind.custom().is_none() || !t.contains("strategic"));
                return Err(status::unsupported_media_type(&accepted).into());
            }
        };
        if self.is_scale(sub) {
            return server.0.set_scale(ctx, kind, key, &ScaleChange::Patch(patch));
        }
        server.0.patch(ctx, kind, key, self.part(sub)?, &patch)
    }

    fn delete_collection(&self, server: &ApiServer, ctx: &Ctx) -> Result<List> {
        let kind = &*self.target.kind;
        let options = self.delete_options()?;
        let scope = read::scope(kind, self.target.namespace.as_deref(), self.params)?;
        let gone = server.0.delete_collection(ctx, kind, &scope, &options)?;
        let items = gone.items.iter().map(|(_, e)| from_storage(kind, &e.bytes)).collect();
        Ok(List { rv: gone.rv, items, next: None, remaining: None })
    }

    /// DeleteOptions from the body and the query.
    fn delete_options(&self) -> Result<DeleteOptions> {
        let object = if self.body.is_empty() {
            Value::Null
        } else {
            let decoded = body::parse(self.headers, self.body)?;
            body::conform_named("meta.v1.DeleteOptions", decoded)?
        };
        let mut options = DeleteOptions::parse(&object)?;
        if let Some(seconds) = self.params.get("gracePeriodSeconds") {
            let seconds = seconds
                .parse()
                .map_err(|_| status::bad_request("gracePeriodSeconds must be a number"))?;
            options.grace_seconds = Some(seconds);
        }
        if let Some(policy) = self.params.get("propagationPolicy") {
            options.propagation = Some(Propagation::parse(policy)?);
        }
        Ok(options)
    }
}
