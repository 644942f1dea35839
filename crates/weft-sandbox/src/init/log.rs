//! Log files as the CRI has them: `<RFC 3339 time, nanoseconds, UTC> <stream> <F|P> <text>`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest text of one log line; what is longer is cut into partial ones (`P`), as containerd
/// does.
const LINE_LEN_MAX: usize = 16 * 1024;
/// At this size the file becomes `<name>.1` (the kubelet's `containerLogMaxSize`).
const FILE_LEN_MAX: u64 = 10 * 1024 * 1024;

/// An open log.
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    len: u64,
    /// The unfinished line of stdout and stderr.
    pending: [Vec<u8>; 2],
    out: Vec<u8>,
}

impl Log {
    pub fn open(path: &Path) -> io::Result<Log> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = append(path)?;
        let len = file.metadata()?.len();
        Ok(Log {
            path: path.into(),
            file: Some(file),
            len,
            pending: [Vec::new(), Vec::new()],
            out: Vec::new(),
        })
    }

    /// Output as it came: any number of lines and parts of lines.
    pub fn write(&mut self, stream: usize, bytes: &[u8]) {
        let stream = stream.min(1);
        let now = SystemTime::now();
        split(&mut self.pending[stream], bytes, |tag, text| {
            entry(&mut self.out, now, stream, tag, text);
        });
        self.flush();
    }

    /// The program has ended: unfinished lines are written.
    pub fn finish(&mut self) {
        let now = SystemTime::now();
        for stream in 0..2 {
            let rest = std::mem::take(&mut self.pending[stream]);
            if !rest.is_empty() {
                entry(&mut self.out, now, stream, 'F', &rest);
            }
        }
        self.flush();
    }

    /// One write for all lines at hand, so that readers see whole ones. A full disk loses lines
    /// and stops nothing.
    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        if self.len + self.out.len() as u64 > FILE_LEN_MAX && self.len > 0 {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            if std::fs::rename(&self.path, old).is_ok() {
                self.file = append(&self.path).ok();
                self.len = 0;
            }
        }
        if let Some(file) = &mut self.file
            && file.write_all(&self.out).is_ok()
        {
            self.len += self.out.len() as u64;
        }
        self.out.clear();
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Cuts output into entries: `F` ends a line, `P` is a piece of one that goes on.
fn split(pending: &mut Vec<u8>, mut bytes: &[u8], mut emit: impl FnMut(char, &[u8])) {
    while !bytes.is_empty() {
        let room = LINE_LEN_MAX - pending.len();
        let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
        match end {
            Some(end) => {
                pending.extend_from_slice(&bytes[..end]);
                emit('F', pending);
                pending.clear();
                bytes = &bytes[end + 1..];
            }
            // Exactly full and the line ends here: no partial entry.
            None if bytes.len() > room => {
                pending.extend_from_slice(&bytes[..room]);
                bytes = &bytes[room..];
                let full = bytes[0] == b'\n';
                emit(if full { 'F' } else { 'P' }, pending);
                pending.clear();
                bytes = &bytes[usize::from(full)..];
            }
            None => {
                pending.extend_from_slice(bytes);
                bytes = &[];
                if pending.len() == LINE_LEN_MAX {
                    emit('P', pending);
                    pending.clear();
                }
            }
        }
    }
}

fn entry(out: &mut Vec<u8>, now: SystemTime, stream: usize, tag: char, text: &[u8]) {
    timestamp(out, now);
    let name = if stream == 0 { "stdout" } else { "stderr" };
    out.extend_from_slice(format!(" {name} {tag} ").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// RFC 3339, UTC, nanoseconds, always of the same length.
fn timestamp(out: &mut Vec<u8>, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    // Days to civil date, Howard Hinnant's algorithm: eras of 400 years from 1 March 0000.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let text = format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:09}Z",
        second % 60,
        since.subsec_nanos()
    );
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn stamp(seconds: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        timestamp(&mut out, UNIX_EPOCH + Duration::new(seconds, nanos));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times() {
        assert_eq!(stamp(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(stamp(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(stamp(1_475_798_829, 794_202_172), "2016-10-07T00:07:09.794202172Z");
        assert_eq!(stamp(4_107_542_399, 999_999_999), "2100-02-28T23:59:59.999999999Z");
        assert_eq!(stamp(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn file_rotates_and_appends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.log");
        let mut log = Log::open(&path).unwrap();
        log.write(0, b"one\ntw");
        log.write(1, b"err\n");
        log.write(0, b"o\nrest");
        log.finish();
        let mut log = Log::open(&path).unwrap();
        log.write(0, b"again\n");
        let text = std::fs::read_to_string(&path).unwrap();
        let entries: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let expected =
            ["stdout F one", "stderr F err", "stdout F two", "stdout F rest", "stdout F again"];
        assert_eq!(entries, expected);
        let chunk = vec![b'x'; 64 * 1024];
        for _ in 0..200 {
            log.write(0, &chunk);
        }
        let old = dir.path().join("a/b.log.1");
        assert!(std::fs::metadata(old).unwrap().len() <= FILE_LEN_MAX);
        assert!(std::fs::metadata(&path).unwrap().len() <= FILE_LEN_MAX);
    }

    proptest! {
        /// Whatever the cuts of the input, the entries together are the input, no entry is too
        /// long, and a line is partial only up to its last piece.
        #[test]
        fn entries_are_the_input(
            pieces in prop::collection::vec((0usize..40_000, any::<bool>()), 0..8),
            cut in 1usize..20_000,
        ) {
            let mut input = Vec::new();
            for (len, newline) in pieces {
                input.extend(std::iter::repeat_n(b'a', len));
                if newline { input.push(b'\n'); }
            }
            let (mut pending, mut output) = (Vec::new(), Vec::new());
            for piece in input.chunks(cut) {
                split(&mut pending, piece, |tag, text| {
                    assert!(text.len() <= LINE_LEN_MAX);
                    assert!(!text.contains(&b'\n'));
                    output.extend_from_slice(text);
                    if tag == 'F' { output.push(b'\n'); }
                });
                assert!(pending.len() < LINE_LEN_MAX);
            }
            output.extend_from_slice(&pending);
            prop_assert_eq!(output, input);
        }
    }
}
