"""What the agent costs with 1,000 networks and a node full of pods known: memory, an answer's time, and who asked the API server while the
pods came. Thick Multus' daemon stands beside it, with the same networks and pods. For the tests' own cluster only."""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

from . import agent, audit, meta, nodes
from .cluster import Failed, HERE, apply, kubectl, until
from .nodes import CONTROL
from .run import alone
from .world import World, all_gone, status_of

THICK = os.environ.get("MULTUS_DAEMON")
# The issue's bounds.
MIB_AT_MOST, MS_AT_MOST = 20, 1
ROUND_TRIPS = 3000
# The agent gives freed memory back every 10 s.
GIVES_BACK = 11

# As its own manifest has them.
MULTUS_OBJECTS = [
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "multus", "namespace": "kube-system"}},
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "multus"}, "rules": [
        {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "list", "update", "watch"]}]},
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "multus"},
     "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "multus"},
     "subjects": [{"kind": "ServiceAccount", "name": "multus", "namespace": "kube-system"}]},
]
# (With another word than "auto" for its file for the runtime it ends as soon as it is ready; and it empties its socket's directory.)
MULTUS_CONFIG = {"cniVersion": "1.0.0", "logLevel": "verbose", "logToStderr": True, "cniConfigDir": "/run/multus-own",
                 "socketDir": "/run/multus/", "multusAutoconfigDir": "/run/multus-own", "multusConfigFile": "auto"}


def memory(node, pid):
    """RSS, PSS, and what of it is of no file, in MiB."""
    lines = [line.split() for line in node.run("cat", f"/proc/{pid}/smaps_rollup").splitlines()]
    sizes = {words[0]: int(words[1]) / 1024 for words in lines if words[-1] == "kB"}
    return sizes["Rss:"], sizes["Pss:"], sizes["Anonymous:"]


def settled(node, pid):
    """Once it stays the same for some seconds: it has read what it wanted to."""
    last = []

    def same_again():
        last.append(memory(node, pid))
        return len(last) > 9 and max(m[0] for m in last[-9:]) - min(m[0] for m in last[-9:]) < 1 and last[-1]
    return until(90, "the memory of the process settles", same_again)


class Thick:
    """Multus' daemon, as a process of the node. It gives no pod a network here: nobody calls its shim."""

    def __init__(self, node):
        self.node, self.log = node, tempfile.TemporaryFile()

    def __enter__(self):
        apply(*MULTUS_OBJECTS)
        token = kubectl("create", "token", "multus", "-n", "kube-system", "--duration=1h").strip()
        account, own = "/run/secrets/kubernetes.io/serviceaccount", MULTUS_CONFIG["cniConfigDir"]
        authority = meta.disk(CONTROL, "../pki/ca.crt").resolve()
        self.node.sh(f"mkdir -p {account} {own}; cp {authority} {account}/ca.crt; printf %s {token} >{account}/token;"
                     f"cp /etc/cni/net.d/10-primary.conflist {own}; echo '{json.dumps(MULTUS_CONFIG)}' >{own}/daemon.json")
        self.process = subprocess.Popen(
            [HERE / "in", self.node.name, "env", "KUBERNETES_SERVICE_HOST=10.99.0.1", "KUBERNETES_SERVICE_PORT=6443",
             f"MULTUS_NODE_NAME={self.node.name}", THICK, "-config", f"{own}/daemon.json"],
            stdout=self.log, stderr=self.log)
        return self

    def memory(self):
        try:
            pid = until(30, "multus-daemon runs", lambda: self.node.run("pgrep", "-x", "multus-daemon").strip())
            # It goes through all that it knows every second, and its memory goes up and down.
            time.sleep(20)
            looks = [memory(self.node, pid) for _ in range(20)]
            return [statistics.median(look[i] for look in looks) for i in range(3)]
        except Failed as failure:
            self.log.seek(0)
            raise Failed(f"{failure}; it ended with {self.process.poll()} and said: {self.log.read()[-1000:].decode()}") from None

    def __exit__(self, *_):
        self.node.sh("kill -9 $(pgrep -x multus-daemon) || true; rm -rf /run/multus /run/multus-own /run/secrets")
        self.process.wait(30)
        for thing in MULTUS_OBJECTS:
            kubectl("delete", thing["kind"], "multus", "-n", "kube-system", "--ignore-not-found")


def networks(world, count):
    objects = [{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": {"name": f"net{i}", "namespace": world.namespace},
                "spec": {"config": json.dumps({
                    "cniVersion": "1.0.0", "name": f"net{i}", "type": "trestle", "bridge": "br-lan",
                    "ipam": {"type": "host-local", "ranges": [[{"subnet": f"10.{100 + i // 250}.{i % 250}.0/24"}]]}})}}
               for i in range(count)]
    for first in range(0, count, 250):
        apply(*objects[first:first + 250])


