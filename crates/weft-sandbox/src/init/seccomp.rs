//! System calls that no container needs and that reach the machine: a second line behind the
//! user namespace, and the only one against nested user namespaces and vsock.

use super::{At, Step};
use crate::sys;
use crate::wire::Stage;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Refused with EPERM.
const DENIED: &[libc::c_long] = &[
    // Mounts, old and new interface.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    // Namespaces of others.
    libc::SYS_setns,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_vhangup,
    // Key rings are the machine's.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Any of these makes clone and unshare fail.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Address families that are not per network namespace, or that reach the kernel's crypto:
/// a vsock reaches the machine's hypervisor from any namespace.
const FAMILIES: &[i32] = &[libc::AF_VSOCK, libc::AF_ALG];

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;

/// Offsets in `struct seccomp_data`; arguments are little-endian 64 bit.
const NR: u32 = 0;
const ARCH_AT: u32 = 4;
const ARG0: u32 = 16;

fn load(offset: u32) -> libc::sock_filter {
    op((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, offset, 0, 0)
}

fn ret(value: u32) -> libc::sock_filter {
    op((libc::BPF_RET | libc::BPF_K) as u16, value, 0, 0)
}

fn jump(kind: u32, value: u32, yes: u8, no: u8) -> libc::sock_filter {
    op((libc::BPF_JMP | kind | libc::BPF_K) as u16, value, yes, no)
}

fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The filter. Each rule jumps over its own verdict, so that no distance depends on the length.
fn program() -> Vec<libc::sock_filter> {
    let eperm = ret(RET_ERRNO | libc::EPERM as u32);
    let enosys = ret(RET_ERRNO | libc::ENOSYS as u32);
    let mut code = vec![load(ARCH_AT), jump(libc::BPF_JEQ, ARCH, 1, 0), eperm, load(NR)];
    // The x32 interface numbers calls differently.
    #[cfg(target_arch = "x86_64")]
    code.extend([jump(libc::BPF_JGE, 0x4000_0000, 0, 1), enosys]);
    for number in DENIED {
        code.extend([jump(libc::BPF_JEQ, *number as u32, 0, 1), eperm]);
    }
    // Its flags are in memory, where a filter cannot look; libraries fall back to clone.
    code.extend([jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1), enosys]);
    for number in [libc::SYS_clone, libc::SYS_unshare] {
        code.extend([
            jump(libc::BPF_JEQ, number as u32, 0, 4),
            load(ARG0),
            jump(libc::BPF_JSET, NEW_NAMESPACES, 0, 1),
            eperm,
            ret(RET_ALLOW),
        ]);
    }
    for number in [libc::SYS_socket, libc::SYS_socketpair] {
        code.extend([
            jump(libc::BPF_JEQ, number as u32, 0, 2 + 2 * FAMILIES.len() as u8),
            load(ARG0),
        ]);
        for family in FAMILIES {
            code.extend([jump(libc::BPF_JEQ, *family as u32, 0, 1), eperm]);
        }
        code.push(ret(RET_ALLOW));
    }
    code.push(ret(RET_ALLOW));
    code
}

/// Installs the filter; needs no_new_privs.
pub(crate) fn install() -> Step<()> {
    let mut code = program();
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the program and its code live through the call; the kernel copies them.
    sys::check(
        unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0)
        }
        .into(),
    )
    .map(drop)
    .at(Stage::Confine, "seccomp")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn verdict(number: libc::c_long, arg0: u64, arch: u32) -> u32 {
        let code = program();
        let (mut at, mut acc) = (0, 0u32);
        loop {
            let op = code[at];
            at += 1;
            match u32::from(op.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    acc = match op.k {
                        NR => number as u32,
                        ARCH_AT => arch,
                        ARG0 => arg0 as u32,
                        other => panic!("load of {other}"),
                    };
                }
                code if code == libc::BPF_RET | libc::BPF_K => return op.k,
                code => {
                    let yes = match code & 0xf0 {
                        libc::BPF_JEQ => acc == op.k,
                        libc::BPF_JGE => acc >= op.k,
                        libc::BPF_JSET => acc & op.k != 0,
                        other => panic!("jump {other}"),
                    };
                    at += usize::from(if yes { op.jt } else { op.jf });
                }
            }
        }
    }

    #[test]
    fn verdicts() {
        let eperm = RET_ERRNO | libc::EPERM as u32;
        for number in DENIED {
            assert_eq!(verdict(*number, 0, ARCH), eperm, "{number}");
        }
        for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_chroot, libc::SYS_accept4] {
            assert_eq!(verdict(number, 0, ARCH), RET_ALLOW, "{number}");
        }
        assert_eq!(verdict(libc::SYS_read, 0, 0x4000_0003), eperm);
        assert_eq!(verdict(libc::SYS_clone3, 0, ARCH), RET_ERRNO | libc::ENOSYS as u32);
        assert_eq!(verdict(libc::SYS_clone, libc::SIGCHLD as u64, ARCH), RET_ALLOW);
        assert_eq!(verdict(libc::SYS_unshare, libc::CLONE_FS as u64, ARCH), RET_ALLOW);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET] {
            assert_eq!(verdict(libc::SYS_clone, flag as u64, ARCH), eperm);
            assert_eq!(verdict(libc::SYS_unshare, flag as u64, ARCH), eperm);
        }
        assert_eq!(verdict(libc::SYS_socket, libc::AF_VSOCK as u64, ARCH), eperm);
        assert_eq!(verdict(libc::SYS_socketpair, libc::AF_ALG as u64, ARCH), eperm);
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK] {
            assert_eq!(verdict(libc::SYS_socket, family as u64, ARCH), RET_ALLOW);
        }
    }
}
