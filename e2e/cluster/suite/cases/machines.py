"""Virtual machines' pods, with the labels and annotations that KubeVirt gives them (kubevirt/pods.json, from its own template code),
and a plain container in the place of virt-launcher."""
import hashlib
import json

from . import case
from .. import meta
from ..cluster import HERE, ROOT, claim, kubectl, same
from ..world import NETWORKS, bridge

SHAPES = json.loads((HERE / "kubevirt/pods.json").read_text())
# KubeVirt's name for the pod's end of the network `lan`.
H = hashlib.sha256(b"lan").hexdigest()[:11]


def launcher(world, shape, suffix, node):
    """The owner is left out: the garbage collector would look for that VirtualMachineInstance, and delete the pod."""
    labels, annotations = SHAPES[shape]["labels"], dict(SHAPES[shape]["annotations"])
    if networks := json.loads(annotations.get(NETWORKS, "[]")):
        for network in networks:
            network["namespace"] = "trestle-system" if network["name"] == "trestle-binding" else world.namespace
        annotations[NETWORKS] = json.dumps(networks)
    return world.pod(f"virt-launcher-testvm-{suffix}", node, annotations=annotations, labels=labels)


@case()
def machine_by_bridge(world):
    """KubeVirt's binding `bridge`: pod<H> alone, in the status and in the pod."""
    world.nad("br-lan", {"cniVersion": "1.0.0", "type": meta.BRIDGE, "bridge": "br-lan"})
    pod = launcher(world, "bridge", "aaaaa", world.nodes[0])
    world.ready(pod)
    same("links", pod.links(), sorted(["eth0", "lo", f"pod{H}"]))
    entry, = pod.has_status((f"{world.namespace}/br-lan", f"pod{H}"))
    same("MAC in the status", entry["mac"], pod.mac(f"pod{H}"))
    same("addresses", pod.addresses(f"pod{H}"), [])


@case("trestle")
def machine_is_the_same_again(world):
    """Two pods of one VM, as at a restart or a migration: the same MAC, and silent links on a bridge without a tap."""
    world.nad("br-lan", bridge("br-lan", ipam={}))
    a, b = launcher(world, "bridge", "aaaaa", world.nodes[0]), launcher(world, "bridge", "bbbbb", world.nodes[1])
    world.ready(a, b)
    same("MAC on both nodes", a.mac(f"pod{H}"), b.mac(f"pod{H}"))
    for pod in (a, b):
        same("IPv6 is off", pod.read(f"/proc/sys/net/ipv6/conf/pod{H}/disable_ipv6"), "1")


@case("trestle")
def machine_by_trestle(world):
    """The binding `trestle`: a tap beside pod<H>, which user 107 may open; the bind step is in no status."""
    world.nad("br-lan", bridge("br-lan", ipam={}))
    kubectl("apply", "-f", str(ROOT / "kubevirt/binding-nad.yaml"))
    pod = launcher(world, "trestle", "aaaaa", world.nodes[0])
    world.ready(pod)
    same("links", pod.links(), sorted(["eth0", "lo", f"pod{H}", f"tap{H}"]))
    for key, wanted in {"owner": "107", "group": "107", "mtu": pod.read(f"/sys/class/net/pod{H}/mtu")}.items():
        same(f"the tap's {key}", pod.read(f"/sys/class/net/tap{H}/{key}"), wanted)
    claim("the tap is up", int(pod.read(f"/sys/class/net/tap{H}/flags"), 16) & 1)
    pod.has_status((f"{world.namespace}/br-lan", f"pod{H}"))
    world.delete(pod)


@case()
def machine_with_mac(world):
    """A MAC in the VM's own description."""
    world.nad("br-lan", bridge("br-lan", ipam={}))
    pod = launcher(world, "mac", "aaaaa", world.nodes[0])
    world.ready(pod)
    same("MAC", pod.mac(f"pod{H}"), "02:00:5e:10:00:01")


@case("trestle", "bridges")
def machine_without_bridge(world):
    """A node without the bridge: a pod would get a macvlan on the master, a VM is refused, whether or not there is a master."""
    node = world.nodes[1]
    world.nad("br-lan", bridge("br-dmz", master="eth2", ipam={}))
    pod = launcher(world, "bridge", "aaaaa", node)
    pod.is_refused("TR0301", "br-dmz", node.name, "br-lan")


@case("trestle", "bridges")
def machine_on_macvlan(world):
    """A network with a master alone: a VM is refused, and told why."""
    world.nad("br-lan", {"cniVersion": "1.0.0", "type": "trestle", "master": "eth2"})
    pod = launcher(world, "bridge", "aaaaa", world.nodes[1])
    pod.is_refused("TR0201", "macvlan", pod.node.name)


@case("trestle", "nodes", "bridges")
def machine_leaves_the_bridge_alone(world):
    """The node's bridge has the MAC and the MTU that it had, while machines come and go."""
    node = world.nodes[0]
    def look():
        return node.sh("cat /sys/class/net/br-lan/address /sys/class/net/br-lan/mtu /sys/class/net/eth1/address")
    before = look()
    world.nad("br-lan", bridge("br-lan", ipam={}))
    pods = [launcher(world, "bridge", suffix, node) for suffix in ("aaaaa", "bbbbb", "ccccc")]
    world.ready(*pods)
    same("MAC and MTU of br-lan", look(), before)
    world.delete(*pods)
    same("MAC and MTU of br-lan after the machines", look(), before)
