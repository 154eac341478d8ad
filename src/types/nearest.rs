//! The known name that a misspelt one was most likely meant to be.

/// The nearest of the known names, in any case of letters; `None` if none is near enough to be worth a hint.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let distance = |k: &str| strsim::damerau_levenshtein(&lower, &k.to_lowercase());
    let (best, far) = known.into_iter().map(|k| (k, distance(k))).min_by_key(|(_, d)| *d)?;
    // One mistake in three letters; more would turn the hint into a guess.
    (far <= (word.chars().count().max(best.chars().count()) / 3).max(1)).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names() {
        let keys = ["bridge", "master", "mtu", "macspoofchk", "vlan", "vlanTrunk"];
        for (word, meant) in [
            ("brigde", Some("bridge")),
            ("MTU", Some("mtu")),
            ("mut", Some("mtu")),
            ("macSpoofCheck", Some("macspoofchk")),
            ("vlan_trunk", Some("vlanTrunk")),
            ("vlans", Some("vlan")),
            ("isGateway", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
        assert_eq!(nearest("br-lna", ["br0", "br-lan", "br-wan"]), Some("br-lan"));
        assert_eq!(nearest("x", []), None);
    }
}
