//! The kernel's ruleset in one network namespace: read a chain, change it in one transaction.
//!
//! Knows NETLINK_NETFILTER's requests, batches and answers. Does not know whose tables these are.
//!
//! ```text
//! generation ─→ read chains, decide ─→ batch, valid for that generation ─→ committed
//!      ↑                                            │ another program was faster (ERESTART)
//!      └────────────────────────────────────────────┘
//! ```
//! The kernel does a request's work inside `send`, so its answers wait in the socket when `send` returns; a `recv`
//! that would block means that there is none.

use std::fmt;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::rule::{Expr, Rule, user_data};
use super::wire::{Attrs, Frame, HEADER, Received, find, find_number, find_text, messages, native32, text};
use crate::net::{NetError, NetResult};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENERATION: u16 = 1;

const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const GET_GENERATION: u16 = 16;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_CHAIN_USERDATA: u16 = 12;
const NFTA_HOOK_NUMBER: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_GEN_ID: u16 = 1;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;
const DUMP_INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;
/// The error answer does not repeat the whole request.
const CAPPED: u16 = 0x100;
/// Attributes follow, one of them the kernel's sentence.
const ACK_ATTRIBUTES: u16 = 0x200;
const ERROR_TEXT: u16 = 1;

/// The largest piece that the kernel gives at a time is 32 KiB.
const PIECE: usize = 64 << 10;
/// Each turn lost is a change that another program got through; a node with a hundred pods starting at once takes few.
const TURNS: u32 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Inet = 1,
    Ipv4 = 2,
    Bridge = 7,
    Ipv6 = 10,
}

#[derive(Debug, Clone, Copy)]
pub struct Table {
    pub family: Family,
    pub name: &'static str,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Inet => "inet",
            Family::Ipv4 => "ip",
            Family::Bridge => "bridge",
            Family::Ipv6 => "ip6",
        };
        write!(f, "{family} {}", self.name)
    }
}

/// Where a base chain hangs. Its policy is left to the kernel's default (accept), or to who made the chain.
pub struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

/// Changes that the kernel makes all or none.
#[derive(Default)]
pub struct Batch {
    steps: Vec<Step>,
    /// Valid for the generation of the ruleset that was read only: rules are named by their handles, or what was seen
    /// to be there is not made.
    fenced: bool,
}

struct Step {
    op: &'static str,
    object: String,
    family: Family,
    kind: u16,
    flags: u16,
    attrs: Attrs,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// What the batch leaves out, as it was seen to be there, must still be there.
    pub fn rely_on_what_was_read(&mut self) {
        self.fenced = true;
    }

    /// Makes the table unless it is there.
    pub fn ensure_table(&mut self, table: Table, comment: Option<&str>) {
        let attrs = comment.into_iter().fold(Attrs::new().text(NFTA_TABLE_NAME, table.name), |attrs, c| {
            attrs.bytes(NFTA_TABLE_USERDATA, &user_data(c))
        });
        self.push("add table", table.to_string(), table, NEW_TABLE, CREATE, attrs);
    }

    /// Makes the chain unless it is there. Where it is, the kernel books a change of it nevertheless, and the socket's
    /// `close` waits for a grace period (8 ms seen on Linux 6.18), as it does after a deletion.
    pub fn ensure_chain(&mut self, table: Table, chain: &str, comment: Option<&str>) {
        let attrs = comment
            .into_iter()
            .fold(chain_name(table, chain), |attrs, c| attrs.bytes(NFTA_CHAIN_USERDATA, &user_data(c)));
        self.push("add chain", format!("{table} {chain}"), table, NEW_CHAIN, CREATE, attrs);
    }

