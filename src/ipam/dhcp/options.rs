//! What is sent to the server and asked of it beyond the protocol's own: the reference plugin's `provide` and `request`,
//! options by name or number. Knows the options' numbers, not their values' meaning.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Identity, message};
use crate::cni::{Args, json};
use crate::ipam::invalid;
use crate::types::{Outcome, nearest};

pub const SUBNET_MASK: u8 = 1;
pub const ROUTERS: u8 = 3;
pub const DNS: u8 = 6;
pub const HOST_NAME: u8 = 12;
pub const DOMAIN: u8 = 15;
pub const MTU: u8 = 26;
pub const BROADCAST: u8 = 28;
pub const STATIC_ROUTES: u8 = 33;
pub const NTP: u8 = 42;
pub const LEASE_TIME: u8 = 51;
pub const T1: u8 = 58;
pub const T2: u8 = 59;
pub const TFTP_SERVER: u8 = 66;
pub const BOOT_FILE: u8 = 67;
pub const SEARCH: u8 = 119;
pub const CLASSLESS_ROUTES: u8 = 121;

/// Names of dhcp-options(5); the first six are those that the reference plugin knows.
const NAMES: [(&str, u8); 15] = [
    ("dhcp-client-identifier", message::CLIENT_ID),
    ("subnet-mask", SUBNET_MASK),
    ("routers", ROUTERS),
    ("host-name", HOST_NAME),
    ("user-class", 77),
    ("vendor-class-identifier", 60),
    ("domain-name-servers", DNS),
    ("domain-name", DOMAIN),
    ("domain-search", SEARCH),
    ("interface-mtu", MTU),
    ("broadcast-address", BROADCAST),
    ("static-routes", STATIC_ROUTES),
    ("ntp-servers", NTP),
    ("dhcp-lease-time", LEASE_TIME),
    ("classless-static-routes", CLASSLESS_ROUTES),
];

/// What the reference plugin asks for unless told `skipDefault`, in its order.
const DEFAULT: [u8; 2] = [ROUTERS, SUBNET_MASK];

/// What a result, a resolver and a guest can make use of. Classless routes come before the others (RFC 3442).
const USUAL: [u8; 9] = [SUBNET_MASK, CLASSLESS_ROUTES, STATIC_ROUTES, ROUTERS, DNS, DOMAIN, SEARCH, MTU, HOST_NAME];

