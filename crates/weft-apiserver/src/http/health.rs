//! `/livez`, `/readyz`, `/healthz`: what they check, and how they say it.

use super::{
    params::Params,
    reply::{self, ApiBody},
};
use crate::{error::ApiError, server::State};
use http::Response;
use weft_kinds::status;

/// One of the three, and one of its checks where the path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) endpoint: &'static str,
    pub(crate) check: Option<String>,
}

/// A check's name, and whether it holds.
type Check = (&'static str, fn(&State) -> bool);

const PING: Check = ("ping", |_| true);
/// Writes are taken: refused ones tell clients to try again, so that the process need not end.
const JOURNAL: Check = ("journal", |state| state.store.is_sound());
/// No more requests should come.
const SHUTDOWN: Check = ("shutdown", |state| !state.shutdown.is_cancelled());

impl Health {
    /// A path below the root.
    pub(crate) fn of(path: &[&str]) -> Option<Self> {
        let (first, rest) = path.split_first()?;
        let endpoint = ["livez", "readyz", "healthz"].into_iter().find(|name| name == first)?;
        Some(Self { endpoint, check: (!rest.is_empty()).then(|| rest.join("/")) })
    }

    fn checks(&self) -> &'static [Check] {
        match self.endpoint {
            "readyz" => &[PING, JOURNAL, SHUTDOWN],
            "healthz" => &[PING, JOURNAL],
            _ => &[PING],
        }
    }

    /// As kube-apiserver: `ok`, or a line a check where `verbose` asks for it or one has failed.
    pub(crate) fn answer(
        &self,
        state: &State,
        params: &Params,
    ) -> Result<Response<ApiBody>, ApiError> {
        let plain = |code, text: String| {
            let mut r = reply::bytes(code, "text/plain; charset=utf-8", text.into());
            let nosniff = http::HeaderValue::from_static("nosniff");
            r.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
            r
        };
        if let Some(wanted) = &self.check {
            let found = self.checks().iter().find(|(name, _)| name == wanted);
            let Some((_, holds)) = found else { return Err(status::unknown_resource().into()) };
            return Ok(match holds(state) {
                true => plain(200, "ok".to_owned()),
                false => plain(500, "internal server error: reason withheld\n".to_owned()),
            });
        }
        let excluded: Vec<&str> = params.all("exclude").collect();
        let (mut lines, mut failed) = (String::new(), false);
        for (name, holds) in self.checks() {
            lines.push_str(&if excluded.contains(name) {
                format!("[+]{name} excluded: ok\n")
            } else if holds(state) {
                format!("[+]{name} ok\n")
            } else {
                failed = true;
                format!("[-]{name} failed: reason withheld\n")
            });
        }
        let known = |name: &&&str| self.checks().iter().any(|(known, _)| known == *name);
        let unknown: Vec<String> =
            excluded.iter().filter(|name| !known(name)).map(|name| format!("{name:?}")).collect();
        if !unknown.is_empty() {
            let names = unknown.join(",");
            lines.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {names}\n"
            ));
        }
        Ok(if failed {
            plain(500, format!("{lines}{} check failed\n", self.endpoint))
        } else if params.all("verbose").next().is_some() {
            plain(200, format!("{lines}{} check passed\n", self.endpoint))
        } else {
            plain(200, "ok".to_owned())
        })
    }
}
