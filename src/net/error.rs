//! One refusal of the kernel: what was asked, of which object, the errno as a number, and the kernel's own words.
//!
//! Whoever decides by an error decides by [`NetError::is`] or [`NetError::gone`], never by a text.

use nix::errno::Errno;

use crate::types::{Code, Failure};

pub type NetResult<T> = Result<T, NetError>;

/// Operation, object, errno, and the sentence of the extended acknowledgement, if the kernel gave one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op} {object}: {}{}", describe(*errno), words(kernel))]
pub struct NetError {
    pub op: &'static str,
    pub object: String,
    pub errno: i32,
    pub kernel: Option<String>,
}

impl NetError {
    pub fn new(op: &'static str, object: impl Into<String>, errno: Errno) -> Self {
        Self { op, object: object.into(), errno: errno as i32, kernel: None }
    }

    /// Of a failed file or socket call. An error without errno (they come from the standard library, such as an
    /// interior NUL byte) counts as EINVAL and keeps its text.
    pub fn io(op: &'static str, object: impl Into<String>, e: &std::io::Error) -> Self {
        match e.raw_os_error() {
            Some(errno) => Self::new(op, object, Errno::from_raw(errno)),
            None => Self { kernel: Some(e.to_string()), ..Self::new(op, object, Errno::EINVAL) },
        }
    }

    pub fn is(&self, e: Errno) -> bool {
        self.errno == e as i32
    }

    /// The thing that was to be changed or removed is not there any more. The kernel says it in four ways: ENODEV of
    /// links, ENOENT of qdiscs and files, ESRCH of routes and processes, EADDRNOTAVAIL of addresses.
    pub fn gone(&self) -> bool {
        [Errno::ENODEV, Errno::ENOENT, Errno::ESRCH, Errno::EADDRNOTAVAIL].iter().any(|e| self.is(*e))
    }
}

/// `EEXIST (File exists)`.
fn describe(errno: i32) -> String {
    let e = Errno::from_raw(errno);
    if e == Errno::UnknownErrno { format!("errno {errno}") } else { format!("{e:?} ({})", e.desc()) }
}

fn words(kernel: &Option<String>) -> String {
    kernel.as_ref().map(|k| format!(": {k}")).unwrap_or_default()
}

impl From<NetError> for Failure {
    fn from(e: NetError) -> Self {
        Failure::new(Code::Kernel, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_operation_object_errno_and_the_kernels_words() {
        let mut e = NetError::new("add route", "10.0.0.0/8", Errno::EEXIST);
        assert_eq!(e.to_string(), "add route 10.0.0.0/8: EEXIST (File exists)");
        e.kernel = Some("Nexthop has invalid gateway".into());
        assert_eq!(
            Failure::from(e.clone()).msg,
            "add route 10.0.0.0/8: EEXIST (File exists): Nexthop has invalid gateway"
        );
        assert_eq!(Failure::from(e).code, Code::Kernel);
        assert_eq!(NetError { errno: 4000, ..NetError::new("x", "y", Errno::EPERM) }.to_string(), "x y: errno 4000");
    }

    #[test]
    fn gone_is_decided_by_errno() {
        for e in [Errno::ENODEV, Errno::ENOENT, Errno::ESRCH, Errno::EADDRNOTAVAIL] {
            assert!(NetError::new("x", "y", e).gone());
        }
        assert!(!NetError::new("x", "y", Errno::EEXIST).gone());
        let text = std::io::Error::new(std::io::ErrorKind::InvalidInput, "nul byte");
        assert_eq!(NetError::io("x", "y", &text).kernel.as_deref(), Some("nul byte"));
    }
}
