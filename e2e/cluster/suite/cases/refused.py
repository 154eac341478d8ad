"""Pods that must not start, and how people learn why."""
import json

from . import case
from .bridges import on_lan
from .. import meta
from ..cluster import claim, kubectl
from ..world import NETWORKS, bridge, lan_address


def told_by_us(pod, code):
    """Besides kubelet's Event there is the plugin's own, with the reason."""
    if meta.IS_META:
        claim(f"an Event of Trestle's own with {code}; there are {pod.events()}",
              any(code in event and not event.startswith("FailedCreatePodSandBox") for event in pod.events()))


@case()
def missing(world):
    """A network that is not there: the pod waits, an Event says which, and it starts once there is one."""
    a = world.pod("a", world.nodes[0], [on_lan("nowhere", one := lan_address())])
    a.is_refused("nowhere")
    told_by_us(a, "TR0803")
    world.nad("nowhere", bridge("br-lan"))
    world.ready(a, seconds=90)
    a.pings("192.0.2.1")


@case()
def second_missing(world):
    """The first network is there, the second is not: nothing of the first stays on the node while the pod waits."""
    world.nad("lan", bridge("br-lan"))
    a = world.pod("a", world.nodes[0], [on_lan("lan", lan_address()), {"name": "nowhere"}])
    a.is_refused("nowhere")
    world.delete(a)


@case("trestle", "bridges")
def no_bridge(world):
    """A bridge that this node has not: the Event names it, and those that there are."""
    world.nad("dmz", bridge("br-dmz"))
    a = world.pod("a", world.nodes[1], [on_lan("dmz", lan_address("198.51.100"))])
    a.is_refused("TR0301", "br-dmz", world.nodes[1].name, "br-lan")
    told_by_us(a, "TR0301")


@case()
def unreadable(world):
    """An annotation that cannot be read."""
    a = world.pod("a", world.nodes[0], '[{"name": "lan", "ips": ["192.0.2.300/24"]}]')
    b = world.pod("b", world.nodes[0], "lan@an-interface-name-of-27-bytes")
    a.is_refused("192.0.2.300")
    b.is_refused("an-interface-name-of-27-bytes")
    told_by_us(a, "TR0110")


@case("meta", "own", alone=True)
def not_allowed(world):
    """allowBridges of node.json holds for what pods ask for, of whatever type, and not for the cluster's own network."""
    node = world.nodes[0]
    allowed = meta.disk(node, "/var/lib/trestle/node.json")
    meta.place(allowed, json.dumps({"allowBridges": [{"glob": "br-dmz"}]}))
    try:
        for type in ("trestle", "bridge"):
            world.nad(type, bridge("br-lan", type=type))
            a = world.pod(type, node, [on_lan(type, lan_address())])
            a.is_refused("TR0202", "br-lan")
        free, = world.pods(("free", node))
        claim("a pod without a network starts", free.links() == ["eth0", "lo"])
    finally:
        allowed.unlink()
    kubectl("delete", "pod", "-n", world.namespace, "--all", "--wait=false")


@case("meta")
def added_later(world):
    """An annotation that is changed while the pod runs does nothing to it."""
    world.nad("lan", bridge("br-lan"))
    a, = world.pods(("a", world.nodes[0]))
    kubectl("annotate", "pod", "-n", world.namespace, "a", f"{NETWORKS}=lan")
    claim("the pod has eth0 alone", a.links() == ["eth0", "lo"])
