//! One rtnetlink socket: requests out, answers and errors back. What a message means is its callers' business.
//!
//! The kernel is asked to be strict and to explain itself (NETLINK_GET_STRICT_CHK, NETLINK_EXT_ACK). A dump that was
//! interrupted by a change is taken again. Every request asks for an acknowledgement, also one that has an answer:
//! an answer that the packet library cannot read would otherwise be waited for without end.

use futures_util::StreamExt;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;

use super::pace::Paced;
use super::{NetError, NetResult};

/// `NLM_F_DUMP_INTR`: something changed while the kernel listed, so the list may lack or repeat entries.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: of the request, the error message repeats the header only.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the error message has attributes.
const ACK_ATTRIBUTES: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's sentence.
const ATTRIBUTE_MESSAGE: u16 = 1;
const HEADER_LEN: usize = 16;
/// A busy node changes its links all the time; a list that was interrupted this often is reported as EINTR.
const DUMP_ATTEMPTS: u32 = 20;

/// What is asked, as an error will name it.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub op: &'static str,
    pub object: String,
}

impl Ask {
    pub fn new(op: &'static str, object: impl Into<String>) -> Self {
        Self { op, object: object.into() }
    }

    fn failed(&self, errno: Errno) -> NetError {
        NetError::new(self.op, self.object.clone(), errno)
    }

    fn refused(&self, code: i32, kernel: Option<String>) -> NetError {
        NetError { kernel, errno: code.abs(), ..self.failed(Errno::UnknownErrno) }
    }
}

/// A netlink socket in one namespace. Dropping it closes the socket.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// In the calling thread's namespace, in the runtime that the caller is in.
    pub fn own() -> NetResult<Self> {
        Self::open_here(&tokio::runtime::Handle::current())
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that opens an rtnetlink socket")]
    pub(super) fn open_here(runtime: &tokio::runtime::Handle) -> NetResult<Self> {
        let failed = |e: std::io::Error| NetError::io("open", "netlink socket", &e);
        let _entered = runtime.enter();
        let (mut connection, handle, _) = rtnetlink::new_connection_with_socket::<Paced>().map_err(failed)?;
        // The end of a list carries the list's error code; without this it would be dropped on the way.
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true).map_err(failed)?;
        // Errors need not repeat the whole request. Both options are missing in kernels before 4.20: filters of
        // lists are then ignored, so the callers filter again themselves.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        runtime.spawn(connection);
        Ok(Self { handle })
    }

    /// Asks for a change and waits until it is done. The answer has messages only if `flags` has NLM_F_ECHO.
    pub(super) async fn change(
        &self,
        ask: Ask,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> NetResult<Vec<RouteNetlinkMessage>> {
        let (answer, _) = self.exchange(&ask, message, NLM_F_ACK | flags, Some).await?;
        crate::failpoint::hit(ask.op);
        Ok(answer)
    }

    /// Asks for one object.
    pub(super) async fn get(&self, ask: Ask, message: RouteNetlinkMessage) -> NetResult<RouteNetlinkMessage> {
        let (mut answer, _) = self.exchange(&ask, message, NLM_F_ACK, Some).await?;
        // EBADMSG: there was an answer, but the packet library could not read it.
        answer.pop().ok_or_else(|| ask.failed(Errno::EBADMSG))
    }

    /// Asks for all objects of a kind.
    pub(super) async fn dump(&self, ask: Ask, message: RouteNetlinkMessage) -> NetResult<Vec<RouteNetlinkMessage>> {
        self.dump_as(ask, message, Some).await
    }

    /// The same, where there may be many: what is made of each is all that is kept.
    pub(super) async fn dump_as<T>(
        &self,
        ask: Ask,
        message: RouteNetlinkMessage,
        make: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> NetResult<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.exchange(&ask, message.clone(), NLM_F_DUMP, &make).await {
                Ok((answer, whole)) if whole => return Ok(answer),
                Ok(_) => {}
                Err(e) if e.is(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        Err(ask.failed(Errno::EINTR))
    }

    /// One request and all of its answer; false: the list was interrupted.
    async fn exchange<T>(
        &self,
        ask: &Ask,
        message: RouteNetlinkMessage,
        flags: u16,
        make: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> NetResult<(Vec<T>, bool)> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        // Only a dead connection task refuses a request.
        let mut stream = self.handle.clone().request(request).map_err(|_| ask.failed(Errno::ENOTCONN))?;
        let (mut answer, mut whole) = (Vec::new(), true);
        while let Some(reply) = stream.next().await {
            whole &= reply.header.flags & DUMP_INTERRUPTED == 0;
            match reply.payload {
                NetlinkPayload::InnerMessage(m) => answer.extend(make(m)),
                NetlinkPayload::Error(e) if e.raw_code() != 0 => {
                    return Err(ask.refused(e.raw_code(), explanation(reply.header.flags, &e.header)));
                }
                NetlinkPayload::Done(d) if d.code < 0 => {
                    return Err(ask.refused(d.code, sentence(&d.extended_ack)));
                }
                NetlinkPayload::Overrun(_) => return Err(ask.failed(Errno::ENOBUFS)),
                _ => {}
            }
        }
        Ok((answer, whole))
    }
}

/// The kernel's sentence in an error message: header of the request, its body unless capped, then attributes.
fn explanation(flags: u16, body: &[u8]) -> Option<String> {
    if flags & ACK_ATTRIBUTES == 0 {
        return None;
    }
    let request = if flags & CAPPED != 0 { HEADER_LEN } else { u32_at(body, 0)? as usize };
    sentence(body.get(align(request)..)?)
}

fn sentence(mut attributes: &[u8]) -> Option<String> {
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..len)?;
        if u16_at(attributes, 2)? == ATTRIBUTE_MESSAGE {
            let text = value.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(align(len)..)?;
    }
}

fn align(n: usize) -> usize {
    n.saturating_add(3) & !3
}

pub(super) fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes)
}

pub(super) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut a = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        a.extend(kind.to_ne_bytes());
        a.extend(value);
        a.resize(align(a.len()), 0);
        a
    }

    #[test]
    fn the_kernels_sentence_is_found_after_a_capped_and_a_whole_request() {
        let text = [attribute(2, &[1, 2, 3, 4]), attribute(1, b"no such thing\0")].concat();
        let capped = [vec![0; HEADER_LEN], text.clone()].concat();
        assert_eq!(explanation(ACK_ATTRIBUTES | CAPPED, &capped).as_deref(), Some("no such thing"));
        let mut whole = 22u32.to_ne_bytes().to_vec();
        whole.resize(24, 0);
        whole.extend(&text);
        assert_eq!(explanation(ACK_ATTRIBUTES, &whole).as_deref(), Some("no such thing"));
        assert_eq!(explanation(0, &whole), None);
    }

    #[test]
    fn requests_may_wait_on_any_thread_of_a_runtime() {
        fn sendable<T: Send>(_: &T) {}
        let b = super::super::testing::block_on(async { super::super::testing::Bench::new() });
        sendable(&b.host.links());
        sendable(&b.host.redirect(1, 2));
        sendable(&b.host.set_link(1, &Default::default()));
    }

    #[test]
    fn torn_attributes_give_no_sentence_and_no_panic() {
        let good = attribute(1, b"words\0");
        for end in 0..good.len() - 2 {
            let _ = sentence(&good[..end]);
        }
        assert_eq!(sentence(&[]), None);
        assert_eq!(sentence(&[0, 0, 1, 0, 9]), None);
        assert_eq!(explanation(ACK_ATTRIBUTES, &[0xff; 8]), None);
    }
}
