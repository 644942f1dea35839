//! Stock kubectl for the tests: from PATH, else built from its Go module.

use anyhow::{Context, Result};
use std::{fs, path::PathBuf};

use crate::sh;

/// Oldest minor version that the tests accept.
const MINOR_MIN: u32 = 27;

/// Version of the module k8s.io/kubectl that is built; 0.33 is kubectl 1.33.
const MODULE: &str = "v0.33.4";

const MAIN: &str = "\
package main

import (
	\"k8s.io/component-base/cli\"
	\"k8s.io/kubectl/pkg/cmd\"
	\"k8s.io/kubectl/pkg/cmd/util\"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
";

/// Makes sure that a kubectl is on the PATH of what runs after this. Without one, and without
/// Go to build it, the tests that need it say that they are skipped.
pub fn provide() -> Result<()> {
    if usable("kubectl") {
        return Ok(());
    }
    let dir = sh::root().join("target/kubectl");
    let program = dir.join("kubectl");
    if !program.is_file() {
        if !sh::on_path("go") {
            println!("kubectl is not on PATH, and there is no Go to build it");
            return Ok(());
        }
        println!("building kubectl {MODULE} from its Go module (once)");
        fs::create_dir_all(&dir).context("make target/kubectl")?;
        fs::write(dir.join("main.go"), MAIN).context("write main.go")?;
        let module = format!("module kubectl\n\ngo 1.24\n\nrequire k8s.io/kubectl {MODULE}\n");
        fs::write(dir.join("go.mod"), module).context("write go.mod")?;
        // What a release build stamps in; kubectl compares it with the server's.
        let stamp =
            |key: &str, value: &str| format!("-X k8s.io/component-base/version.{key}={value}");
        let stamps = [
            stamp("gitVersion", &MODULE.replacen("v0", "v1", 1)),
            stamp("gitMajor", "1"),
            stamp("gitMinor", MODULE.split('.').nth(1).unwrap_or_default()),
        ]
        .join(" ");
        for args in [&["mod", "tidy"][..], &["build", "-ldflags", &stamps, "-o", "kubectl", "."]] {
            let mut go = sh::command("go");
            go.args(args).current_dir(&dir).env("CGO_ENABLED", "0");
            sh::run("build kubectl", &mut go)?;
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = std::iter::once(dir).chain(std::env::split_paths(&path)).collect();
    sh::set_path(std::env::join_paths(all).context("join PATH")?);
    Ok(())
}

fn usable(program: &str) -> bool {
    let args = ["version", "--client", "-o", "json"];
    let Ok(out) = sh::command(program).args(args).output() else { return false };
    let Ok(version) = serde_json::from_slice::<serde_json::Value>(&out.stdout) else {
        return false;
    };
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u32>().is_ok_and(|m| m >= MINOR_MIN)
}
