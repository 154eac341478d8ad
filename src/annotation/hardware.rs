//! Hardware addresses as Go's `net.ParseMAC` takes them: 6, 8 or 20 bytes, with `:`, `-` or in groups of four digits.

/// Whether a text is one. It travels on as it was written, to whatever plugin knows what to do with its length.
pub fn is_address(s: &str) -> bool {
    let (separator, width) = match (s.as_bytes().get(2), s.as_bytes().get(4)) {
        (Some(b':'), _) => (':', 2),
        (Some(b'-'), _) => ('-', 2),
        (_, Some(b'.')) => ('.', 4),
        _ => return false,
    };
    let mut digits = 0;
    for group in s.split(separator) {
        if group.len() != width || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
            return false;
        }
        digits += width;
    }
    matches!(digits / 2, 6 | 8 | 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of Go's own test (`net/mac_test.go`), and what it refuses.
    #[test]
    fn the_forms_of_go() {
        let infiniband = "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01";
        for good in [
            "00:00:5e:00:53:01",
            "02:AA:bb:cc:dd:01",
            "02-00-5e-10-00-00-00-01",
            "0000.5e00.5301",
            "0200.5e10.0000.0001",
            "c2:11:22:33:44:55:66:77",
            infiniband,
            &infiniband.replace(':', "-"),
        ] {
            assert!(is_address(good), "{good:?}");
        }
        for bad in [
            "",
            "02:xx",
            "zz",
            "01.02.03.04.05.06",
            "01:02:03:04:05:06:",
            "x1:02:03:04:05:06",
            "01002:03:04:05:06",
            "01:02003:04:05:06",
            "01:02:03:04:05",
            "01:02:03:04:05:06:07",
            "01:02:03-04:05:06",
            "0123:4567:89AF",
            "0123.4567.89AF.",
            "0123-4567-89AF",
            "0123456789AF",
            "+1:02:03:04:05:06",
            "\u{e9}:02:03:04:05:06",
        ] {
            assert!(!is_address(bad), "{bad:?}");
        }
    }
}
