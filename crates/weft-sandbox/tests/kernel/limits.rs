//! Memory and process limits.

use crate::support::*;
use weft_sandbox::Limits;

#[test]
fn too_much_memory_is_an_oom_kill() {
    if skip("too_much_memory_is_an_oom_kill") {
        return;
    }
    let pod = TestPod::new();
    let mut spec = pod.spec("app", &["/probe", "probe", "eat", "200"]);
    spec.limits.memory_bytes = Some(32 << 20);
    let (exit, log) = pod.run(&spec);
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true), "{log}");
    // The counter starts afresh with the next attempt.
    spec.program =
        weft_sandbox::Program::Command(["/probe", "probe", "eat", "4"].map(str::to_owned).to_vec());
    let (exit, log) = pod.run(&spec);
    assert_eq!((exit.code, exit.oom_killed), (0, false), "{log}");
}

#[test]
fn number_of_processes_is_limited() {
    if skip("number_of_processes_is_limited") {
        return;
    }
    let pod = TestPod::new();
    let mut spec = pod.spec("app", &["/probe", "probe", "threads", "30"]);
    spec.limits = Limits { memory_bytes: None, pids: Some(20) };
    let (exit, log) = pod.run(&spec);
    assert_eq!(exit.code, libc::EAGAIN, "{log}");
    spec.program = weft_sandbox::Program::Command(
        ["/probe", "probe", "threads", "10"].map(str::to_owned).to_vec(),
    );
    let (exit, log) = pod.run(&spec);
    assert_eq!(exit.code, 0, "{log}");
}

#[test]
fn commands_count_against_the_limit() {
    if skip("commands_count_against_the_limit") {
        return;
    }
    let pod = TestPod::new();
    let mut spec = pod.spec("app", &["sleep", "600"]);
    spec.limits = Limits { memory_bytes: Some(32 << 20), pids: Some(20) };
    let container = pod.pod.start(&spec).unwrap();
    let (exit, out, err) = exec(&container, &["/probe", "probe", "threads", "30"]);
    assert_eq!(exit.code, libc::EAGAIN, "{out}{err}");
    let (exit, out, err) = exec(&container, &["/probe", "probe", "eat", "200"]);
    assert_eq!((exit.code, exit.oom_killed), (137, true), "{out}{err}");
}
