//! Who and what an attachment belongs to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::IfName;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("container id {0:?}: must begin with a letter or digit and have only letters, digits, '_', '.' or '-'")]
    Container(String),
    #[error("network name {0:?}: must begin with a letter or digit and have only letters, digits, '_', '.' or '-'")]
    Network(String),
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`, the rule of the CNI specification for container ids and network names. Such a name
/// is also a safe file name: never empty, no separator, no leading dot.
fn is_plain(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                if is_plain(s) { Ok(Self(s.into())) } else { Err(InvalidId::$error(s.into())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(s: String) -> Result<Self, InvalidId> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

plain_name! {
    /// `CNI_CONTAINERID`: the runtime's id of a sandbox.
    ContainerId, Container
}
plain_name! {
    /// `name` of a network configuration.
    NetworkName, Network
}

/// What an entry of the journal stands for. One container and interface may have an entry of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A link in the pod: a veth on a bridge, or a macvlan.
    Wire,
    /// Tap and redirects of a VM's NIC.
    Bind,
    /// An address that was asked for by another main plugin.
    Ipam,
    /// All networks of a pod, as the meta plugin has wired it.
    Meta,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Bind => "bind",
            Self::Ipam => "ipam",
            Self::Meta => "meta",
        }
    }
}

/// Key of an attachment in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId {
    pub container: ContainerId,
    pub ifname: IfName,
    pub role: Role,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.container, self.ifname, self.role.as_str())
    }
}

/// A pod as the runtime names it in `CNI_ARGS` (`K8S_POD_*`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_follow_the_specification() {
        for good in ["a", "9Net_a.b-c", "A9_.-z", &"f".repeat(64)] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good:?}");
        }
        for bad in ["", "a/b", "-a", ".a", "..", "a b", "a\nb", "n\u{e9}t"] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
        }
    }
}
