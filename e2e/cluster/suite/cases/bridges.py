"""Pods on bridges and interfaces that the nodes have already: the main job."""
from . import case
from ..cluster import claim, same, until
from ..world import bridge, host_local, lan_address


def on_lan(name, address, **more):
    return {"name": name, "ips": [f"{address}/24"], **more}


@case()
def one_network(world):
    """One network on a bridge: pods on two nodes and a neighbour of the LAN reach each other, and the status tells."""
    world.nad("lan", bridge("br-lan"))
    one, two = lan_address(), lan_address()
    a, b = world.pods(("a", world.nodes[0], [on_lan("lan", one)]), ("b", world.nodes[1], [on_lan("lan", two)]))
    a.pings(two)
    b.pings(one)
    a.pings("192.0.2.1")
    same("links of a", a.links(), ["eth0", "lo", "net1"])
    same("addresses of net1", a.addresses("net1"), [f"{one}/24"])
    entry, = a.has_status((f"{world.namespace}/lan", "net1"))
    same("addresses in the status", entry["ips"], [one])
    same("MAC in the status", entry["mac"], a.mac("net1"))
    same("status.podIP is the default network's", a.object()["status"]["podIP"], a.status()[0]["ips"][0])


@case()
def no_network(world):
    """A pod that asks for nothing has the cluster's network alone, and reaches a pod on the other node by it."""
    a, b = world.pods(("a", world.nodes[0]), ("b", world.nodes[1]))
    same("links of a", a.links(), ["eth0", "lo"])
    a.has_status()
    a.pings(b.object()["status"]["podIP"])


@case("nodes")
def two_networks(world):
    """Two networks, one with an interface name asked for; the node's ports are of br-lan and go with the pod."""
    node = world.nodes[0]
    world.nad("lan", bridge("br-lan"))
    world.nad("office", bridge("br-lan", ipam=host_local("203.0.113", node)))
    world.nad("office2", bridge("br-lan", ipam=host_local("203.0.113", world.nodes[1])))
    one, two = lan_address(), lan_address()
    a, b = world.pods(("a", node, [on_lan("lan", one), {"name": "office", "interface": "desk"}]),
                      ("b", world.nodes[1], [on_lan("lan", two), {"name": "office2", "interface": "desk"}]))
    same("links of a", a.links(), ["desk", "eth0", "lo", "net1"])
    a.pings(two)
    a.pings(b.addresses("desk")[0].split("/")[0])
    a.has_status((f"{world.namespace}/lan", "net1"), (f"{world.namespace}/office", "desk"))
    port = f"{a.read('/sys/class/net/net1/iflink')}: "
    claim("a's port is one of br-lan", any(line.startswith(port) for line in node.ports("br-lan")))
    world.delete(a)
    until(20, "a's port is gone", lambda: not any(line.startswith(port) for line in node.ports("br-lan")))


@case()
def eight_networks(world):
    """Eight networks in the short form: net1 to net8 in the order of the annotation, each of them carries traffic."""
    names = [f"n{i}" for i in range(1, 9)]
    pods = []
    for node in world.nodes:
        for i, name in enumerate(names):
            world.nad(f"{name}-{node.name}", bridge("br-lan", ipam=host_local(f"10.50.{i}", node)))
        pods.append((f"on-{node.name}", node, ", ".join(f"{name}-{node.name}" for name in names)))
    a, b = world.pods(*pods)
    same("links", b.links(), sorted(["eth0", "lo"] + [f"net{i}" for i in range(1, 9)]))
    status = b.has_status(*((f"{world.namespace}/{name}-{b.node.name}", f"net{i + 1}") for i, name in enumerate(names)))
    for i, entry in enumerate(status):
        claim(f"{entry} has its own network's address", entry["ips"][0].startswith(f"10.50.{i}."))
        a.pings(entry["ips"][0], count=1)


@case("bridges")
def macvlan(world):
    """A macvlan on the node's interface, and a bridge above that LAN on the other node: one LAN."""
    world.nad("by-macvlan", {"cniVersion": "1.0.0", "type": "macvlan", "master": "eth2", "capabilities": {"ips": True},
                             "ipam": {"type": "static"}})
    world.nad("by-bridge", bridge("br-dmz"))
    one, two = lan_address("198.51.100"), lan_address("198.51.100")
    a, b = world.pods(("a", world.nodes[0], [on_lan("by-bridge", one)]), ("b", world.nodes[1], [on_lan("by-macvlan", two)]))
    a.pings(two)
    b.pings("198.51.100.1")


@case("trestle", "bridges")
def fallback(world):
    """One network with bridge and master: a port of the bridge where there is one, a macvlan where there is none."""
    world.nad("dmz", bridge("br-dmz", master="eth2"))
    one, two = lan_address("198.51.100"), lan_address("198.51.100")
    a, b = world.pods(("a", world.nodes[0], [on_lan("dmz", one)]), ("b", world.nodes[1], [on_lan("dmz", two)]))
    a.pings(two)
    b.pings(one)
    claim("a's link is a veth", "@if" in a.sh("ip -o link show net1"))
    claim("node1 has the port", [port for port in world.nodes[0].ports("br-dmz") if "eth2" not in port])
    claim("node2 has macvlan below eth2: it has got no br-dmz", "br-dmz" not in world.nodes[1].sh("ip -o link"))
    b.has_status((f"{world.namespace}/dmz", "net1"))
    words = f"no bridge br-dmz on {world.nodes[1].name}: macvlan on eth2; the node itself cannot be reached over it"
    until(30, "b is told of it", lambda: [e for e in b.events() if e.startswith("MacvlanFallback: ") and words in e])
    same("what a hears of macvlan", [e for e in a.events() if "acvlan" in e], [])
