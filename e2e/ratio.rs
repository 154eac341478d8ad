//! `cargo bench --bench ratio`: what one bridge attachment with host-local costs, as ratios of one run.
//!
//! Compared are whole processes, from fork to wait4: this program as `type: trestle` and as the drop-in `bridge`, the
//! reference plugins (`TRESTLE_REF_PLUGINS`), and `bare.c`, which makes the same kernel changes and nothing else. How
//! it is measured, and which ratios are told: `bench`. The quiet ones are asserted, and the peak of memory (exit code
//! 1); absolute times are only printed. Needs root, `cc`, and `ip` and `unshare`; everything happens in namespaces of
//! its own. `TRESTLE_BIN`: another build of the program.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to people")]
#![allow(clippy::disallowed_methods, reason = "not the product: it starts programs")]

mod bench;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bench::{Outcome, Sample, Samples, Stopwatch, quiet};

/// What the issue asks for.
const MOST_OF_BARE: f64 = 2.0;
const REFERENCE_AT_LEAST: f64 = 4.0;
const MOST_KIB: u64 = 8 * 1024;

fn main() -> ExitCode {
    bench::main("ratio", compare)
}

fn compare() -> Outcome<bool> {
    let work = bench::work_dir()?;
    let mut candidates = prepare(work.path())?;
    bench::rounds(&mut candidates, Candidate::round)?;
    let ok = format!(
        "ADD within {MOST_OF_BARE} x bare, reference at least {REFERENCE_AT_LEAST} x ours, peak within {MOST_KIB} KiB"
    );
    Ok(bench::tell(&table(&candidates), &verdict(&candidates), &ok))
}

/// One program with what it was given and what was measured.
struct Candidate {
    name: &'static str,
    kind: Kind,
    stopwatch: Stopwatch,
    work: PathBuf,
    pod: String,
    samples: Samples,
}

enum Kind {
    Bare { store: PathBuf },
    Plugin { program: PathBuf, path: PathBuf, run: PathBuf, state: PathBuf },
}

const BARE: usize = 0;
const OURS: [usize; 2] = [1, 2];
const REFERENCE: usize = 3;

/// The node and the four candidates, in the order of the constants above.
fn prepare(work: &Path) -> Outcome<Vec<Candidate>> {
    let reference = bench::reference()?;
    let stopwatch = Stopwatch::build(work)?;
    let ours = bench::ours(work)?;
    bench::make_bridge()?;
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
    fn new(name: &'static str, kind: Kind, stopwatch: &Stopwatch, work: &Path) -> Outcome<Self> {
        let pod = format!("pod-{}", name.replace([' ', ','], "-"));
        bench::run(Command::new("ip").args(["netns", "add", &pod]))?;
        let (stopwatch, work) = (stopwatch.clone(), work.to_owned());
        let candidate = Self { name, kind, stopwatch, work, pod, samples: Samples::default() };
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
            self.samples.adds.push(add);
            self.samples.dels.push(del);
        }
        Ok(())
    }

    fn measure(&self, verb: &str, n: usize) -> Outcome<Sample> {
        let netns = format!("/run/netns/{}", self.pod);
        let sample = self.stopwatch.time(&self.stdin(), |call| match &self.kind {
            Kind::Bare { store } => {
                let store = store.to_string_lossy().into_owned();
                call.arg(&self.stopwatch.program);
                match verb {
                    "ADD" => call
                        .args(["add", bench::BRIDGE, "bare0", &netns, "eth0", "02:00:00:00:00:09"])
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
        });
        sample.map_err(|e| format!("{}: {verb} {e}", self.name).into())
    }
}

fn table(candidates: &[Candidate]) -> String {
    let bare = &candidates[BARE].samples;
    let mut text = format!("{} rounds; x = times the bare kernel operations: quiet, by round\n", bare.adds.len());
    let mut row = |name: &str, columns: [String; 7]| {
        let [am, aq, ar, dm, dq, dr, peak] = columns;
        let _ = writeln!(text, "{name:24} {am:>14} {aq:>6} {ar:>6}  {dm:>14} {dq:>6} {dr:>6}  {peak:>8}");
    };
    row("", ["ADD ms, median", "x", "x", "DEL ms, median", "x", "x", "peak KiB"].map(str::to_owned));
    for c in candidates {
        let [am, aq, ar] = bench::columns(&c.samples.adds, &bare.adds);
        let [dm, dq, dr] = bench::columns(&c.samples.dels, &bare.dels);
        row(c.name, [am, aq, ar, dm, dq, dr, c.samples.peak_kib().to_string()]);
    }
    for c in OURS.map(|i| &candidates[i]) {
        let _ = writeln!(text, "{}", bench::takes("the reference", &candidates[REFERENCE].samples, c.name, &c.samples));
    }
    text
}

fn verdict(candidates: &[Candidate]) -> Vec<String> {
    let mut faults = Vec::new();
    for c in OURS.map(|i| &candidates[i]) {
        let to_bare = quiet(&c.samples.adds, &candidates[BARE].samples.adds);
        let to_reference = quiet(&candidates[REFERENCE].samples.adds, &c.samples.adds);
        if to_bare > MOST_OF_BARE {
            faults.push(format!("{}: ADD takes {to_bare:.2} x the bare kernel operations", c.name));
        }
        if to_reference < REFERENCE_AT_LEAST {
            faults.push(format!("{}: the reference's ADD takes only {to_reference:.2} x ours", c.name));
        }
        if c.samples.peak_kib() > MOST_KIB {
            faults.push(format!("{}: peak memory of {} KiB", c.name, c.samples.peak_kib()));
        }
    }
    faults
}
