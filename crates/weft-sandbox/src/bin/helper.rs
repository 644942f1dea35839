//! The helper for this crate's own tests: what `weft` does with the same arguments, and probes
//! that tests run inside containers, which try one thing and say how the kernel answered.
#![allow(unsafe_code)]

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match args.as_slice() {
        ["sandbox-init"] => weft_sandbox::init_main(),
        // Shows what a stand-in is started with.
        ["stand-in"] => {
            println!("stand-in {}", std::env::var("WEFT_STANDIN").unwrap_or_default());
            0
        }
        ["probe", rest @ ..] => match probe(rest) {
            Ok(()) => {
                println!("{rest:?}: allowed");
                0
            }
            Err(error) => {
                println!("{rest:?}: {error}");
                error.raw_os_error().unwrap_or(255)
            }
        },
        _ => 255,
    };
    std::process::exit(code);
}

/// Exit code 0: it went; else the errno.
fn probe(args: &[&str]) -> io::Result<()> {
    match args {
        ["bind", port] => {
            let port = port.parse().map_err(io::Error::other)?;
            TcpListener::bind(("0.0.0.0", port))?;
            UdpSocket::bind(("::1", port)).map(drop)
        }
        ["unix", path] => UnixStream::connect(path).map(drop),
        ["abstract", name] => {
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
        }
        ["call", name, numbers @ ..] => {
            let mut words = [0; 5];
            for (word, number) in words.iter_mut().zip(numbers) {
                *word = number.parse().map_err(io::Error::other)?;
            }
            call(name, words)
        }
        // Allocates and touches so many MiB.
        ["eat", mib] => {
            let mib: usize = mib.parse().map_err(io::Error::other)?;
            let mut eaten = vec![0u8; mib << 20];
            for page in eaten.chunks_mut(4096) {
                page[0] = 1;
            }
            std::hint::black_box(&eaten);
            Ok(())
        }
        // Starts so many threads that do nothing.
        ["threads", count] => {
            let count: usize = count.parse().map_err(io::Error::other)?;
            let park = || loop {
                std::thread::park();
            };
            (0..count).try_for_each(|_| std::thread::Builder::new().spawn(park).map(drop))
        }
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn call(name: &str, words: [i64; 5]) -> io::Result<()> {
    let number = match name {
        "mount" => libc::SYS_mount,
        "unshare" => libc::SYS_unshare,
        "ptrace" => libc::SYS_ptrace,
        "bpf" => libc::SYS_bpf,
        "socket" => libc::SYS_socket,
        "setns" => libc::SYS_setns,
        "kill" => libc::SYS_kill,
        "mknod" => libc::SYS_mknodat,
        "keyctl" => libc::SYS_keyctl,
        "setuid" => libc::SYS_setuid,
        "setgroups" => libc::SYS_setgroups,
        "init_module" => libc::SYS_init_module,
        _ => return Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    };
    let [a, b, c, d, e] = words;
    if number == libc::SYS_mount {
        let (kind, target) = (c"tmpfs".as_ptr(), c"/tmp".as_ptr());
        // SAFETY: static strings.
        return check(unsafe { libc::syscall(number, kind, target, kind, 0, 0) });
    }
    if number == libc::SYS_mknodat {
        let path = c"/tmp/device".as_ptr();
        // SAFETY: a static string.
        return check(unsafe { libc::syscall(number, libc::AT_FDCWD, path, a, b) });
    }
    // SAFETY: the tests pass numbers only, with null where there would be pointers.
    check(unsafe { libc::syscall(number, a, b, c, d, e) })
}

fn check(value: i64) -> io::Result<()> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
