//! The socket load balancer and the programs at pods' links in a real kernel, with real
//! sockets and packets.
#![allow(unsafe_code, clippy::unwrap_used, missing_docs)]

#[path = "kernel/agreement.rs"]
mod agreement;
#[path = "kernel/bench.rs"]
mod bench;
#[path = "kernel/closing.rs"]
mod closing;
#[path = "kernel/enforced.rs"]
mod enforced;
#[path = "events/mod.rs"]
mod events;
#[path = "kernel/growth.rs"]
mod growth;
#[path = "kernel/lifecycle.rs"]
mod lifecycle;
#[path = "kernel/links.rs"]
mod links;
#[path = "kernel/policy.rs"]
mod policy;
#[path = "kernel/sctp.rs"]
mod sctp;
#[path = "kernel/sctp_packet.rs"]
mod sctp_packet;
#[path = "../../weft-policy/tests/semantics/generate.rs"]
#[allow(dead_code)]
mod semantics;
#[path = "kernel/sockets.rs"]
mod sockets;
#[path = "kernel/tc.rs"]
mod tc;
#[path = "kernel/traffic.rs"]
mod traffic;
#[path = "kernel/world.rs"]
mod world;

use world::{SCENARIO, World, play};

macro_rules! scenarios {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        $(#[test] fn $name() { play(stringify!($name)); })+

        /// Not a test of its own: the child process of the others.
        #[test]
        fn helper() {
            let Ok(scenario) = std::env::var(SCENARIO) else { return };
            let world = World::enter();
            match scenario.as_str() {
                $(stringify!($name) => $module::$name(&world),)+
                other => panic!("no scenario '{other}'"),
            }
        }
    };
}

scenarios! {
    sockets::tcp_connects_to_backends,
    sockets::connected_udp,
    sockets::unconnected_udp_shows_the_frontend,
    sockets::unconnected_udp_stays_and_moves,
    sockets::without_backends_the_stack_refuses,
    sockets::direct_traffic_is_left_alone,
    sockets::session_affinity,
    sockets::choice_is_even_by_chance_and_by_client,
    closing::records_find_the_sockets_of_a_backend,
    closing::loopback_frontends_are_the_nodes_own,
    lifecycle::sets_flip_under_load,
    lifecycle::a_restarted_agent_adopts,
    lifecycle::another_program_is_replaced,
    lifecycle::orphans_go,
    lifecycle::a_lost_cgroup_is_attached_again,
    lifecycle::only_one_agent,
    lifecycle::a_full_map_keeps_the_old_set,
    lifecycle::a_full_map_hinders_nobody_else,
    lifecycle::closed_sockets_leave_no_records,
    lifecycle::teardown_leaves_nothing,
    lifecycle::another_layout_ends_with_the_first_tables,
    lifecycle::a_foreign_layout_is_refused,
    lifecycle::ten_thousand_services,
    lifecycle::everything_is_probed,
    tc::tcp_and_udp_of_a_pod_that_opted_out,
    tc::flows_keep_their_backend,
    tc::two_flows_to_one_backend_from_one_port,
    tc::a_pod_reaches_itself,
    tc::errors_tell_of_the_service,
    tc::fragments_follow_their_flow,
    tc::what_has_no_backend_is_left_alone,
    tc::session_affinity_at_the_link,
    tc::foreign_sources_are_dropped,
    tc::a_restarted_agent_adopts_links,
    tc::links_follow_larger_maps,
    sctp::checksums_stay_right,
    agreement::with_the_tables,
    enforced::pods_are_isolated,
    enforced::the_node_reaches_its_pods,
    enforced::services_are_judged_by_their_backends,
    enforced::an_upgrade_keeps_translated_flows,
    enforced::an_upgrade_keeps_sockets,
    enforced::refused_programs_leave_the_sockets,
    policy::rules_decide,
    policy::families_are_apart,
    policy::tcp_flows,
    policy::datagrams,
    policy::sctp_flows,
    policy::changes_cut_and_keep,
    policy::tombstones_hold,
    policy::errors_follow_their_flow,
    policy::fragments_and_headers,
    policy::nobody_has_judged,
    policy::own_node,
    policy::a_restart_changes_no_verdict,
    policy::flows_under_pressure,
    policy::tables_grow,
    policy::events_tell,
    growth::full_maps_grow_under_load,
    growth::an_agent_that_ends_while_maps_grow,
    growth::smaller_maps_of_an_earlier_agent_grow,
    growth::a_limit_is_kept,
    growth::any_history_with_faults_ends_in_the_last_tables,
}
