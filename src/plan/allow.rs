//! Which bridges and masters a pod's network may name: the administrator's word (`allowBridges`, `allowMasters` of
//! `node.json`).

use crate::store::Allow as AllowEntry;

/// What primary networks and container engines make for themselves; whoever may write a NAD reaches none of it.
const NOT_BY_DEFAULT: &[&str] = &[
    "docker0",
    "docker_gwbridge",
    "podman*",
    "nerdctl*",
    "lxdbr*",
    "incusbr*",
    "virbr*",
    "cni*",
    "cbr0",
    "weave*",
    "flannel*",
    "cilium*",
    "lxc*",
    "cali*",
    "tunl*",
    "kube-*",
    "ovn*",
    "genev_sys*",
    "vxlan*",
];

/// A network of docker's own: `br-` and the first 12 hex digits of its id. A glob would take `br-provisioning` along.
fn is_dockers(name: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.strip_prefix("br-").is_some_and(|id| id.len() == 12 && id.bytes().all(hex))
}

/// `None`: all but what [`NOT_BY_DEFAULT`] names, and docker's.
pub type AllowList = Option<Vec<AllowEntry>>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allow {
    pub bridges: AllowList,
    pub masters: AllowList,
}

/// Whether `list` lets a pod of `namespace` name the link `name`.
pub fn allowed(list: &AllowList, name: &str, namespace: Option<&str>) -> bool {
    match list {
        None => !NOT_BY_DEFAULT.iter().any(|g| matches(g, name)) && !is_dockers(name),
        Some(entries) => entries.iter().any(|e| {
            matches(&e.glob, name)
                && e.namespaces.as_ref().is_none_or(|l| namespace.is_some_and(|ns| l.iter().any(|g| matches(g, ns))))
        }),
    }
}

/// `*` is any run of characters, `?` any one.
pub fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                back = Some((g, t));
                g += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (g, t) = (g + 1, t + 1),
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    (g, t) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, text, hit) in [
            ("br-lan", "br-lan", true),
            ("br-*", "br-lan", true),
            ("br-*", "br", false),
            ("*", "", true),
            ("b?-*n", "br-lan", true),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbxc", false),
            ("", "", true),
            ("", "x", false),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(glob, text), hit, "{glob} {text}");
        }
    }

    #[test]
    fn defaults_leave_out_primary_networks_and_container_engines() {
        for name in ["docker0", "cni0", "cilium_host", "lxc1234", "flannel.1", "virbr0", "cbr0", "weave"] {
            assert!(!allowed(&None, name, Some("default")), "{name}");
        }
        for name in
            ["docker_gwbridge", "podman0", "podman12", "nerdctl0", "lxcbr0", "lxdbr0", "incusbr0", "br-0123456789ab"]
        {
            assert!(!allowed(&None, name, Some("default")), "{name}");
        }
        let lists = Some(vec![AllowEntry { glob: "br-0123456789ab".into(), namespaces: None }]);
        assert!(allowed(&lists, "br-0123456789ab", None), "whoever names it means it");
        for name in ["br-lan", "eno1", "vmbr0", "br-provisioning", "br-0123456789a", "br-0123456789AB", "cbr1"] {
            assert!(allowed(&None, name, None), "{name}");
        }
    }

    #[test]
    fn a_list_binds_by_namespace() {
        let list = Some(vec![
            AllowEntry { glob: "br-lan".into(), namespaces: None },
            AllowEntry { glob: "br-store*".into(), namespaces: Some(vec!["storage".into(), "ops-*".into()]) },
        ]);
        assert!(allowed(&list, "br-lan", None));
        assert!(allowed(&list, "br-store1", Some("ops-eu")));
        assert!(!allowed(&list, "br-store1", Some("default")));
        assert!(!allowed(&list, "br-store1", None), "an unknown namespace is none of the named ones");
        assert!(!allowed(&list, "docker0", Some("storage")));
        assert!(!allowed(&Some(vec![]), "br-lan", None));
    }
}
