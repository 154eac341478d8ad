"""The node's agent: what it may do, what it does, and that nobody misses it while it is away."""
import time

from . import case
from .. import agent, kubelet, lan
from ..cluster import claim, get, kubectl, same, until
from ..world import STATUS, bridge, lan_address

PREFIX = "bridge.network.kubevirt.io/"
KEY = f"{PREFIX}br-lan"
NONE = {"capacity": None, "allocatable": None}


def resources(node, bridge="br-lan"):
    status = get("node", node.name)["status"]
    return {key: status[key].get(PREFIX + bridge) for key in NONE}


def tidy(act):
    """Another case must not find an agent."""
    def wrapped(world):
        try:
            agent.install(world.nodes)
            act(world)
        finally:
            agent.remove()
    wrapped.__name__, wrapped.__doc__ = act.__name__, act.__doc__
    return wrapped


@case("own", "meta", alone=True)
@tidy
def agent_policy(world):
    """An agent's token changes network-status of its own node's pods and the bridges of its own node, and nothing else."""
    here, there = world.nodes
    world.pods(("here", here), ("there", there))
    token, pod = agent.Token(here), f"/api/v1/namespaces/{world.namespace}/pods/{{}}/status"
    node = "/api/v1/nodes/{}/status"
    told = {"metadata": {"annotations": {STATUS: "[]"}}}
    ours = {"status": {"capacity": {KEY: "7"}, "allocatable": {KEY: "7"}}}
    allowed = [(pod.format("here"), told), (node.format(here.name), ours)]
    groups = get("node", here.name)["status"].get("features", {}).get("supplementalGroupsPolicy", False)
    refused = [
        (pod.format("there"), told, "another node"),
        (node.format(there.name), ours, "another node"),
        (pod.format("here"), {"metadata": {"annotations": {"other": "x"}}}, "annotations"),
        (pod.format("here"), {"metadata": {"labels": {"other": "x"}}}, "labels"),
        (pod.format("here"), {"status": {"podIP": "192.0.2.66"}}, "no pod's status"),
        (node.format(here.name), {"metadata": {"labels": {"other": "x"}}}, "labels"),
        (node.format(here.name), {"metadata": {"annotations": {STATUS: "x"}}}, "annotations"),
        (node.format(here.name), {"status": {"capacity": {"cpu": "1"}}}, "of a node's status"),
        (node.format(here.name), {"status": {"allocatable": {"pods": None}}}, "of a node's status"),
        (node.format(here.name), {"status": {"conditions": []}}, "of a node's status"),
        # `config` and `declaredFeatures` are dropped where nobody turned them on.
        (node.format(here.name), {"status": {"phase": "Terminated"}}, "of a node's status"),
        (node.format(here.name), {"status": {"runtimeHandlers": [{"name": "x"}]}}, "of a node's status"),
        (node.format(here.name), {"status": {"features": {"supplementalGroupsPolicy": not groups}}}, "of a node's status"),
        (node.format(here.name), {"status": {"nodeInfo": {"kernelVersion": "x"}}}, "of a node's status"),
        (node.format(here.name), {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.66"}]}}, "of a node's status"),
    ]
    for path, body in allowed:
        same(f"{path} {body}", token.patch(path, body), "done")
    for path, body, why in refused:
        said = token.patch(path, body)
        claim(f"{path} {body} is refused ({why}): {said}", why in said)


@case("own", "meta", alone=True)
@tidy
def agent_at_work(world):
    """Pods get their networks and status with the agent, while it is killed, and without it; nothing stays untold."""
    node = world.nodes[0]
    world.nad("lan", bridge("br-lan"))
    for name, before in (("with", None), ("killed", "killed"), ("back", None)):
        if before:
            kubectl("delete", "pod", "-n", "trestle-system", agent.on(node), "--grace-period=0", "--force", "--wait=false")
        address = lan_address()
        pod, = world.pods((name, node, [{"name": "lan", "ips": [f"{address}/24"]}]))
        same(f"addresses of {name}", pod.addresses("net1"), [f"{address}/24"])
        # The agent tells it a moment later, or the one after it.
        until(60, f"the status of {name}", lambda: len(pod.status()) == 2)
        pod.has_status((f"{world.namespace}/lan", "net1"))
        until(60, "an agent is Ready", lambda: all(map(agent.ready, agent.pods())))
    same("untold", node.sh("ls /var/lib/trestle/untold 2>/dev/null || true").split(), [])


@case("own", "meta", "bridges", alone=True)
@tidy
def agent_advertises(world):
    """Healthy bridges are resources of the node; one that goes down loses its key, and gets it back."""
    node = world.nodes[1]
    until(30, "br-lan is advertised", lambda: all(resources(node).values()))
    try:
        node.run("ip", "link", "set", "br-lan", "down")
        until(5, "br-lan has lost its key", lambda: resources(node) == NONE)
    finally:
        node.run("ip", "link", "set", "br-lan", "up")
    until(15, "br-lan has its key again", lambda: all(resources(node).values()))
    status = get("node", node.name)["status"]["capacity"]
    same("bridges of the primary network", [key for key in status if key.endswith(("/cni0", "/docker0"))], [])
    claim("metrics are there", any(name.startswith("trestle_") for name in agent.metrics(node)))


@case("own", "meta", "bridges", alone=True)
@tidy
def kubelet_zeroes_resources(world):
    """kubelet by itself sets a bridge to 0 when it begins without its checkpoints: the agent that runs gives the bridge its value back, and
    so does one that this kubelet begins."""
    node = world.nodes[1]
    until(30, "br-lan is advertised", lambda: all(resources(node).values()))
    value = resources(node)
    wanted, zero = tuple(value.values()), ("0", "0")
    for who, meanwhile in (("an agent that runs", lambda: None), ("one that kubelet begins", lambda: agent.kill(node))):
        with kubelet.Watched(node, KEY) as watched:
            claim("kubelet has set its resources to 0", zeroed(node, meanwhile))
            until(30, f"br-lan is seen with 0 ({who})", lambda: zero in watched.values())
            until(60, f"br-lan has its value again ({who})", lambda: watched.values()[-1] == wanted)
            world.note(f"{who}: 0 for {watched.seconds(zero):.2f} s; {' '.join('/'.join(v) for v in watched.values())}")
        same("and keeps it", resources(node), value)
    until(60, "the agents are Ready", lambda: all(map(agent.ready, agent.pods())))
    world.pods(("after", node))


def zeroed(node, meanwhile):
    """Not each time: it may make its socket before it registers, and then takes that for a checkpoint."""
    for _ in range(4):
        until(60, "an agent runs", lambda: agent.pid(node))
        if kubelet.begin_anew(node, meanwhile):
            return True
    return False


@case("own", "meta", "bridges", alone=True)
@tidy
def bridge_made_anew(world):
    """A bridge that is removed and made again under running pods: its resource goes and comes back, the agent puts the pods' ports onto it,
    and says so."""
    node = world.nodes[0]
    world.nad("dmz", bridge("br-dmz"))
    one, two = lan_address("198.51.100"), lan_address("198.51.100")
    a, b = world.pods(("a", node, [{"name": "dmz", "ips": [f"{one}/24"]}]), ("b", node, [{"name": "dmz", "ips": [f"{two}/24"]}]))
    until(30, "br-dmz is advertised", lambda: all(resources(node, "br-dmz").values()))
    ports = {pod.read("/sys/class/net/net1/iflink") for pod in (a, b)}
    a.pings(two)
    try:
        node.run("ip", "link", "del", "br-dmz")
        until(5, "br-dmz has lost its key", lambda: resources(node, "br-dmz") == NONE)
    finally:
        node.sh("ip link add br-dmz type bridge && ip link set eth2 master br-dmz && ip link set br-dmz up")
    until(15, "br-dmz has its key again", lambda: all(resources(node, "br-dmz").values()))
    begun = time.monotonic()
    until(70, "both ports are back", lambda: ports <= {line.split(":")[0] for line in node.ports("br-dmz")})
    world.note(f"both ports were back {time.monotonic() - begun:.1f} s after the bridge had its key")
    a.pings(two)
    b.pings("198.51.100.1")
    for pod in (a, b):
        until(30, f"an Event of {pod.name}", lambda: any(e.startswith("PortRepaired") and "br-dmz" in e for e in pod.events()))
    counted = sum(v for k, v in agent.metrics(node).items() if k.startswith("trestle_repairs_total") and 'kind="port"' in k and "done" in k)
    claim(f"{counted} repairs of ports are counted", counted >= 2)


@case("own", "meta", alone=True)
def lease_without_keeper(world):
    """Without an agent: a pod with an address of the LAN's DHCP server hears until when it has it."""
    world.nad("lan", bridge("br-lan", ipam={"type": "dhcp"}))
    with lan.Dhcp() as server:
        pod, = world.pods(("a", world.nodes[0], "lan"))
        address, = server.leased()
        events = until(30, "an Event of the lease", lambda: [e for e in pod.events() if e.startswith("LeaseUnkept: ")])
        claim(f"one Event, with {address}: {events}", len(events) == 1 and address in events[0])
        world.note(events[0])
        world.delete(pod)
        until(30, "it is given back", lambda: not server.leased())
