//! What the server says of itself: `/metrics`, `/livez`, `/readyz`.

use crate::ask::{api, get, post, send};
use serde_json::json;
use weft_apiserver::{ApiServer, Config};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn text(api: &ApiServer, path: &str) -> (u16, String) {
    let reply = get(api, path).await;
    (reply.code, String::from_utf8(reply.bytes.to_vec()).unwrap())
}

/// The value of the one line that has all of these labels.
fn value(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let fits = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let mut found = page.lines().filter(fits);
    let (one, more) = (found.next()?, found.next());
    assert_eq!(more, None, "besides {one}");
    one.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let api = api();
    for name in ["a", "b"] {
        post(&api, MAPS, json!({"metadata": {"name": name}})).await.is(201);
    }
    post(&api, MAPS, json!({"metadata": {"name": "a"}})).await.is(409);
    get(&api, MAPS).await.is(200);
    get(&api, &format!("{MAPS}/a")).await.is(200);
    get(&api, "/api/v1/nothings/x%22y").await.is(404);
    let short = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let watch = send(&api, "GET", &short, &[], "");
    let page = {
        // The watch is open until its time is over; the page is asked for meanwhile.
        let mut watch = Box::pin(watch);
        let open = async {
            loop {
                let (code, page) = text(&api, "/metrics").await;
                assert_eq!(code, 200);
                if page.contains("apiserver_longrunning_requests{") {
                    return page;
                }
                tokio::task::yield_now().await;
            }
        };
        let page = tokio::select! {
            biased;
            page = open => page,
            _ = &mut watch => panic!("the watch was never seen"),
        };
        watch.await;
        page
    };
    let maps = r#"resource="configmaps""#;
    let count = |page: &str, more: &[&str]| {
        value(page, "apiserver_request_total", &[&[maps], more].concat())
    };
    assert_eq!(count(&page, &[r#"verb="POST""#, r#"code="201""#]), Some(2.0));
    assert_eq!(count(&page, &[r#"verb="POST""#, r#"code="409""#]), Some(1.0));
    assert_eq!(count(&page, &[r#"verb="LIST""#, r#"scope="namespace""#]), Some(1.0));
    assert_eq!(count(&page, &[r#"verb="GET""#, r#"scope="resource""#]), Some(1.0));
    let took = "apiserver_request_duration_seconds";
    let posts = [maps, r#"verb="POST""#];
    assert_eq!(value(&page, &format!("{took}_count"), &posts), Some(3.0));
    let all = [maps, r#"verb="POST""#, r#"le="+Inf""#];
    assert_eq!(value(&page, &format!("{took}_bucket"), &all), Some(3.0));
    assert!(value(&page, &format!("{took}_sum"), &posts).unwrap() > 0.0);
    let watches = [maps, r#"verb="WATCH""#];
    assert_eq!(value(&page, "apiserver_longrunning_requests", &watches), Some(1.0));
    assert_eq!(value(&page, "apiserver_storage_objects", &[maps]), Some(2.0));
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
        assert!(value(&page, name, &[]).is_some(), "{name}");
    }
    assert!(value(&page, "process_start_time_seconds", &[]).unwrap() > 1.6e9);
    // Nobody makes labels: what is no kind has none.
    assert!(!page.contains("nothings"));
    let (_, after) = text(&api, "/metrics").await;
    assert_eq!(value(&after, "apiserver_longrunning_requests", &watches), None);
    assert_eq!(count(&after, &[r#"verb="WATCH""#, r#"code="200""#]), Some(1.0));
}

#[tokio::test]
async fn health_is_told_check_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { data_dir: Some(dir.path().to_owned()), ..Config::default() };
    let api = ApiServer::new(config).unwrap();
    let ok = |text: &str| (200, text.to_owned());
    assert_eq!(text(&api, "/readyz").await, ok("ok"));
    let whole = "[+]ping ok\n[+]journal ok\n[+]shutdown ok\nreadyz check passed\n";
    assert_eq!(text(&api, "/readyz?verbose").await, ok(whole));
    assert_eq!(text(&api, "/livez?verbose=true").await, ok("[+]ping ok\nlivez check passed\n"));
    assert_eq!(text(&api, "/readyz/journal").await, ok("ok"));
    assert_eq!(text(&api, "/readyz/nothing").await.0, 404);
    let (_, excluded) = text(&api, "/readyz?verbose&exclude=journal&exclude=x").await;
    assert!(excluded.contains("[+]journal excluded: ok\n"), "{excluded}");
    assert!(excluded.contains("cannot be excluded: no matches for \"x\"\n"), "{excluded}");
    api.shutdown();
    let failed = "[+]ping ok\n[+]journal ok\n[-]shutdown failed: reason withheld\n\
                  readyz check failed\n";
    assert_eq!(text(&api, "/readyz").await, (500, failed.to_owned()));
    assert_eq!(text(&api, "/readyz?exclude=shutdown").await, ok("ok"));
    assert_eq!(text(&api, "/livez").await, ok("ok"));
}