def full_node(world, node, count, of):
    """So many pods, two networks each, all of them Ready and told."""
    apply(*(world.manifest(f"pod-{i}", node, f"net{(9 * i) % of}, net{(9 * i + 1) % of}") for i in range(count)))
    kubectl("wait", "-n", world.namespace, "--for=condition=Ready", "pod", "--all", "--timeout=900s", timeout=930)
    until(60, "each pod has the status of all its networks", lambda: all(len(status_of(pod)) == 3 for pod in world.items("pods")))


def round_trips(world, node):
    pods = [{"namespace": world.namespace, "name": p["metadata"]["name"], "uid": p["metadata"]["uid"]} for p in world.items("pods")]
    return sorted(json.loads(node.run("python3", HERE / "suite/asker.py", str(ROUND_TRIPS), json.dumps(pods))))


def measure(found, world, count, pods):
    """Prints what it finds; returns what does not hold."""
    node, faults = found[0], []

    def bound(what, got, most, unit):
        print(f"{what}: {got:.2f} {unit}, at most {most}", flush=True)
        if got > most:
            faults.append(f"{what}: {got:.2f} {unit}")
    networks(world, count)
    until(60, "the agent knows all networks", lambda: known(node, "nads") >= count)
    mark = audit.mark()
    full_node(world, node, pods, count)
    until(60, "the agent knows all pods", lambda: known(node, "pods") >= pods)
    asked = audit.since(mark, "trestle-plugin")
    bound(f"requests of the plugin, which has a kubeconfig, while {pods} pods came", sum(asked.values()), 0, dict(asked))
    print(f"requests of the agents meanwhile: {dict(audit.since(mark, 'trestle-agent'))}")
    show(f"the agent after {pods} pods", node, bound)
    took = round_trips(world, node)
    bound(f"connection, question and answer at the median of {len(took)}", statistics.median(took), MS_AT_MOST, "ms")
    print(f"  99 of 100 within {took[len(took) * 99 // 100]:.2f} ms, the longest {took[-1]:.2f} ms")
    old = agent.pid(node)
    node.run("kill", "-9", old)
    until(60, "another agent", lambda: agent.pid(node) not in ("", old))
    until(60, "it knows all", lambda: known(node, "nads") >= count and known(node, "pods") >= pods)
    show("an agent begun then", node, bound)
    with Thick(node) as thick:
        rss, pss, anonymous = thick.memory()
    print(f"thick Multus' daemon, begun then: RSS {rss:.1f} MiB, PSS {pss:.1f}, {anonymous:.1f} of no file")
    return faults


def show(who, node, bound):
    pid = agent.pid(node)
    time.sleep(GIVES_BACK)
    rss, pss, anonymous = settled(node, pid)
    bound(f"RSS of {who} (PSS {pss:.1f}, {anonymous:.1f} of no file)", rss, MIB_AT_MOST, "MiB")
    if rss > MIB_AT_MOST:
        print(f"  KiB by mapping: {', '.join(largest(node, pid))}")


def largest(node, pid):
    """What most of a process' memory is."""
    found, where = [], ""
    for line in node.run("cat", f"/proc/{pid}/smaps").splitlines():
        words = line.split()
        if "-" in words[0]:
            where = f"{words[0]} {words[5] if len(words) > 5 else 'anonymous'}"
        elif words[0] == "Rss:":
            found.append((int(words[1]), where))
    return [f"{size} {where}" for size, where in sorted(found, reverse=True)[:8]]


def known(node, kind):
    return agent.metrics(node).get(f'trestle_watched_objects{{kind="{kind}"}}', 0)


def the_run(count, pods):
    if not THICK:
        raise Failed("MULTUS_DAEMON must name thick Multus' daemon: e2e/setup --thick")
    all_gone()
    found = nodes.find()
    meta.install(found)
    agent.install(found)
    world = World("t-known", found)
    try:
        return measure(found, world, count, pods)
    finally:
        world.remove()
        all_gone(900)
        agent.remove()


def main():
    reader = argparse.ArgumentParser(prog="e2e/cluster/known", description="The agent's memory and answers with many networks and pods known.")
    reader.add_argument("--networks", type=int, default=1000, help="NetworkAttachmentDefinitions: 1000")
    reader.add_argument("--pods", type=int, default=110, help="on one node: 110")
    asked = reader.parse_args()
    return alone("known", lambda: the_run(asked.networks, asked.pods))
