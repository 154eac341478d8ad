"""Networks that other plugins make, alone and in chains: the reference set's."""
import os

from . import case
from .bridges import on_lan
from ..cluster import claim, same, until
from ..world import bridge, lan_address


@case()
def chain(world):
    """A chain: the bridge's link, then tuning with a sysctl and an MTU."""
    world.nad("tuned", {"cniVersion": "1.0.0", "name": "tuned", "plugins": [
        bridge("br-lan"), {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400}]})
    one, two = lan_address(), lan_address()
    a, b = world.pods(("a", world.nodes[0], [on_lan("tuned", one)]), ("b", world.nodes[1], [on_lan("tuned", two)]))
    a.pings(two)
    same("sysctl", a.read("/proc/sys/net/ipv4/conf/net1/arp_filter"), "1")
    same("MTU", a.read("/sys/class/net/net1/mtu"), "1400")
    a.has_status((f"{world.namespace}/tuned", "net1"))


@case()
def ptp(world):
    """The plugin ptp with host-local: a link between the pod and its node."""
    world.nad("wire", {"cniVersion": "1.0.0", "type": "ptp", "ipam": {
        "type": "host-local", "subnet": "10.60.0.0/24", "routes": [{"dst": "10.61.0.0/24"}]}})
    a, = world.pods(("a", world.nodes[0], "wire"))
    a.pings("10.60.0.1")
    claim("the route is there", "10.61.0.0/24" in a.sh("ip route"))


# Another one in each run: after Multus the rules for the last one's still stand, and lead to a pod that is gone.
PORT = 20000 + os.getpid() % 10000


@case("nodes")
def portmap(world):
    """A port of the node, asked for in the annotation, leads to the pod over a network of its own."""
    node = world.nodes[0]
    world.nad("mapped", {"cniVersion": "1.0.0", "name": "mapped", "plugins": [
        {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.62.0.0/24", "routes": [{"dst": f"{node.address}/32"}]}},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}]})
    a, = world.pods(("a", node, [{"name": "mapped", "portMappings": [{"hostPort": PORT, "containerPort": 80, "protocol": "tcp"}]}]))
    a.sh("(while :; do echo over the mapping | nc -l -p 80; done) >/dev/null 2>&1 &")
    until(20, f"an answer at the node's port {PORT}",
          lambda: "over the mapping" in node.sh(f"busybox nc -w 2 {node.address} {PORT} </dev/null"))


@case("nodes")
def host_port(world):
    """hostPort of a container: the runtime's own port mapping reaches the default network's portmap."""
    node = world.nodes[0]
    a = world.pod("a", node, ports=[{"containerPort": 80, "hostPort": 18081}])
    world.ready(a)
    a.sh("(while :; do echo by hostPort | nc -l -p 80; done) >/dev/null 2>&1 &")
    until(20, "an answer at the node's port 18081",
          lambda: "by hostPort" in world.nodes[1].sh(f"busybox nc -w 2 {node.address} 18081 </dev/null"))


@case("nodes")
def bandwidth(world):
    """A bandwidth asked for in the annotation is a shaper on the pod's link."""
    world.nad("slow", {"cniVersion": "1.0.0", "name": "slow", "plugins": [
        bridge("br-lan"), {"type": "bandwidth", "capabilities": {"bandwidth": True}}]})
    rate = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000}
    before = world.nodes[0].sh("tc qdisc show").count("qdisc tbf")
    a, = world.pods(("a", world.nodes[0], [on_lan("slow", lan_address(), bandwidth=rate)]))
    a.pings("192.0.2.1")
    same("shapers for both directions", world.nodes[0].sh("tc qdisc show").count("qdisc tbf") - before, 2)
