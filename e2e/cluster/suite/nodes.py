"""The nodes: what is on them, and, of the tests' own cluster, how they are stopped and started. Knows no plugin."""
import os
import shlex

from . import cluster
from .cluster import Failed, HERE, run, until

# How a command is run on a node of somebody else's cluster, as "ssh root@{}".
SHELL = os.environ.get("TRESTLE_NODE_SHELL", "")
REACHED = cluster.OWN or bool(SHELL)


class Node:
    def __init__(self, name, address):
        self.name, self.address = name, address

    def run(self, *command, timeout=60):
        if cluster.OWN:
            return run(HERE / "in", self.name, *command, timeout=timeout)
        return run(*shlex.split(SHELL.format(self.name)), shlex.join(command), timeout=timeout)

    def sh(self, script, timeout=60):
        return self.run("sh", "-c", script, timeout=timeout)

    def left(self):
        """What pods leave behind if they are not taken away: links, addresses of host-local, the plugins' own memory."""
        return set(self.sh(
            "ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*/link \\1/';"
            "find /var/lib/cni/networks -type f ! -name lock ! -name 'last_reserved_ip*' 2>/dev/null;"
            "find /run/trestle/journal /var/lib/cni/multus /run/netns -type f 2>/dev/null;"
            "iptables-save -t nat 2>/dev/null | grep -o '^-A CNI-DN-[^ ]*' || true").splitlines())

    def ports(self, bridge):
        return self.sh(f"ip -o link show master {bridge}").splitlines()

    # Of the tests' own cluster only.
    def service(self, verb, name):
        run(HERE / "service", self.name, verb, name)

    def restart(self):
        run(HERE / "down", self.name)
        run(HERE / "up", self.name, timeout=400)

    def lose_sandboxes(self):
        """All containers and namespaces of pods are gone at once, and nobody could tell the plugin: a crash of all but the kernel.
        The journal in /run stays, which a real reboot would take along."""
        for name in ("kubelet", "containerd"):
            self.service("stop", name)
        # A shim outlives containerd; what it runs does not outlive the namespaces' pid 1.
        self.sh("for pid in $(pgrep -f '[c]ontainerd-shim'); do for child in $(pgrep -P $pid); do kill -9 $child; done;"
                " kill -9 $pid; done 2>/dev/null;"
                "for path in /run/netns/*; do umount $path; rm $path; done")
        self.service("start", "containerd")
        until(60, f"containerd on {self.name} answers", lambda: self.run("ctr", "version"))
        self.service("start", "kubelet")


# Not a node: where the API server and the switches of the tests' own cluster are.
CONTROL = Node("control", "10.99.0.1")


def find():
    """The two nodes that the tests use."""
    found = []
    for node in cluster.get("nodes")["items"]:
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
        tainted = any(t["effect"] != "PreferNoSchedule" for t in node["spec"].get("taints", []))
        if ready and not tainted and not node["spec"].get("unschedulable"):
            address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
            found.append(Node(node["metadata"]["name"], address))
    if len(found) < 2:
        raise Failed(f"the tests need two Ready nodes that take pods; there are {len(found)}")
    return sorted(found, key=lambda node: node.name)[:2]