    /// Makes the base chain unless it is there; one of that name on another hook is an error.
    pub fn ensure_base_chain(&mut self, table: Table, chain: &str, hook: &Hook) {
        let place = Attrs::new().number(NFTA_HOOK_NUMBER, hook.number).number(NFTA_HOOK_PRIORITY, hook.priority as u32);
        let attrs = chain_name(table, chain).nest(NFTA_CHAIN_HOOK, place).text(NFTA_CHAIN_TYPE, hook.kind);
        self.push("add chain", format!("{table} {chain}"), table, NEW_CHAIN, CREATE, attrs);
    }

    /// Takes all rules out of the chain.
    pub fn flush(&mut self, table: Table, chain: &str) {
        let attrs = Rule::name(table.name, chain, None);
        self.push("flush chain", format!("{table} {chain}"), table, DELETE_RULE, 0, attrs);
    }

    pub fn add_rule(&mut self, table: Table, chain: &str, exprs: &[Expr], comment: Option<&str>) {
        let attrs = Rule::write(table.name, chain, exprs, comment);
        self.push("add rule to", format!("{table} {chain}"), table, NEW_RULE, CREATE | APPEND, attrs);
    }

    pub fn delete_rule(&mut self, table: Table, chain: &str, rule: &Rule) {
        self.fenced = true;
        let attrs = Rule::name(table.name, chain, Some(rule.handle));
        self.push("delete rule of", format!("{table} {chain}"), table, DELETE_RULE, 0, attrs);
    }

    /// Takes the chain away, with its rules. EBUSY while a rule jumps to it.
    pub fn delete_chain(&mut self, table: Table, chain: &str) {
        self.fenced = true;
        self.push("delete chain", format!("{table} {chain}"), table, DELETE_CHAIN, 0, chain_name(table, chain));
    }

    fn push(&mut self, op: &'static str, object: String, table: Table, kind: u16, flags: u16, attrs: Attrs) {
        self.steps.push(Step { op, object, family: table.family, kind: SUBSYSTEM << 8 | kind, flags, attrs });
    }

    /// The datagram: begin, the steps, end. Begin has number `first`, the steps those that follow.
    fn write(&self, first: u32, generation: u32) -> Vec<u8> {
        let fence = if self.fenced { Attrs::new().number(BATCH_GENERATION, generation) } else { Attrs::new() };
        let mut datagram = Vec::new();
        let mut sequence = first;
        let mut put = |kind, flags, family, resource, attrs: &Attrs| {
            Frame { kind, flags: REQUEST | flags, sequence, family, resource, attrs }.append_to(&mut datagram);
            sequence += 1;
        };
        put(BATCH_BEGIN, 0, 0, SUBSYSTEM, &fence);
        for (i, step) in self.steps.iter().enumerate() {
            // The last step's answer tells that the kernel took the whole.
            let ack = if i + 1 == self.steps.len() { ACK } else { 0 };
            put(step.kind, step.flags | ack, step.family as u8, 0, &step.attrs);
        }
        put(BATCH_END, 0, 0, SUBSYSTEM, &Attrs::new());
        datagram
    }
}

fn chain_name(table: Table, chain: &str) -> Attrs {
    Attrs::new().text(NFTA_CHAIN_TABLE, table.name).text(NFTA_CHAIN_NAME, chain)
}

/// A connection to nf_tables of the network namespace that the calling thread was in.
pub struct Ruleset {
    socket: Socket,
    sequence: u32,
    generation: u32,
}

