//! One CNI call: reads it, sends it to its type, prints the answer.
//!
//! A drop-in name in argv[0] decides before `type` does: as an IPAM plugin the program is run under its own name with
//! the main plugin's `type` in the configuration.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::attach::{self, Job, Level, Type};
use crate::chain::Kind;
use crate::cni::{self, Call, Request, Verb, error_json, version_json};
use crate::delegate;
use crate::ipam;
use crate::logging;
use crate::meta;
use crate::net::Namespace;
use crate::plan::{Chooser, PodFacts};
use crate::resolve::{attachment_facts, pod_facts};
use crate::store::{Dirs, Heard, NodeConfig, process_start, tell_call};
use crate::types::{Code, Failure, IfName, Outcome};

/// What the program is for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    /// All networks of a pod, in Multus' place.
    Meta,
    /// One plugin.
    One(Kind),
}

impl Program {
    /// By the program's name if it is a drop-in's, else by `type`.
    fn decide(program: &str, call: &Call) -> Outcome<Self> {
        if let Some(kind) = Kind::of(program).filter(|k| *k != Kind::Attachment(Type::Trestle)) {
            return Ok(Self::One(kind));
        }
        match Kind::of(&call.type_name) {
            Some(Kind::Attachment(Type::Trestle)) => Self::of_trestle(call),
            Some(kind) => Ok(Self::One(kind)),
            None => Err(Failure::new(Code::Config, format!("type: {:?} is none that trestle knows", call.type_name))
                .remedy("trestle, bridge, macvlan, host-local, static or dhcp")),
        }
    }

    fn of_trestle(call: &Call) -> Outcome<Self> {
        match meta::is_meta(&call.conf) {
            Ok(true) => Ok(Self::Meta),
            Ok(false) => Ok(Self::One(Kind::Attachment(Type::Trestle))),
            // It may have been edited after pods were attached by it, and the journal has them.
            Err(_) if matches!(call.verb, Verb::Del | Verb::Gc) => Ok(Self::Meta),
            Err(contradiction) => Err(contradiction),
        }
    }

    /// Of the agent's metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::One(Kind::Attachment(Type::Trestle)) => "trestle",
            Self::One(Kind::Attachment(Type::Bridge)) => "bridge",
            Self::One(Kind::Attachment(Type::Macvlan)) => "macvlan",
            Self::One(Kind::HostLocal) => "host-local",
            Self::One(Kind::Static) => "static",
            Self::One(Kind::Dhcp) => "dhcp",
        }
    }

    /// The originals of the drop-ins have an own way with many errors.
    fn is_drop_in(self) -> bool {
        !matches!(self, Self::Meta | Self::One(Kind::Attachment(Type::Trestle)))
    }
}

/// Exit codes of a CNI plugin: what failed is in the error object.
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;

type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Reads the call and answers it on `out`; returns the exit code. `program`: the base name of argv[0].
pub fn run(program: &str, env: Env<'_>, stdin: &mut dyn Read, out: &mut dyn Write) -> u8 {
    let (answer, code) = match cni::read(env, stdin) {
        Ok(Request::About) => return about(program),
        Ok(Request::Version) => (Some(version_json()), SUCCESS),
        Ok(Request::Call(call)) => answer(program, env, &call),
        Err(failure) => (Some(error_json(None, failure.code.cni(), &failure)), FAILURE),
    };
    let Some(answer) = answer else { return code };
    let written = serde_json::to_writer(&mut *out, &answer)
        .map_err(Into::into)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Ok(()) => code,
        Err(e) => {
            tracing::error!(error = %e, "standard output cannot be written");
            FAILURE
        }
    }
}

/// Somebody ran a plugin by hand.
fn about(program: &str) -> u8 {
    // Nobody to tell it to is no failure, and no reason for a panic.
    let _ = writeln!(
        std::io::stderr(),
        "{program}: a CNI plugin of trestle {}; it is run by a container runtime. See `trestle --help`.",
        env!("CARGO_PKG_VERSION")
    );
    SUCCESS
}

/// What a call is carried out with.
struct Around<'a> {
    dirs: &'a Dirs,
    node: &'a Outcome<NodeConfig>,
    env: Env<'a>,
    level: Level,
}

