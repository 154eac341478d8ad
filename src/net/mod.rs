//! The only room that speaks to the kernel: namespaces, links, addresses, routes, tc, taps, sysctls.
//!
//! Plain structs go in and come out; no netlink type leaves this room. It knows what the kernel does and says, its
//! traps and its versions. It must not know why something is wanted: no CNI, no Kubernetes, no journal, no rule.
//!
//! A [`Namespace`] is an open file; [`Netlink`] is a socket that was opened inside one and is used from outside.
//! What has no netlink request (tun ioctls, `/proc/sys`) runs on a short thread by [`Namespace::enter`].

mod addr;
mod bpf;
mod change;
mod clsact;
mod create;
mod error;
mod events;
pub mod frame;
mod link;
pub mod memory;
mod neigh;
mod netlink;
pub mod nft;
mod ns;
mod pace;
pub mod packet;
mod route;
mod settings;
pub mod sysctl;
pub mod tap;
mod tc;
#[cfg(test)]
pub mod testing;
mod vlan;

pub use addr::{Address, NewAddress};
pub use bpf::{Sender, Sieve};
pub use change::LinkChange;
pub use clsact::{CLSACT, Hook};
pub use create::{Macvlan, Veth};
pub use error::{NetError, NetResult};
pub use events::{LinkEvent, LinkEvents};
#[cfg(test)]
pub use link::Port;
pub use link::{Link, LinkKind, MacvlanMode, PortState};
pub use netlink::Netlink;
pub use ns::{Namespace, NsError, NsId};
pub use route::Route;
pub use settings::{Family, Settings};
pub use vlan::PortVlan;
