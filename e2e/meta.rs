//! `cargo bench --bench meta`: what one pod costs with two bridge networks by its annotation, beside its default network.
//!
//!     TRESTLE_REF_PLUGINS=$(e2e/setup --plugins) TRESTLE_MULTUS=$(e2e/setup --multus) cargo bench --bench meta
//!
//! Compared are whole processes, from fork to wait4, whatever they run included: this program as the meta plugin, once
//! as it is and once with copies of the NADs that an agent vouches for, and thin Multus with the reference plugins. All
//! get the same call from the runtime, with the pod's annotations in it (Multus asks for them all the same), and the
//! same API server, which answers at once and without TLS: a real one only makes requests dearer. The default network
//! is a `bridge` with host-local; the NADs are the same with other addresses, and of `type: trestle` for us. How it is
//! measured, and which ratios are told: `bench`.
//!
//! Asserted (exit code 1): the quiet ratio of ADD; how often we ask the API server; and that all write the status of
//! three interfaces. Peak memory is that of the largest process. Needs root, `cc`, `ip` and `unshare`; everything
//! happens in namespaces of its own. `TRESTLE_BIN`: another build of the program, where one is at hand.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to people")]
#![allow(clippy::disallowed_methods, reason = "not the product: it starts programs")]

mod bench;
#[path = "bench/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use bench::{Outcome, Sample, Samples, Stopwatch, quiet};
use serde_json::{Value, json};
use server::{Request, Server};

/// What the issue asks for.
const MULTUS_AT_LEAST: f64 = 5.0;

const NADS: [&str; 2] = ["lan1", "lan2"];
const POD: &str = "web";
const UID: &str = "11111111-2222-3333-4444-555555555555";
/// Of which capability the runtime hands annotations over.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// Multus does not wait for its last Event to be answered.
const LATE: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    bench::main("meta", compare)
}

fn compare() -> Outcome<bool> {
    let work = bench::work_dir()?;
    let mut candidates = prepare(work.path())?;
    bench::rounds(&mut candidates, Candidate::round)?;
    let ok =
        format!("Multus' ADD takes at least {MULTUS_AT_LEAST} x ours, one request per NAD and one patch, none in DEL");
    Ok(bench::tell(&table(&candidates), &verdict(&candidates), &ok))
}

struct Candidate {
    name: &'static str,
    /// The pod's and its NADs', and of what else is this candidate's own.
    namespace: &'static str,
    program: PathBuf,
    path: PathBuf,
    /// Whether there is an agent's stamp.
    vouched: bool,
    /// What ADD may ask, if that is ours to say.
    asks: Option<usize>,
    stopwatch: Stopwatch,
    server: Server,
    work: PathBuf,
    samples: Samples,
    /// Requests of each ADD and DEL.
    asked: [Vec<usize>; 2],
    /// Those of the last ones, by method and kind.
    last: [BTreeMap<String, usize>; 2],
}

const OURS: [usize; 2] = [0, 1];
const MULTUS: usize = 2;

/// The node and the candidates, in the order of the constants above.
fn prepare(work: &Path) -> Outcome<Vec<Candidate>> {
    let multus = std::env::var_os("TRESTLE_MULTUS").map(PathBuf::from).filter(|p| p.exists());
    let multus = multus.ok_or("TRESTLE_MULTUS must name thin Multus: e2e/setup --multus")?;
    let reference = bench::reference()?;
    let stopwatch = Stopwatch::build(work)?;
    let ours = bench::ours(work)?;
    bench::make_bridge()?;
    bench::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;

    let kinds = [
        ("trestle", "plain", ours.join("trestle"), &ours, false, Some(NADS.len() + 1)),
        ("trestle, vouched copies", "vouched", ours.join("trestle"), &ours, true, Some(1)),
        ("thin Multus, reference", "multus", multus, &reference, false, None),
    ];
    let server = Server::start(kinds.iter().flat_map(|k| objects(k.1, work, k.5.is_some())).collect())?;
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": format!("http://127.0.0.1:{}", server.port)}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "users": [{"name": "u", "user": {}}]});
    std::fs::write(work.join("kubeconfig"), kubeconfig.to_string())?;

    let candidates = kinds.map(|(name, namespace, program, path, vouched, asks)| Candidate {
        name,
        namespace,
        program,
        path: path.clone(),
        vouched,
        asks,
        stopwatch: stopwatch.clone(),
        server: server.clone(),
        work: work.to_owned(),
        samples: Samples::default(),
        asked: Default::default(),
        last: Default::default(),
    });
    for c in &candidates {
        bench::run(Command::new("ip").args(["netns", "add", c.namespace]))?;
        std::fs::create_dir_all(c.run_dir())?;
        std::fs::write(c.stdin(), c.configuration().to_string())?;
    }
    Ok(candidates.into())
}

