//! The real exchange: a short child of this program, which enters the pod's namespace and ends, so that the keeper never
//! holds anything of a pod. The job goes to its standard input, the answer comes from its standard output, in JSON. The
//! agent's other errands into a pod go the same way.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Exchange;
use crate::ipam::dhcp::{Answer, Job};
use crate::store::Dirs;
use crate::types::{Code, Failure, Outcome};

/// What the child may take beyond the time that its job gives it.
const GRACE: Duration = Duration::from_secs(5);
/// An answer has some hundred bytes; a program that says more is another one.
const LONGEST: u64 = 1 << 20;

pub struct Children {
    program: PathBuf,
    run: PathBuf,
    state: PathBuf,
    broadcast: bool,
}

impl Children {
    /// By the kernel's own link, which leads to the program that runs also after its file was replaced by another version.
    pub fn of_this_program(dirs: &Dirs) -> Self {
        Self { program: "/proc/self/exe".into(), run: dirs.run.clone(), state: dirs.state.clone(), broadcast: false }
    }

    /// Servers are asked to broadcast what they answer.
    pub fn by_broadcast(self, broadcast: bool) -> Self {
        Self { broadcast, ..self }
    }
}

impl Exchange for Children {
    async fn run(&self, job: &Job) -> Outcome<Answer> {
        let mut job = job.clone();
        job.wish.broadcast |= self.broadcast;
        self.ask("exchange", &job, Duration::from_secs(job.seconds.into()) + GRACE).await
    }
}

impl Children {
    /// `trestle dhcp VERB`: the question in, the answer out. A child that takes longer is killed.
    pub async fn ask<A: DeserializeOwned>(&self, verb: &str, job: &impl Serialize, limit: Duration) -> Outcome<A> {
        let failed = |why: String| Failure::new(Code::PluginFailed, format!("trestle dhcp {verb}: {why}"));
        let text = serde_json::to_vec(job).map_err(|e| failed(format!("the job is no JSON: {e}")))?;
        let mut child =
            self.start(verb).map_err(|e| failed(format!("{} cannot be run: {e}", self.program.display())))?;
        match timeout(limit, talk(&mut child, &text)).await {
            Ok(Ok((status, said))) if status.success() => serde_json::from_slice(&said).map_err(|e| {
                let said = String::from_utf8_lossy(&said);
                failed(format!("its answer is none: {e}: {:?}", said.chars().take(300).collect::<String>()))
            }),
            Ok(Ok((status, _))) => Err(failed(status.to_string())),
            Ok(Err(e)) => Err(failed(e.to_string())),
            Err(_) => {
                // Waited for, so that no zombie is left.
                let _ = child.kill().await;
                Err(failed(format!("no answer after {limit:?}")))
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the keeper's own program, which enters where the keeper must not")]
    fn start(&self, verb: &str) -> std::io::Result<Child> {
        Command::new(&self.program)
            .arg0("trestle")
            .args(["dhcp", verb])
            .env("TRESTLE_RUN_DIR", &self.run)
            .env("TRESTLE_STATE_DIR", &self.state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}

async fn talk(child: &mut Child, text: &[u8]) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // A job is shorter than a pipe. A child that does not read it tells by its exit.
        let _ = stdin.write_all(text).await;
    }
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LONGEST).read_to_end(&mut said).await?;
    }
    Ok((child.wait().await?, said))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::super::tests::{job, lease};
    use super::*;

    fn children(program: &Path) -> Children {
        Children {
            program: program.into(),
            ..Children::of_this_program(&Dirs::new("/nonexistent/run", "/nonexistent"))
        }
    }

    async fn run(script: &str, seconds: u32) -> Outcome<Answer> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        children(&program).run(&Job { seconds, ..job(1) }).await
    }

    #[tokio::test]
    async fn the_job_goes_in_and_the_answer_comes_out() {
        let answer = Answer::Bound(lease(1, 60));
        let text = serde_json::to_string(&answer).unwrap();
        let script = format!(
            r#"test "$1 $2 $TRESTLE_RUN_DIR" = "dhcp exchange /nonexistent/run" || exit 9
            grep -q '"netns":"/proc/self/ns/net"' || exit 8
            echo '{text}'"#
        );
        assert_eq!(run(&script, 5).await, Ok(answer));
        assert_eq!(run("cat > /dev/null; echo '\"Silent\"'", 5).await, Ok(Answer::Silent));
    }

    #[tokio::test]
    async fn answers_are_broadcast_where_that_is_wished_of_all() {
        let dir = tempfile::tempdir().unwrap();
        for (wished, script) in [(false, "! grep -q broadcast.*broadcast"), (true, "grep -q '\"broadcast\":true'")] {
            let program = dir.path().join(wished.to_string());
            std::fs::write(&program, format!("#!/bin/sh\n{script} || exit 9\necho '\"Silent\"'\n")).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
            let children = children(&program).by_broadcast(wished);
            assert_eq!(children.run(&Job { seconds: 5, ..job(1) }).await, Ok(Answer::Silent));
        }
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told() {
        let why = |outcome: Outcome<Answer>| outcome.unwrap_err().msg;
        assert!(why(run("exit 3", 5).await).contains("exit status: 3"));
        assert!(why(run("echo nonsense", 5).await).contains("nonsense"));
        assert!(why(run("kill -9 $$", 5).await).contains("signal: 9"));
        let missing = children(Path::new("/nonexistent"));
        assert!(why(missing.run(&job(1)).await).contains("/nonexistent"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_hangs_is_killed() {
        // The paused clock runs ahead as soon as nothing else is to be done.
        let failure = run("exec sleep 1000", 1).await.unwrap_err();
        assert!(failure.msg.contains("no answer after 6s"), "{failure}");
    }
}
