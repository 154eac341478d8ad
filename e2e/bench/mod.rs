//! What the benchmarks share: private namespaces with one bridge, a stopwatch around whole processes, rounds that are
//! interleaved, so that a busy machine slows all candidates, and what is made of the times.
//!
//! Two ratios are told: the median of the ratios of each round, and the ratio of the quiet times, those which a tenth
//! of the rounds stayed below. Other work on the machine only ever adds time, and most of it in the kernel's waits that
//! all candidates share, so the quiet ones are what a benchmark asserts. Knows nothing of what is run.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

const WARM_UP: usize = 3;
const ROUNDS: usize = 60;
const LEAST_ROUNDS: usize = 15;
const TIME: Duration = Duration::from_secs(45);

/// Before each measurement. A link that was just deleted leaves work to the kernel, and for some milliseconds after it
/// a new link waits for a grace period: 13 ms instead of 2, whoever asks, so that all candidates would look alike (seen
/// on Linux 6.18).
const SETTLE: Duration = Duration::from_millis(100);

pub const BRIDGE: &str = "br-bench";

/// Set in the copy of this process that runs inside the private namespaces.
const INSIDE: &str = "TRESTLE_BENCH_INSIDE";

/// A benchmark's `main`: `bench` is run inside, and answers whether all is as it must be.
pub fn main(name: &str, bench: fn() -> Outcome<bool>) -> ExitCode {
    let done = if std::env::var_os(INSIDE).is_some() { bench() } else { enter() };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs this program again in its own network and mount namespaces, with a `/run` in memory as nodes have it.
fn enter() -> Outcome<bool> {
    let prepare = "mount -t tmpfs run /run && mount -t sysfs sysfs /sys && exec \"$0\"";
    let this = std::env::current_exe()?;
    let inside = Command::new("unshare").args(["-n", "-m", "sh", "-c", prepare]).arg(this).env(INSIDE, "1").status()?;
    Ok(inside.success())
}

/// On a disk, as /var/lib of a node is; /run is in memory.
pub fn work_dir() -> Outcome<tempfile::TempDir> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// The directory of the reference plugins.
pub fn reference() -> Outcome<PathBuf> {
    let given = std::env::var_os("TRESTLE_REF_PLUGINS").map(PathBuf::from);
    let given = given.filter(|d| d.join("bridge").exists() && d.join("host-local").exists());
    Ok(given.ok_or("TRESTLE_REF_PLUGINS must name a directory with the reference bridge and host-local")?)
}

/// A directory with this program under its names.
pub fn ours(work: &Path) -> Outcome<PathBuf> {
    let program = std::env::var_os("TRESTLE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_trestle").into());
    let program = std::fs::canonicalize(&program).map_err(|e| format!("{}: {e}", program.display()))?;
    let directory = work.join("plugins");
    std::fs::create_dir(&directory)?;
    for name in ["trestle", "bridge", "host-local"] {
        std::os::unix::fs::symlink(&program, directory.join(name))?;
    }
    Ok(directory)
}

/// `BRIDGE`, with a port that is up: a bridge without one has no carrier.
pub fn make_bridge() -> Outcome<()> {
    for line in [
        "link add br-bench type bridge",
        "link set br-bench up",
        "link add up0 type veth peer name up1",
        "link set up0 master br-bench up",
        "link set up1 up",
    ] {
        run(Command::new("ip").args(line.split(' ')))?;
    }
    Ok(())
}

pub fn run(command: &mut Command) -> Outcome<()> {
    let done = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
        .into())
}

