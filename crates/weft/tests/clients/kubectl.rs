//! Stock kubectl in every release at hand, by tables of commands.

use crate::{
    harness::Api,
    lab::{Lab, root_or_skip},
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

#[test]
fn what_people_type_against_a_lab() {
    in_labs("what_people_type_against_a_lab", "lab.txt", &releases());
}

#[test]
fn the_tutorial_of_services_as_a_reader_types_it() {
    let newest = releases().pop();
    in_labs("the_tutorial_of_services_as_a_reader_types_it", "tutorial.txt", newest.as_slice());
}

/// Runs each section of a table in a lab of its own.
fn in_labs(test: &str, name: &str, releases: &[Kubectl]) {
    if releases.is_empty() {
        println!("SKIP {test}: kubectl is not on PATH");
        return;
    }
    if !root_or_skip(test) {
        return;
    }
    run_all(&table(name), releases, 2, |kubectl: &Kubectl, section, rows: &[Row]| {
        let lab = Lab::up(&format!("k{}{section}", kubectl.minor), &["--nodes", "2"]);
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), &lab.dir().join("kubeconfig"), kubectl);
        let failures = rows.iter().filter_map(|row| place.run(row)).collect();
        lab.down();
        failures
    });
}
