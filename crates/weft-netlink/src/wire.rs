//! Netlink messages and attributes: builder and parser (linux/netlink.h).

/// Size of `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// One netlink message under construction.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    buf: Vec<u8>,
}

impl Message {
    /// A message of `kind` with `flags`; length and sequence number are set by [`Self::finish`].
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let mut buf = vec![0; HEADER_LEN];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { buf }
    }

    /// Appends the family header (ifinfomsg, rtmsg, …), padded.
    pub(crate) fn header(mut self, bytes: &[u8]) -> Self {
        self.push(bytes);
        self
    }

    fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.buf.resize(align(self.buf.len()), 0);
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        let len = u16::try_from(data.len() + 4).expect("invariant: attributes are small");
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.push(data);
        self
    }

    /// Appends a 32-bit attribute in host byte order (rtnetlink).
    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a 32-bit attribute in network byte order (nf_tables).
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a NUL-terminated string attribute.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a nested attribute, filled by `fill`.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        fill(self);
        let len =
            u16::try_from(self.buf.len() - start).expect("invariant: nested attributes are small");
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.buf[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self
    }

    /// Appends raw bytes inside a nest (a struct before attributes, as in VETH_INFO_PEER).
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.push(bytes);
        self
    }

    /// Its length in bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    /// The encoded message.
    pub(crate) fn finish(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.buf.len());
        self.put(&mut bytes, sequence, 0);
        bytes
    }

    /// Appends the encoded message to others, with more flags.
    pub(crate) fn put(&self, bytes: &mut Vec<u8>, sequence: u32, flags: u16) {
        let start = bytes.len();
        bytes.extend_from_slice(&self.buf);
        let header = &mut bytes[start..start + HEADER_LEN];
        let len = u32::try_from(self.buf.len()).expect("invariant: messages are small");
        header[0..4].copy_from_slice(&len.to_ne_bytes());
        let flags = flags | u16_at(&self.buf, 6).unwrap_or(0);
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        header[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A received message.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: Vec<u8>,
}

/// Splits a datagram into messages; stops at the first malformed one.
pub(crate) fn messages(mut datagram: &[u8]) -> Vec<Received> {
    let mut out = Vec::new();
    while datagram.len() >= HEADER_LEN {
        let len = u32_at(datagram, 0).unwrap_or(0) as usize;
        if len < HEADER_LEN || len > datagram.len() {
            break;
        }
        out.push(Received {
            kind: u16_at(datagram, 4).unwrap_or(0),
            flags: u16_at(datagram, 6).unwrap_or(0),
            sequence: u32_at(datagram, 8).unwrap_or(0),
            payload: datagram[HEADER_LEN..len].to_vec(),
        });
        datagram = datagram.get(align(len)..).unwrap_or(&[]);
    }
    out
}

/// Iterates over the attributes in `bytes`; ends at the first malformed one.
pub(crate) fn attrs(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let data = rest.get(4..len)?;
        rest = rest.get(align(len)..).unwrap_or(&[]);
        Some((kind, data))
    })
}

/// The attributes behind a fixed header of `header_len` bytes.
pub(crate) fn attrs_after(
    bytes: &[u8],
    header_len: usize,
) -> impl Iterator<Item = (u16, &[u8])> + '_ {
    attrs(bytes.get(align(header_len)..).unwrap_or(&[]))
}

pub(crate) fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// A NUL-terminated string attribute.
pub(crate) fn string(b: &[u8]) -> String {
    let end = b.iter().position(|c| *c == 0).unwrap_or(b.len());
    String::from_utf8_lossy(&b[..end]).into_owned()
}

/// An address attribute of 4 or 16 bytes.
pub(crate) fn ip(b: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(b) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(b).ok().map(Into::into)
}

/// The bytes of an address in network byte order.
pub(crate) fn ip_bytes(ip: std::net::IpAddr) -> Vec<u8> {
    match ip {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// AF_INET or AF_INET6 of an address.
pub(crate) fn family(ip: std::net::IpAddr) -> u8 {
    if ip.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nested_attributes_come_back() {
        let mut m = Message::new(16, 1).header(&[7; 3]);
        m.attr_str(1, "lo").nest(2, |n| {
            n.attr_u32(3, 0xdead_beef);
        });
        let bytes = m.finish(9);
        let got = messages(&bytes);
        assert_eq!((got.len(), got[0].kind, got[0].sequence), (1, 16, 9));
        let top: Vec<_> = attrs_after(&got[0].payload, 3).collect();
        assert_eq!(string(top[0].1), "lo");
        let inner: Vec<_> = attrs(top[1].1).collect();
        assert_eq!(u32_at(inner[0].1, 0), Some(0xdead_beef));
    }

    proptest! {
        #[test]
        fn parsers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for m in messages(&bytes) {
                for (_, a) in attrs_after(&m.payload, 16) {
                    let _ = (string(a), ip(a), u32_at(a, 0));
                    let _ = attrs(a).count();
                }
            }
            let _ = attrs(&bytes).count();
        }
    }
}
