//! Dispatch: any argument is the command line, none is CNI. No rule of the domain lives here.

mod attach;
mod cli;
mod cni;
mod failpoint;
mod ipam;
mod lab;
mod net;
mod plan;
mod store;
mod types;

fn main() {}
