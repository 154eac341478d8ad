//! What the reference's iptables backend left where `iptables` is the legacy flavour (`ip_tables`, not nf_tables).
//!
//! That ruleset is one blob behind a socket option, whose layout only the `iptables` program knows: it is run, and only
//! where the calling thread's namespace has a legacy `nat` table and the program is found. No such table, nothing left.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::iptables::matches;
use super::ruleset::Family;
use crate::net::{NetError, NetResult};

/// Where a runtime's PATH does not reach.
const FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];
/// Seconds to wait for other users of the table.
const WAIT: &str = "5";
/// A rule that goes between the listing and the deletion makes the program fail: listed again, it is not there.
const TURNS: usize = 3;

/// Removes the jumps for these addresses (without addresses: all), and the chain once nothing jumps to it.
pub fn remove(family: Family, chain: &str, addresses: &[IpNetwork]) -> NetResult<()> {
    let Some(program) = Program::needed(family) else { return Ok(()) };
    let mut done = Ok(());
    for _ in 0..TURNS {
        let listing = program.run(&["-S"])?;
        let found = Found::read(&listing, chain);
        if !found.chain {
            return Ok(());
        }
        let (ours, others): (Vec<_>, Vec<_>) =
            found.jumps.iter().partition(|j| addresses.is_empty() || addresses.iter().any(|a| j.is_from(*a)));
        if ours.is_empty() && !others.is_empty() {
            return Ok(());
        }
        done = ours.iter().try_for_each(|j| program.run(&j.deletion()).map(drop));
        if others.is_empty() {
            done = done.and_then(|()| program.run(&["-F", chain])).and_then(|_| program.run(&["-X", chain])).map(drop);
        }
        if done.is_ok() {
            break;
        }
    }
    done
}

/// Whether the address goes through that chain.
pub fn has(chain: &str, address: IpNetwork) -> NetResult<bool> {
    let family = if address.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
    let Some(program) = Program::needed(family) else { return Ok(false) };
    let found = Found::read(&program.run(&["-S"])?, chain);
    Ok(found.chain && found.jumps.iter().any(|j| j.is_from(address)))
}

struct Program(PathBuf);

impl Program {
    /// The legacy program, if there is a legacy table for it.
    fn needed(family: Family) -> Option<Self> {
        let (tables, names) = match family {
            Family::Ipv6 => ("ip6_tables_names", ["ip6tables-legacy", "ip6tables"]),
            _ => ("ip_tables_names", ["iptables-legacy", "iptables"]),
        };
        // `/proc/net` would be the namespace of the process' first thread.
        let tables = std::fs::read_to_string(format!("/proc/thread-self/net/{tables}")).ok()?;
        if !tables.lines().any(|t| t == "nat") {
            return None;
        }
        let found = names.iter().find_map(|name| Self::find(name).filter(Self::is_legacy));
        if found.is_none() {
            tracing::debug!(program = names[0], "there is a legacy nat table, but no program that reads it");
        }
        found
    }

    fn find(name: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
        folders.map(|f| f.join(name)).find(|p| p.is_file()).map(Self)
    }

    /// Plain `iptables` is either flavour; before there were two it did not say which.
    fn is_legacy(&self) -> bool {
        let name = self.0.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name.ends_with("-legacy") {
            return true;
        }
        let version = command(&self.0).arg("-V").output();
        version.is_ok_and(|v| v.status.success() && !String::from_utf8_lossy(&v.stdout).contains("nf_tables"))
    }

    fn run(&self, arguments: &[impl AsRef<OsStr>]) -> NetResult<String> {
        let object = || {
            arguments
                .iter()
                .fold(self.0.display().to_string() + " -t nat", |line, a| line + " " + &a.as_ref().to_string_lossy())
        };
        let output = command(&self.0).args(["-w", WAIT, "-t", "nat"]).args(arguments).output();
        let output = output.map_err(|e| NetError::io("run", object(), &e))?;
        crate::failpoint::hit("iptables program");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.lines().next().unwrap_or_default().trim();
        let kernel = Some(format!("{words} ({})", output.status));
        Err(NetError { kernel, ..NetError::new("run", object(), Errno::EIO) })
    }
}

#[expect(clippy::disallowed_methods, reason = "the only program that this room runs")]
fn command(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// What `iptables -S` says about one chain.
struct Found {
    chain: bool,
    jumps: Vec<Jump>,
}

/// A rule of POSTROUTING, as words.
#[derive(Debug, PartialEq)]
struct Jump(Vec<String>);

impl Found {
    fn read(listing: &str, chain: &str) -> Self {
        let lines = || listing.lines().map(words);
        let jumps = lines().filter(|w| matches!(&w[..], [a, c, ..] if a == "-A" && c == "POSTROUTING"));
        Self {
            chain: lines().any(|w| matches!(&w[..], [n, c] if n == "-N" && c == chain)),
            jumps: jumps.map(Jump).filter(|j| j.after("-j") == Some(chain) || j.after("-g") == Some(chain)).collect(),
        }
    }
}

impl Jump {
    fn after(&self, option: &str) -> Option<&str> {
        let at = self.0.iter().position(|w| w == option)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn is_from(&self, address: IpNetwork) -> bool {
        self.after("-s").and_then(|s| s.parse().ok()).is_some_and(|source| matches(source, address))
    }

    fn deletion(&self) -> Vec<&str> {
        std::iter::once("-D").chain(self.0.iter().skip(1).map(String::as_str)).collect()
    }
}

/// A line of `iptables -S` as words: blanks part them, except within double quotes; a backslash takes what follows.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = concat!(
        "-P POSTROUTING ACCEPT\n",
        "-N CNI-abc\n",
        "-A POSTROUTING -s 10.1.2.3/32 -m comment --comment \"name: \\\"a -j b\\\" id: \\\"c\\\"\" -j CNI-abc\n",
        "-A POSTROUTING -s 10.1.2.0/24 -j CNI-abc\n",
        "-A POSTROUTING -s 10.1.2.3/32 -j CNI-abcd\n",
        "-A OUTPUT -s 10.1.2.3/32 -j CNI-abc\n",
        "-A CNI-abc -d 10.1.2.0/24 -j ACCEPT\n",
    );

    #[test]
    fn a_listing_is_read() {
        let found = Found::read(LISTING, "CNI-abc");
        assert!(found.chain);
        assert_eq!(found.jumps.len(), 2);
        assert!(found.jumps.iter().all(|j| j.is_from("10.1.2.3/24".parse().unwrap())));
        let deletion = "-D POSTROUTING -s 10.1.2.3/32 -m comment --comment";
        assert_eq!(found.jumps[0].deletion()[..7], deletion.split(' ').collect::<Vec<_>>()[..]);
        assert_eq!(found.jumps[0].deletion()[7], "name: \"a -j b\" id: \"c\"");
        assert!(!found.jumps[0].is_from("10.1.2.4/24".parse().unwrap()));
        let nothing = Found::read(LISTING, "CNI-other");
        assert!(!nothing.chain && nothing.jumps.is_empty());
    }

    #[test]
    fn odd_lines_are_no_trouble() {
        assert_eq!(words(""), Vec::<String>::new());
        assert_eq!(words("  a  \"\" \\"), ["a", "", ""]);
        assert_eq!(words("\"open end"), ["open end"]);
        let found =
            Found::read("-A\n-N\n-A POSTROUTING -j\n-A POSTROUTING -s\n-A POSTROUTING -j CNI-abc -s", "CNI-abc");
        assert!(!found.chain && found.jumps.len() == 1);
        assert!(!found.jumps[0].is_from("10.1.2.3/24".parse().unwrap()));
    }
}
