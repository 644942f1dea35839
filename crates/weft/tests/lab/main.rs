//! Whole labs through the public command: real kernel, real packets, real clients.
//!
//! Every test makes labs of its own with names that hold this process's ID, and proves on
//! teardown that nothing of them is left.

mod harness;

#[expect(dead_code, reason = "shared with the tests of weft-policy")]
#[path = "../../../weft-policy/tests/semantics/generate.rs"]
mod generate;
#[expect(dead_code, reason = "shared with the tests of weft-policy")]
#[path = "../../../weft-policy/tests/semantics/oracle.rs"]
mod oracle;

mod applications;
mod bad_input;
mod cells;
mod claims;
mod crash;
mod disk;
mod entrance;
mod flows;
mod hostport;
mod kubectl;
mod links;
mod model;
mod nodeport;
mod observe;
mod policies;
mod policy_asked;
mod policy_birth;
mod policy_boutique;
mod policy_churn;
mod policy_enforced;
mod policy_files;
mod policy_packets;
mod policy_world;
#[expect(dead_code, clippy::unwrap_used, reason = "shared with the kernel tests of weft-bpf")]
#[path = "../../../weft-bpf/tests/kernel/sctp_packet.rs"]
mod sctp_packet;
mod services;
mod transitions;
mod why;