/// A bridge with host-local, as `name`; each with addresses of its own, the first with a default route.
fn network(name: &str, kind: &str, namespace: &str, work: &Path, net: usize) -> Value {
    let store = work.join("stores").join(namespace);
    let mut ipam = json!({"type": "host-local", "subnet": format!("10.{}.0.0/16", 20 + net), "dataDir": store});
    if net == 0 {
        ipam["routes"] = json!([{"dst": "0.0.0.0/0", "gw": "10.20.0.1"}]);
    }
    json!({"cniVersion": "1.0.0", "name": name, "type": kind, "bridge": bench::BRIDGE, "ipam": ipam})
}

fn annotations() -> Value {
    json!({"k8s.v1.cni.cncf.io/networks": NADS.join(",")})
}

/// The pod and its NADs, by path.
fn objects(namespace: &str, work: &Path, ours: bool) -> Vec<(String, Value)> {
    let kind = if ours { "trestle" } else { "bridge" };
    let meta = |name: &str| json!({"name": name, "namespace": namespace, "resourceVersion": "1"});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta(POD), "status": {"phase": "Pending"},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "i"}]}});
    pod["metadata"]["uid"] = json!(UID);
    pod["metadata"]["annotations"] = annotations();
    let mut all = vec![(format!("/api/v1/namespaces/{namespace}/pods/{POD}"), pod)];
    for (n, name) in NADS.into_iter().enumerate() {
        let config = network(name, kind, namespace, work, n + 1).to_string();
        let (group, nads) = ("k8s.cni.cncf.io/v1", "network-attachment-definitions");
        let nad = json!({"apiVersion": group, "kind": "NetworkAttachmentDefinition", "metadata": meta(name),
            "spec": {"config": config}});
        all.push((format!("/apis/{group}/namespaces/{namespace}/{nads}/{name}"), nad));
    }
    all
}

impl Candidate {
    fn stdin(&self) -> PathBuf {
        self.work.join(format!("{}.conf", self.namespace))
    }

    fn run_dir(&self) -> PathBuf {
        PathBuf::from("/run/bench").join(self.namespace)
    }

    fn configuration(&self) -> Value {
        let default = network("default-net", "bridge", self.namespace, &self.work, 0);
        let kind = self.program.file_name().unwrap_or_default().to_string_lossy();
        json!({"cniVersion": "1.0.0", "name": "multus-cni-network", "type": kind, "delegates": [default],
            "kubeconfig": self.work.join("kubeconfig"), "binDir": self.path,
            "cniDir": self.work.join("cache").join(self.namespace),
            "capabilities": {ANNOTATIONS: true}, "runtimeConfig": {ANNOTATIONS: annotations()}})
    }

