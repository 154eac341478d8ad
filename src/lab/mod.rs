//! `trestle lab`: a node, a LAN and a neighbour in namespaces; pods and a virtual machine attached by this very
//! program as a CNI plugin; pings across; and all of it gone again.
//!
//! It uses `net` for what is not the plugin's (the LAN, the look at the result) and runs the plugin as a runtime does,
//! so what it shows is what a node would do. It knows no rule of the domain: whether macvlan is refused is the
//! plugin's decision, and the lab only sees that it came.
//!
//! ```text
//! report picture    what was shown, as values; drawn for people or as JSON
//! demo survey       the play, and the look at what is there and what is left
//! standing          up, shell, down: a keeper process holds the lab
//! pods runtime      what a runtime would ask, and asking it
//! lan ping guest    the cables, the pings, the guest on the tap
//! world child       namespaces and mounts that end with the run; child processes
//! ```

mod child;
mod demo;
mod guest;
mod lan;
mod picture;
mod ping;
mod pods;
mod report;
mod runtime;
mod standing;
mod survey;
mod world;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context;

pub use self::report::{Look, Report, Verdict};

/// What stands behind the tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuestKind {
    #[default]
    Stack,
    Qemu,
}

impl GuestKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stack => "stack",
            Self::Qemu => "qemu",
        }
    }

    fn kit(self) -> anyhow::Result<Option<guest::linux::Kit>> {
        match self {
            Self::Stack => Ok(None),
            Self::Qemu => {
                let env = |key: &str| std::env::var_os(key);
                let root = nix::unistd::Uid::current().is_root();
                let path = env("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
                let search: Vec<PathBuf> = std::env::split_paths(&path).collect();
                guest::linux::Kit::find(&guest::linux::cache(&env, root), &search).map(Some)
            }
        }
    }
}

/// Where a shell can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Node,
    Lan,
    Neighbour,
    Pod,
    MacPod,
    Vm,
}

impl Place {
    pub const ALL: [Self; 6] = [Self::Node, Self::Lan, Self::Neighbour, Self::Pod, Self::MacPod, Self::Vm];

    pub fn namespace(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Lan => "lan",
            Self::Neighbour => "neighbour",
            Self::Pod => pods::PLAIN,
            Self::MacPod => pods::FALLBACK,
            Self::Vm => pods::VM,
        }
    }
}

/// The whole play, leaving nothing behind. The calling process, which must have one thread only, does not come back
/// into the machine's namespaces.
pub fn run(guest: GuestKind) -> anyhow::Result<Report> {
    // Asked before anything is built, and where the machine's own files are still in sight.
    let kit = guest.kit()?;
    standing::sweep()?;
    let world = world::enter()?;
    Ok(demo::Demo::play(&world, kit.as_ref())?.end())
}

/// Like [`run`], but it stays until [`down`].
pub fn up(guest: GuestKind) -> anyhow::Result<Report> {
    guest.kit()?;
    standing::up(guest)
}

pub fn shell(place: Place, command: &[OsString]) -> anyhow::Result<()> {
    standing::shell(place, command)
}

/// `None`: no lab was up.
pub fn down() -> anyhow::Result<Option<Report>> {
    standing::down()
}

/// The process that holds a lab that is up.
pub fn keep(guest: GuestKind) -> anyhow::Result<()> {
    standing::keep(guest.kit()?.as_ref())
}

/// The process that the virtual machine's guest is; `spec` as [`guest::Guest`] wrote it.
pub fn guest(spec: &str) -> anyhow::Result<()> {
    guest::play(&serde_json::from_str(spec).context("this is the lab's own command, for its guests")?)
}
