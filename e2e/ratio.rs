//! `cargo bench --bench ratio`: what one bridge attachment with host-local costs, as ratios of one run.
//!
//! Compared are whole processes, from fork to wait4: this program as `type: trestle` and as the drop-in `bridge`, the reference
//! plugins (`TRESTLE_REF_PLUGINS`), and `bare.c`, which makes the same kernel changes and nothing else. Rounds are interleaved, so that
//! a busy machine slows all of them. Two ratios are printed: the median of the ratios of each round, and the ratio of the quiet times,
//! those which a tenth of the rounds stayed below. Other work on the machine only ever adds time, and most of it in the kernel's waits that
//! all candidates share, so the quiet ones are asserted, and the peak of memory (exit code 1); absolute times are only printed.
//! Needs root, `cc`, and `ip` and `unshare`; everything happens in namespaces of its own.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to people")]
#![allow(clippy::disallowed_methods, reason = "not the product: it starts programs")]

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the issue asks for.
const MOST_OF_BARE: f64 = 2.0;
const REFERENCE_AT_LEAST: f64 = 4.0;
const MOST_KIB: u64 = 8 * 1024;

const WARM_UP: usize = 3;
const ROUNDS: usize = 60;
const LEAST_ROUNDS: usize = 15;
const TIME: Duration = Duration::from_secs(45);

/// Before each measurement. A link that was just deleted leaves work to the kernel, and for some milliseconds after it a new link waits
/// for a grace period: 13 ms instead of 2, whoever asks, so that all candidates would look alike (seen on Linux 6.18).
const SETTLE: Duration = Duration::from_millis(100);

/// Set in the copy of this process that runs inside the private namespaces.
const INSIDE: &str = "TRESTLE_BENCH_INSIDE";

fn main() -> ExitCode {
    let done = if std::env::var_os(INSIDE).is_some() { bench() } else { enter() };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("ratio: {e}");
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

fn bench() -> Outcome<bool> {
    // On a disk, as /var/lib of a node is; /run is in memory.
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut candidates = prepare(work.path())?;
    for n in 0..WARM_UP {
        for candidate in &mut candidates {
            candidate.round(n, false)?;
        }
    }
    let started = Instant::now();
    for n in 0..ROUNDS {
        if n >= LEAST_ROUNDS && started.elapsed() > TIME {
            break;
        }
        for candidate in &mut candidates {
            candidate.round(WARM_UP + n, true)?;
        }
    }
    println!("{}", table(&candidates));
    let faults = verdict(&candidates);
    for fault in &faults {
        println!("FAIL {fault}");
    }
    if faults.is_empty() {
        println!(
            "ok: ADD within {MOST_OF_BARE} x bare, reference at least {REFERENCE_AT_LEAST} x ours, peak within {MOST_KIB} KiB"
        );
    }
    Ok(faults.is_empty())
}

/// One program with what it was given and what was measured.
struct Candidate {
    name: &'static str,
    kind: Kind,
    stopwatch: PathBuf,
    work: PathBuf,
    pod: String,
    adds: Vec<Sample>,
    dels: Vec<Sample>,
}

enum Kind {
    Bare { store: PathBuf },
    Plugin { program: PathBuf, path: PathBuf, run: PathBuf, state: PathBuf },
}

#[derive(Clone, Copy)]
struct Sample {
    seconds: f64,
    peak_kib: u64,
}

const BARE: usize = 0;
const OURS: [usize; 2] = [1, 2];
const REFERENCE: usize = 3;

/// The node and the four candidates, in the order of the constants above.
fn prepare(work: &Path) -> Outcome<Vec<Candidate>> {
    let reference = std::env::var_os("TRESTLE_REF_PLUGINS").map(PathBuf::from);
    let reference = reference.filter(|d| d.join("bridge").exists() && d.join("host-local").exists());
    let reference =
        reference.ok_or("TRESTLE_REF_PLUGINS must name a directory with the reference bridge and host-local")?;
    let trestle = PathBuf::from(env!("CARGO_BIN_EXE_trestle"));
    let stopwatch = work.join("bare");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/bare.c");
    run(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&stopwatch).arg(source))?;

    let ours = work.join("plugins");
    std::fs::create_dir(&ours)?;
    for name in ["trestle", "bridge", "host-local"] {
        std::os::unix::fs::symlink(&trestle, ours.join(name))?;
    }
    // A port that is up: a bridge without one has no carrier.
    for line in [
        "link add br-bench type bridge",
        "link set br-bench up",
        "link add up0 type veth peer name up1",
        "link set up0 master br-bench up",
        "link set up1 up",
    ] {
        run(Command::new("ip").args(line.split(' ')))?;
    }
    let plugin = |directory: &Path, name: &str| Kind::Plugin {
        program: directory.join(name),
        path: directory.to_owned(),
        run: PathBuf::from("/run/trestle"),
        state: work.join("state"),
    };
    let kinds = [
        ("bare kernel operations", Kind::Bare { store: work.join("store-bare") }),
        ("trestle, type trestle", plugin(&ours, "trestle")),
        ("trestle, type bridge", plugin(&ours, "bridge")),
        ("reference bridge", plugin(&reference, "bridge")),
    ];
    kinds.into_iter().map(|(name, kind)| Candidate::new(name, kind, &stopwatch, work)).collect()
}

