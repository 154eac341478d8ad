//! The annotations of a pod that are about networks: which ones it asks for, and what it is told of them.
//!
//! The formats are those of the Network Plumbing Working Group's specification as Multus 4.3 reads and writes them.
//! Pure: text in, values out, and the other way round. Where an annotation comes from, what its networks are, and who
//! may use them, is not known here.

mod hardware;
mod selection;
mod status;

pub use selection::{Selection, default_network, selections};
pub use status::{StatusEntry, entries, status_text};

/// Names of further networks that a pod asks for.
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// Name of the network that takes the place of the cluster's default one.
pub const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";
/// Written for all who read what networks a pod has got.
pub const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
