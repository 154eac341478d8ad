//! What the machine must have, looked at once; and what a killed run of the suite left on it, taken away once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Prefix of the names of all namespaces of this suite; the process id follows.
const PREFIX: &str = "tre2e";

static READY: OnceLock<Result<(), String>> = OnceLock::new();

/// Ends the test with what is missing. There is no test that looks away instead.
pub fn require() {
    if let Err(missing) = READY.get_or_init(prepare) {
        panic!("the suite cannot run here: {missing}");
    }
}

/// Start of the names of this process' namespaces.
pub fn prefix() -> String {
    format!("{PREFIX}-{}", std::process::id())
}

fn prepare() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("it makes network namespaces and needs root".into());
    }
    for tool in ["ip", "tc", "bridge", "nft", "iptables", "dnsmasq", "kea-dhcp4"] {
        if !search_path().iter().any(|dir| dir.join(tool).is_file()) {
            return Err(format!("{tool} is not in PATH (run e2e/setup)"));
        }
    }
    for plugin in ["bridge", "macvlan", "host-local", "static", "dhcp"] {
        let file = reference_plugins().join(plugin);
        if !file.is_file() {
            return Err(format!("the reference plugin {} is missing (run e2e/setup)", file.display()));
        }
    }
    sweep();
    Ok(())
}

fn search_path() -> Vec<PathBuf> {
    std::env::split_paths(PATH).collect()
}

/// PATH of everything that the suite starts.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where `e2e/setup` puts the reference plugins.
pub fn reference_plugins() -> PathBuf {
    if let Some(dir) = std::env::var_os("TRESTLE_REF_PLUGINS") {
        return dir.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        Path::new(&home).join(".cache")
    });
    cache.join("trestle-tests/plugins-v1.9.1")
}

/// Namespaces of processes that live no more.
fn sweep() {
    let Ok(names) = std::fs::read_dir("/run/netns") else { return };
    for name in names.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.trim_start_matches('-').split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another run of the suite may sweep at the same time: that it is gone is all that counts.
            let _ = Command::new("ip").args(["netns", "del", &name]).env("PATH", PATH).output();
        }
    }
}
