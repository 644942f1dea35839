//! Stock kubectl in every release at hand, by tables of commands.

use crate::{
    harness::Api,
    table::{Kubectl, Place, Row, releases, run_all, table},
};

/// At least so many commands are run with each release.
const COMMANDS_MIN: usize = 80;

#[test]
fn what_people_type_against_the_api() {
    let releases = releases();
    if releases.is_empty() {
        println!("SKIP what_people_type_against_the_api: kubectl is not on PATH");
        return;
    }
    let table = table("api.txt");
    for kubectl in &releases {
        let rows: usize =
            crate::table::parse(&table, kubectl.minor).iter().map(|s| s.1.len()).sum();
        assert!(rows >= COMMANDS_MIN, "{rows} commands for {kubectl:?}");
    }
    run_all(&table, &releases, 3, |kubectl: &Kubectl, _, rows: &[Row]| {
        let api = Api::start();
        let place = Place::new(api.dir.path(), &api.kubeconfig(), kubectl);
        rows.iter().filter_map(|row| place.run(row)).collect()
    });
}
