//! Netlink's bytes: attributes written and read, messages framed and taken apart.
//!
//! Knows the layout of `nlmsghdr`, `nlattr` and `nfgenmsg`, and that nf_tables' numbers are big-endian. Knows neither
//! sockets nor what a rule is. Whatever bytes come in, reading ends early and never panics: a cut attribute, a length
//! of zero or a text that is no UTF-8 reads as "not there".

/// `nlmsghdr`, then `nfgenmsg`.
pub const HEADER: usize = 16;
const NFGENMSG: usize = 4;
const ATTRIBUTE: usize = 4;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// No value of ours comes near: what is longer is cut, and the kernel refuses names of more than 255 bytes.
const VALUE_MAX: usize = 0xf000;

/// A run of attributes, being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attrs(Vec<u8>);

impl Attrs {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value)
    }

    /// A text with its final NUL.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    pub fn number(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub fn wide(self, kind: u16, value: u64) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub fn nest(self, kind: u16, inner: Attrs) -> Self {
        self.put(kind | NLA_F_NESTED, &inner.0)
    }

    #[cfg(test)]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let value = &value[..value.len().min(VALUE_MAX)];
        let length = (ATTRIBUTE + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// One message of the netfilter family, ready to be appended to a datagram.
pub struct Frame<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub family: u8,
    pub resource: u16,
    pub attrs: &'a Attrs,
}

impl Frame<'_> {
    pub fn append_to(&self, datagram: &mut Vec<u8>) {
        let length = (HEADER + NFGENMSG + self.attrs.0.len()) as u32;
        datagram.extend_from_slice(&length.to_ne_bytes());
        datagram.extend_from_slice(&self.kind.to_ne_bytes());
        datagram.extend_from_slice(&self.flags.to_ne_bytes());
        datagram.extend_from_slice(&self.sequence.to_ne_bytes());
        datagram.extend_from_slice(&0u32.to_ne_bytes());
        datagram.extend_from_slice(&[self.family, 0]);
        datagram.extend_from_slice(&self.resource.to_be_bytes());
        datagram.extend_from_slice(&self.attrs.0);
    }
}

/// A message as it came from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

impl<'a> Received<'a> {
    /// Family and attributes of a message of the netfilter family.
    pub fn netfilter(&self) -> Option<(u8, &'a [u8])> {
        Some((*self.body.first()?, self.body.get(NFGENMSG..)?))
    }
}

/// The messages of one datagram.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = native32(datagram)? as usize;
        let body = datagram.get(HEADER..length)?;
        let message = Received {
            kind: native16(datagram.get(4..)?)?,
            flags: native16(datagram.get(6..)?)?,
            sequence: native32(datagram.get(8..)?)?,
            body,
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of one level: type without its flags, and value.
pub fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = native16(bytes)? as usize;
        let kind = native16(bytes.get(2..)?)? & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// Text up to its NUL; not there if it is no UTF-8.
pub fn text(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}

pub fn find_text(bytes: &[u8], kind: u16) -> Option<&str> {
    find(bytes, kind).and_then(text)
}

pub fn find_number(bytes: &[u8], kind: u16) -> Option<u32> {
    find(bytes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

pub fn find_wide(bytes: &[u8], kind: u16) -> Option<u64> {
    find(bytes, kind)?.try_into().ok().map(u64::from_be_bytes)
}

pub fn native32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

fn native16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attrs::new().number(2, 7);
        let written =
            Attrs::new().text(1, "nat").nest(4, inner.clone()).wide(3, u64::MAX - 1).bytes(5, &[1, 2, 3, 4, 5]);
        assert_eq!(written.as_bytes().len() % 4, 0);
        assert_eq!(find_text(written.as_bytes(), 1), Some("nat"));
        assert_eq!(find(written.as_bytes(), 4), Some(inner.as_bytes()));
        assert_eq!(find_number(inner.as_bytes(), 2), Some(7));
        assert_eq!(find_wide(written.as_bytes(), 3), Some(u64::MAX - 1));
        assert_eq!(find(written.as_bytes(), 5), Some(&[1, 2, 3, 4, 5][..]));
        assert_eq!(find_number(written.as_bytes(), 5), None, "five bytes are no number");
        assert_eq!(find(written.as_bytes(), 9), None);
    }

    #[test]
    fn a_datagram_is_taken_apart() {
        let mut datagram = Vec::new();
        for (sequence, attrs) in [(7, Attrs::new().text(1, "ab")), (8, Attrs::new())] {
            Frame { kind: 0xa06, flags: 1, sequence, family: 1, resource: 10, attrs: &attrs }.append_to(&mut datagram);
        }
        let all: Vec<_> = messages(&datagram).collect();
        assert_eq!(
            all.iter().map(|m| (m.kind, m.flags, m.sequence)).collect::<Vec<_>>(),
            [(0xa06, 1, 7), (0xa06, 1, 8)]
        );
        let (family, attrs) = all[0].netfilter().unwrap();
        assert_eq!((family, find_text(attrs, 1)), (1, Some("ab")));
        assert_eq!(messages(&datagram[..datagram.len() - 1]).count(), 1, "a cut message is none");
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for lie in [0u16, 3, 5, 0xffff] {
            let mut bytes = lie.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&1u16.to_ne_bytes());
            assert_eq!(attrs(&bytes).count(), 0, "{lie}");
        }
        for lie in [0u32, 15, 17, u32::MAX] {
            let mut bytes = lie.to_ne_bytes().to_vec();
            bytes.resize(16, 0);
            assert_eq!(messages(&bytes).count(), 0, "{lie}");
        }
        assert_eq!(text(&[0xff, 0]), None);
    }

    #[test]
    fn what_is_too_long_for_an_attribute_is_cut() {
        let written = Attrs::new().text(1, &"x".repeat(100_000)).number(2, 1);
        assert_eq!(find_number(written.as_bytes(), 2), Some(1));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _ = message.netfilter().map(|(_, a)| attrs(a).count());
            }
            for (kind, value) in attrs(&bytes) {
                let _ = (text(value), find_number(&bytes, kind), find_wide(&bytes, kind));
            }
        }
    }
}
