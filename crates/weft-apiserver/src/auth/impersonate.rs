//! Asking as somebody else: the `Impersonate-…` headers.

use super::{Identity, service_account_groups};
use crate::{error::ApiError, http::params::decode};
use http::HeaderMap;
use weft_kinds::status;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whom the request is for, if it is for somebody else. Everybody may ask for everybody here.
pub(crate) fn impersonated(headers: &HeaderMap) -> Result<Option<Identity>, ApiError> {
    let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let one = |name| headers.get(name).map(text).unwrap_or_default();
    let user = one(USER);
    let uid = one(UID);
    let mut groups: Vec<String> = headers.get_all(GROUP).iter().map(text).collect();
    let mut extra: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
        let key = decode(key, false);
        match extra.iter_mut().find(|(k, _)| *k == key) {
            Some((_, values)) => values.push(text(value)),
            None => extra.push((key, vec![text(value)])),
        }
    }
    if user.is_empty() {
        if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(status::internal("requested impersonation without impersonating a user").into());
    }
    if user == "system:anonymous" {
        if !groups.iter().any(|g| g == "system:unauthenticated") {
            groups.push("system:unauthenticated".to_owned());
        }
        return Ok(Some(Identity { user, uid, groups, extra }));
    }
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, _)) if groups.is_empty() => groups = service_account_groups(namespace),
        _ if groups.iter().any(|g| g == "system:unauthenticated") => {}
        _ => return Ok(Some(Identity { user, uid, groups, extra }.authenticated())),
    }
    Ok(Some(Identity { user, uid, groups, extra }))
}

#[cfg(test)]
mod tests {
    use super::{super::AUTHENTICATED, *};

    fn of(pairs: &[(&'static str, &'static str)]) -> Result<Option<Identity>, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        impersonated(&headers)
    }

    #[test]
    fn who_is_asked_for() {
        assert_eq!(of(&[("accept", "x")]).unwrap(), None);
        let jane = of(&[
            (USER, "jane"),
            (GROUP, "devs"),
            (GROUP, "ops"),
            (UID, "7"),
            ("impersonate-extra-a%2fb", "1"),
            ("impersonate-extra-a%2fb", "2"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!((jane.user.as_str(), jane.uid.as_str()), ("jane", "7"));
        assert_eq!(jane.groups, ["devs", "ops", AUTHENTICATED]);
        assert_eq!(jane.extra, [("a/b".to_owned(), vec!["1".to_owned(), "2".to_owned()])]);
        let robot = of(&[(USER, "system:serviceaccount:ns:robot")]).unwrap().unwrap();
        assert_eq!(
            robot.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]
        );
        let nobody = of(&[(USER, "system:anonymous")]).unwrap().unwrap();
        assert_eq!(nobody.groups, ["system:unauthenticated"]);
        assert_eq!(of(&[(GROUP, "devs")]).unwrap_err().code(), 500);
    }
}
