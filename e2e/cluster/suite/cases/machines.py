"""Virtual machines' pods, with the labels and annotations that KubeVirt gives them (kubevirt/pods.json, from its own template code),
and a plain container in the place of virt-launcher."""
import hashlib
import json
import threading

from . import case
from .agents import tidy
from .. import agent, cluster, lan, meta, tap
from ..cluster import HERE, ROOT, claim, get, kubectl, same, until
from ..world import NETWORKS, Pod, bridge, host_local, lan_address

SHAPES = json.loads((HERE / "kubevirt/pods.json").read_text())
# KubeVirt's name for the pod's end of the network `lan`.
H = hashlib.sha256(b"lan").hexdigest()[:11]
ADDRESSES = "network.kubevirt.io/addresses"
MULTI_QUEUE = 0x100  # of linux/if_tun.h
_one_at_a_time = threading.Lock()


def bring_binding():
    """The binding's NAD. Several cases run at once, and may be the first to need it."""
    with _one_at_a_time:
        kubectl("apply", "-f", str(ROOT / "kubevirt/binding-nad.yaml"))


def launcher(world, shape, suffix, node, owner=None, asks=None):
    """Without an owner, unless there is that VirtualMachineInstance: the garbage collector would look for it, and delete the pod.
    `asks`: addresses by the machine's networks."""
    labels, annotations = SHAPES[shape]["labels"], dict(SHAPES[shape]["annotations"])
    if asks:
        annotations[ADDRESSES] = json.dumps(asks)
    if networks := json.loads(annotations.get(NETWORKS, "[]")):
        for network in networks:
            ours = network["name"] == "trestle-binding"
            network["namespace"] = "trestle-system" if ours else world.namespace
            if ours:
                bring_binding()
        annotations[NETWORKS] = json.dumps(networks)
    name = f"virt-launcher-testvm-{suffix}"
    manifest = world.manifest(name, node, annotations=annotations, labels=labels)
    if owner:
        manifest["metadata"]["ownerReferences"] = [{
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "controller": True}]
    cluster.apply(manifest)
    return Pod(world, name, node)


def instance(world, cores=2, **more):
    """A machine with KubeVirt's binding `trestle` on its network `lan`, and a queue for each processor. `more`: of its interface."""
    kubectl("apply", "-f", str(HERE / "kubevirt/crds.yaml"))
    kubectl("wait", "--for=condition=Established", "crd/virtualmachineinstances.kubevirt.io")
    devices = {"networkInterfaceMultiqueue": True, "interfaces": [{"name": "lan", "binding": {"name": "trestle"}, **more}]}
    cluster.apply({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                   "metadata": {"name": "testvm", "namespace": world.namespace},
                   "spec": {"domain": {"cpu": {"cores": cores}, "devices": devices},
                            "networks": [{"name": "lan", "multus": {"networkName": f"{world.namespace}/br-lan"}}]}})
    return get("vmi", "-n", world.namespace, "testvm")


def news(world):
    """The Events on the machine itself, as "REASON: MESSAGE", each as often as it was told."""
    selector = "involvedObject.kind=VirtualMachineInstance,involvedObject.name=testvm"
    listed = get("events", "-n", world.namespace, f"--field-selector={selector}")["items"]
    return [f"{event['reason']}: {event.get('message', '')}" for event in listed for _ in range(event.get("count", 1))]


def told(world, *words):
    """Waits for such an Event."""
    until(60, f"an Event of the machine with {', '.join(words)}",
          lambda: any(all(word in event for word in words) for event in news(world)))


def has_queues(pod, many):
    flags = int(pod.read(f"/sys/class/net/tap{H}/tun_flags"), 16)
    same(f"{pod.name}'s tap has several queues", bool(flags & MULTI_QUEUE), many)


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