/// Options that are the protocol's own affair.
const OURS: [u8; 7] = [
    0,
    message::REQUESTED_ADDRESS,
    message::OVERLOAD,
    message::MESSAGE_TYPE,
    message::SERVER,
    message::REQUEST_LIST,
    255,
];

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Options sent with each DISCOVER and REQUEST; a client identifier among them takes the identity's place.
    pub send: Vec<(u8, Vec<u8>)>,
    /// The parameter request list; empty: none is sent.
    pub request: Vec<u8>,
    /// The server is asked to broadcast its answers, as far as it answers one who has no address yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub broadcast: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    provide: Vec<Provide>,
    request: Vec<Request>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Provide {
    option: String,
    value: String,
    from_arg: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Request {
    skip_default: bool,
    option: String,
}

impl Wish {
    /// What the reference plugin would send and ask for, from an `ipam` section and `CNI_ARGS`.
    pub fn parse(ipam: &Map<String, Value>, args: &Args) -> Outcome<Self> {
        let of = |key: &str| json::get(ipam, key).map(|v| (key.to_owned(), v.clone()));
        let section = ["provide", "request"].into_iter().filter_map(of).collect();
        let raw: Raw = json::from_value(Value::Object(section)).map_err(|e| invalid(format!("ipam: {e}")))?;
        let mut send = Vec::new();
        for one in &raw.provide {
            send.extend(provided(one, args)?);
        }
        let named = raw.request.iter().filter(|r| !r.option.is_empty()).map(|r| code("request", &r.option));
        let mut request = named.collect::<Outcome<Vec<u8>>>()?;
        if !raw.request.iter().any(|r| r.skip_default) {
            extend(&mut request, &DEFAULT);
        }
        Ok(Self { send, request, broadcast: false })
    }

    /// What names the client to the server.
    pub fn client_id<'a>(&'a self, id: &'a Identity) -> &'a [u8] {
        let own = self.send.iter().rfind(|(code, _)| *code == message::CLIENT_ID);
        own.map_or(&id.client_id, |(_, value)| value)
    }

    /// Also asks for all that this program can make use of.
    pub fn usual(mut self) -> Self {
        let asked = std::mem::replace(&mut self.request, USUAL.to_vec());
        extend(&mut self.request, &asked);
        self
    }
}

fn extend(list: &mut Vec<u8>, more: &[u8]) {
    for code in more {
        if !list.contains(code) {
            list.push(*code);
        }
    }
}

/// The value that is configured, and behind it that of `CNI_ARGS`: the last one is sent.
fn provided(one: &Provide, args: &Args) -> Outcome<Vec<(u8, Vec<u8>)>> {
    let code = code("provide", &one.option)?;
    if OURS.contains(&code) {
        return Err(invalid(format!("ipam.provide: option {:?} is set by the protocol itself", one.option)));
    }
    let from_arg = Some(&*one.from_arg).filter(|key| !key.is_empty()).and_then(|key| args.get(key));
    let values = [Some(&*one.value), from_arg].into_iter().flatten().filter(|v| !v.is_empty());
    let checked = values.map(|v| match v.len() {
        ..=255 => Ok((code, v.as_bytes().to_vec())),
        long => Err(invalid(format!("ipam.provide: the value of option {:?} has {long} bytes", one.option))
            .remedy("an option has room for 255")),
    });
    checked.collect()
}

fn code(list: &str, option: &str) -> Outcome<u8> {
    if let Some((_, code)) = NAMES.iter().find(|(name, _)| *name == option) {
        return Ok(*code);
    }
    let number = option.bytes().all(|b| b.is_ascii_digit()).then(|| option.parse().ok()).flatten();
    number.ok_or_else(|| {
        let failure = invalid(format!("ipam.{list}: DHCP option {option:?} is not known"));
        match nearest(option, NAMES.map(|(name, _)| name)) {
            Some(name) => failure.remedy(format!("{name:?}, or the option's number, 0 to 255")),
            None => failure.remedy("give the option's number, \"0\" to \"255\""),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::types::Code;

    fn parse(ipam: Value, args: &str) -> Outcome<Wish> {
        Wish::parse(ipam.as_object().unwrap(), &Args::new(args))
    }

    #[test]
    fn as_the_reference_reads_them() {
        assert_eq!(parse(json!({"type": "dhcp"}), "").unwrap(), Wish { request: vec![3, 1], ..Wish::default() });
        let asked = json!({"Request": [{"option": "121"}, {"option": ""}, {"option": "routers"}], "provide": null});
        assert_eq!(parse(asked, "").unwrap().request, [121, 3, 1]);
        let nothing = json!({"request": [{"skipDefault": true}]});
        assert_eq!(parse(nothing, "").unwrap(), Wish::default());
        let provide = json!({"provide": [
            {"option": "host-name", "value": "hosty"},
            {"option": "12", "fromArg": "K8S_POD_NAME"},
            {"option": "60", "value": "acme", "fromArg": "NOT_THERE"},
            {"option": "user-class", "fromArg": "EMPTY"},
        ]});
        let send = parse(provide, "IgnoreUnknown=1;K8S_POD_NAME=poddy;EMPTY=;odd").unwrap().send;
        assert_eq!(send, [(12, b"hosty".to_vec()), (12, b"poddy".to_vec()), (60, b"acme".to_vec())]);
    }

    #[test]
    fn what_is_refused_is_named() {
        let long = "x".repeat(256);
        for (ipam, said, remedy) in [
            (
                json!({"request": [{"option": "router"}]}),
                r#"ipam.request: DHCP option "router" is not known"#,
                "\"routers\"",
            ),
            (json!({"provide": [{"value": "x"}]}), r#"ipam.provide: DHCP option "" is not known"#, "number"),
            (json!({"request": [{"option": "256"}]}), r#"option "256""#, "number"),
            (json!({"request": [{"option": "+3"}]}), r#"option "+3""#, "number"),
            (json!({"provide": [{"option": "53", "value": "x"}]}), r#"option "53" is set by the protocol"#, ""),
            (json!({"provide": [{"option": "12", "value": long}]}), "has 256 bytes", "255"),
            (json!({"request": [{"option": 3}]}), "request", ""),
            (json!({"request": {"option": "3"}}), "request", ""),
        ] {
            let failure = parse(ipam.clone(), "").unwrap_err();
            assert_eq!(failure.code, Code::IpamConfig);
            assert!(failure.msg.contains(said) && failure.remedy.contains(remedy), "{ipam}: {failure}");
        }
    }

    #[test]
    fn the_usual_list_has_classless_routes_first() {
        let wish = parse(json!({"request": [{"option": "42"}, {"option": "6"}]}), "").unwrap().usual();
        assert_eq!(wish.request, [1, 121, 33, 3, 6, 15, 119, 26, 12, 42]);
        assert_eq!(wish.clone().usual(), wish);
    }
}
