//! `cargo xtask test --vm`: a two-node lab on Debian's own kernel in an emulated machine.
//!
//! The machine that runs the tests may have a newer kernel than users do. This boots the
//! kernel of Debian 12 (6.1: no tcx, no netkit, cgroup2 alone) under software emulation, with
//! nothing in it but busybox and weft, and lets `weft lab verify` judge. It takes minutes, so
//! it stands outside the ordinary run.

use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{setup, sh, tally::Tally};

/// Modules that the lab uses; their dependencies are found in modules.dep.
const MODULES: [&str; 12] = [
    "crc32c_generic",
    "veth",
    "vxlan",
    "bridge",
    "nf_tables",
    "nft_reject_inet",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
    "overlay",
    "virtio_pci",
    "ipv6",
];

/// How long the emulated machine may take in all.
const TIMEOUT: Duration = Duration::from_secs(900);

/// What its init says at the end, followed by the exit status.
const VERDICT: &str = "WEFT-VM-VERDICT";

const PODS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: pair, labels: {app: pair}}
spec:
  selector: {matchLabels: {app: pair}}
  template:
    metadata: {labels: {app: pair}}
    spec:
      containers:
      - {name: one, image: example.test/one, ports: [{containerPort: 8080}]}
      - {name: two, image: example.test/two, command: [sleep, infinity]}
---
apiVersion: v1
kind: Service
metadata: {name: pair}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: pair}, ports: [{port: 80, targetPort: 8080}]}
"#;

const INIT: &str = r#"#!/bin/busybox sh
if [ "$1" != stage2 ]; then
  # A real root file system instead of the initial one, which cannot be pivoted away from.
  /bin/busybox mkdir -p /newroot
  /bin/busybox mount -t tmpfs -o size=2g none /newroot
  for d in bin etc lib lib64 usr modules pods.yaml init; do /bin/busybox cp -a /$d /newroot/; done
  exec /bin/busybox switch_root /newroot /init stage2
fi
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /var/tmp /root /home /sbin
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /run
ip link set lo up
mount -t cgroup2 none /sys/fs/cgroup
while read m; do insmod /modules/$m; done < /modules/list
uname -r
weft lab up --nodes 2
status=$?
if [ $status = 0 ]; then
  weft lab apply -f /pods.yaml
  n=0
  until weft lab status -o json | grep -c '"ready": true' | grep -qx 4; do
    n=$((n+1)); [ $n -lt 120 ] || break; sleep 1
  done
  weft lab status
  weft lab verify
  status=$?
  [ $status = 0 ] || { tail -n 20 /run/weft/lab/*.log /run/weft/lab/node*/*.log; dmesg | tail -n 20; }
  weft lab down || status=1
  [ ! -e /run/weft/lab ] || status=1
fi
echo WEFT-VM-VERDICT $status
poweroff -f
"#;

/// Runs the test.
pub fn run() -> Result<Tally> {
    setup::install(&["qemu-system-x86", "busybox-static", "kmod"])?;
    let weft = setup::build()?;
    let dir = sh::root().join("target/vm");
    fs::create_dir_all(&dir).context("make target/vm")?;
    let kernel = kernel(&dir)?;
    let initrd = initrd(&dir, &kernel, &weft)?;
    let ok = boot(&kernel, &initrd)?;
    println!(
        "{} lab on Debian's kernel in an emulated machine",
        if ok { "ok    " } else { "FAILED" }
    );
    Ok(Tally::step(ok))
}

/// A downloaded kernel package, unpacked.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

