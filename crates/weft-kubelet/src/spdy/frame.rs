//! Frames of SPDY/3.1 as bytes. Pure.

use flate2::{Decompress, FlushDecompress, Status};

/// Header names and values that both sides know beforehand (SPDY/3, section 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// Adler-32 of the dictionary, which names it in a zlib header.
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];
/// Longest frame taken; kubectl sends at most 32 KiB at a time.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Longest header block, decompressed.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Most headers in a block.
const HEADERS_MAX: usize = 100;
const FIN: u8 = 1;

/// What is wrong with a peer's bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame is longer than anybody needs.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// It is not what its type says.
    #[error("a frame is malformed: {0}")]
    Malformed(&'static str),
}

/// A frame from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The peer opens a stream.
    Open {
        /// Stream.
        id: u32,
        /// The peer will send nothing on it.
        fin: bool,
        /// Headers, names in lower case.
        headers: Vec<(String, String)>,
    },
    /// Bytes of a stream.
    Data {
        /// Stream.
        id: u32,
        /// These are the last ones.
        fin: bool,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A stream ends at once.
    Reset(u32),
    /// To be sent back as it is.
    Ping(u32),
    /// The peer opens no more streams.
    GoAway,
    /// Nothing that matters here.
    Other,
}

/// Takes frames out of bytes.
pub struct Reader {
    buf: Vec<u8>,
    inflate: Decompress,
    begun: bool,
}

impl Reader {
    /// Nothing read yet.
    pub fn new() -> Self {
        // Raw deflate, primed by a stored block with the dictionary: the decompressor then has
        // it in its window, as a zlib stream with that preset dictionary would.
        let mut inflate = Decompress::new(false);
        let stored = stored(DICTIONARY);
        let mut out = vec![0; DICTIONARY.len()];
        let primed = inflate.decompress(&stored, &mut out, FlushDecompress::Sync);
        debug_assert!(primed.is_ok() && out == DICTIONARY);
        Self { buf: Vec::new(), inflate, begun: false }
    }

    /// Adds bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The next frame, where it is complete.
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(head) = self.buf.first_chunk::<8>().copied() else { return Ok(None) };
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        if self.buf.len() < 8 + length {
            return Ok(None);
        }
        let body: Vec<u8> = self.buf.drain(..8 + length).skip(8).collect();
        let fin = head[4] & FIN != 0;
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if word >> 31 == 0 {
            return Ok(Some(Frame::Data { id: word, fin, data: body }));
        }
        let number = |at: usize| {
            let bytes = body.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
            bytes.map(|b| u32::from_be_bytes(*b)).ok_or(FrameError::Malformed("too short"))
        };
        Ok(Some(match word & 0xffff {
            1 => {
                let block = body.get(10..).ok_or(FrameError::Malformed("too short"))?;
                let headers = headers(&self.inflate(block)?)?;
                Frame::Open { id: number(0)? & 0x7fff_ffff, fin, headers }
            }
            // SYN_REPLY and HEADERS: only their place in the compressed stream matters.
            2 | 8 => {
                let block = body.get(4..).ok_or(FrameError::Malformed("too short"))?;
                self.inflate(block)?;
                Frame::Other
            }
            3 => Frame::Reset(number(0)? & 0x7fff_ffff),
            6 => Frame::Ping(number(0)?),
            7 => Frame::GoAway,
            _ => Frame::Other,
        }))
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, FrameError> {
        if !std::mem::replace(&mut self.begun, true) {
            // The header of a zlib stream with a preset dictionary (RFC 1950, section 2.2).
            let head = block.first_chunk::<6>().ok_or(FrameError::Malformed("no zlib header"))?;
            if head[0] & 0x0f != 8 || head[1] & 0x20 == 0 || head[2..] != DICTIONARY_ID {
                return Err(FrameError::Malformed("not compressed with the dictionary"));
            }
            block = &block[6..];
        }
        let mut out = Vec::new();
        let mut part = [0; 4096];
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(block, &mut part, FlushDecompress::Sync)
                .map_err(|_| FrameError::Malformed("headers do not decompress"))?;
            let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            let taken = size(self.inflate.total_in() - before_in);
            let made = size(self.inflate.total_out() - before_out);
            block = block.get(taken..).unwrap_or_default();
            out.extend_from_slice(&part[..made]);
            if out.len() > HEADER_BYTES_MAX {
                return Err(FrameError::Malformed("headers are too long"));
            }
            if status == Status::StreamEnd || (taken == 0 && made == 0) {
                return Ok(out);
            }
            if block.is_empty() && made < part.len() {
                return Ok(out);
            }
        }
    }
}

/// Reads a name/value block (section 2.6.10).
fn headers(block: &[u8]) -> Result<Vec<(String, String)>, FrameError> {
    let mut rest = block;
    let number = |rest: &mut &[u8]| {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or(FrameError::Malformed("headers"))?;
        *rest = tail;
        usize::try_from(u32::from_be_bytes(*head)).map_err(|_| FrameError::Malformed("headers"))
    };
    let count = number(&mut rest)?;
    if count > HEADERS_MAX {
        return Err(FrameError::Malformed("too many headers"));
    }
    let mut out = Vec::new();
    for _ in 0..count {
        let mut text = || {
            let n = number(&mut rest)?;
            let (head, tail) = rest.split_at_checked(n).ok_or(FrameError::Malformed("headers"))?;
            rest = tail;
            Ok(String::from_utf8_lossy(head).into_owned())
        };
        out.push((text()?.to_ascii_lowercase(), text()?));
    }
    Ok(out)
}

