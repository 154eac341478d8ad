//! The picture: LAN, node, bridge, ports, pods and tap with their addresses and MACs, as read back from the kernel.
//!
//! Knows how to draw, not how to look.

use serde::{Deserialize, Serialize};

use super::report::Look;

/// A link as it was found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    pub name: String,
    pub mac: String,
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    pub name: String,
    pub owner: String,
    /// The guest's own card: what answers on the tap.
    pub guest: Option<Spot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpot {
    pub pod: String,
    pub link: Spot,
    /// Port of the bridge, where there is one.
    pub host_end: Option<String>,
    pub tap: Option<Tap>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    pub lan: String,
    pub switch: String,
    pub neighbour: Spot,
    pub bridge: Spot,
    pub uplink: Spot,
    pub master: Spot,
    pub on_bridge: Vec<PodSpot>,
    pub on_master: Vec<PodSpot>,
}

struct Glyphs {
    tee: &'static str,
    last: &'static str,
    down: &'static str,
    wire: &'static str,
    redirect: &'static str,
}

const UTF8: Glyphs =
    Glyphs { tee: "├─ ", last: "└─ ", down: "│  ", wire: "───", redirect: "══ tc ══" };
const ASCII: Glyphs = Glyphs { tee: "+- ", last: "`- ", down: "|  ", wire: "---", redirect: "== tc ==" };

/// One line of a tree and what hangs below it.
struct Branch {
    text: String,
    below: Vec<Branch>,
}

impl Branch {
    fn leaf(text: String) -> Self {
        Self { text, below: Vec::new() }
    }

    fn draw(&self, glyphs: &Glyphs, indent: &str, out: &mut String) {
        for (n, branch) in self.below.iter().enumerate() {
            let last = n + 1 == self.below.len();
            out.push_str(&format!("{indent}{}{}\n", if last { glyphs.last } else { glyphs.tee }, branch.text));
            let deeper = format!("{indent}{}", if last { "   " } else { glyphs.down });
            branch.draw(glyphs, &deeper, out);
        }
    }
}

impl Picture {
    pub fn draw(&self, look: Look) -> String {
        let glyphs = if look.utf8 { &UTF8 } else { &ASCII };
        let ports = self.on_bridge.iter().map(|p| pod(p, glyphs)).collect();
        let bridge = Branch { text: spot("bridge ", &self.bridge), below: ports };
        let uplink = Branch { text: spot("node: uplink ", &self.uplink), below: vec![bridge] };
        let fallback = self.on_master.iter().map(|p| pod(p, glyphs)).collect();
        let master = Branch { text: spot("node: card ", &self.master), below: fallback };
        let neighbour = Branch::leaf(spot("neighbour ", &self.neighbour));
        let root = Branch { text: String::new(), below: vec![neighbour, uplink, master] };
        let mut out = format!("LAN {}, switch {}\n", self.lan, self.switch);
        root.draw(glyphs, "", &mut out);
        out
    }
}

fn spot(role: &str, s: &Spot) -> String {
    let mut words = vec![format!("{role}{}", s.name)];
    words.extend(s.addresses.iter().cloned());
    words.push(s.mac.clone());
    words.join("  ")
}

fn pod(p: &PodSpot, glyphs: &Glyphs) -> Branch {
    let link = match &p.host_end {
        Some(end) => format!("port {end} {} {}", glyphs.wire, spot("", &p.link)),
        None => spot("macvlan ", &p.link),
    };
    let below = p.tap.iter().map(|tap| {
        let guest = tap.guest.as_ref().map_or_else(String::new, |g| format!(" {} guest {}", glyphs.wire, spot("", g)));
        Branch::leaf(format!("{} {}  {}{guest}", glyphs.redirect, tap.name, tap.owner))
    });
    Branch { text: format!("{link}  pod {}", p.pod), below: below.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_spot(name: &str, address: &str, last: u8) -> Spot {
        let addresses = if address.is_empty() { Vec::new() } else { vec![address.to_owned()] };
        Spot { name: name.into(), mac: format!("02:00:00:00:00:{last:02x}"), addresses }
    }

    fn picture() -> Picture {
        let guest = Some(a_spot("eth0", "192.0.2.77", 7));
        let tap = Some(Tap { name: "tap094a367b026".into(), owner: "uid 107".into(), guest });
        let shop = PodSpot {
            pod: "shop-0".into(),
            link: a_spot("net1", "192.0.2.100/24", 5),
            host_end: Some("tr1".into()),
            tap: None,
        };
        let vm = PodSpot { pod: "vm".into(), link: a_spot("pod094a367b026", "", 7), host_end: Some("tr2".into()), tap };
        let cron =
            PodSpot { pod: "cron-0".into(), link: a_spot("net1", "192.0.2.60/24", 6), host_end: None, tap: None };
        Picture {
            lan: "192.0.2.0/24".into(),
            switch: "switch".into(),
            neighbour: a_spot("eth0", "192.0.2.9/24", 9),
            bridge: a_spot("br-lan", "192.0.2.2/24", 0xe0),
            uplink: a_spot("eno0", "", 0xe0),
            master: a_spot("eno1", "", 0xe1),
            on_bridge: vec![shop, vm],
            on_master: vec![cron],
        }
    }

    #[test]
    fn drawn_in_ascii() {
        let wanted = "\
LAN 192.0.2.0/24, switch switch
+- neighbour eth0  192.0.2.9/24  02:00:00:00:00:09
+- node: uplink eno0  02:00:00:00:00:e0
|  `- bridge br-lan  192.0.2.2/24  02:00:00:00:00:e0
|     +- port tr1 --- net1  192.0.2.100/24  02:00:00:00:00:05  pod shop-0
|     `- port tr2 --- pod094a367b026  02:00:00:00:00:07  pod vm
|        `- == tc == tap094a367b026  uid 107 --- guest eth0  192.0.2.77  02:00:00:00:00:07
`- node: card eno1  02:00:00:00:00:e1
   `- macvlan net1  192.0.2.60/24  02:00:00:00:00:06  pod cron-0
";
        assert_eq!(picture().draw(Look { colour: false, utf8: false }), wanted);
    }

    #[test]
    fn the_two_drawings_have_the_same_words() {
        let words = |utf8| {
            let text = picture().draw(Look { colour: false, utf8 });
            text.split_whitespace()
                .filter(|w| w.chars().any(char::is_alphanumeric))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(true), words(false));
    }
}
