//! Whose plugins a test calls, and where they lie.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::machine;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Reference,
    Trestle,
}

impl Kind {
    /// The directory that CNI_PATH names: the plugins under the names of their types.
    pub fn dir(self) -> PathBuf {
        match self {
            Self::Reference => machine::reference_plugins(),
            Self::Trestle => our_plugins().to_owned(),
        }
    }
}

/// The program under test; another build of it where TRESTLE_BIN says so.
fn program() -> PathBuf {
    let program = std::env::var_os("TRESTLE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_trestle").into());
    std::fs::canonicalize(&program).unwrap_or_else(|e| panic!("{}: {e}", program.display()))
}

/// Links to the program under test, one for each name under which it may be called.
fn our_plugins() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["trestle", "bridge", "macvlan", "host-local", "static", "dhcp"] {
            // Made beside and renamed: two runs of the suite may do this at the same time.
            let beside = dir.join(format!(".{name}.{}", std::process::id()));
            symlink(program(), &beside).unwrap();
            std::fs::rename(&beside, dir.join(name)).unwrap();
        }
        dir
    })
}

/// One behaviour, two tests: `name::reference` and `name::trestle`.
macro_rules! both {
    ($($(#[$doc:meta])* fn $name:ident($kind:ident: $type:ty) $body:block)+) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports, reason = "not every behaviour needs all of its module's names")]
            use super::*;

            fn behaves($kind: $type) $body

            #[test]
            fn reference() {
                behaves($crate::harness::Kind::Reference);
            }

            #[test]
            fn trestle() {
                behaves($crate::harness::Kind::Trestle);
            }
        }
    )+};
}
pub(crate) use both;
