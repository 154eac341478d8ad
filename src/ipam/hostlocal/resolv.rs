//! `resolvConf`: a file in the form of resolv.conf(5), of which the result's DNS section is made.

use std::fs;
use std::path::Path;

use crate::cni::Dns;
use crate::types::{Code, Failure, Outcome};

pub fn read(path: &Path) -> Outcome<Dns> {
    let bytes = fs::read(path).map_err(|e| {
        Failure::new(Code::IpamConfig, format!("cannot read resolvConf {}: {e}", path.display()))
            .remedy("correct \"resolvConf\" of the ipam section, or take it out")
    })?;
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// Unlike the C library's reader: several `search` lines add up, and neither number nor length is limited.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        // A comment has its own sign as the first word, or as the beginning of it: no keyword either way.
        let (Some(keyword), Some(first)) = (words.next(), words.next()) else { continue };
        match keyword.as_str() {
            "nameserver" => dns.nameservers.push(first),
            "domain" => dns.domain = Some(first),
            "search" => dns.search.extend([first].into_iter().chain(words)),
            "options" => dns.options.extend([first].into_iter().chain(words)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_they_are_found() {
        let dns = parse(concat!(
            "# comment\n; other\n nameserver 192.0.2.1\nnameserver\t2001:db8::1   trailing\r\ndomain example.org\n",
            "search a.example.org b.example.org\nsearch c\noptions ndots:5 edns0\noptions rotate\nnameserver\n",
            "#nameserver 192.0.2.9\nbogus line here\ndomain last.example.org",
        ));
        assert_eq!(dns.nameservers, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(dns.domain.as_deref(), Some("last.example.org"));
        assert_eq!(dns.search, ["a.example.org", "b.example.org", "c"]);
        assert_eq!(dns.options, ["ndots:5", "edns0", "rotate"]);
        assert!(parse("").is_empty());
    }

    #[test]
    fn a_missing_file_is_named() {
        let failure = read(Path::new("/nonexistent/resolv.conf")).unwrap_err();
        assert!(failure.code == Code::IpamConfig && failure.msg.contains("/nonexistent/resolv.conf"));
    }
}
