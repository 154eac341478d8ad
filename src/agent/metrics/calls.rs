//! Hears how long the plugin's calls took, and how they ended.

use std::os::unix::fs::PermissionsExt;

use tokio::net::UnixDatagram;

use super::{Family, Metrics};
use crate::store::{Dirs, Heard, calls_socket, failed, make_dir};
use crate::types::{Code, Outcome};

const CALLS: Family = Family::duration("trestle_cni_call_seconds", "Calls of the plugin, by verb, kind and outcome.");
const UNHEARD: Family = Family::counter("trestle_cni_calls_unread_total", "Words about calls that could not be read.");
/// Longer than any word.
const LONGEST: usize = 512;

/// Until its future is dropped. Renamed into place: of two agents the later one hears.
pub async fn listen(dirs: &Dirs, metrics: &Metrics) -> Outcome<()> {
    let path = calls_socket(dirs);
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let bound = || {
        make_dir(&dirs.run)?;
        let _ = std::fs::remove_file(&beside);
        let socket = UnixDatagram::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, &path)?;
        Ok(socket)
    };
    let socket = bound().map_err(|e| failed(Code::Io, "listen at", &path, &e))?;
    let mut buffer = [0; LONGEST];
    loop {
        let len = socket.recv(&mut buffer).await.map_err(|e| failed(Code::Io, "listen at", &path, &e))?;
        match serde_json::from_slice::<Heard>(&buffer[..len]) {
            Ok(heard) => count(metrics, &heard),
            // Another version's.
            Err(_) => metrics.add(&UNHEARD, &[], 1),
        }
    }
}

fn count(metrics: &Metrics, heard: &Heard) {
    let labels = [("verb", &*heard.verb), ("kind", &*heard.kind), ("outcome", &*heard.outcome)];
    metrics.observe(&CALLS, &labels, heard.seconds);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::testing::block_on;
    use crate::store::tell_call;

    #[test]
    fn a_call_is_counted_where_somebody_listens_and_lost_where_nobody_does() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
        let heard = |outcome: &str| Heard::new(&"ADD", "trestle", outcome, Duration::from_millis(7));
        tell_call(&dirs, &heard("success"));
        block_on(async {
            // Twice: a socket that an agent left is no obstacle.
            for _ in 0..2 {
                let metrics = Metrics::default();
                let script = async {
                    while !calls_socket(&dirs).exists() || !metrics.text().contains("TR0301") {
                        tell_call(&dirs, &heard("TR0301"));
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"what", calls_socket(&dirs)).unwrap();
                    while !metrics.text().contains("unread_total 1") {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::select! {
                    ended = listen(&dirs, &metrics) => panic!("{ended:?}"),
                    () = script => {}
                    () = tokio::time::sleep(Duration::from_secs(5)) => panic!("{}", metrics.text()),
                }
                let line =
                    r#"trestle_cni_call_seconds_bucket{verb="ADD",kind="trestle",outcome="TR0301",le="0.005"} 0"#;
                assert!(metrics.text().lines().any(|l| l == line), "{}", metrics.text());
            }
        });
    }
}
