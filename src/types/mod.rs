//! Values that are valid by construction, and the one shape of a failure.
//!
//! Whoever holds an [`IfName`] or a [`Mac`] need not check it again. This room knows the limits of the kernel and of
//! the CNI specification, and nothing else: no file, no netlink, no Kubernetes object.

mod code;
mod failure;
mod id;
mod link;
mod nearest;

pub use code::Code;
pub use failure::{Failure, Outcome};
pub use id::{AttachmentId, ContainerId, InvalidId, NetworkName, PodRef, Role};
pub use link::{IfName, Mac, Mtu, VlanId};
pub use nearest::nearest;