fn answer(program: &str, env: Env<'_>, call: &Call) -> (Option<Value>, u8) {
    let dirs = Dirs::from_env(env);
    let node = NodeConfig::read(&dirs);
    let level = node.as_ref().ok().and_then(|n| n.log_level.as_deref());
    let _log = logging::start(&dirs, level, meta::wishes(&call.conf));
    let span = call_span(call);
    let _in = span.enter();
    let (acts_as, began) = (Program::decide(program, call), Instant::now());
    let around = Around { dirs: &dirs, node: &node, env, level: lock_level(env, call) };
    let done = acts_as.clone().and_then(|acts_as| carry_out(acts_as, call, &around));
    let outcome = done.as_ref().map_or_else(|f| f.code.id(), |_| "success");
    let kind = acts_as.as_ref().map_or("none", |p| p.label());
    tell_call(&dirs, &Heard::new(&call.verb, kind, outcome, began.elapsed()));
    match done {
        Ok(answer) => {
            tracing::debug!("done");
            (answer, SUCCESS)
        }
        Err(failure) => {
            tracing::error!(%failure, "failed");
            let code = number(acts_as.ok(), &failure);
            (Some(error_json(Some(call.version), code, &failure)), FAILURE)
        }
    }
}

/// What each line of the log begins with.
fn call_span(call: &Call) -> tracing::Span {
    let pod = pod_facts(call).ok().and_then(|facts| facts.pod).map(tracing::field::display);
    let interface = call.ifname.as_ref().map(tracing::field::display);
    let container = call.container.as_ref().map(tracing::field::display);
    tracing::info_span!("cni", verb = %call.verb, pod, network = %call.name, interface, container)
}

/// The number in the error object. The originals of the drop-ins have one for nearly everything; what belongs to the
/// protocol itself and what another plugin said keeps its own.
fn number(acts_as: Option<Program>, failure: &Failure) -> u32 {
    const REFERENCE: u32 = 999;
    match (failure.foreign, acts_as) {
        (Some(code), _) => code,
        (None, Some(program)) if program.is_drop_in() && failure.code != Code::OwnNamespace => REFERENCE,
        (None, _) => failure.code.cni(),
    }
}

/// The refusal, if the runtime names the namespace that this program runs in, and does not say that it means it.
fn own_namespace(call: &Call) -> Outcome<Option<Failure>> {
    let attaches = matches!(call.verb, Verb::Add | Verb::Check | Verb::Del);
    let Some(path) = call.netns.as_ref().filter(|_| attaches && !call.netns_override) else { return Ok(None) };
    if !Namespace::is_own(path)? {
        return Ok(None);
    }
    let msg = format!("CNI_NETNS {} is the plugin's own network namespace", path.display());
    Ok(Some(Failure::new(Code::OwnNamespace, msg).remedy("CNI_NETNS_OVERRIDE=1 if this is meant")))
}

fn carry_out(acts_as: Program, call: &Call, around: &Around<'_>) -> Outcome<Option<Value>> {
    match own_namespace(call)? {
        None => act(acts_as, call, around),
        // A process that is gone gave its number, and so `/proc/NUMBER/ns/net`, to one of the node. Journal and stores
        // tell what to undo; the links in here are the node's.
        Some(refusal) if call.verb == Verb::Del => {
            act(acts_as, &Call { netns: None, ..call.clone() }, around)?;
            if acts_as.is_drop_in() { Err(refusal) } else { Ok(None) }
        }
        Some(refusal) => Err(refusal),
    }
}

fn act(acts_as: Program, call: &Call, around: &Around<'_>) -> Outcome<Option<Value>> {
    let Around { dirs, node, .. } = around;
    match (acts_as, call.verb) {
        (Program::Meta, _) => pod(call, around),
        (Program::One(Kind::Attachment(ty)), Verb::Status) => attach::status(call, ty, dirs, node).map(|()| None),
        (Program::One(Kind::Attachment(ty)), _) => {
            let done = attachment(ty, call, around);
            if let (Verb::Add, Err(_), Some(container), Some(ifname)) =
                (call.verb, &done, &call.container, &call.ifname)
            {
                // It may not have come as far as `attach`, which notes its own.
                attach::refused(dirs, container, ifname);
            }
            done
        }
        (Program::One(Kind::HostLocal), _) => ipam::host_local(call, dirs),
        (Program::One(Kind::Static), _) => ipam::fixed(call),
        (Program::One(Kind::Dhcp), _) => {
            // DEL must work whatever an administrator wrote.
            let facts = pod_facts(call).unwrap_or_default();
            ManuallyDrop::new(runtime(false)?).block_on(attach::dhcp::plugin(call, dirs, &facts))
        }
    }
}

