//! Dispatch: any argument is the command line, none is CNI. No rule of the domain lives here.

mod api;
mod attach;
mod cli;
mod cni;
mod failpoint;
mod ipam;
mod lab;
mod logging;
mod nad;
mod net;
mod plan;
mod plugin;
mod resolve;
mod store;
mod types;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = plugin::program_name(args.next());
    if args.next().is_some() {
        return cli::run(std::env::args_os());
    }
    let env = |key: &str| std::env::var_os(key);
    plugin::run(&program, &env, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
}
