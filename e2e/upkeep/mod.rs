//! A node in trouble, and a node that changes hands: `/run` full, read-only or wiped, another boot, pods that the
//! reference plugins attached.

mod agent;
mod boot;
mod run_dir;
mod taken_over;
mod wiped;
