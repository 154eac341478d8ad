"""Crowds, and things that stop at a bad moment. These are alone on their nodes."""
import os
import threading

from . import case
from .. import meta
from ..cluster import HERE, ROOT, Failed, claim, kubectl, run, same, until
from ..world import bridge, host_local, status_of

# How many pods at once; a node takes 110 by default.
BURST = int(os.environ.get("TRESTLE_TEST_BURST", "20"))


def two_lans(world):
    """Two networks with addresses for a crowd of pods on one node."""
    for i, name in enumerate(("first", "second")):
        world.nad(name, bridge("br-lan", ipam={"type": "host-local", "ranges": [[{"subnet": f"10.70.{4 * i}.0/22"}]]}))
    return "first, second"


@case(alone=True)
def burst(world):
    """Many pods at once on one node, two networks each: all come up, each with addresses of its own, and none has failed once."""
    node = world.nodes[1]
    networks = two_lans(world)
    pods = [world.pod(f"crowd-{i}", node, networks) for i in range(BURST)]
    world.ready(*pods, seconds=60 + 4 * BURST)
    taken = [ip for item in world.items("pods") for entry in status_of(item) for ip in entry["ips"]]
    same("number of addresses, all different", len(set(taken)), 3 * BURST)
    # Multus and the reference plugins do fail some here: it waits a quarter of a second for the API server.
    failed = [e["message"][-300:] for e in world.items("events") if e["reason"] == "FailedCreatePodSandBox"]
    world.note(f"{len(failed)} of {BURST} sandboxes failed at first")
    claim(f"no sandbox failed; of {len(failed)} the first: {failed[:1]}", not (failed and meta.IS_META))
    pods[0].pings(pods[-1].addresses("net2")[0].split("/")[0])
    world.delete(*pods, seconds=60 + 4 * BURST)


@case(alone=True)
def churn(world):
    """Pods come and go on both nodes, four at a time, some before they are up."""
    for node in world.nodes:
        world.nad(f"churn-{node.name}", bridge("br-lan", ipam=host_local("10.80.0", node)))
    faults = []

    def life(worker):
        node = world.nodes[worker % 2]
        try:
            for turn in range(4):
                pod = world.pod(f"pod-{worker}", node, f"churn-{node.name}")
                if turn % 2:
                    world.ready(pod)
                    claim(f"{pod.name} has net1", "net1" in pod.links())
                world.delete(pod)
        except Failed as failure:
            faults.append(str(failure))

    workers = [threading.Thread(target=life, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    same("faults", faults, [])


@case("own", alone=True)
def api_stopped(world):
    """The API server stops while a pod is being deleted: the node takes all of it away nevertheless."""
    node = world.nodes[0]
    networks = two_lans(world)
    before = node.left()
    a = world.pod("a", node, networks, grace=6)
    world.ready(a)
    claim("there is something to take away", node.left() - before)
    kubectl("delete", "pod", "-n", world.namespace, "a", "--wait=false")
    run(HERE / "service", "control", "stop", "kube-apiserver")
    try:
        until(60, "the node is clean without an API server", lambda: not node.left() - before)
    finally:
        run(HERE / "service", "control", "start", "kube-apiserver")
        until(90, "the API server is back", lambda: kubectl("get", "--raw=/readyz") == "ok")
    until(90, "the pod is gone", lambda: not world.items("pods"))
    b, = world.pods(("b", node, networks))
    b.pings(b.addresses("net1")[0].split("/")[0], count=1)


@case("own", alone=True)
def sandboxes_lost(world):
    """All pods' namespaces vanish at once, the journal stays: the pods come again, with addresses, and nothing of the old is left."""
    survive(world, lambda node: node.lose_sandboxes())


@case("own", alone=True)
def node_restarted(world):
    """A node is started anew: /run is empty, the disk is as it was."""
    survive(world, lambda node: node.restart())


@case("meta", "own", alone=True)
def taken_over(world):
    """From Multus to Trestle and back while pods run: each deletes what the other has attached, and leaves nothing."""
    node = world.nodes[0]
    meta.put_multus([node], run(ROOT / "e2e/setup", "--multus", timeout=1200).strip())
    for name in ("first", "second"):
        world.nad(name, bridge("br-lan", type="bridge", ipam=host_local("10.90.0", node)))
    before = node.left()
    try:
        for multus in (True, False):
            meta.configure([node], multus)
            pod, = world.pods(("a", node, "first, second"))
            same("links", pod.links(), ["eth0", "lo", "net1", "net2"])
            meta.configure([node], not multus)
            world.delete(pod)
            until(60, f"nothing is left of what {'Multus' if multus else 'Trestle'} attached",
                  lambda: not [line for line in node.left() - before if in_use(line)])
    finally:
        meta.configure([node])
        node.sh("rm -rf /run/trestle/journal/*")


def in_use(line):
    """Multus knows nothing of Trestle's journal: what stands there of pods that it has deleted binds nothing, and ends with the boot."""
    return line != "link cni0" and not line.startswith("/run/trestle/journal/")


def survive(world, trouble):
    node = world.nodes[1]
    networks = two_lans(world)
    before = node.left()
    pods = world.pods(*((f"p{i}", node, networks) for i in range(3)))
    many = len(addresses(node.left() - before))
    old = {pod.name: pod.container() for pod in pods}
    trouble(node)
    until(180, "the pods have new sandboxes and are Ready",
          lambda: all(pod.container() not in ("", old[pod.name]) for pod in pods))
    world.ready(*pods)
    for pod in pods:
        same("links", pod.links(), ["eth0", "lo", "net1", "net2"])
    pods[0].pings(pods[1].addresses("net2")[0].split("/")[0])
    until(90, "the old addresses are free again", lambda: len(addresses(node.left() - before)) == many)
    world.delete(*pods)


def addresses(left):
    return [line for line in left if line.startswith("/var/lib/cni/networks/")]
