//! Kinds that come and go while the controllers run.

use serde_json::json;

use crate::action::Delete;
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
    bench.api.delete(widget(), NS, "w", &Delete::default());
    bench.run();
    bench.core.handle_change(Change::Kinds(Vec::new()));
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

/// A definition may say that its kind is not served for a while, or in another version: that
/// deletes nobody.
#[test]
fn owners_of_a_kind_that_is_not_served() {
    let other = Resource {
        api_version: "late.example.com/v2".into(),
        kind: "Widget".into(),
        plural: "widgets".into(),
        namespaced: true,
    };
    let other = other.intern();
    for change in [
        vec![Change::Absent(widget())],
        vec![Change::Kinds(Vec::new())],
        vec![Change::Kinds(vec![other])],
        vec![Change::Absent(widget()), Change::Kinds(Vec::new())],
    ] {
        let mut bench = Bench::new(7, Config::default());
        bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
        bench.api.create(widget(), NS, json!({"metadata": {"name": "w"}}));
        bench.relist_all();
        discover(&mut bench);
        let uid = bench.api.get(widget(), NS, "w").expect("it")["metadata"]["uid"].clone();
        let uid = uid.as_str().expect("a uid");
        owned(&mut bench, "kept", "w", uid);
        change.into_iter().for_each(|one| bench.core.handle_change(one));
        bench.run();
        assert!(there(&bench, "kept"));
        // Nor does a look at it: the API does not say that the owner is gone.
        bench.api.merge(Kind::ConfigMap, NS, "kept", &json!({"data": {"a": "b"}}));
        bench.run();
        assert!(there(&bench, "kept"));
        // It is served again; now its end is the end of what it owns.
        discover(&mut bench);
        assert!(there(&bench, "kept"));
        bench.api.delete(widget(), NS, "w", &Delete::default());
        bench.run();
        assert!(!there(&bench, "kept"));
    }
}

/// Its watch may find out before and after discovery does.
#[test]
fn a_kind_that_is_served_again_is_listed_again() {
    let mut bench = Bench::new(7, Config::default());
    bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
    bench.relist_all();
    discover(&mut bench);
    bench.core.handle_change(Change::Absent(widget()));
    assert!(!bench.core.world.knows(widget()));
    assert!(bench.core.world.others_synced(), "nobody waits for what is not served");
    bench.api.relist(widget(), &mut bench.core);
    assert!(!bench.core.world.others_synced());
    bench.run();
    assert!(bench.core.world.knows(widget()));
    bench.core.handle_change(Change::Kinds(Vec::new()));
    bench.api.relist(widget(), &mut bench.core);
    assert!(bench.core.world.others_synced(), "a late word of a watch that was ended");
}
