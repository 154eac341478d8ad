//! One guest: hears it at the host end of its veth, and answers.
//!
//! Who else sends there is not answered: frames count only with the guest's own MAC as their source, which our own client
//! never uses. What a link is, its index says, and its MAC or the other end of the veth; one that is another by now is left
//! alone. Answers have the MAC that it had when the guest was bound, which the filters know, whatever it has now.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Source;
use super::gift::{Wanted, gift, words};
use super::notes::Notes;
use crate::agent::context::Context;
use crate::agent::metrics::Family;
use crate::agent::tell;
use crate::attach::{self, SERVER_ID, Served};
use crate::ipam::dhcp::server::{Gift, Kind, Reply, Turn, Verdict, turn};
use crate::net::frame::{Arp, EVERYBODY, Heard, Macs, Question};
use crate::net::packet::ServerSocket;
use crate::net::{LinkKind, Namespace, Netlink};
use crate::store::Journal;
use crate::types::{AttachmentId, Code, Failure, Mac, Outcome, Role};

/// Until a link that cannot be listened at is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long questions wait for what the machine's owner has set: clients ask again after some seconds, and seldom within these
/// first ones.
const PATIENCE: Duration = Duration::from_secs(5);
/// Until somebody who could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Frames in one second that are looked at. A guest that sends more of them waits, and no other one with it.
const FRAMES: u32 = 50;

const QUESTIONS: Family =
    Family::counter("trestle_guest_questions_total", "Guests' DHCP questions, by kind and by what they were answered.");

/// Where a guest is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    index: u32,
    host_mac: Mac,
    /// The other end's index, in the pod.
    peer: u32,
    mac: Mac,
}

impl At {
    pub fn of(served: &Served) -> Self {
        let guest = &served.guest;
        Self { index: guest.host_index, host_mac: guest.host_mac, peer: served.link, mac: guest.mac }
    }
}

pub struct GuestTask<S> {
    ctx: Context,
    host: Arc<Namespace>,
    source: Arc<S>,
    /// As it was when the task began: for its name and place alone.
    served: Served,
    at: At,
    notes: Notes,
    /// Until when a question waits for what the owner has set.
    patient_until: Instant,
    /// Addresses that the guest declined, told already.
    declined: Vec<Ipv4Addr>,
}

impl<S: Source> GuestTask<S> {
    pub fn new(ctx: &Context, host: &Arc<Namespace>, source: &Arc<S>, served: Served) -> Self {
        let notes = Notes::read(&ctx.dirs, &served.container, &served.ifname);
        let (ctx, host, source, at) = (ctx.clone(), Arc::clone(host), Arc::clone(source), At::of(&served));
        let patient_until = Instant::now() + PATIENCE;
        Self { ctx, host, source, served, at, notes, patient_until, declined: Vec::new() }
    }

    pub async fn run(mut self) {
        let mut said = String::new();
        loop {
            let Err(failure) = self.serve().await;
            let text = failure.to_string();
            if text != said {
                tracing::warn!(guest = %self.name(), %failure, "a guest is not heard; tried again");
                said = text;
            }
            sleep(PAUSE).await;
        }
    }

    async fn serve(&mut self) -> Outcome<std::convert::Infallible> {
        let links = self.host.netlink()?;
        self.is_still_there(&links).await?;
        let socket = ServerSocket::open(&self.host, self.at.index, SERVER_ID)?;
        tracing::debug!(guest = %self.name(), index = self.at.index, "listening");
        let (source, served) = (Arc::clone(&self.source), self.served.clone());
        let mut asking = Box::pin(async move { wanted(&*source, &served).await });
        let mut waiting: Option<Vec<u8>> = None;
        let mut second = (Instant::now(), 0);
        loop {
            tokio::select! {
                question = socket.heard() => {
                    // The last one counts.
                    waiting = self.take(&socket, question?)?.or(waiting);
                    second = pace(second).await;
                }
                wanted = &mut asking, if self.notes.wanted.is_none() => {
                    self.notes.wanted = Some(wanted);
                    self.note();
                    if let Some(payload) = waiting.take() {
                        self.answer(&socket, &payload)?;
                    }
                }
                () = sleep_until(self.patient_until), if waiting.is_some() => {
                    tracing::warn!(guest = %self.name(), "nobody says which dhcpOptions the machine has: answered without");
                    if let Some(payload) = waiting.take() {
                        self.answer(&socket, &payload)?;
                    }
                }
            }
        }
    }

    /// An index comes back to other links; a veth's MAC does not. udev gives the host's end of another plugin's veth one that
    /// stays (`MACAddressPolicy=persistent`), and may do so after the guest was bound.
    async fn is_still_there(&self, links: &Netlink) -> Outcome<()> {
        let gone = |why: String| Failure::new(Code::Differs, format!("link {}: {why}", self.at.index));
        let link = links.link_at(self.at.index).await?.ok_or_else(|| gone("is gone".into()))?;
        match link.mac {
            Some(mac) if mac == self.at.host_mac => Ok(()),
            _ if link.kind == LinkKind::Veth && link.lower == Some(self.at.peer) => Ok(()),
            Some(mac) => Err(gone(format!("has MAC {mac} instead of {}", self.at.host_mac))),
            None => Err(gone("has no MAC".into())),
        }
    }

