//! Dropping privileges: the last steps before the program.

use super::{At, Step, seccomp};
use crate::sys;
use crate::wire::{self, Identity, Report, Stage};
use nix::sched::{CloneFlags, setns, unshare};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Capabilities that uid 0 of a container has, over its own user namespace: what Docker grants,
/// without those for device nodes, audit and raw sockets.
const CAPABILITIES: u64 = 1 << 0 // CHOWN
    | 1 << 1 // DAC_OVERRIDE
    | 1 << 3 // FOWNER
    | 1 << 4 // FSETID
    | 1 << 5 // KILL
    | 1 << 6 // SETGID
    | 1 << 7 // SETUID
    | 1 << 8 // SETPCAP
    | 1 << 10 // NET_BIND_SERVICE
    | 1 << 18 // SYS_CHROOT
    | 1 << 31; // SETFCAP

const SECBIT_NO_CAP_AMBIENT_RAISE: u64 = 1 << 6;
const SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED: u64 = 1 << 7;

/// Where the user namespace comes from.
pub(crate) enum UserNamespace {
    /// A new one; the helper writes its maps.
    New,
    /// That of a running container.
    Join(OwnedFd),
}

/// User and group of the container's program, on the machine.
pub(crate) fn host_ids(identity: &Identity) -> (u32, u32) {
    if identity.privileged {
        return (identity.uid, identity.gid);
    }
    let host = |id: u32| identity.base + id.min(crate::pod::IDS - 1);
    (host(identity.uid), host(identity.gid))
}

/// Becomes the container's user, for good.
pub(crate) fn enter(
    socket: BorrowedFd<'_>,
    identity: &Identity,
    namespace: UserNamespace,
) -> Step<()> {
    let stage = Stage::Confine;
    if !identity.privileged {
        match namespace {
            UserNamespace::New => {
                unshare(CloneFlags::CLONE_NEWUSER).at(stage, "new user namespace")?;
                wire::send(socket, &Report::WantMaps, &[]).at(stage, "id maps")?;
                match wire::recv(socket).at(stage, "id maps")? {
                    Some((Report::Mapped, _)) => {}
                    _ => {
                        let gone = std::io::Error::from_raw_os_error(libc::EPIPE);
                        return Err(gone).at(stage, "id maps");
                    }
                }
            }
            UserNamespace::Join(fd) => {
                setns(fd, CloneFlags::CLONE_NEWUSER).at(stage, "user namespace")?;
            }
        }
    }
    let groups: Vec<_> = identity.groups.iter().map(|id| nix::unistd::Gid::from_raw(*id)).collect();
    nix::unistd::setgroups(&groups).at(stage, "supplementary groups")?;
    let (uid, gid) = (identity.uid.into(), identity.gid.into());
    nix::unistd::setresgid(gid, gid, gid).at(stage, format!("group {}", identity.gid))?;
    if identity.privileged {
        return nix::unistd::setresuid(uid, uid, uid).at(stage, format!("user {}", identity.uid));
    }
    bound()?;
    let securebits = SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    sys::prctl(libc::PR_SET_SECUREBITS, securebits, 0).at(stage, "securebits")?;
    nix::unistd::setresuid(uid, uid, uid).at(stage, format!("user {}", identity.uid))?;
    keep(if identity.uid == 0 { CAPABILITIES } else { 0 })?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(stage, "no_new_privs")?;
    seccomp::install()
}

/// Empties the bounding set but for what is kept.
fn bound() -> Step<()> {
    for capability in (0..64).filter(|capability| CAPABILITIES >> capability & 1 == 0) {
        match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            // Beyond the last one that this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            other => other.at(Stage::Confine, format!("capability {capability}"))?,
        }
    }
    Ok(())
}

/// Sets permitted and effective; the inheritable and with it the ambient set become empty.
fn keep(set: u64) -> Step<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let half = |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    // _LINUX_CAPABILITY_VERSION_3: two halves.
    let header = Header { version: 0x2008_0522, pid: 0 };
    let data = [half(set & 0xffff_ffff), half(set >> 32)];
    // SAFETY: both structures live through the call and have the layout of that version.
    sys::check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
        .map(drop)
        .at(Stage::Confine, "capabilities")
}
