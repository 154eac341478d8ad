"""A crowd of pods on one node, two networks each, by turns with each meta plugin and with none: what it costs. Not one of the cases,
which say whether a thing works; and for the tests' own cluster only."""
import argparse
import statistics
import subprocess
import time

from . import cluster, meta, nodes
from .cluster import Failed, HERE, apply, claim, kubectl, run, same
from .world import World, all_gone, status_of

MEASURED = "/run/trestle-measured"
# By turn: the plugins that the runtime itself runs; what these run is counted with them.
TURNS = {"none": ("bridge", "portmap"), "Trestle": ("trestle",), "thin Multus": ("multus",)}
# The bounds, against thin Multus and against no meta plugin.
MEMORY_AT_MOST, CPU_AT_MOST, TIME_AT_MOST = 1 / 4, 1 / 3, 1.15


class Measure:
    """Programs in the place of a node's plugins, which run them and count."""

    def __init__(self, node, plugins):
        self.node, self.plugins = node, plugins

    def __enter__(self):
        run("gcc", "-O2", "-static", f'-DMEASURED="{MEASURED}"', "-o", meta.disk(self.node, "/opt/cni/bin/measure"), HERE / "measure.c")
        self.each("mv $p $p.real; cp measure $p")
        containerd = self.node.run("pidof", "containerd").split()[0]
        self.sampler = subprocess.Popen(
            [HERE / "in", self.node.name, "python3", HERE / "suite/sampler.py", containerd, *self.plugins],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.sampler.kill()
        self.sampler.wait()
        self.each("mv $p.real $p")
        self.node.sh(f"rm -f /opt/cni/bin/measure {MEASURED}")

    def each(self, script):
        self.node.sh(f"set -e; cd /opt/cni/bin; for p in {' '.join(self.plugins)}; do {script}; done")

    def memory(self):
        """The most at one moment, in MiB."""
        said, _ = self.sampler.communicate("\n", timeout=30)
        most, looks = map(int, said.split())
        claim(f"the sampler looked {looks} times", looks > 100)
        return most / 1024

    def cpu(self):
        """Seconds, of all calls so far."""
        return sum(int(line.split()[1]) for line in self.node.run("cat", MEASURED).splitlines()) / 1e6


def put(name, found):
    """Makes this the nodes' meta plugin."""
    if name == "none":
        for node in found:
            node.sh("rm -f /etc/cni/net.d/00-*")
        time.sleep(1)
    else:
        meta.configure(found, multus=name == "thin Multus")


def crowd(world, name, node, count):
    """Asks for all pods at once, and waits for them: seconds until all were Ready."""
    kind = "bridge" if name == "thin Multus" else "trestle"
    for i, network in enumerate(("first", "second")):
        world.nad(network, {"cniVersion": "1.0.0", "type": kind, "bridge": "br-lan",
                            "ipam": {"type": "host-local", "ranges": [[{"subnet": f"10.70.{4 * i}.0/22"}]]}})
    pods = [world.manifest(f"crowd-{i}", node, None if name == "none" else "first, second") for i in range(count)]
    begun = time.monotonic()
    apply(*pods)
    kubectl("wait", "-n", world.namespace, "--for=condition=Ready", "pod", "--all", "--timeout=900s", timeout=930)
    return time.monotonic() - begun


def turn(name, found, count):
    put(name, found)
    node, world = found[1], World(f"t-compare-{name.split()[-1].lower()}", found)
    with Measure(node, TURNS[name]) as measure:
        seconds = crowd(world, name, node, count)
        failed = sum(e.get("count") or 1 for e in world.items("events") if e["reason"] == "FailedCreatePodSandBox")
        if name != "none":
            taken = {ip for pod in world.items("pods") for entry in status_of(pod) for ip in entry["ips"]}
            same("addresses, all different", len(taken), 3 * count)
        world.remove()
        all_gone(900)
        memory = measure.memory()
        return {"failed": failed, "seconds": seconds, "CPU s": measure.cpu(), "MiB": memory}


def table(results):
    print(f"{'median of the turns':20} {'failed':>8} {'Ready s':>8} {'CPU s':>8} {'peak MiB':>9}")
    for name, turns in results.items():
        middle = {key: statistics.median(t[key] for t in turns) for key in turns[0]}
        print(f"{name:20} {sum(t['failed'] for t in turns):8} {middle['seconds']:8.1f} {middle['CPU s']:8.2f} {middle['MiB']:9.1f}")


def verdict(results):
    """What does not hold."""
    def ratio(key, name, to):
        return statistics.median(a[key] / b[key] for a, b in zip(results[name], results[to]))
    ours, theirs, nothing = "Trestle", "thin Multus", "none"
    figures = [("memory", ratio("MiB", ours, theirs), MEMORY_AT_MOST, theirs), ("CPU time", ratio("CPU s", ours, theirs), CPU_AT_MOST, theirs),
               ("time until all are Ready", ratio("seconds", ours, nothing), TIME_AT_MOST, nothing)]
    faults = [f"{sum(t['failed'] for t in results[ours])} sandboxes failed"] if any(t["failed"] for t in results[ours]) else []
    for what, got, bound, beside in figures:
        print(f"Trestle's {what}: {got:.2f} times that of {beside}; at most {bound:.2f}")
        if got > bound:
            faults.append(f"{what}: {got:.2f} times that of {beside}")
    return faults


def compare(count, rounds):
    all_gone()
    found = nodes.find()
    meta.install(found)
    results = {name: [] for name in TURNS}
    for _ in range(rounds):
        for name in TURNS:
            result = turn(name, found, count)
            results[name].append(result)
            print(f"{name:20} {result['failed']:8} {result['seconds']:8.1f} {result['CPU s']:8.2f} {result['MiB']:9.1f}", flush=True)
    table(results)
    faults = verdict(results)
    for fault in faults:
        print(f"FAIL {fault}")
    return 1 if faults else 0


def main():
    reader = argparse.ArgumentParser(prog="e2e/cluster/compare", description="A crowd of pods by turns with Trestle, thin Multus, and neither.")
    reader.add_argument("--pods", type=int, default=100, help="at once, on one node: 100")
    reader.add_argument("--turns", type=int, default=3, help="of each: 3")
    asked, ours = reader.parse_args(), False
    try:
        if not (cluster.OWN and meta.TRESTLE and meta.MULTUS):
            raise Failed("TRESTLE_BIN and MULTUS must name both programs, and KUBECONFIG no other cluster")
        meta.check()
        ours = "it runs already" not in run(HERE / "up", timeout=3600)
        return compare(asked.pods, asked.turns)
    except Failed as failure:
        print(f"e2e/cluster/compare: {failure}")
        return 2
    finally:
        if ours:
            run(HERE / "down")
