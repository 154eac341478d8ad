//! The versions of the specification, oldest first.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cniVersion {0:?} is not supported")]
pub struct UnknownVersion(String);

impl Version {
    pub const ALL: [Version; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub const NEWEST: Version = Self::V1_1_0;

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(super) fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    fn numbers(self) -> [i64; 3] {
        match self {
            Self::V0_1_0 => [0, 1, 0],
            Self::V0_2_0 => [0, 2, 0],
            Self::V0_3_0 => [0, 3, 0],
            Self::V0_3_1 => [0, 3, 1],
            Self::V0_4_0 => [0, 4, 0],
            Self::V1_0_0 => [1, 0, 0],
            Self::V1_1_0 => [1, 1, 0],
        }
    }

    /// Whether a text is a version, known or not, of this one's age or newer; `None` where it is no version at all.
    /// The reference library tells these apart by different codes.
    pub fn reached_by(self, text: &str) -> Option<bool> {
        let parts: Vec<&str> = text.split('.').collect();
        if parts.len() > 3 {
            return None;
        }
        let mut numbers = [0i64; 3];
        for (n, part) in numbers.iter_mut().zip(parts) {
            *n = part.parse().ok()?;
        }
        Some(numbers >= self.numbers())
    }
}

impl FromStr for Version {
    type Err = UnknownVersion;
    fn from_str(s: &str) -> Result<Self, UnknownVersion> {
        Self::ALL.into_iter().find(|v| v.as_str() == s).ok_or_else(|| UnknownVersion(s.into()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_known_by_their_exact_text() {
        for v in Version::ALL {
            assert_eq!(v.as_str().parse(), Ok(v));
        }
        for bad in ["", "1.0", "01.0.0", "1.0.0.0", " 1.0.0", "1.2.0", "v1.0.0"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
        assert!(Version::ALL.is_sorted() && Version::ALL.last() == Some(&Version::NEWEST));
    }

    #[test]
    fn the_age_of_a_text() {
        let v = Version::V0_4_0;
        for (text, reached) in [
            ("0.3.9", Some(false)),
            ("0.3", Some(false)),
            ("0", Some(false)),
            ("-1.0.0", Some(false)),
            ("0.4.0", Some(true)),
            ("0.4", Some(true)),
            ("1", Some(true)),
            ("99.0.0", Some(true)),
            ("", None),
            ("abc", None),
            ("1.", None),
            ("1.0.0.0", None),
            ("1.0.0-rc1", None),
            (" 1.0.0", None),
            ("99999999999999999999.0.0", None),
        ] {
            assert_eq!(v.reached_by(text), reached, "{text:?}");
        }
        assert!(Version::ALL.iter().all(|v| v.reached_by(v.as_str()) == Some(true)));
    }
}
