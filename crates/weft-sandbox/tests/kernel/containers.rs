//! Starting, waiting, exec, logs, terminals; and what outlives the caller.

use crate::support::*;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use weft_sandbox::{Error, ExecSpec, Pod, Program, Stage};

#[test]
fn program_runs_as_process_one_and_its_output_is_logged() {
    if skip("program_runs_as_process_one_and_its_output_is_logged") {
        return;
    }
    let pod = TestPod::new();
    let script = "echo pid $$; echo $GREETING $HOME; pwd; hostname; echo oops >&2; exit 7";
    let (exit, log) = pod.run(&pod.spec("app", &["sh", "-c", script]));
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    assert_eq!(log, "pid 1\nhello /root\n/\nweb-0\noops\n");
    let text = std::fs::read_to_string(pod.log_path("app")).unwrap();
    assert!(text.contains(" stderr F oops\n") && text.contains(" stdout F pid 1\n"), "{text}");
    // Again under the same name: fresh state, the log goes on.
    let (exit, log) = pod.run(&pod.spec("app", &["true"]));
    assert_eq!(exit.code, 0);
    assert!(log.starts_with("pid 1"));
}

#[test]
fn stand_in_is_started_from_the_open_binary() {
    if skip("stand_in_is_started_from_the_open_binary") {
        return;
    }
    let pod = TestPod::new();
    let mut spec = pod.spec("app", &[]);
    spec.mounts.clear();
    spec.program = Program::StandIn("{\"pod\":\"x\"}".into());
    let (exit, log) = pod.run(&spec);
    assert_eq!((exit.code, log.as_str()), (0, "stand-in {\"pod\":\"x\"}\n"));
}

#[test]
fn failures_name_stage_and_object() {
    if skip("failures_name_stage_and_object") {
        return;
    }
    let pod = TestPod::new();
    let missing = pod.pod.start(&pod.spec("a", &["no-such-program", "x"])).unwrap_err();
    assert!(
        matches!(&missing, Error::Program { program, source }
            if program == "no-such-program" && source.raw_os_error() == Some(libc::ENOENT)),
        "{missing:?}"
    );
    let denied = pod.pod.start(&pod.spec("a", &["/etc/passwd"])).unwrap_err();
    assert!(
        matches!(&denied, Error::Program { source, .. } if source.raw_os_error() == Some(libc::EACCES)),
        "{denied:?}"
    );
    let mut spec = pod.spec("a", &["true"]);
    spec.mounts[0].source = "/nonexistent/volume".into();
    let mount = pod.pod.start(&spec).unwrap_err();
    assert!(
        matches!(&mount, Error::Setup { stage: Stage::Mount, detail, .. } if detail == "/nonexistent/volume"),
        "{mount:?}"
    );
    let mut spec = pod.spec("a", &["true"]);
    spec.cwd = Some("/etc/passwd/x".into());
    let cwd = pod.pod.start(&spec).unwrap_err();
    assert!(matches!(&cwd, Error::Setup { stage: Stage::Cwd, .. }), "{cwd:?}");
    // Nothing of these is left.
    assert_eq!(pod.pod.containers().unwrap(), Vec::<String>::new());
    assert!(pod.pod.container("a").unwrap().is_none());
    let running = pod.sleeper("b");
    assert!(matches!(pod.pod.start(&pod.spec("b", &["true"])), Err(Error::Running(_))));
    running.kill(libc::SIGKILL).unwrap();
    let exit = running.wait_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    assert!(matches!(
        running.exec(&exec_spec(&["true"])),
        Err(Error::NotRunning(name)) if name == "b"
    ));
}

#[test]
fn signals_reach_the_program() {
    if skip("signals_reach_the_program") {
        return;
    }
    let pod = TestPod::new();
    let container = pod.sleeper("app");
    pod.wait_for_log("app", "ready");
    assert!(container.try_wait().unwrap().is_none());
    container.kill(libc::SIGTERM).unwrap();
    assert_eq!(container.wait_timeout(PATIENCE).unwrap().unwrap().code, 3);
    let (_, finished_at) = container.try_wait().unwrap().unwrap();
    assert!(finished_at >= container.started_at());
    container.kill(libc::SIGTERM).unwrap();
}

fn exec_spec(argv: &[&str]) -> ExecSpec {
    ExecSpec {
        argv: argv.iter().map(|word| word.to_string()).collect(),
        env: Vec::new(),
        cwd: Some("/tmp".into()),
        tty: false,
        stdin: false,
    }
}