@case("own", "meta")
def machine_queues(world):
    """Without an agent: the tap has several queues where the machine's description says so, and what its domain has counts more."""
    world.nad("br-lan", bridge("br-lan", ipam={}))
    owner = instance(world)
    source = launcher(world, "trestle", "aaaaa", world.nodes[0], owner)
    world.ready(source)
    has_queues(source, True)
    domain = [{"name": "lan", "infoSource": "domain, multus-status", "queueCount": 1}]
    kubectl("patch", "vmi", "-n", world.namespace, "testvm", "--subresource=status", "--type=merge", "-p",
            json.dumps({"status": {"interfaces": domain}}))
    target = launcher(world, "trestle", "bbbbb", world.nodes[1], owner)
    world.ready(target)
    has_queues(target, False)


@case("own", "meta", "bridges", alone=True)
@tidy
def machine_hears_of_it(world):
    """With the agent as it is shipped: what is refused is told to the pod and to its machine; a misspelt network is named."""
    owner = instance(world)
    world.nad("br-lan", {"cniVersion": "1.0.0", "type": "trestle", "master": "eth2"})
    pod = launcher(world, "bridge", "aaaaa", world.nodes[1], owner)
    pod.is_refused("TR0201", "macvlan", pod.node.name)
    told(world, "TR0201", "macvlan", pod.node.name)
    world.delete(pod)
    world.nad("br-lan", bridge("br-lan"))
    pod = launcher(world, "trestle", "bbbbb", world.nodes[0], owner, asks={"lna": ["192.0.2.9/24"]})
    pod.is_refused("TR0110", "lna", "did you mean lan?")
    told(world, "TR0110", "lna", "did you mean lan?")
    world.delete(pod)


@case("own", "trestle", alone=True)
@tidy
def machine_asks_for_addresses(world):
    """With the agent as it is shipped: addresses by the machine's annotation, of each IPAM; the status has them, the pod's link not.

    Below Multus too, which hands no annotations on: there they and the queues come by the agent."""
    node = world.nodes[0]
    owner = instance(world)
    low, high = "203.0.113.100", "203.0.113.133"
    for suffix, config, address in [
        ("aaaaa", bridge("br-lan"), lan_address()),
        ("bbbbb", bridge("br-lan", ipam={}), lan_address()),
        ("ccccc", bridge("br-lan", ipam=host_local("203.0.113", node)), high),
    ]:
        world.nad("br-lan", config)
        pod = launcher(world, "trestle", suffix, node, owner, asks={"lan": [f"{address}/24"]})
        world.ready(pod)
        until(30, "the status", pod.status)
        entry, = pod.has_status((f"{world.namespace}/br-lan", f"pod{H}"))
        same("addresses in the status", entry.get("ips"), [address])
        same("addresses on the link", pod.addresses(f"pod{H}"), [])
        has_queues(pod, True)
        world.delete(pod)
    # Without a wish: the address above was no coincidence.
    pod = launcher(world, "trestle", "ddddd", node, owner)
    world.ready(pod)
    until(30, "the status", pod.status)
    claim("another address", pod.status()[1]["ips"] != [high])
    world.note(f"host-local gave {pod.status()[1]['ips'][0]} of {low} and up")


@case("own", "meta", alone=True)
@tidy
def machine_keeps_its_way_to_the_tap(world):
    """With the agent as it is shipped: what somebody takes away inside a machine's pod is put back, and the machine is told."""
    node, owner = world.nodes[0], instance(world)
    world.nad("br-lan", bridge("br-lan"))
    pod = launcher(world, "trestle", "aaaaa", node, owner, asks={"lan": [f"{lan_address()}/24"]})
    world.ready(pod)
    def in_pod(command):
        return node.sh(f"""for ns in /run/netns/*; do
            nsenter --net=$ns ip link show dev pod{H} > /dev/null 2>&1 && exec nsenter --net=$ns {command}
        done; exit 1""")
    def whole():
        shown = in_pod(f"tc filter show dev pod{H} ingress")
        return " pref 67 " in shown and "mirred" in shown
    claim("a filter and a redirect", whole())
    in_pod(f"tc qdisc del dev pod{H} ingress")
    # It looks once a minute.
    until(100, "the filter and the redirect are back", whole)
    told(world, "redirect to its tap", "was put back")
    world.delete(pod)