    /// One ADD and its DEL.
    fn round(&mut self, n: usize, counted: bool) -> Outcome<()> {
        let (add, said) = self.measure("ADD", n)?;
        let told = |r: &&Request| r.path.ends_with("/status");
        let status = said.iter().filter(told).map(|r| String::from_utf8_lossy(&r.body)).next_back().unwrap_or_default();
        if let Some(missing) = ["network-status", "eth0", "net1", "net2"].iter().find(|s| !status.contains(**s)) {
            return Err(format!("{}: no {missing} in the status that it wrote: {status:?}", self.name).into());
        }
        let (del, undone) = self.measure("DEL", n)?;
        if counted {
            self.samples.adds.push(add);
            self.samples.dels.push(del);
            for (i, requests) in [said, undone].iter().enumerate() {
                self.asked[i].push(requests.len());
                self.last[i].clear();
                for request in requests {
                    *self.last[i].entry(sort(request)).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    fn measure(&self, verb: &str, n: usize) -> Outcome<(Sample, Vec<Request>)> {
        if self.vouched {
            std::fs::write(self.run_dir().join("alive"), "")?;
        }
        // As long as the ids that runtimes give.
        let (container, namespace) = (format!("{n:064x}"), self.namespace);
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={POD};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={UID}"
        );
        let sample = self.stopwatch.time(&self.stdin(), |call| {
            call.arg(&self.program).env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_ARGS", args);
            call.env("CNI_NETNS", format!("/run/netns/{namespace}"))
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", &self.path);
            call.env("TRESTLE_RUN_DIR", self.run_dir())
                .env("TRESTLE_STATE_DIR", self.work.join("state").join(namespace));
        });
        let sample = sample.map_err(|e| format!("{}: {verb} {e}", self.name))?;
        std::thread::sleep(LATE);
        Ok((sample, self.server.take()))
    }
}

/// Method and kind: `GET pods`, `PUT pods/status`.
fn sort(request: &Request) -> String {
    let mut parts = request.path.split('/').skip_while(|p| *p != "namespaces").skip(2);
    let kind = parts.next().unwrap_or(&request.path);
    let part = parts.nth(1).map(|p| format!("/{p}")).unwrap_or_default();
    format!("{} {kind}{part}", request.method)
}

fn range(numbers: &[usize]) -> String {
    match (numbers.iter().min(), numbers.iter().max()) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least}-{most}"),
        _ => "?".into(),
    }
}

fn table(candidates: &[Candidate]) -> String {
    let base = &candidates[OURS[0]].samples;
    let mut text = format!("{} rounds; x = times trestle: quiet, by round\n", base.adds.len());
    let mut row = |name: &str, columns: [String; 8]| {
        let [am, aq, ar, dm, dq, dr, asked, peak] = columns;
        let _ = writeln!(text, "{name:24} {am:>16} {aq:>6} {ar:>6}  {dm:>16} {dq:>6} {dr:>6}  {asked:>12} {peak:>9}");
    };
    let head = ["ADD ms, median", "x", "x", "DEL ms, median", "x", "x", "API requests", "peak KiB"];
    row("", head.map(str::to_owned));
    for c in candidates {
        let [am, aq, ar] = bench::columns(&c.samples.adds, &base.adds);
        let [dm, dq, dr] = bench::columns(&c.samples.dels, &base.dels);
        let asked = c.asked.each_ref().map(|n| range(n)).join(", ");
        row(c.name, [am, aq, ar, dm, dq, dr, asked, c.samples.peak_kib().to_string()]);
    }
    for c in candidates {
        for (verb, last) in ["ADD", "DEL"].iter().zip(&c.last).filter(|(_, last)| !last.is_empty()) {
            let kinds: Vec<_> = last.iter().map(|(sort, n)| format!("{n} {sort}")).collect();
            let _ = writeln!(text, "{}, the last {verb} asked: {}", c.name, kinds.join(", "));
        }
    }
    for c in OURS.map(|i| &candidates[i]) {
        let _ = writeln!(text, "{}", bench::takes("Multus", &candidates[MULTUS].samples, c.name, &c.samples));
    }
    text
}

fn verdict(candidates: &[Candidate]) -> Vec<String> {
    let mut faults = Vec::new();
    for c in OURS.map(|i| &candidates[i]) {
        let ratio = quiet(&candidates[MULTUS].samples.adds, &c.samples.adds);
        if ratio < MULTUS_AT_LEAST {
            faults.push(format!("{}: Multus' ADD takes only {ratio:.2} x ours", c.name));
        }
        for (verb, asked, most) in [("ADD", &c.asked[0], c.asks), ("DEL", &c.asked[1], Some(0))] {
            if most.is_some_and(|most| asked.iter().any(|n| *n != most)) {
                faults.push(format!("{}: {verb} asks the API server {} times", c.name, range(asked)));
            }
        }
    }
    faults
}
