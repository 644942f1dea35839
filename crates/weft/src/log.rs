//! Where daemons log: standard error, and never more of it than a bound.
//!
//! The lab starts its daemons with a file as standard error, which nobody rotates. A file that
//! has grown too long begins anew; what matters of it is its end.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;

/// A log file may grow to this size.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// The size is looked at after every so many bytes.
const CHECK_BYTES: u64 = LOG_BYTES_MAX / 16;

/// Makes every log line go to standard error; `WEFT_LOG` sets the filter.
pub fn init() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WEFT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Mutex::new(Bounded::stderr()))
        .with_ansi(false)
        .init();
}

/// Standard error; where it is a regular file, one of bounded length.
struct Bounded {
    /// `None`: a pipe or a terminal, or none at all.
    file: Option<File>,
    unchecked: u64,
}

impl Bounded {
    fn stderr() -> Self {
        let file = io::stderr().as_fd().try_clone_to_owned().ok().map(File::from);
        Self { file: file.filter(is_regular), unchecked: 0 }
    }
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|m| m.is_file())
}

impl Write for Bounded {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return io::stderr().write(line) };
        self.unchecked += line.len() as u64;
        if self.unchecked >= CHECK_BYTES {
            self.unchecked = 0;
            if file.metadata()?.len() >= LOG_BYTES_MAX {
                file.set_len(0)?;
                // Unless it was opened for appending, the next write would be far behind the end.
                file.rewind()?;
                file.write_all(b"(the log was full and begins anew)\n")?;
            }
        }
        file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_begins_anew() {
        // As after `2>>log` and after `2>log`.
        for append in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let file = File::options().create(true).write(true).append(append).open(&path).unwrap();
            let mut log = Bounded { file: Some(file), unchecked: 0 };
            let line = [b'x'; 1024];
            for _ in 0..(LOG_BYTES_MAX + 2 * CHECK_BYTES) / 1024 {
                log.write_all(&line).unwrap();
                assert!(std::fs::metadata(&path).unwrap().len() <= LOG_BYTES_MAX + CHECK_BYTES);
            }
            log.write_all(b"last\n").unwrap();
            let text = std::fs::read(&path).unwrap();
            assert!(text.starts_with(b"(the log was full"), "it was emptied");
            assert!(text.len() < LOG_BYTES_MAX as usize && text.ends_with(b"last\n"));
            assert!(!text.contains(&0), "it has no hole");
        }
    }
}
