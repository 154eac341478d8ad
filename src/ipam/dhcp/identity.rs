//! Who asks: the client that a server sees. Knows how the identity of a pod and that of a virtual machine are made,
//! and no packet.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::types::Mac;

/// Type byte of a client identifier that is none of a hardware address, as the reference plugin has it.
const OPAQUE: u8 = 0;
/// Type byte of a client identifier with IAID and DUID (RFC 4361, section 6.1).
const NODE_SPECIFIC: u8 = 255;
/// DUID type "UUID" (RFC 6355).
const DUID_UUID: [u8; 2] = [0, 4];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What stands in `chaddr`; for a guest its own MAC, with which no frame is ever sent.
    pub hardware: Mac,
    /// Option 61, its type byte included.
    pub client_id: Vec<u8>,
    /// For a guest: the server is asked to broadcast its answers, since a frame to the guest's MAC would go to the guest.
    /// All questions are broadcast from 0.0.0.0 then, renewals and the release too: a server answers a renewal to
    /// the leased address, whatever the flag says, but one in the form of a reboot by the flag.
    pub broadcast: bool,
}

impl Identity {
    /// The reference plugin's client identifier. It is another one for each sandbox, so the address is too.
    pub fn of_pod(hardware: Mac, container: &str, network: &str, ifname: &str) -> Self {
        let mut client_id = vec![OPAQUE];
        client_id.extend(format!("{container}/{network}/{ifname}").bytes().take(254));
        Self { hardware, client_id, broadcast: false }
    }

    /// The same for a virtual machine through restarts and migrations, whatever its pod is called: the DUID is the
    /// machine's, the IAID its network's.
    pub fn of_vm(hardware: Mac, namespace: &str, vm: &str, network: &str) -> Self {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&digest(&["trestle vm", namespace, vm])[..16]);
        // Version 8 ("custom") and variant of RFC 9562, so that tools print it as the UUID that it is.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let iaid = &digest(&["trestle network", network])[..4];
        let client_id = [&[NODE_SPECIFIC], iaid, &DUID_UUID, &uuid].concat();
        Self { hardware, client_id, broadcast: true }
    }
}

/// The parts cannot run into each other: no name has a NUL in it.
fn digest(parts: &[&str]) -> [u8; 32] {
    Sha256::digest(parts.join("\0").as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac::new([2, 0, 0x5e, 0x10, 0, 1]);

    #[test]
    fn a_pods_is_the_references() {
        let id = Identity::of_pod(MAC, "cid-1", "testnet", "eth0");
        assert_eq!(id.client_id, b"\0cid-1/testnet/eth0");
        let long = Identity::of_pod(MAC, &"c".repeat(64), &"n".repeat(300), "eth0");
        assert_eq!((long.client_id.len(), long.broadcast), (255, false));
    }

    #[test]
    fn a_machines_is_its_own_and_stays() {
        let of = |namespace, vm, network| Identity::of_vm(MAC, namespace, vm, network).client_id;
        let lan = of("default", "db", "lan");
        // RFC 4361: type 255, four bytes of IAID, DUID; the bytes must not change with a new version of the program.
        let hex: String = lan.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "ff32b0d35d000427277a64b62188c1929db6771423e1c8");
        let other = of("default", "db", "wan");
        assert!(lan[1..5] != other[1..5] && lan[5..] == other[5..], "one machine, two networks");
        for other in [of("other", "db", "lan"), of("default", "db2", "lan"), of("defaul", "tdb", "lan")] {
            assert!(lan[..5] == other[..5] && lan[5..] != other[5..], "two machines, one network");
        }
    }
}
