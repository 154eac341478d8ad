//! Which of the versions that a list offers is spoken with its plugins.

use crate::cni::Version;

/// The newest of the offered ones that is not newer than we are (libcni, `NetworkConfFromBytes`). `own` is the list's
/// `cniVersion`, empty where it has none; it stands where nothing better is offered. The error is the text that is no
/// version.
pub fn negotiate(own: &str, offered: &[String]) -> Result<String, String> {
    if offered.is_empty() {
        return Ok(own.to_owned());
    }
    let newest = numbers(Version::NEWEST.as_str());
    let mut best: Option<(Option<[i64; 3]>, &str)> = None;
    for text in offered.iter().map(String::as_str).chain(Some(own).filter(|v| !v.is_empty())) {
        let n = numbers(text);
        if n.is_none() {
            return Err(text.to_owned());
        }
        if n <= newest && best.is_none_or(|(found, _)| n > found) {
            best = Some((n, text));
        }
    }
    Ok(best.map_or(own, |(_, text)| text).to_owned())
}

/// An empty text is 0.1.0; missing parts are zeros.
fn numbers(text: &str) -> Option<[i64; 3]> {
    let text = if text.is_empty() { "0.1.0" } else { text };
    let mut numbers = [0; 3];
    let mut parts = text.split('.');
    for (n, part) in numbers.iter_mut().zip(&mut parts) {
        *n = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_we_speak() {
        let pick = |own: &str, offered: &[&str]| {
            negotiate(own, &offered.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(pick("0.4.0", &[]), "0.4.0");
        assert_eq!(pick("", &[]), "");
        assert_eq!(pick("0.4.0", &["0.3.1", "1.0.0"]), "1.0.0");
        assert_eq!(pick("1.1.0", &["0.3.1", "1.0.0"]), "1.1.0");
        assert_eq!(pick("", &["1.0.0", "0.4.0", "1.2.0", "99.0.0"]), "1.0.0");
        assert_eq!(pick("1.2.0", &["1.3.0"]), "1.2.0", "nothing that we speak: the plugin says so itself");
        assert_eq!(pick("", &["9.0.0"]), "");
        for (offered, wrong) in [("x", "x"), ("1.0.0.0", "1.0.0.0"), ("1.", "1."), ("1.0.0-rc1", "1.0.0-rc1")] {
            assert_eq!(negotiate("1.0.0", &[offered.into()]), Err(wrong.into()));
        }
        assert_eq!(negotiate("abc", &["1.0.0".into()]), Err("abc".into()));
    }
}