/// A deflate block that holds its bytes as they are.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let n = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let mut out = vec![0];
    out.extend(n.to_le_bytes());
    out.extend((!n).to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

fn control(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80, 3, 0, kind, flags];
    out.extend(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes()[1..]);
    out.extend_from_slice(body);
    out
}

/// Accepts a stream, without headers. `first`: nothing was compressed on this connection before.
pub fn reply(id: u32, first: bool) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if first {
        body.extend([0x78, 0xbb]);
        body.extend(DICTIONARY_ID);
    }
    // No headers. Stored blocks need no compressor, and any decompressor reads them; the empty
    // one behind (a "sync flush") makes Go's give out what it has.
    body.extend(stored(&0u32.to_be_bytes()));
    body.extend(stored(b""));
    control(2, 0, &body)
}

/// Bytes of a stream.
pub fn data(id: u32, fin: bool, bytes: &[u8]) -> Vec<u8> {
    let mut out = (id & 0x7fff_ffff).to_be_bytes().to_vec();
    out.push(u8::from(fin));
    out.extend(&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes()[1..]);
    out.extend_from_slice(bytes);
    out
}

/// Ends a stream at once (CANCEL).
pub fn reset(id: u32) -> Vec<u8> {
    control(3, 0, &[&id.to_be_bytes()[..], &5u32.to_be_bytes()].concat())
}

/// Answers a ping.
pub fn ping(id: u32) -> Vec<u8> {
    control(6, 0, &id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What moby/spdystream 0.5 writes: two streams, bytes with an end, a ping.
    const GO: &str = "800300010000003e0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625ac\
        a9a0808614cb45e01c60616061c0c0c0c0590489c64c50f2663400000000ffff8003000100000018000000030000\
        00000000c2aa19540e2512d60b000000ffff000000030100000568656c6c6f800300060000000400000007";

    fn bytes() -> Vec<u8> {
        let hex: Vec<u8> = GO.bytes().collect();
        let digit = |b: u8| u8::try_from(char::from(b).to_digit(16).unwrap()).unwrap();
        hex.chunks(2).map(|p| digit(p[0]) << 4 | digit(p[1])).collect()
    }

    fn read(pieces: &[&[u8]]) -> Vec<Frame> {
        let mut r = Reader::new();
        let mut out = Vec::new();
        for p in pieces {
            r.feed(p);
            while let Some(f) = r.next().unwrap() {
                out.push(f);
            }
        }
        out
    }

    #[test]
    fn the_dictionary_is_the_one() {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16 | a).to_be_bytes(), DICTIONARY_ID);
    }

    #[test]
    fn frames_of_the_go_implementation() {
        let all = read(&[&bytes()]);
        let get = |f: &Frame, name: &str| match f {
            Frame::Open { headers, .. } => {
                headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap()
            }
            f => panic!("{f:?}"),
        };
        assert_eq!(all.len(), 4, "{all:?}");
        assert_eq!(get(&all[0], "streamtype"), "error");
        assert_eq!(get(&all[0], "port"), "8080");
        assert_eq!(get(&all[1], "streamtype"), "data");
        assert_eq!(get(&all[1], "requestid"), "0");
        assert_eq!(all[2], Frame::Data { id: 3, fin: true, data: b"hello".to_vec() });
        assert_eq!(all[3], Frame::Ping(7));
        let one: Vec<_> = bytes();
        let pieces: Vec<&[u8]> = one.chunks(1).collect();
        assert_eq!(read(&pieces), all, "however the bytes arrive");
    }

    #[test]
    fn what_is_written_is_read() {
        let sent = [reply(1, true), reply(3, false), data(1, false, b"x"), reset(3), ping(9)];
        let want = [
            Frame::Other,
            Frame::Other,
            Frame::Data { id: 1, fin: false, data: b"x".to_vec() },
            Frame::Reset(3),
            Frame::Ping(9),
        ];
        assert_eq!(read(&[&sent.concat()]), want);
    }

    #[test]
    fn too_long_and_malformed() {
        let mut r = Reader::new();
        r.feed(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert_eq!(r.next(), Err(FrameError::TooLong(0xff_ffff)));
        let mut r = Reader::new();
        r.feed(&control(1, 0, &[0; 20]));
        assert!(r.next().is_err());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(
            at in 0usize..111, with in any::<u8>(), tail in prop::collection::vec(any::<u8>(), 0..64)
        ) {
            let mut b = bytes();
            let n = b.len();
            b[at % n] = with;
            b.extend(tail);
            let mut r = Reader::new();
            r.feed(&b);
            while let Ok(Some(_)) = r.next() {}
        }
    }
}
