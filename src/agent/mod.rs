//! The node's agent: what must live longer than a call of the plugin.

pub mod keeper;
mod advertise;
mod context;
mod metrics;
mod repair;