#[test]
fn exec_has_pipes_status_and_the_containers_view() {
    if skip("exec_has_pipes_status_and_the_containers_view") {
        return;
    }
    let pod = TestPod::new();
    let container =
        pod.start("app", &["sh", "-c", "echo mine >/tmp/file; echo ready; exec sleep 600"]);
    pod.wait_for_log("app", "ready");
    let (exit, out, err) =
        exec(&container, &["sh", "-c", "cat /tmp/file; hostname; echo bad >&2; exit 5"]);
    assert_eq!((exit.code, out.as_str(), err.as_str()), (5, "mine\nweb-0\n", "bad\n"));
    // Process 1 of its view is the container's program.
    let (_, out, _) = exec(&container, &["cat", "/proc/1/comm"]);
    assert_eq!(out, "sleep\n");
    let mut spec = exec_spec(&["sh", "-c", "pwd; cat"]);
    spec.stdin = true;
    let mut running = container.exec(&spec).unwrap();
    let mut stdin = std::fs::File::from(running.stdin.take().unwrap());
    stdin.write_all(b"through\n").unwrap();
    assert!(running.try_wait().unwrap().is_none());
    drop(stdin);
    let out = std::io::read_to_string(std::fs::File::from(running.stdout.take().unwrap())).unwrap();
    assert_eq!(out, "/tmp\nthrough\n");
    assert_eq!(running.wait().unwrap().code, 0);
    let mut hanging = container.exec(&exec_spec(&["sleep", "600"])).unwrap();
    hanging.kill(libc::SIGTERM).unwrap();
    assert_eq!(hanging.wait().unwrap().signal, Some(libc::SIGTERM));
    let missing = container.exec(&exec_spec(&["no-such"])).unwrap_err();
    assert!(matches!(missing, Error::Program { .. }), "{missing:?}");
}

#[test]
fn exec_has_a_terminal() {
    if skip("exec_has_a_terminal") {
        return;
    }
    let pod = TestPod::new();
    let container = pod.sleeper("app");
    let mut spec = exec_spec(&["sh", "-c", "tty; read line; stty size; echo got $line"]);
    spec.tty = true;
    let mut running = container.exec(&spec).unwrap();
    running.resize(132, 43).unwrap();
    let mut pty = std::fs::File::from(running.pty.take().unwrap());
    pty.write_all(b"word\n").unwrap();
    assert_eq!(running.wait_timeout(PATIENCE).unwrap().unwrap().code, 0);
    let (mut text, mut buffer) = (Vec::new(), [0; 256]);
    // EIO at the end, when no slave is open.
    while let Ok(len @ 1..) = pty.read(&mut buffer) {
        text.extend_from_slice(&buffer[..len]);
    }
    let text = String::from_utf8_lossy(&text);
    for part in ["/dev/pts/0", "43 132", "got word"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn container_terminal_and_stdin() {
    if skip("container_terminal_and_stdin") {
        return;
    }
    let pod = TestPod::new();
    for tty in [false, true] {
        let name = if tty { "tty" } else { "fifo" };
        let mut spec =
            pod.spec(name, &["sh", "-c", "[ -t 1 ] && echo terminal; read line; echo got $line"]);
        spec.stdin = true;
        spec.tty = tty;
        let container = pod.pod.start(&spec).unwrap();
        let path = container.stdin_path().unwrap();
        std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"word\n").unwrap();
        assert_eq!(container.wait_timeout(PATIENCE).unwrap().unwrap().code, 0);
        let log = pod.log(name);
        assert!(log.contains("got word"), "{log}");
        assert_eq!(log.contains("terminal"), tty, "{log}");
    }
}

#[test]
fn standard_input_ends_with_the_first_who_gave_it() {
    if skip("standard_input_ends_with_the_first_who_gave_it") {
        return;
    }
    let pod = TestPod::new();
    // More than a pipe takes at once, and a program that does not read at first.
    let text = "0123456789abcdef".repeat(20_000);
    let mut spec = pod.spec("once", &["sh", "-c", "echo ready; sleep 0.2; wc -c; cat"]);
    (spec.stdin, spec.stdin_once) = (true, true);
    let container = pod.pod.start(&spec).unwrap();
    pod.wait_for_log("once", "ready");
    assert!(container.try_wait().unwrap().is_none(), "before somebody came there is no end");
    let path = container.stdin_path().unwrap();
    let mut stdin = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert_eq!(container.wait_timeout(PATIENCE).unwrap().unwrap().code, 0);
    assert_eq!(pod.log("once"), format!("ready\n{}\n", text.len()));
    assert!(!path.exists(), "it is closed for good");

    // With a terminal the program goes on, and the shim waits for nothing in vain.
    let mut spec = pod.spec("screen", &["sh", "-c", "read line; echo got $line; read line"]);
    (spec.stdin, spec.stdin_once, spec.tty) = (true, true, true);
    let container = pod.pod.start(&spec).unwrap();
    let path = container.stdin_path().unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"word\n").unwrap();
    pod.wait_for_log("screen", "got word");
    wait_until("the end of the input", || !path.exists());
    assert!(container.try_wait().unwrap().is_none());
    container.kill(libc::SIGKILL).unwrap();
    assert!(container.wait_timeout(PATIENCE).unwrap().is_some());
}