fn kernel(dir: &Path) -> Result<Kernel> {
    let out =
        sh::output("apt-cache", Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let package = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("Depends: linux-image-"))
        .map(|v| v.replace("-unsigned", ""))
        .context("Debian's linux-image-amd64 is not known to apt (run apt-get update)")?;
    let root = dir.join(&package);
    if !root.join("unpacked").is_file() {
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).context("make kernel folder")?;
        sh::run(
            "download the kernel",
            Command::new("apt-get")
                .args(["download", "-q", &format!("linux-image-{package}")])
                .current_dir(&root),
        )?;
        let deb = fs::read_dir(&root)?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "deb"));
        let deb = deb.context("apt-get downloaded nothing")?;
        sh::run("unpack the kernel", Command::new("dpkg").arg("-x").arg(&deb).arg(&root))?;
        let depmod =
            ["/usr/sbin/depmod", "/sbin/depmod"].into_iter().find(|p| Path::new(p).exists());
        sh::run(
            "depmod",
            Command::new(depmod.context("depmod is missing")?).arg("-b").arg(&root).arg(&package),
        )?;
        fs::write(root.join("unpacked"), "").context("mark the kernel unpacked")?;
    }
    Ok(Kernel {
        image: root.join(format!("boot/vmlinuz-{package}")),
        modules: root.join("lib/modules").join(&package),
    })
}

/// Files of the modules and of all that they need, in loading order.
fn module_files(kernel: &Kernel) -> Result<Vec<String>> {
    let dep = fs::read_to_string(kernel.modules.join("modules.dep")).context("read modules.dep")?;
    let mut order: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for module in MODULES {
        let file = format!("/{module}.ko");
        let line = dep.lines().find(|l| l.split(':').next().is_some_and(|f| f.ends_with(&file)));
        // Absent from modules.dep: built into the kernel.
        let Some((path, needs)) = line.and_then(|l| l.split_once(':')) else { continue };
        // modules.dep lists what a module needs, the deepest last.
        for file in needs.split_whitespace().rev().chain([path]) {
            if seen.insert(file.to_owned()) {
                order.push(file.to_owned());
            }
        }
    }
    Ok(order)
}

fn initrd(dir: &Path, kernel: &Kernel, weft: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    let _ = fs::remove_dir_all(&root);
    for part in ["bin", "etc", "lib", "lib64", "usr/bin", "modules"] {
        fs::create_dir_all(root.join(part)).with_context(|| format!("make {part}"))?;
    }
    let copy = |from: &Path, to: PathBuf| -> Result<()> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(from, &to).map(drop).with_context(|| format!("copy {}", from.display()))
    };
    copy(Path::new("/bin/busybox"), root.join("bin/busybox"))?;
    copy(weft, root.join("usr/bin/weft"))?;
    for library in libraries(weft)? {
        copy(&library, root.join(library.strip_prefix("/").context("an absolute path")?))?;
    }
    let files = module_files(kernel)?;
    let mut names = Vec::new();
    for file in &files {
        let name = file.rsplit('/').next().context("a module's name")?;
        copy(&kernel.modules.join(file), root.join("modules").join(name))?;
        names.push(name);
    }
    fs::write(root.join("modules/list"), names.join("\n") + "\n")?;
    fs::write(root.join("pods.yaml"), PODS)?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let initrd = dir.join("initrd");
    let script = format!("find . | busybox cpio -o -H newc 2>/dev/null > '{}'", initrd.display());
    sh::run("pack the initrd", Command::new("sh").arg("-c").arg(script).current_dir(&root))?;
    Ok(initrd)
}

/// Shared libraries of a program, the loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let out = sh::output("ldd", Command::new("ldd").arg(program))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|l| l.split_whitespace().find(|w| w.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

fn boot(kernel: &Kernel, initrd: &Path) -> Result<bool> {
    let started = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-nographic", "-no-reboot", "-m", "4G", "-smp", "2", "-net", "none", "-cpu", "max"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 panic=-1 quiet random.trust_cpu=on"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let out = qemu.stdout.take().context("invariant: stdout is piped")?;
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let verdict = loop {
        let Some(left) = TIMEOUT.checked_sub(started.elapsed()) else {
            break Err(anyhow::anyhow!("no verdict after {TIMEOUT:?}"));
        };
        match lines.recv_timeout(left) {
            Ok(line) => {
                println!("vm| {line}");
                if let Some(status) = line.strip_prefix(VERDICT) {
                    break Ok(status.trim() == "0");
                }
            }
            Err(_) => break Err(anyhow::anyhow!("the machine ended without a verdict")),
        }
    };
    let _ = qemu.kill();
    let _ = qemu.wait();
    match verdict {
        Ok(ok) => Ok(ok),
        Err(e) => bail!(e),
    }
}