impl Candidate {
    fn new(name: &'static str, kind: Kind, stopwatch: &Path, work: &Path) -> Outcome<Self> {
        let pod = format!("pod-{}", name.replace([' ', ','], "-"));
        run(Command::new("ip").args(["netns", "add", &pod]))?;
        let candidate = Self {
            name,
            kind,
            stopwatch: stopwatch.to_owned(),
            work: work.to_owned(),
            pod,
            adds: Vec::new(),
            dels: Vec::new(),
        };
        std::fs::write(candidate.stdin(), candidate.configuration())?;
        if let Kind::Bare { store } = &candidate.kind {
            std::fs::create_dir(store)?;
        }
        Ok(candidate)
    }

    fn stdin(&self) -> PathBuf {
        self.work.join(format!("{}.conf", self.pod))
    }

    fn configuration(&self) -> String {
        let Kind::Plugin { program, .. } = &self.kind else { return String::new() };
        let kind = program.file_name().unwrap_or_default().to_string_lossy();
        let (name, store) = (&self.pod, self.work.join("stores"));
        format!(
            r#"{{"cniVersion": "1.0.0", "name": "{name}", "type": "{kind}", "bridge": "br-bench",
                "ipam": {{"type": "host-local", "subnet": "10.9.0.0/16", "dataDir": "{}",
                          "routes": [{{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}}]}}}}"#,
            store.display()
        )
    }

    /// One ADD and its DEL.
    fn round(&mut self, n: usize, counted: bool) -> Outcome<()> {
        let add = self.measure("ADD", n)?;
        let del = self.measure("DEL", n)?;
        if counted {
            self.adds.push(add);
            self.dels.push(del);
        }
        Ok(())
    }

    fn measure(&self, verb: &str, n: usize) -> Outcome<Sample> {
        std::thread::sleep(SETTLE);
        let output = self.work.join("output");
        let netns = format!("/run/netns/{}", self.pod);
        let mut call = Command::new(&self.stopwatch);
        call.arg("time").arg(self.stdin()).arg(&output).env_clear();
        match &self.kind {
            Kind::Bare { store } => {
                let store = store.to_string_lossy().into_owned();
                call.arg(&self.stopwatch);
                match verb {
                    "ADD" => call
                        .args(["add", "br-bench", "bare0", &netns, "eth0", "02:00:00:00:00:09"])
                        .args(["10.9.0.2", "10.9.0.1", &store]),
                    _ => call.args(["del", "bare0", "10.9.0.2", &store]),
                };
            }
            Kind::Plugin { program, path, run, state } => {
                // As long as the ids that runtimes give.
                let container = format!("{n:064x}");
                call.arg(program).env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_NETNS", netns);
                call.env("CNI_IFNAME", "eth0").env("CNI_PATH", path);
                call.env("TRESTLE_RUN_DIR", run).env("TRESTLE_STATE_DIR", state);
            }
        }
        let told = call.stderr(Stdio::inherit()).output()?;
        let told = String::from_utf8(told.stdout)?;
        let &[nanoseconds, peak_kib, 0] =
            told.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?.as_slice()
        else {
            let said = std::fs::read_to_string(&output).unwrap_or_default();
            return Err(format!("{}: {verb} failed ({}): {said}", self.name, told.trim()).into());
        };
        Ok(Sample { seconds: nanoseconds as f64 / 1e9, peak_kib })
    }

    fn peak_kib(&self) -> u64 {
        self.adds.iter().chain(&self.dels).map(|s| s.peak_kib).max().unwrap_or(0)
    }
}

