//! The kubelet with real sandboxes, against the embedded API, in a network namespace of its own.
//! Only the network is played: a CNI plugin that writes down its calls and answers an address.
//!
//! This binary is also the kubelet under test (`lab-kubelet`), the sandbox's helper
//! (`sandbox-init`) and the stand-in (`stand-in`), as `weft` is.

// Every function here is test code, but without the standard harness clippy cannot know.
#![allow(clippy::unwrap_used)]

mod pods;
mod spdy;
mod streams;
mod world;

use world::World;

type Test = (&'static str, fn(&World));

const TESTS: &[Test] = &[
    ("a_pod_runs_is_ready_and_ends", pods::runs_and_ends),
    ("the_network_plugin_is_called_as_by_any_runtime", pods::network),
    ("init_containers_run_in_order", pods::init_containers),
    ("a_crash_is_restarted_with_back_off", pods::crashes),
    ("a_job_succeeds_and_leaves_a_message", pods::succeeds),
    ("a_missing_config_map_is_waited_for", pods::missing_config_map),
    ("a_missing_program_is_named", pods::missing_program),
    ("a_failed_liveness_probe_restarts", pods::liveness),
    ("volumes_environment_and_files", pods::volumes),
    ("a_stand_in_learns_new_ports", pods::stand_in_ports),
    ("exec_and_attach", streams::exec),
    ("logs", streams::logs),
    ("older_kubectl_and_port_forward_speak_spdy", spdy::spdy),
    ("a_killed_kubelet_adopts_what_runs", pods::adoption),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("sandbox-init") => std::process::exit(weft_sandbox::init_main()),
        Some("stand-in") => std::process::exit(weft_standin::main()),
        Some("lab-kubelet") => world::kubelet(&args[1..]),
        _ => {}
    }
    let filter: Vec<&String> = args[1..].iter().filter(|a| !a.starts_with('-')).collect();
    if args.iter().any(|a| a == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        TESTS.iter().for_each(|(name, _)| println!("SKIP {name}: needs root"));
        return result(TESTS.len(), 0);
    }
    let chosen: Vec<&Test> = TESTS
        .iter()
        .filter(|(name, _)| filter.is_empty() || filter.iter().any(|f| name.contains(f.as_str())))
        .collect();
    let mut failed = 0;
    let world = World::new();
    for (name, test) in &chosen {
        let start = std::time::Instant::now();
        let run = std::panic::AssertUnwindSafe(|| test(&world));
        let ok = std::panic::catch_unwind(run).is_ok();
        failed += usize::from(!ok);
        println!("test {name} ... {} ({:?})", if ok { "ok" } else { "FAILED" }, start.elapsed());
    }
    if failed > 0 {
        println!("{}", world.story());
    }
    drop(world);
    result(chosen.len() - failed, failed);
    std::process::exit(i32::from(failed > 0));
}

/// The line that cargo's own harness ends with, for whoever counts.
fn result(passed: usize, failed: usize) {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
         0 filtered out"
    );
}