/// First without counting, then as often as there is time for.
pub fn rounds<C>(candidates: &mut [C], round: impl Fn(&mut C, usize, bool) -> Outcome<()>) -> Outcome<()> {
    for n in 0..WARM_UP {
        for candidate in &mut *candidates {
            round(candidate, n, false)?;
        }
    }
    let started = Instant::now();
    for n in 0..ROUNDS {
        if n >= LEAST_ROUNDS && started.elapsed() > TIME {
            break;
        }
        for candidate in &mut *candidates {
            round(candidate, WARM_UP + n, true)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
pub struct Sample {
    seconds: f64,
    peak_kib: u64,
}

/// What was measured of one candidate.
#[derive(Default)]
pub struct Samples {
    pub adds: Vec<Sample>,
    pub dels: Vec<Sample>,
}

impl Samples {
    /// Of the largest process: a plugin's own, or one that it ran.
    pub fn peak_kib(&self) -> u64 {
        self.adds.iter().chain(&self.dels).map(|s| s.peak_kib).max().unwrap_or(0)
    }
}

/// Runs programs for `bare.c`, which says why it is a program of its own.
#[derive(Clone)]
pub struct Stopwatch {
    pub program: PathBuf,
    output: PathBuf,
}

impl Stopwatch {
    pub fn build(work: &Path) -> Outcome<Self> {
        let program = work.join("bare");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/bare.c");
        run(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(source))?;
        Ok(Self { program, output: work.join("output") })
    }

    /// From fork to wait4. `what` adds program, arguments and environment, which is empty otherwise.
    pub fn time(&self, stdin: &Path, what: impl FnOnce(&mut Command)) -> Outcome<Sample> {
        std::thread::sleep(SETTLE);
        let mut call = Command::new(&self.program);
        call.arg("time").arg(stdin).arg(&self.output).env_clear();
        what(&mut call);
        let told = call.stderr(Stdio::inherit()).output()?;
        let told = String::from_utf8(told.stdout)?;
        let &[nanoseconds, peak_kib, 0] =
            told.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?.as_slice()
        else {
            let said = std::fs::read_to_string(&self.output).unwrap_or_default();
            return Err(format!("failed ({}): {said}", told.trim()).into());
        };
        Ok(Sample { seconds: nanoseconds as f64 / 1e9, peak_kib })
    }
}

fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

fn milliseconds(samples: &[Sample], part: f64) -> f64 {
    quantile(samples.iter().map(|s| s.seconds * 1e3).collect(), part)
}

const MEDIAN: f64 = 0.5;
const QUIET: f64 = 0.1;

/// The median of the ratios of each round.
fn by_round(of: &[Sample], to: &[Sample]) -> f64 {
    quantile(of.iter().zip(to).map(|(a, b)| a.seconds / b.seconds).collect(), MEDIAN)
}

pub fn quiet(of: &[Sample], to: &[Sample]) -> f64 {
    milliseconds(of, QUIET) / milliseconds(to, QUIET)
}

/// For a table: how much longer somebody takes than one of ours.
pub fn takes(who: &str, theirs: &Samples, name: &str, ours: &Samples) -> String {
    let (add, add_round) = (quiet(&theirs.adds, &ours.adds), by_round(&theirs.adds, &ours.adds));
    let (del, del_round) = (quiet(&theirs.dels, &ours.dels), by_round(&theirs.dels, &ours.dels));
    format!("{who} takes, times {name}: ADD {add:.1} ({add_round:.1} by round), DEL {del:.1} ({del_round:.1})")
}

/// The end of a benchmark; whether nothing is wrong.
pub fn tell(table: &str, faults: &[String], ok: &str) -> bool {
    println!("{table}");
    for fault in faults {
        println!("FAIL {fault}");
    }
    if faults.is_empty() {
        println!("ok: {ok}");
    }
    faults.is_empty()
}

/// For a table: the times, quiet and median, and both ratios.
pub fn columns(of: &[Sample], to: &[Sample]) -> [String; 3] {
    let times = format!("{:.2}, {:.2}", milliseconds(of, QUIET), milliseconds(of, MEDIAN));
    [times, format!("{:.2}", quiet(of, to)), format!("{:.2}", by_round(of, to))]
}
