//! Dispatch: any argument is the command line, none is CNI. No rule of the domain lives here.

#![cfg_attr(not(test), no_main)]
#![cfg_attr(fuzzing, allow(dead_code, reason = "libFuzzer has its own main, which calls the fuzz targets"))]

mod agent;
mod annotation;
mod api;
mod attach;
mod chain;
mod cli;
mod cni;
mod delegate;
mod devices;
mod doctor;
mod failpoint;
#[cfg(fuzzing)]
mod fuzz;
mod ipam;
mod lab;
mod logging;
mod meta;
mod nad;
mod net;
mod plan;
mod plugin;
mod protocol;
mod resolve;
#[cfg(not(any(test, fuzzing)))]
mod start;
mod store;
mod types;
mod vmi;

/// In the place of the standard library's own start, which reads `/proc/self/maps` for the guard page of a stack whose
/// overflow it would explain: a tenth of a millisecond, and there is one call for each network of each pod. Of the rest of
/// that start this does what a plugin needs: SIGPIPE is an error of write(2), and standard input, output and error are open.
#[cfg(not(any(test, fuzzing)))]
#[expect(unsafe_code, reason = "the name by which the C runtime calls a program")]
#[unsafe(no_mangle)]
extern "C" fn main() -> nix::libc::c_int {
    if start::prepare().is_err() {
        return 1;
    }
    // Not by return: what is buffered for standard output would be lost.
    std::process::exit(dispatch().into())
}

#[cfg_attr(any(test, fuzzing), expect(dead_code, reason = "tests have a main of their own"))]
fn dispatch() -> u8 {
    let mut args = std::env::args_os();
    let program = plugin::program_name(args.next());
    if args.next().is_some() {
        return cli::run(std::env::args_os());
    }
    let env = |key: &str| std::env::var_os(key);
    plugin::run(&program, &env, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
}