impl Ruleset {
    /// `None`: this kernel has no nf_tables.
    pub fn open() -> NetResult<Option<Self>> {
        let failed = |e: io::Error| NetError::io("open", "netfilter socket", &e);
        let mut socket = match Socket::new(NETLINK_NETFILTER) {
            Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Older kernels know neither option; then errors come without a text and with the request behind them.
        let _ = (socket.set_ext_ack(true), socket.set_cap_ack(true));
        let mut ruleset = Self { socket, sequence: 0, generation: 0 };
        match ruleset.read_generation() {
            // No subsystem of that number, and no module that would be one: to a well-formed request, EINVAL says that.
            Err(e) if e.is(Errno::EINVAL) || e.is(Errno::EOPNOTSUPP) => Ok(None),
            other => other.map(|()| Some(ruleset)),
        }
    }

    /// The rules of a chain, in order; none if there is no such chain.
    pub fn rules(&mut self, table: Table, chain: &str) -> NetResult<Vec<Rule>> {
        let filter = Rule::name(table.name, chain, None);
        let object = || format!("{table} {chain}");
        let answers = match self.ask("list rules of", object, table.family as u8, GET_RULE, DUMP, &filter) {
            Err(e) if e.is(Errno::ENOENT) => return Ok(Vec::new()),
            other => other?,
        };
        Ok(answers
            .iter()
            .filter(|a| a.family == table.family as u8)
            .filter_map(|a| Rule::read(&a.attrs, table.name, chain))
            .collect())
    }

    pub fn has_chain(&mut self, table: Table, chain: &str) -> NetResult<bool> {
        Ok(self.chain(table, chain)?.is_some())
    }

    /// Whether there is a chain of that name on that very hook.
    pub fn has_base_chain(&mut self, table: Table, chain: &str, hook: &Hook) -> NetResult<bool> {
        let found = self.chain(table, chain)?;
        let place = found.as_ref().and_then(|c| Some((find(c, NFTA_CHAIN_HOOK)?, find_text(c, NFTA_CHAIN_TYPE)?)));
        Ok(place.is_some_and(|(place, kind)| {
            kind == hook.kind
                && find_number(place, NFTA_HOOK_NUMBER) == Some(hook.number)
                && find_number(place, NFTA_HOOK_PRIORITY) == Some(hook.priority as u32)
        }))
    }

    fn chain(&mut self, table: Table, chain: &str) -> NetResult<Option<Vec<u8>>> {
        let (name, object) = (chain_name(table, chain), || format!("{table} {chain}"));
        match self.ask("look for chain", object, table.family as u8, GET_CHAIN, ACK, &name) {
            Ok(answers) => {
                Ok(answers.into_iter().map(|a| a.attrs).find(|a| find_text(a, NFTA_CHAIN_NAME) == Some(chain)))
            }
            // ENOENT: neither table nor chain. EAFNOSUPPORT, EOPNOTSUPP: the kernel has no tables of that family.
            Err(e) if [Errno::ENOENT, Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP].iter().any(|c| e.is(*c)) => Ok(None),
            // Longer than the kernel lets any name be.
            Err(e) if e.is(Errno::ERANGE) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Carries out what `plan` makes of the ruleset, in one transaction; an empty batch ends it. `plan` is asked again
    /// when the ruleset has changed since it looked.
    pub fn transact(&mut self, mut plan: impl FnMut(&mut Self) -> NetResult<Batch>) -> NetResult<()> {
        let mut lost = 0;
        loop {
            self.read_generation()?;
            let batch = plan(self)?;
            if batch.steps.is_empty() {
                return Ok(());
            }
            match self.commit(&batch) {
                Err(e) if e.is(Errno::ERESTART) && lost < TURNS => {
                    lost += 1;
                    // Whoever lost by chance wins the next turn; after some, give way to a long row of changes.
                    std::thread::sleep(Duration::from_micros(u64::from(lost.saturating_sub(4)) * 100));
                }
                done => {
                    crate::failpoint::hit("nftables transaction");
                    return done;
                }
            }
        }
    }

    fn commit(&mut self, batch: &Batch) -> NetResult<()> {
        let begin = self.sequence + 1;
        let last = begin + batch.steps.len() as u32;
        self.sequence = last + 1;
        let step = |sequence: u32| sequence.checked_sub(begin + 1).and_then(|i| batch.steps.get(i as usize));
        let whole = || (batch.steps[0].op, batch.steps[0].object.clone());
        self.send(&batch.write(begin, self.generation), whole)?;
        let mut taken = false;
        while let Some(piece) = self.receive(whole)? {
            for message in messages(&piece).filter(|m| m.kind == libc::NLMSG_ERROR as u16 && m.sequence >= begin) {
                let (code, words) = read_error(&message);
                if code != 0 {
                    // An answer to the begin is about the whole; the first step refused is the cause of all others.
                    let what = step(message.sequence).map_or_else(whole, |s| (s.op, s.object.clone()));
                    return Err(self.abandon(failure(what, code, words)));
                }
                taken |= message.sequence == last;
            }
        }
        if taken { Ok(()) } else { Err(unanswered(whole())) }
    }

    fn read_generation(&mut self) -> NetResult<()> {
        let object = || "nftables generation".to_string();
        let answers = self.ask("read", object, 0, GET_GENERATION, ACK, &Attrs::new())?;
        let generation = answers.iter().find_map(|a| find_number(&a.attrs, NFTA_GEN_ID));
        self.generation = generation.ok_or_else(|| unanswered(("read", object())))?;
        Ok(())
    }

    /// One request and all its answers; a list that changed while it was read is read again.
    fn ask(
        &mut self,
        op: &'static str,
        object: impl Fn() -> String,
        family: u8,
        kind: u16,
        flags: u16,
        attrs: &Attrs,
    ) -> NetResult<Vec<Answer>> {
        for _ in 0..TURNS {
            self.sequence += 1;
            let mut datagram = Vec::new();
            let (kind, flags, sequence) = (SUBSYSTEM << 8 | kind, REQUEST | flags, self.sequence);
            Frame { kind, flags, sequence, family, resource: 0, attrs }.append_to(&mut datagram);
            self.send(&datagram, || (op, object()))?;
            if let Some(answers) = self.collect(|| (op, object()))? {
                return Ok(answers);
            }
        }
        Err(failure((op, object()), Errno::EAGAIN as i32, Some("the ruleset never stopped changing".into())))
    }

    /// Answers up to their end; `None` if they do not belong to one and the same ruleset.
    fn collect(&mut self, what: impl Fn() -> (&'static str, String)) -> NetResult<Option<Vec<Answer>>> {
        let (mut answers, mut torn) = (Vec::new(), false);
        while let Some(piece) = self.receive(&what)? {
            for message in messages(&piece).filter(|m| m.sequence == self.sequence) {
                torn |= message.flags & DUMP_INTERRUPTED != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok((!torn).then_some(answers)),
                    libc::NLMSG_ERROR => {
                        let (code, words) = read_error(&message);
                        return if code == 0 { Ok(Some(answers)) } else { Err(failure(what(), code, words)) };
                    }
                    _ => answers.extend(message.netfilter().map(|(family, a)| Answer { family, attrs: a.to_vec() })),
                }
            }
        }
        Err(unanswered(what()))
    }

    fn send(&mut self, datagram: &[u8], what: impl Fn() -> (&'static str, String)) -> NetResult<()> {
        self.socket.send(datagram, 0).map(drop).map_err(|e| {
            let (op, object) = what();
            NetError::io(op, object, &e)
        })
    }

    /// The next datagram, if one waits.
    fn receive(&self, what: impl Fn() -> (&'static str, String)) -> NetResult<Option<Vec<u8>>> {
        let mut piece = Vec::with_capacity(PIECE);
        let failed = match self.socket.recv(&mut piece, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
            Ok(length) if length <= piece.len() => return Ok(Some(piece)),
            Ok(_) => io::Error::from_raw_os_error(libc::EMSGSIZE),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => e,
        };
        let (op, object) = what();
        Err(NetError::io(op, object, &failed))
    }

    /// Empties the socket, so that the next request does not read the answers of one that failed.
    fn abandon(&self, e: NetError) -> NetError {
        while let Ok(Some(_)) = self.receive(|| (e.op, e.object.clone())) {}
        e
    }
}

struct Answer {
    family: u8,
    attrs: Vec<u8>,
}

/// Errno (0 = done) and the kernel's sentence.
fn read_error(message: &Received) -> (i32, Option<String>) {
    let Some(code) = native32(message.body) else { return (libc::EPROTO, None) };
    // `nlmsgerr`: errno, then the header of the request; the request itself only where it is not capped.
    let request = message.body.get(4..).and_then(native32).map_or(0, |l| (l as usize).min(message.body.len()));
    let attributes_at = 4 + if message.flags & CAPPED != 0 { HEADER } else { request.next_multiple_of(4) };
    let attributes = message.body.get(attributes_at..).filter(|_| message.flags & ACK_ATTRIBUTES != 0);
    let words = attributes.and_then(|a| find(a, ERROR_TEXT)).and_then(text).map(String::from);
    ((code as i32).wrapping_neg(), words)
}

fn failure((op, object): (&'static str, String), errno: i32, kernel: Option<String>) -> NetError {
    NetError { op, object, errno, kernel }
}

fn unanswered(what: (&'static str, String)) -> NetError {
    failure(what, libc::EPROTO, Some("no answer to the request".into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `nlmsgerr` for a request of `request` bytes, of which `repeated` follow, and a sentence.
    fn refusal(flags: u16, errno: i32, request: u32, repeated: usize, words: &str) -> (u16, Vec<u8>) {
        let mut body = (-errno).to_ne_bytes().to_vec();
        body.extend_from_slice(&request.to_ne_bytes());
        body.resize(20 + repeated, 0xee);
        body.extend_from_slice(Attrs::new().text(ERROR_TEXT, words).as_bytes());
        (flags, body)
    }

    fn read((flags, body): &(u16, Vec<u8>)) -> (i32, Option<String>) {
        read_error(&Received { kind: libc::NLMSG_ERROR as u16, flags: *flags, sequence: 1, body })
    }

    #[test]
    fn the_kernels_words_are_found_behind_the_request_or_without_it() {
        let words = Some("Chain of type".to_string());
        let capped = refusal(CAPPED | ACK_ATTRIBUTES, libc::EBUSY, 52, 0, "Chain of type");
        assert_eq!(read(&capped), (libc::EBUSY, words.clone()));
        let whole = refusal(ACK_ATTRIBUTES, libc::EBUSY, 53, 40, "Chain of type");
        assert_eq!(read(&whole), (libc::EBUSY, words));
        assert_eq!(read(&refusal(CAPPED, libc::ENOENT, 52, 0, "not announced")), (libc::ENOENT, None));
        assert_eq!(read(&(ACK_ATTRIBUTES, 0i32.to_ne_bytes().to_vec())), (0, None));
        assert_eq!(read(&(0, vec![1, 2])), (libc::EPROTO, None));
    }

    #[test]
    fn a_batch_is_fenced_only_where_it_names_what_was_read() {
        let table = Table { family: Family::Inet, name: "t" };
        let mut batch = Batch::new();
        batch.ensure_table(table, None);
        batch.ensure_chain(table, "c", None);
        let begin = |batch: &Batch| {
            let datagram = batch.write(5, 77);
            let all: Vec<_> = messages(&datagram).map(|m| (m.kind, m.sequence, m.flags & ACK != 0)).collect();
            assert_eq!(all.first().map(|m| (m.0, m.1)), Some((BATCH_BEGIN, 5)));
            assert_eq!(all.last().map(|m| m.0), Some(BATCH_END));
            assert_eq!(all.iter().filter(|m| m.2).map(|m| m.1).collect::<Vec<_>>(), [all.len() as u32 + 3]);
            let (_, attrs) = messages(&datagram).next().and_then(|m| m.netfilter()).unwrap();
            find_number(attrs, BATCH_GENERATION)
        };
        assert_eq!(begin(&batch), None);
        batch.delete_rule(table, "c", &Rule { handle: 1, exprs: Vec::new(), comment: None });
        assert_eq!(begin(&batch), Some(77));
    }

    proptest! {
        #[test]
        fn no_error_makes_it_panic(flags in any::<u16>(), body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&(flags, body));
        }
    }
}
