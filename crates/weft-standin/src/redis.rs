//! As much of the Redis protocol as probes of real images use.

use crate::identity::Peer;
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};

/// Longest line and longest argument that are read.
const LEN_MAX: usize = 64 * 1024;
/// Most arguments of a command.
const ARGUMENTS_MAX: usize = 64;
/// Buffer of a connection, each way.
const BUFFER_LEN: usize = 1024;

/// Answers commands until the client goes.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: &Peer,
) -> io::Result<()> {
    let mut stream = BufStream::with_capacity(BUFFER_LEN, BUFFER_LEN, stream);
    while let Some(words) = command(&mut stream).await? {
        let Some(name) = words.first().map(|word| word.to_ascii_uppercase()) else { continue };
        peer.log(&format!("redis {:?}", String::from_utf8_lossy(&name)));
        let answer = match (name.as_slice(), words.get(1)) {
            (b"PING", None) => b"+PONG\r\n".to_vec(),
            (b"PING" | b"ECHO", Some(word)) => bulk(word),
            (b"INFO", _) => bulk(format!("# Server\r\nweft_stand_in:{}", peer.line()).as_bytes()),
            (b"QUIT", _) => b"+OK\r\n".to_vec(),
            _ => b"-ERR a stand-in keeps no data\r\n".to_vec(),
        };
        stream.write_all(&answer).await?;
        stream.flush().await?;
        if name == b"QUIT" {
            break;
        }
    }
    Ok(())
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// A line without its end; `None` at the end of the stream.
async fn line<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let len = (&mut *stream).take(LEN_MAX as u64).read_until(b'\n', &mut line).await?;
    if len == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(invalid());
    }
    line.pop_if(|last| *last == b'\r');
    Ok(Some(line))
}

/// `*2` and `$4` headers.
fn number(line: &[u8], sign: u8, max: usize) -> io::Result<usize> {
    line.strip_prefix(&[sign])
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .filter(|number| *number <= max)
        .ok_or_else(invalid)
}

/// The words of a command, inline or as an array of bulk strings.
async fn command<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Some(first) = line(stream).await? else { return Ok(None) };
    if !first.starts_with(b"*") {
        let words = first.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        return Ok(Some(words.take(ARGUMENTS_MAX).map(<[u8]>::to_vec).collect()));
    }
    let mut words = Vec::new();
    for _ in 0..number(&first, b'*', ARGUMENTS_MAX)? {
        let Some(header) = line(stream).await? else { return Ok(None) };
        let mut word = vec![0; number(&header, b'$', LEN_MAX)? + 2];
        stream.read_exact(&mut word).await?;
        if !word.ends_with(b"\r\n") {
            return Err(invalid());
        }
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Ok(Some(words))
}
