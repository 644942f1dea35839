//! Kinds that come and go while the controllers run.

use serde_json::json;

use crate::config::Config;
use crate::core::Core;
use crate::kinds::{Change, Kind, Resource};
use crate::simulation::bench::Bench;

const NS: &str = "ns";

fn widget() -> Kind {
    let (api_version, kind) = ("late.example.com/v1".to_owned(), "Widget".to_owned());
    Resource { api_version, kind, plural: "widgets".into(), namespaced: true }.intern()
}

fn owned(bench: &mut Bench, name: &str, owner: &str, uid: &str) {
    // Another version of the group is the same kind.
    let owners = json!([{"apiVersion": "late.example.com/v1beta1", "kind": "Widget",
        "name": owner, "uid": uid}]);
    let map = json!({"metadata": {"name": name, "ownerReferences": owners}});
    bench.api.create(Kind::ConfigMap, NS, map);
    bench.run();
}

fn there(bench: &Bench, name: &str) -> bool {
    bench.api.get(Kind::ConfigMap, NS, name).is_some()
}

fn discover(bench: &mut Bench) {
    bench.api.others = vec![widget()];
    bench.core.handle_change(Change::Kinds(vec![widget()]));
    bench.api.relist(widget(), &mut bench.core);
    bench.run();
}

#[test]
fn owners_of_a_kind_that_comes_and_goes() {
    let mut bench = Bench::new(7, Config::default());
    bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
    bench.relist_all();
    owned(&mut bench, "early", "nobody", "no-uid");
    assert!(there(&bench, "early"), "an owner of an unknown kind may be there");
    bench.api.create(widget(), NS, json!({"metadata": {"name": "w"}}));
    discover(&mut bench);
    assert!(!there(&bench, "early"), "now it is known that there is no such owner");
    let uid = bench.api.get(widget(), NS, "w").expect("it")["metadata"]["uid"].clone();
    owned(&mut bench, "late", "w", uid.as_str().expect("a uid"));
    assert!(there(&bench, "late"));
    // A restart asks for nothing, whatever is listed first.
    bench.core = Core::new(Config::default());
    bench.relist_all();
    bench.run();
    assert!(there(&bench, "late"));
    // The kind goes, with its objects: so does what they own.
    bench.api.objects.retain(|(kind, ..), _| *kind != widget());
    bench.core.handle_change(Change::Absent(widget()));
    bench.run();
    assert!(!there(&bench, "late"));
    // It comes back.
    discover(&mut bench);
    let answer = bench.api.create(widget(), NS, json!({"metadata": {"name": "w"}}));
    assert!(matches!(answer, crate::core::Outcome::Done(_)));
    bench.run();
    let uid = bench.api.get(widget(), NS, "w").expect("it")["metadata"]["uid"].clone();
    owned(&mut bench, "again", "w", uid.as_str().expect("a uid"));
    assert!(there(&bench, "again"));
}
