//! A rule: what it matches, what it decides, its comment; to and from nf_tables' attributes.
//!
//! Knows the few expressions that our rules and those of the reference plugins consist of; any other is kept by name
//! only. Does not know whose rule it is.

use ipnetwork::IpNetwork;

use super::wire::{Attrs, attrs, find, find_number, find_text, find_wide, text};

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// The verdict register; and the one that every match of ours goes through.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;

const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;

const NF_DROP: u32 = 0;
const NFT_JUMP: u32 = -3i32 as u32;
const NFT_GOTO: u32 = -4i32 as u32;
const NFT_RETURN: u32 = -5i32 as u32;

/// Type of a comment in the user data of a table, a chain and a rule alike (libnftnl's `NFTNL_UDATA_*_COMMENT`).
const COMMENT: u8 = 0;
/// `nft` takes no longer one, and the reference cuts there.
pub const COMMENT_MAX: usize = 128;

pub const META_IIFNAME: u32 = 6;
pub const META_NFPROTO: u32 = 15;
pub const BASE_LINK: u32 = 0;
pub const BASE_NETWORK: u32 = 1;

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

impl Side {
    /// Where it lies in the IPv4 or IPv6 header.
    fn offset(self, v6: bool) -> u32 {
        match (self, v6) {
            (Self::Source, false) => 12,
            (Self::Destination, false) => 16,
            (Self::Source, true) => 8,
            (Self::Destination, true) => 24,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Return,
    Jump(String),
    Goto(String),
    Other(u32),
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a fact about the packet.
    Meta(u32),
    /// Loads a part of the packet.
    Payload {
        base: u32,
        offset: u32,
        length: u32,
    },
    /// Keeps these bits of what was loaded.
    Mask(Vec<u8>),
    /// Goes on only if what was loaded equals (or not) this.
    Compare {
        equal: bool,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    Masquerade,
    Other(String),
}

impl Expr {
    pub fn equals(value: impl Into<Vec<u8>>) -> Self {
        Self::Compare { equal: true, value: value.into() }
    }

    fn name(&self) -> &str {
        match self {
            Self::Meta(_) => "meta",
            Self::Payload { .. } => "payload",
            Self::Mask(_) => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Verdict(_) => "immediate",
            Self::Masquerade => "masq",
            Self::Other(name) => name,
        }
    }

    fn data(&self) -> Attrs {
        let value = |bytes: &[u8]| Attrs::new().bytes(NFTA_DATA_VALUE, bytes);
        match self {
            Self::Meta(key) => Attrs::new().number(1, REGISTER).number(2, *key),
            Self::Payload { base, offset, length } => {
                Attrs::new().number(1, REGISTER).number(2, *base).number(3, *offset).number(4, *length)
            }
            Self::Mask(mask) => Attrs::new()
                .number(1, REGISTER)
                .number(2, REGISTER)
                .number(3, mask.len() as u32)
                .nest(4, value(mask))
                .nest(5, value(&vec![0; mask.len()])),
            Self::Compare { equal, value: bytes } => Attrs::new()
                .number(1, REGISTER)
                .number(2, if *equal { NFT_CMP_EQ } else { NFT_CMP_NEQ })
                .nest(3, value(bytes)),
            Self::Verdict(verdict) => {
                let inner = match verdict {
                    Verdict::Drop => Attrs::new().number(NFTA_VERDICT_CODE, NF_DROP),
                    Verdict::Return => Attrs::new().number(NFTA_VERDICT_CODE, NFT_RETURN),
                    Verdict::Jump(to) => Attrs::new().number(NFTA_VERDICT_CODE, NFT_JUMP).text(NFTA_VERDICT_CHAIN, to),
                    Verdict::Goto(to) => Attrs::new().number(NFTA_VERDICT_CODE, NFT_GOTO).text(NFTA_VERDICT_CHAIN, to),
                    Verdict::Other(code) => Attrs::new().number(NFTA_VERDICT_CODE, *code),
                };
                Attrs::new().number(1, VERDICT).nest(2, Attrs::new().nest(NFTA_DATA_VERDICT, inner))
            }
            Self::Masquerade | Self::Other(_) => Attrs::new(),
        }
    }

    fn read(element: &[u8]) -> Self {
        let name = find_text(element, NFTA_EXPR_NAME).unwrap_or_default();
        let data = find(element, NFTA_EXPR_DATA).unwrap_or_default();
        Self::read_known(name, data).unwrap_or_else(|| Self::Other(name.into()))
    }

    fn read_known(name: &str, data: &[u8]) -> Option<Self> {
        let value = |kind| find(data, kind).and_then(|d| find(d, NFTA_DATA_VALUE));
        Some(match name {
            "meta" => Self::Meta(find_number(data, 2)?),
            "payload" => Self::Payload {
                base: find_number(data, 2)?,
                offset: find_number(data, 3)?,
                length: find_number(data, 4)?,
            },
            "bitwise" if value(5)?.iter().all(|b| *b == 0) => Self::Mask(value(4)?.into()),
            "cmp" => {
                let equal = match find_number(data, 2)? {
                    NFT_CMP_EQ => true,
                    NFT_CMP_NEQ => false,
                    _ => return None,
                };
                Self::Compare { equal, value: value(3)?.into() }
            }
            "immediate" => Self::Verdict(read_verdict(find(find(data, 2)?, NFTA_DATA_VERDICT)?)?),
            "masq" => Self::Masquerade,
            _ => return None,
        })
    }
}

fn read_verdict(verdict: &[u8]) -> Option<Verdict> {
    let chain = || find_text(verdict, NFTA_VERDICT_CHAIN).map(String::from);
    Some(match find_number(verdict, NFTA_VERDICT_CODE)? {
        NF_DROP => Verdict::Drop,
        NFT_RETURN => Verdict::Return,
        NFT_JUMP => Verdict::Jump(chain()?),
        NFT_GOTO => Verdict::Goto(chain()?),
        code => Verdict::Other(code),
    })
}

/// `ip saddr 10.1.1.2`, `ip6 daddr != 2001:db8::/64`, in the form that `nft` makes of it: a prefix of whole bytes is a
/// shorter load, any other a mask. The kernel would take either, but `nft` and `iptables` read back what they write.
pub fn address(side: Side, net: IpNetwork, equal: bool) -> Vec<Expr> {
    let (network, mask, v6) = match net {
        IpNetwork::V4(n) => (n.network().octets().to_vec(), n.mask().octets().to_vec(), false),
        IpNetwork::V6(n) => (n.network().octets().to_vec(), n.mask().octets().to_vec(), true),
    };
    let whole_bytes = match net.prefix() {
        0 => network.len(),
        prefix if prefix % 8 == 0 => usize::from(prefix / 8),
        _ => network.len(),
    };
    let masked = whole_bytes == network.len() && mask.iter().any(|b| *b != 0xff);
    let mut exprs = vec![Expr::Payload { base: BASE_NETWORK, offset: side.offset(v6), length: whole_bytes as u32 }];
    if masked {
        exprs.push(Expr::Mask(mask));
    }
    exprs.push(Expr::Compare { equal, value: network[..whole_bytes].into() });
    exprs
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub handle: u64,
    pub exprs: Vec<Expr>,
    pub comment: Option<String>,
}

impl Rule {
    /// Attributes that make a new rule.
    pub fn write(table: &str, chain: &str, exprs: &[Expr], comment: Option<&str>) -> Attrs {
        let list = exprs.iter().fold(Attrs::new(), |list, e| {
            list.nest(NFTA_LIST_ELEM, Attrs::new().text(NFTA_EXPR_NAME, e.name()).nest(NFTA_EXPR_DATA, e.data()))
        });
        let rule = Self::place(table, chain).nest(NFTA_RULE_EXPRESSIONS, list);
        match comment {
            Some(text) => rule.bytes(NFTA_RULE_USERDATA, &user_data(text)),
            None => rule,
        }
    }

    /// Attributes that name one rule, or without a handle all of a chain.
    pub fn name(table: &str, chain: &str, handle: Option<u64>) -> Attrs {
        let place = Self::place(table, chain);
        match handle {
            Some(handle) => place.wide(NFTA_RULE_HANDLE, handle),
            None => place,
        }
    }

    fn place(table: &str, chain: &str) -> Attrs {
        Attrs::new().text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain)
    }

    /// One rule of a dump, if it is of this table and chain.
    pub fn read(bytes: &[u8], table: &str, chain: &str) -> Option<Self> {
        let here = find_text(bytes, NFTA_RULE_TABLE) == Some(table) && find_text(bytes, NFTA_RULE_CHAIN) == Some(chain);
        let handle = find_wide(bytes, NFTA_RULE_HANDLE).filter(|_| here)?;
        let list = find(bytes, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
        let exprs = attrs(list).filter(|(kind, _)| *kind == NFTA_LIST_ELEM).map(|(_, e)| Expr::read(e)).collect();
        let comment = find(bytes, NFTA_RULE_USERDATA).and_then(read_comment).map(String::from);
        Some(Self { handle, exprs, comment })
    }

    pub fn jumps_to(&self, chain: &str) -> bool {
        self.exprs.iter().any(|e| matches!(e, Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) if to == chain))
    }

    pub fn has(&self, part: &[Expr]) -> bool {
        !part.is_empty() && self.exprs.windows(part.len()).any(|w| w == part)
    }

    /// What `-s` says in a rule that `iptables` wrote: the address or network that the packet must come from.
    pub fn source(&self, v6: bool) -> Option<IpNetwork> {
        let wanted = Side::Source.offset(v6);
        let at = self
            .exprs
            .iter()
            .position(|e| matches!(e, Expr::Payload { base: BASE_NETWORK, offset, .. } if *offset == wanted))?;
        let (value, mask) = match self.exprs.get(at + 1..)? {
            [Expr::Compare { equal: true, value }, ..] => (value, vec![0xff; value.len()]),
            [Expr::Mask(mask), Expr::Compare { equal: true, value }, ..] => (value, mask.clone()),
            _ => return None,
        };
        // A prefix is ones, then zeros: what is counted is right for anything else that `iptables` can write, too.
        let prefix = mask.iter().map(|b| b.count_ones() as u8).fold(0u8, u8::saturating_add);
        let mut octets = [0; 16];
        octets.get_mut(..value.len())?.copy_from_slice(value);
        let [a, b, c, d, ..] = octets;
        let address = if v6 { octets.into() } else { [a, b, c, d].into() };
        IpNetwork::new(address, prefix).ok()
    }
}

/// A comment as the user data of a table, a chain or a rule.
pub fn user_data(comment: &str) -> Vec<u8> {
    let comment = cut(comment);
    let mut bytes = vec![COMMENT, comment.len() as u8 + 1];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// As much of a comment as the kernel's and `nft`'s limits take.
pub fn cut(comment: &str) -> &str {
    let end = (0..=COMMENT_MAX.min(comment.len())).rev().find(|i| comment.is_char_boundary(*i));
    &comment[..end.unwrap_or(0)]
}

fn read_comment(mut data: &[u8]) -> Option<&str> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return text(value);
        }
        data = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reread(exprs: &[Expr], comment: Option<&str>) -> Rule {
        let mut bytes = Rule::write("t", "c", exprs, comment).as_bytes().to_vec();
        bytes.extend_from_slice(Attrs::new().wide(NFTA_RULE_HANDLE, 9).as_bytes());
        Rule::read(&bytes, "t", "c").unwrap()
    }

    #[test]
    fn expressions_are_read_as_written() {
        let exprs = vec![
            Expr::Meta(META_IIFNAME),
            Expr::equals(*b"veth0\0"),
            Expr::Payload { base: BASE_LINK, offset: 6, length: 6 },
            Expr::Mask(vec![255, 0]),
            Expr::Compare { equal: false, value: vec![1, 2, 3] },
            Expr::Verdict(Verdict::Jump("there".into())),
            Expr::Verdict(Verdict::Goto("there".into())),
            Expr::Verdict(Verdict::Return),
            Expr::Verdict(Verdict::Drop),
            Expr::Verdict(Verdict::Other(1)),
            Expr::Masquerade,
            Expr::Other("counter".into()),
        ];
        let rule = reread(&exprs, Some("a comment"));
        assert_eq!(rule, Rule { handle: 9, exprs, comment: Some("a comment".into()) });
        assert!(rule.jumps_to("there") && !rule.jumps_to("ther"));
        assert!(rule.has(&[Expr::Verdict(Verdict::Return), Expr::Verdict(Verdict::Drop)]) && !rule.has(&[]));
    }

    #[test]
    fn rules_of_another_chain_or_without_a_handle_are_not_read() {
        let bytes = Rule::name("t", "c", Some(1));
        assert!(Rule::read(bytes.as_bytes(), "t", "c").is_some());
        assert!(Rule::read(bytes.as_bytes(), "t", "d").is_none());
        assert!(Rule::read(bytes.as_bytes(), "u", "c").is_none());
        assert!(Rule::read(Rule::name("t", "c", None).as_bytes(), "t", "c").is_none());
    }

    #[test]
    fn a_source_is_found_in_each_form() {
        for net in ["10.1.2.3/32", "10.1.2.0/24", "10.1.16.0/20", "10.0.0.0/8", "128.0.0.0/1", "0.0.0.0/0"] {
            let mut exprs = address(Side::Source, net.parse().unwrap(), true);
            exprs.push(Expr::Other("match".into()));
            assert_eq!(reread(&exprs, None).source(false), Some(net.parse().unwrap()), "{net}");
        }
        for net in ["2001:db8::2/128", "2001:db8::/64", "2001:db8::/61", "::/0"] {
            let exprs = address(Side::Source, net.parse().unwrap(), true);
            assert_eq!(reread(&exprs, None).source(true), Some(net.parse().unwrap()), "{net}");
        }
        let not_equal = address(Side::Source, "10.1.2.3/32".parse().unwrap(), false);
        assert_eq!(reread(&not_equal, None).source(false), None);
        let destination = address(Side::Destination, "10.1.2.3/32".parse().unwrap(), true);
        assert_eq!(reread(&destination, None).source(false), None);
        let long = [
            Expr::Payload { base: BASE_NETWORK, offset: 12, length: 40 },
            Expr::Compare { equal: true, value: vec![1; 40] },
        ];
        assert_eq!(reread(&long, None).source(false), None);
    }

    #[test]
    fn comments_are_cut_at_a_character() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"x".repeat(200)).len(), COMMENT_MAX);
        assert_eq!(cut(&"\u{e4}".repeat(100)).len(), COMMENT_MAX);
        assert_eq!(cut(&format!("x{}", "\u{e4}".repeat(100))).len(), COMMENT_MAX - 1);
        assert_eq!(read_comment(&user_data("abc")), Some("abc"));
        assert_eq!(read_comment(&[7, 2, 0, 0, 0, 4, b'a', b'b', b'c', 0]), Some("abc"), "behind another datum");
        assert_eq!(read_comment(&[0, 9, b'a']), None, "cut");
        assert_eq!(read_comment(&[0]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut rule = Rule::name("t", "c", Some(1)).as_bytes().to_vec();
            rule.extend_from_slice(Attrs::new().bytes(NFTA_RULE_USERDATA, &bytes).as_bytes());
            rule.extend_from_slice(Attrs::new().bytes(NFTA_RULE_EXPRESSIONS, &bytes).as_bytes());
            rule.extend_from_slice(&bytes);
            let rule = Rule::read(&rule, "t", "c").expect("place and handle come first");
            let _ = (rule.source(false), rule.source(true));
        }

        #[test]
        fn a_rule_with_one_byte_changed_is_read_or_not(at in 0usize..400, to in any::<u8>()) {
            let mut exprs = address(Side::Source, "10.1.16.0/20".parse().unwrap(), true);
            exprs.extend([Expr::Meta(1), Expr::Verdict(Verdict::Jump("there".into())), Expr::Masquerade]);
            let mut bytes = Rule::name("t", "c", Some(1)).as_bytes().to_vec();
            bytes.extend_from_slice(Rule::write("t", "c", &exprs, Some("comment")).as_bytes());
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = Rule::read(&bytes, "t", "c").map(|r| (r.source(false), r.source(true), r.jumps_to("there")));
        }
    }
}
