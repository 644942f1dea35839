//! Container logs: files of lines `<time> stdout|stderr F|P <text>` (CRI log format; P marks a
//! part of a line that goes on in the next entry).

use jiff::Timestamp;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Longest termination message (`MaxContainerTerminationMessageLength`).
const MESSAGE_BYTES_MAX: u64 = 4096;
/// Of the log this much serves as termination message.
const MESSAGE_LOG_BYTES: usize = 2048;
/// And this many lines.
const MESSAGE_LOG_LINES: usize = 80;
/// Block size of the search for the last lines.
const BLOCK: u64 = 64 << 10;
/// A line longer than this is shown in pieces.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// One entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When, as written.
    pub time: &'a str,
    /// It came from standard error.
    pub stderr: bool,
    /// The line goes on in the next entry.
    pub partial: bool,
    /// The text without its newline.
    pub text: &'a [u8],
}

/// Reads one entry (without its newline); `None` where it is not one.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // Tags may be several, separated by colons; the first one is F or P.
    let partial = match parts.next()?.split(|b| *b == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Entry { time, stderr, partial, text: parts.next().unwrap_or_default() })
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only what is not older.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit: Option<u64>,
}

/// Turns a log's bytes, fed in pieces, into what the user sees.
#[derive(Debug)]
pub struct Renderer {
    options: Options,
    rest: Vec<u8>,
    left: Option<u64>,
    inside: bool,
}

impl Renderer {
    /// Nothing fed yet.
    pub fn new(options: Options) -> Self {
        let left = options.limit;
        Self { options, rest: Vec::new(), left, inside: false }
    }

    /// The limit is reached: nothing more will come.
    pub fn full(&self) -> bool {
        self.left == Some(0)
    }

    /// Feeds bytes of the file; returns what to show.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        for line in rest.split_inclusive(|b| *b == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(l) => self.line(l, &mut out),
                // Not complete yet, unless it never will be.
                None if line.len() < LINE_BYTES_MAX => self.rest = line.to_vec(),
                None => self.line(line, &mut out),
            }
        }
        if let Some(left) = &mut self.left {
            let n = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len());
            out.truncate(n);
            *left -= n as u64;
        }
        out
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(e) = parse(line) else {
            // Shown as it is: better a strange line than a missing one.
            out.extend_from_slice(line);
            out.push(b'\n');
            return;
        };
        if let Some(since) = self.options.since
            && e.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return;
        }
        if self.options.timestamps && !self.inside {
            out.extend_from_slice(e.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(e.text);
        self.inside = e.partial;
        if !e.partial {
            out.push(b'\n');
        }
    }
}

/// Where the last `lines` entries of a file begin.
pub fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let len = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(len);
    }
    let mut seen = 0;
    let mut end = len;
    let mut buf = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        buf.resize(usize::try_from(end - start).unwrap_or(0), 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut buf)?;
        for (i, b) in buf.iter().enumerate().rev() {
            let at = start + i as u64;
            // The newline at the very end closes the last line and opens none.
            if *b == b'\n' && at + 1 != len {
                seen += 1;
                if seen == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The message that a container leaves: its file, or the end of its log where that is empty.
pub fn termination_message(path: &Path, log: Option<&std::path::PathBuf>) -> Option<String> {
    let mut text = Vec::new();
    if let Ok(f) = File::open(path) {
        let _ = f.take(MESSAGE_BYTES_MAX).read_to_end(&mut text);
    }
    if text.is_empty()
        && let Some(mut f) = log.and_then(|l| File::open(l).ok())
    {
        let from = tail_offset(&mut f, MESSAGE_LOG_LINES as u64).unwrap_or(0);
        let mut bytes = Vec::new();
        let _ = f.seek(SeekFrom::Start(from));
        let _ = f.take(LINE_BYTES_MAX as u64).read_to_end(&mut bytes);
        text = Renderer::new(Options::default()).feed(&bytes);
        let cut = text.len().saturating_sub(MESSAGE_LOG_BYTES);
        text.drain(..cut);
    }
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const LOG: &[u8] = b"2026-01-01T00:00:01.5Z stdout F one\n\
        2026-01-01T00:00:02Z stderr P tw\n2026-01-01T00:00:02.1Z stderr F o\n\
        2026-01-01T00:00:03Z stdout F \n2026-01-01T00:00:04Z stdout F four\n";

    fn show(o: Options) -> String {
        String::from_utf8(Renderer::new(o).feed(LOG)).unwrap()
    }

    #[test]
    fn options() {
        assert_eq!(show(Options::default()), "one\ntwo\n\nfour\n");
        assert_eq!(show(Options { limit: Some(5), ..Options::default() }), "one\nt");
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(show(Options { since, ..Options::default() }), "\nfour\n");
        assert!(
            show(Options { timestamps: true, ..Options::default() })
                .starts_with("2026-01-01T00:00:01.5Z one\n2026-01-01T00:00:02Z two\n")
        );
    }

    #[test]
    fn tails() {
        let mut f = tempfile::tempfile().unwrap();
        f.write_all(LOG).unwrap();
        let mut tail = |n| {
            let at = tail_offset(&mut f, n).unwrap();
            String::from_utf8(LOG[usize::try_from(at).unwrap()..].to_vec()).unwrap()
        };
        assert_eq!(tail(0), "");
        assert_eq!(tail(1), "2026-01-01T00:00:04Z stdout F four\n");
        assert_eq!(tail(5), String::from_utf8_lossy(LOG));
        assert_eq!(tail(50), String::from_utf8_lossy(LOG));
    }

    #[test]
    fn termination_messages() {
        let dir = tempfile::tempdir().unwrap();
        let (path, log) = (dir.path().join("t"), dir.path().join("l"));
        std::fs::write(&log, LOG).unwrap();
        assert_eq!(termination_message(&path, None), None);
        assert_eq!(termination_message(&path, Some(&log)).unwrap(), "one\ntwo\n\nfour\n");
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert_eq!(termination_message(&path, Some(&log)).unwrap().len(), 4096);
    }

    proptest! {
        /// Whatever is logged comes back, however the file is cut into pieces.
        #[test]
        fn what_is_written_is_shown(
            lines in prop::collection::vec(("[^\n]{0,30}", any::<bool>(), any::<bool>()), 0..20),
            cut in 1usize..50
        ) {
            let mut file = Vec::new();
            let mut want = String::new();
            for (text, err, partial) in &lines {
                let stream = if *err { "stderr" } else { "stdout" };
                let tag = if *partial { "P" } else { "F" };
                file.extend(format!("2026-01-01T00:00:00Z {stream} {tag} {text}\n").bytes());
                want += text;
                if !partial { want.push('\n'); }
            }
            let mut r = Renderer::new(Options::default());
            let mut got = Vec::new();
            for piece in file.chunks(cut) { got.extend(r.feed(piece)); }
            prop_assert_eq!(String::from_utf8(got).unwrap(), want);
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), limit in 0u64..50) {
            let o = Options { limit: Some(limit), timestamps: true, ..Options::default() };
            let out = Renderer::new(o).feed(&bytes);
            prop_assert!(out.len() as u64 <= limit);
        }
    }
}
