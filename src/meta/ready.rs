//! `readinessindicatorfile`: a file by which the cluster's own network tells that it works.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::types::{Code, Failure, Outcome};

/// As long and as often as Multus waits.
const WAIT: Duration = Duration::from_secs(45);
const PAUSE: Duration = Duration::from_secs(1);

pub fn wait(file: Option<&Path>) -> Outcome<()> {
    wait_for(file, WAIT, PAUSE)
}

fn wait_for(file: Option<&Path>, wait: Duration, pause: Duration) -> Outcome<()> {
    let Some(file) = file else { return Ok(()) };
    let end = Instant::now() + wait;
    while !file.exists() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(missing(file));
        }
        std::thread::sleep(pause.min(left));
    }
    Ok(())
}

/// Without waiting.
pub fn now(file: Option<&Path>) -> Outcome<()> {
    file.filter(|f| !f.exists()).map_or(Ok(()), |f| Err(missing(f)))
}

fn missing(file: &Path) -> Failure {
    Failure::new(Code::NotIndicated, format!("readinessindicatorfile {} is not there", file.display()))
        .remedy("the cluster's own network writes it when it is ready: look at its pods on this node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_file_and_not_for_ever() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("ready");
        let ms = Duration::from_millis;
        assert_eq!(wait_for(None, ms(0), ms(1)), Ok(()));
        let failure = wait_for(Some(&file), ms(20), ms(5)).unwrap_err();
        assert!(failure.code == Code::NotIndicated && failure.msg.contains("ready"), "{failure}");
        assert!(now(Some(&file)).is_err() && now(None).is_ok());
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(ms(20));
                std::fs::write(&file, "").unwrap();
            });
            wait_for(Some(&file), Duration::from_secs(20), ms(5)).unwrap();
        });
        now(Some(&file)).unwrap();
    }
}