/// What a killed and restarted kubelet sees: the test's own process stands for the second one,
/// a child of it for the first.
#[test]
fn containers_outlive_the_one_that_started_them() {
    if skip("containers_outlive_the_one_that_started_them") {
        return;
    }
    let pod = TestPod::new();
    let exe = std::env::current_exe().unwrap();
    let mut starter = std::process::Command::new(exe)
        .args(["--exact", "containers::starter", "--nocapture", "--ignored"])
        .env("WEFT_SANDBOX_TEST_DIR", &pod.dir)
        .env("WEFT_SANDBOX_TEST_LOG", pod.log_path("app"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    pod.wait_for_log("app", "ready");
    wait_until("the state file", || pod.pod.container("app").unwrap().is_some());
    starter.kill().unwrap();
    starter.wait().unwrap();
    let again = Pod::open(&runtime(), &pod.dir).unwrap();
    assert_eq!(again.containers().unwrap(), ["app"]);
    let container = again.container("app").unwrap().unwrap();
    assert!(container.try_wait().unwrap().is_none());
    let (_, out, _) = exec(&container, &["cat", "/tmp/mark"]);
    assert_eq!(out, "here\n");
    container.kill(libc::SIGTERM).unwrap();
    assert_eq!(container.wait_timeout(PATIENCE).unwrap().unwrap().code, 9);
    // The shim went on logging, and the end is still known later.
    assert_eq!(pod.log("app"), "ready\nbye\n");
    let later = again.container("app").unwrap().unwrap();
    assert_eq!(later.wait().unwrap().code, 9);
    assert!(later.as_fd().try_clone_to_owned().is_ok());
}

/// Not a test: the process that is killed in the one above.
#[test]
#[ignore = "run by containers_outlive_the_one_that_started_them"]
fn starter() {
    let Some(dir) = std::env::var_os("WEFT_SANDBOX_TEST_DIR") else { return };
    let pod = Pod::open(&runtime(), dir.as_ref()).unwrap();
    let script = "trap 'echo bye; exit 9' TERM; echo here >/tmp/mark; echo ready; while :; do sleep 0.05; done";
    let spec = weft_sandbox::ContainerSpec {
        name: "app".into(),
        program: Program::Command(vec!["sh".into(), "-c".into(), script.into()]),
        env: Vec::new(),
        cwd: None,
        mounts: Vec::new(),
        limits: Default::default(),
        read_only_root: false,
        uid: None,
        gid: None,
        groups: Vec::new(),
        stdin: false,
        stdin_once: false,
        tty: false,
        privileged: false,
        log: std::env::var_os("WEFT_SANDBOX_TEST_LOG").unwrap().into(),
    };
    let container = pod.start(&spec).unwrap();
    let _ = container.wait();
}

#[test]
fn a_killed_shim_is_an_end_too() {
    if skip("a_killed_shim_is_an_end_too") {
        return;
    }
    let pod = TestPod::new();
    let container = pod.sleeper("app");
    let state = std::fs::read_to_string(pod.dir.join("app.state")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let shim = nix::unistd::Pid::from_raw(state["shim_pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(shim, nix::sys::signal::SIGKILL).unwrap();
    let exit = container.wait_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(exit.code, 137);
    let gone = format!("/proc/{}", container.pid());
    wait_until("the end of the container", || !std::path::Path::new(&gone).exists());
}