    /// Gives the payload of a question back that has to wait.
    fn take(&mut self, socket: &ServerSocket, question: Question) -> Outcome<Option<Vec<u8>>> {
        if question.source != self.at.mac {
            return Ok(None);
        }
        match question.heard {
            Heard::Arp(Arp { mac, sender, target: SERVER_ID }) if mac == self.at.mac => {
                socket.is_here(self.macs(mac), SERVER_ID, sender)?;
            }
            Heard::Arp(_) => {}
            Heard::Udp { payload, .. } if self.notes.wanted.is_none() && Instant::now() < self.patient_until => {
                return Ok(Some(payload));
            }
            Heard::Udp { payload, .. } => self.answer(socket, &payload)?,
        }
        Ok(None)
    }

    fn answer(&mut self, socket: &ServerSocket, payload: &[u8]) -> Outcome<()> {
        let (gift, network) = (self.gift(), self.served.network.clone());
        let Some(Turn { kind, address, reply }) = turn(payload, self.at.mac, gift.as_ref()) else { return Ok(()) };
        let said = reply.as_ref().map_or("none", |reply| reply.verdict.as_str());
        tracing::debug!(guest = %self.name(), kind = kind.as_str(), ?address, answer = said, "a question");
        self.ctx.metrics.add(&QUESTIONS, &[("kind", kind.as_str()), ("answer", said)], 1);
        match (kind, address) {
            (Kind::Decline, Some(address)) => self.declines(address),
            (Kind::Release, _) => tracing::info!(guest = %self.name(), ?address, "the guest gives its address back"),
            _ => {}
        }
        let Some(Reply { verdict, to, payload }) = reply else { return Ok(()) };
        let destination = if to == Ipv4Addr::BROADCAST { EVERYBODY } else { self.at.mac };
        socket.answer(self.macs(destination), SERVER_ID, to, &payload)?;
        if let (Verdict::Ack, Some(gift)) = (verdict, &gift) {
            self.tell_once(&network, gift);
        }
        Ok(())
    }

    fn macs(&self, destination: Mac) -> Macs {
        Macs { source: self.at.host_mac, destination }
    }

    /// Out of the files, as they are now. An entry that is gone or cannot be read gives nothing.
    fn gift(&self) -> Option<Gift> {
        let (container, ifname) = (self.served.container.clone(), self.served.ifname.clone());
        let id = AttachmentId { container, ifname, role: Role::Bind };
        let dirs = &self.ctx.dirs;
        let read = || -> Outcome<Option<Served>> {
            let Some(entry) = Journal(dirs).read(&id)? else { return Ok(None) };
            attach::served(&entry, dirs, &self.host)
        };
        match read() {
            Ok(served) => {
                let served = served.filter(|now| At::of(now) == self.at)?;
                let unset = Wanted::default();
                gift(&served, self.notes.wanted.as_ref().unwrap_or(&unset), Duration::from_nanos(dirs.now()))
            }
            Err(failure) => {
                tracing::warn!(guest = %self.name(), %failure, "a guest gets no answer");
                None
            }
        }
    }

    fn tell_once(&mut self, network: &str, gift: &Gift) {
        let address = format!("{}/{}", gift.lease.address, gift.lease.prefix);
        if self.notes.told.contains(&address) {
            return;
        }
        let text = words(network, gift);
        tracing::info!(guest = %self.name(), "given: {text}");
        if let Some(pod) = &self.served.pod {
            tell::report_once(&self.ctx, pod, "AddressGiven", &text);
        }
        self.notes.told.push(address);
        self.note();
    }

    /// Another host of the LAN has it, says the guest.
    fn declines(&mut self, address: Ipv4Addr) {
        if self.declined.contains(&address) || self.declined.len() >= 16 {
            return;
        }
        let text = format!("{}: the machine declines {address}: another host has it", self.served.network);
        tracing::warn!(guest = %self.name(), "{text}");
        if let Some(pod) = &self.served.pod {
            tell::complain(&self.ctx, pod, "AddressDeclined", &text);
        }
        self.declined.push(address);
    }

    fn note(&self) {
        let (container, ifname) = (&self.served.container, &self.served.ifname);
        if let Err(failure) = self.notes.write(&self.ctx.dirs, container, ifname) {
            tracing::warn!(guest = %self.name(), %failure, "to be asked and told again after a restart");
        }
    }

    fn name(&self) -> String {
        let Served { container, network, pod, .. } = &self.served;
        let who = pod.as_ref().map_or_else(|| container.to_string(), ToString::to_string);
        format!("{who} {network}")
    }
}

/// Until somebody says it.
async fn wanted(source: &impl Source, served: &Served) -> Wanted {
    let mut said = false;
    loop {
        match source.wanted(served).await {
            Ok(wanted) => return wanted,
            Err(failure) if !said => {
                tracing::warn!(network = served.network, %failure, "a machine's dhcpOptions are not known yet");
                said = true;
            }
            Err(_) => {}
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Counts a frame; a guest that has sent its share of this second waits for the next one, and what it sends meanwhile is
/// for the kernel to drop.
async fn pace((began, count): (Instant, u32)) -> (Instant, u32) {
    let end = began + Duration::from_secs(1);
    if Instant::now() >= end {
        return (Instant::now(), 1);
    }
    if count < FRAMES {
        return (began, count + 1);
    }
    sleep_until(end).await;
    (Instant::now(), 1)
}
