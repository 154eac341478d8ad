"""What a pod may ask for besides a network's name."""
from . import case
from .bridges import on_lan
from .. import meta
from ..cluster import claim, same
from ..world import bridge, lan_address


@case()
def mac_and_address(world):
    """A MAC and an address that the annotation asks for are the pod's."""
    world.nad("lan", bridge("br-lan"))
    one = lan_address()
    mac = f"02:00:5e:10:00:{int(one.split('.')[-1]):02x}"
    a, = world.pods(("a", world.nodes[0], [on_lan("lan", one, mac=mac)]))
    same("MAC", a.mac("net1"), mac)
    same("addresses", a.addresses("net1"), [f"{one}/24"])
    entry, = a.has_status((f"{world.namespace}/lan", "net1"))
    same("status", (entry["mac"], entry["ips"]), (mac, [one]))
    a.pings("192.0.2.1")


@case()
def default_network(world):
    """v1.multus-cni.io/default-network: eth0 is of that network, and the pod's address too."""
    name = f"default-{world.namespace}"
    world.nad(name, bridge("br-lan", ipam={"type": "static", "addresses": [
        {"address": f"{(one := lan_address())}/24", "gateway": "192.0.2.1"}], "routes": [{"dst": "0.0.0.0/0"}]}),
        namespace="kube-system")
    try:
        a = world.pod("a", world.nodes[0], annotations={"v1.multus-cni.io/default-network": name})
        world.ready(a)
        same("links", a.links(), ["eth0", "lo"])
        same("podIP", a.object()["status"]["podIP"], one)
        status = a.status()
        same("status", [(e["name"], e["interface"], e["default"]) for e in status], [(f"kube-system/{name}", "eth0", True)])
        a.pings("192.0.2.1")
        world.delete(a)
    finally:
        world.forget("net-attach-def", name, "kube-system")


@case("own", alone=True)
def isolation(world):
    """namespaceIsolation: a network of another namespace is refused, one of a global namespace is not."""
    world.nad("lan", bridge("br-lan"))
    world.nad("lan", bridge("br-lan"), namespace="default")
    meta.configure(world.nodes, namespaceIsolation=True, globalNamespaces="default")
    other = world.sibling("other")
    try:
        stranger = other.pod("stranger", world.nodes[0], f"{world.namespace}/lan")
        guest = other.pod("guest", world.nodes[0], [{"name": "lan", "namespace": "default", "ips": [f"{lan_address()}/24"]}])
        other.ready(guest)
        guest.pings("192.0.2.1")
        stranger.is_refused(world.namespace)
        own, = world.pods(("own", world.nodes[0], [on_lan("lan", lan_address())]))
        claim("a pod of the network's own namespace has it", "net1" in own.links())
    finally:
        meta.configure(world.nodes)
        other.remove()
        world.forget("net-attach-def", "lan", "default")
