"""What a case has in its hands: a namespace of its own, networks, pods. Knows Kubernetes' objects, and no case."""
import itertools
import json
import re
import threading

from . import cluster, meta
from .cluster import IMAGE, claim, get, kubectl, same, until

STATUS = "k8s.v1.cni.cncf.io/network-status"
NETWORKS = "k8s.v1.cni.cncf.io/networks"

# Addresses of the LAN that no two pods of a run share; below are those of machines.
_numbers = itertools.count(10)
_lock = threading.Lock()


def lan_address(network="192.0.2"):
    with _lock:
        return f"{network}.{next(_numbers)}"


def bridge(name, **more):
    """A network on a bridge that is there already. Pods bring their addresses along, unless `ipam` says otherwise."""
    return {"cniVersion": "1.0.0", "type": meta.BRIDGE, "bridge": name, "capabilities": {"ips": True, "mac": True},
            "ipam": {"type": "static"}, **more}


def host_local(subnet, node):
    """Each node has a list of its own of what is taken; so each gets a range of its own."""
    low = 100 + 50 * int(node.name[-1] == "2")
    return {"type": "host-local", "ranges": [[{"subnet": f"{subnet}.0/24", "rangeStart": f"{subnet}.{low}",
                                               "rangeEnd": f"{subnet}.{low + 49}"}]]}


def status_of(pod):
    return json.loads(pod["metadata"].get("annotations", {}).get(STATUS, "[]"))


class World:
    def __init__(self, name, nodes):
        self.namespace, self.nodes, self.notes = name, nodes, []
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"trestle.test/run": "yes"}}})

    def sibling(self, name):
        return World(f"{self.namespace}-{name}", self.nodes)

    def remove(self):
        """With all that is in it; `all_gone` waits."""
        kubectl("delete", "namespace", self.namespace, "--wait=false")

    def note(self, text):
        """A figure for whoever reads the run."""
        self.notes.append(text)

    def forget(self, kind, name, namespace):
        kubectl("delete", kind, name, "-n", namespace, "--ignore-not-found")

    def nad(self, name, config, namespace=None, annotations=None):
        text = config if isinstance(config, str) else json.dumps(config)
        cluster.apply({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                       "metadata": {"name": name, "namespace": namespace or self.namespace, "annotations": annotations or {}},
                       "spec": {"config": text}})

    def pod(self, name, node, *more, **others):
        """Asks for a pod on this node; it need not come up."""
        cluster.apply(self.manifest(name, node, *more, **others))
        return Pod(self, name, node)

    def manifest(self, name, node, networks=None, annotations=None, labels=None, ports=None, grace=1):
        annotations = dict(annotations or {})
        if networks is not None:
            annotations[NETWORKS] = networks if isinstance(networks, str) else json.dumps(networks)
        container = {"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"],
                     "ports": ports or []}
        return {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "annotations": annotations, "labels": labels or {}},
            "spec": {"containers": [container], "nodeSelector": {"kubernetes.io/hostname": node.name},
                     "terminationGracePeriodSeconds": grace, "automountServiceAccountToken": False,
                     "enableServiceLinks": False}}

    def pods(self, *asked):
        """Asks for several at once, and waits for all: each as the arguments of `pod`."""
        pods = [self.pod(*args) for args in asked]
        self.ready(*pods)
        return pods

    def ready(self, *pods, seconds=120):
        kubectl("wait", "-n", self.namespace, "--for=condition=Ready", f"--timeout={seconds}s",
                *(f"pod/{pod.name}" for pod in pods), timeout=seconds + 30)

    def delete(self, *pods, seconds=120):
        kubectl("delete", "pod", "-n", self.namespace, "--wait=false", *(pod.name for pod in pods))
        names = {pod.name for pod in pods}
        until(seconds, "pods are gone", lambda: not names & {item["metadata"]["name"] for item in self.items("pods")})

    def items(self, kind):
        return get(kind, "-n", self.namespace)["items"]


def all_gone(seconds=180):
    until(seconds, "the tests' namespaces are gone", lambda: not get("namespaces", "-l", "trestle.test/run")["items"])


class Pod:
    def __init__(self, world, name, node):
        self.world, self.name, self.node, self.namespace = world, name, node, world.namespace

    def object(self):
        return get("pod", "-n", self.namespace, self.name)

    def sh(self, script, timeout=60):
        return kubectl("exec", "-n", self.namespace, self.name, "-c", "main", "--", "sh", "-c", script, timeout=timeout)

    def read(self, path):
        return self.sh(f"cat {path}").strip()

    def links(self):
        return sorted(self.sh("ls /sys/class/net").split())

    def mac(self, link):
        return self.read(f"/sys/class/net/{link}/address")

    def addresses(self, link):
        """IPv4 addresses, with their prefix lengths."""
        return re.findall(r"inet ([0-9./]+)", self.sh(f"ip -4 addr show dev {link}"))

    def pings(self, address, count=2):
        """The first frames may wait for a port or a neighbour."""
        until(15, f"{self.name} on {self.node.name} pings {address}", lambda: self.sh(f"ping -c {count} -W 2 {address}"))

    def status(self):
        return status_of(self.object())

    def container(self):
        """The running container's id: another one after the pod's sandbox was made anew."""
        states = self.object()["status"].get("containerStatuses", [])
        return states[0].get("containerID", "") if states and "running" in states[0]["state"] else ""

    def has_status(self, *wanted):
        """The entries after the default network's, as (network, interface)."""
        status = self.status()
        claim(f"the first entry of {STATUS} is the default network's: {status}", status and status[0].get("default"))
        same(f"{STATUS} of {self.name}", [(e["name"], e.get("interface")) for e in status[1:]], list(wanted))
        return status[1:]

    def events(self):
        listed = get("events", "-n", self.namespace, f"--field-selector=involvedObject.name={self.name}")["items"]
        return [f"{e['reason']}: {e.get('message', '')}" for e in listed]

    def is_refused(self, *words):
        """Stays without a sandbox, and an Event has all these words."""
        def told():
            return any(all(word in event for word in words) for event in self.events())
        until(60, f"an Event of pod {self.name} with {', '.join(words)}", told)
        state = self.object()["status"]
        same(f"phase of {self.name}", state["phase"], "Pending")
        claim(f"{self.name} has no address of its own", not state.get("podIP"))