fn run(command: &mut Command) -> Outcome<()> {
    let done = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
        .into())
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

fn quiet(of: &[Sample], to: &[Sample]) -> f64 {
    milliseconds(of, QUIET) / milliseconds(to, QUIET)
}

fn table(candidates: &[Candidate]) -> String {
    let bare = &candidates[BARE];
    let mut text = format!("{} rounds; x = times the bare kernel operations: quiet, by round\n", bare.adds.len());
    let mut row = |name: &str, columns: [String; 7]| {
        let [am, aq, ar, dm, dq, dr, peak] = columns;
        let _ = writeln!(text, "{name:24} {am:>14} {aq:>6} {ar:>6}  {dm:>14} {dq:>6} {dr:>6}  {peak:>8}");
    };
    row("", ["ADD ms, median", "x", "x", "DEL ms, median", "x", "x", "peak KiB"].map(str::to_owned));
    for c in candidates {
        let verb = |of: &[Sample], to: &[Sample]| {
            let times = format!("{:.2}, {:.2}", milliseconds(of, QUIET), milliseconds(of, MEDIAN));
            [times, format!("{:.2}", quiet(of, to)), format!("{:.2}", by_round(of, to))]
        };
        let ([am, aq, ar], [dm, dq, dr]) = (verb(&c.adds, &bare.adds), verb(&c.dels, &bare.dels));
        row(c.name, [am, aq, ar, dm, dq, dr, c.peak_kib().to_string()]);
    }
    for c in OURS.map(|i| &candidates[i]) {
        let r = &candidates[REFERENCE];
        let (add, add_round) = (quiet(&r.adds, &c.adds), by_round(&r.adds, &c.adds));
        let (del, del_round) = (quiet(&r.dels, &c.dels), by_round(&r.dels, &c.dels));
        let _ = writeln!(
            text,
            "the reference takes, times {}: ADD {add:.1} ({add_round:.1} by round), DEL {del:.1} ({del_round:.1})",
            c.name
        );
    }
    text
}

fn verdict(candidates: &[Candidate]) -> Vec<String> {
    let mut faults = Vec::new();
    for c in OURS.map(|i| &candidates[i]) {
        let to_bare = quiet(&c.adds, &candidates[BARE].adds);
        let to_reference = quiet(&candidates[REFERENCE].adds, &c.adds);
        if to_bare > MOST_OF_BARE {
            faults.push(format!("{}: ADD takes {to_bare:.2} x the bare kernel operations", c.name));
        }
        if to_reference < REFERENCE_AT_LEAST {
            faults.push(format!("{}: the reference's ADD takes only {to_reference:.2} x ours", c.name));
        }
        if c.peak_kib() > MOST_KIB {
            faults.push(format!("{}: peak memory of {} KiB", c.name, c.peak_kib()));
        }
    }
    faults
}