@case("own", "meta", alone=True)
@tidy
def machine_asks_the_lans_server(world):
    """IPAM dhcp: the LAN's server gives a machine the address that it asks for; where it gives another one, the machine does not start."""
    node, owner = world.nodes[0], instance(world)
    world.nad("br-lan", bridge("br-lan", ipam={"type": "dhcp"}))
    with lan.Dhcp() as server:
        address, elsewhere = f"{lan.NET}.77", "203.0.113.7"
        pod = launcher(world, "trestle", "aaaaa", node, owner, asks={"lan": [f"{address}/24"]})
        world.ready(pod)
        until(30, "the status", pod.status)
        entry, = pod.has_status((f"{world.namespace}/br-lan", f"pod{H}"))
        same("addresses in the status", entry.get("ips"), [address])
        same("addresses on the link", pod.addresses(f"pod{H}"), [])
        same("leases", server.leased(), {address})
        world.delete(pod)
        until(30, "it is given back", lambda: not server.leased())
        pod = launcher(world, "trestle", "bbbbb", node, owner, asks={"lan": [f"{elsewhere}/24"]})
        pod.is_refused("TR0503", elsewhere, lan.NET)
        told(world, "TR0503", elsewhere, lan.NET)
        world.delete(pod)
        until(30, "nothing is leased", lambda: not server.leased())


# What its owner may set, and how a guest hears it: RFC 2132, and options of a site's own.
SET = {"bootFileName": "pxe/boot.0", "tftpServerName": "192.0.2.7", "ntpServers": ["192.0.2.8", "192.0.2.9"],
       "privateOptions": [{"option": 240, "value": "rack 7"}]}
HEARD = {1: bytes([255, 255, 255, 0]), 3: bytes([192, 0, 2, 1]), 6: bytes([192, 0, 2, 53]), 12: b"testvm", 26: (1500).to_bytes(2),
         42: bytes([192, 0, 2, 8, 192, 0, 2, 9]), 54: bytes([169, 254, 67, 67]), 66: b"192.0.2.7", 67: b"pxe/boot.0", 240: b"rack 7"}


@case("own", "trestle", alone=True)
@tidy
def machine_is_given_its_address(world):
    """With the agent as it is shipped: a guest hears its address and the machine's dhcpOptions by DHCP, also from the agent after a kill;
    the status has the address, and one Event of the machine says it, once."""
    node, owner, address = world.nodes[0], instance(world, dhcpOptions=SET), lan_address()
    ipam = {"type": "static", "addresses": [{"address": f"{address}/24", "gateway": "192.0.2.1"}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["192.0.2.53"]}}
    world.nad("br-lan", bridge("br-lan", ipam=ipam))
    pod = launcher(world, "trestle", "aaaaa", node, owner)
    world.ready(pod)
    until(30, "the status", pod.status)
    entry, = pod.has_status((f"{world.namespace}/br-lan", f"pod{H}"))
    same("addresses in the status", entry.get("ips"), [address])
    same("addresses on the link", pod.addresses(f"pod{H}"), [])
    same("how often the address was told before a guest asked", given(world), 0)
    with tap.Guest(node, f"tap{H}", pod.mac(f"pod{H}")) as guest:
        hears(guest, "bind", address)
        told(world, "AddressGiven", address, "192.0.2.1", "192.0.2.53")
        killed = agent.kill(node)
        until(60, "another agent is at work", lambda: agent.pid(node) not in ("", killed) and all(map(agent.ready, agent.pods())))
        for what in ("rebind", "bind"):
            hears(guest, what, address)
        # Events are told in their order: when this one is there, a second one of before would be, too.
        guest.do("decline")
        told(world, "AddressDeclined", address)
    same("how often the address was told", given(world), 1)
    world.delete(pod)


def given(world):
    return sum(event.startswith("AddressGiven: ") for event in news(world))


def hears(guest, what, address):
    got, options = guest.do(what)
    same(f"{what}: address", got, address)
    same(f"{what}: options", {code: options.get(code) for code in HEARD}, HEARD)
