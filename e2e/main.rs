//! The behavioural suite: whole programs, called as a container runtime calls them, in private network namespaces.
//!
//! `dropin` says what the types `bridge`, `macvlan`, `host-local` and `static` do, and says it of the reference plugins
//! as well: a test that fails on them is a wrong test. All other modules are about `type: trestle` and about promises
//! that the reference does not make. Needs root, iproute2, nft, iptables and the reference plugins (`e2e/setup`);
//! without them every test fails and says what is missing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may end where it stands, and starts programs and enters namespaces; the walls are the program's"
)]

mod attachment;
mod bad_input;
mod crash;
mod dhcp;
mod docs;
mod dropin;
mod harness;
mod keeper;
mod lab;
mod leases;
mod machine;
mod races;
mod upkeep;