/// Within a call of ours that runs a plugin that runs us, as flannel runs `bridge`, the lock is held already: to wait
/// for it would be to wait for ourselves.
fn lock_level(env: Env<'_>, call: &Call) -> Level {
    let held = env(delegate::LOCK_HELD);
    let of = held.as_ref().and_then(|v| v.to_str());
    match &call.container {
        Some(container) if of == Some(container.as_str()) => Level::Inner,
        _ => Level::Outermost,
    }
}

/// `time`: with deadlines, as questions to other programs have them.
fn runtime(time: bool) -> Outcome<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    if time {
        builder.enable_time();
    }
    builder
        .enable_io()
        .build()
        .map_err(|e| Failure::new(Code::Io, format!("the asynchronous runtime cannot start: {e}")))
}

fn attachment(ty: Type, call: &Call, around: &Around<'_>) -> Outcome<Option<Value>> {
    let Around { dirs, node, level, .. } = *around;
    // Never taken down in order: the process ends with its answer, and the kernel closes sockets in less time.
    let runtime = ManuallyDrop::new(runtime(call.verb == Verb::Add)?);
    if call.verb == Verb::Gc {
        return runtime.block_on(attach::gc(call, dirs, process_start())).map(|()| None);
    }
    let (Some(container), Some(ifname)) = (&call.container, &call.ifname) else {
        return Err(Failure::new(Code::Environment, "CNI_CONTAINERID or CNI_IFNAME not set"));
    };
    // DEL must work whatever an administrator wrote.
    let facts = if call.verb == Verb::Del { pod_facts(call).unwrap_or_default() } else { pod_facts(call)? };
    let (facts, asked) = match call.verb {
        Verb::Add => runtime.block_on(machines(ty, call, ifname, dirs, facts))?,
        _ => (facts, None),
    };
    let call = asked.as_ref().unwrap_or(call);
    let defaults = NodeConfig::default();
    let node = if call.verb == Verb::Del { &defaults } else { node.as_ref().map_err(Clone::clone)? };
    // Whoever runs us does not tell who chose the network.
    let chooser = Chooser::Unknown;
    let job = Job { call, dirs, node, facts: &facts, container, ifname, started: None, level, chooser };
    match call.verb {
        Verb::Add => runtime.block_on(attach::add(&job, ty))?.to_json(call.version).map(Some),
        Verb::Check => runtime.block_on(attach::check(&job, ty)).map(|()| None),
        _ => runtime.block_on(attach::del(&job, ty)).map(|()| None),
    }
}

/// What a machine's pod asks for, which another meta plugin does not hand on; and the call with it, where it is addresses. Its
/// own wish, if the call has one, stays as it is.
async fn machines(
    ty: Type,
    call: &Call,
    ifname: &IfName,
    dirs: &Dirs,
    facts: PodFacts,
) -> Outcome<(PodFacts, Option<Call>)> {
    let is_nic = facts.what_for(ifname, ty != Type::Trestle).is_vm();
    if !is_nic || (facts.annotations.is_some() && !facts.needs_nics()) {
        return Ok((facts, None));
    }
    let facts = attachment_facts(call, dirs, facts, ty == Type::Trestle).await?;
    let asked = facts.addresses(ifname)?.map(|ips| attach::with_addresses(call, &ips));
    Ok((facts, asked))
}

fn pod(call: &Call, around: &Around<'_>) -> Outcome<Option<Value>> {
    let Around { dirs, node, env, .. } = *around;
    let runtime = ManuallyDrop::new(runtime(true)?);
    // DEL and GC must work whatever an administrator wrote.
    let defaults = NodeConfig::default();
    match call.verb {
        Verb::Status => return runtime.block_on(meta::status(call, dirs, node, env)).map(|()| None),
        Verb::Gc => return runtime.block_on(meta::gc(call, dirs, &defaults, process_start())).map(|()| None),
        _ => {}
    }
    let (Some(container), Some(ifname)) = (&call.container, &call.ifname) else {
        return Err(Failure::new(Code::Environment, "CNI_CONTAINERID or CNI_IFNAME not set"));
    };
    let node = if call.verb == Verb::Del { &defaults } else { node.as_ref().map_err(Clone::clone)? };
    let job = meta::Job { call, dirs, node, env, container, ifname, started: None };
    match call.verb {
        Verb::Add => runtime.block_on(meta::add(&job)).map(Some),
        Verb::Check => runtime.block_on(meta::check(&job)).map(|()| None),
        _ => runtime.block_on(meta::del(&job)).map(|()| None),
    }
}

/// Base name of the program as it was called.
pub fn program_name(argv0: Option<OsString>) -> String {
    argv0
        .as_deref()
        .and_then(|a| Path::new(a).file_name())
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
