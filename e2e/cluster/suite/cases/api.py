"""The agent, and an API server that is slow, silent, refuses, forgets, or stops. The nodes' plugin has no kubeconfig here: it knows what
the agent tells it."""
import time

from . import case
from .bridges import on_lan
from .. import agent, cluster, meta
from ..between import SERVER, Between
from ..cluster import HERE, claim, kubectl, run, same, until
from ..world import Pod, bridge, lan_address

# What each does to the agent's requests; whether a network can be learnt of meanwhile.
TROUBLES = {
    "slow": ({"do": "slow", "seconds": 1.5}, True),
    "silent": ({"do": "hang"}, False),
    "closed": ({"do": "refuse"}, False),
    "overloaded": ({"do": "answer", "status": 429, "headers": {"retry-after": 1}}, False),
    "failing": ({"do": "answer", "status": 500}, False),
    "forgetful": ({"do": "answer", "status": 410, "path": "resourceVersion"}, True),
}


def behind(act):
    """With agents that reach the API server through the interposer alone, and a plugin that does not reach it at all."""
    def wrapped(world):
        with Between() as between:
            try:
                agent.install(world.nodes, SERVER)
                meta.configure(world.nodes, kubeconfig=None)
                act(world, between)
            finally:
                between.do("pass")
                meta.configure(world.nodes)
                agent.remove()
    wrapped.__name__, wrapped.__doc__ = act.__name__, act.__doc__
    return wrapped


def untold(node):
    return node.sh("ls /var/lib/trestle/untold 2>/dev/null || true").split()


def told(world, node, *pods):
    """Each has its status in the API, and the node owes none."""
    for pod in pods:
        until(60, f"the status of {pod.name}", lambda: len(pod.status()) == 2)
    until(60, "nothing is untold", lambda: not untold(node))


@case("own", "meta", "bridges", alone=True)
@behind
def api_in_trouble(world, between):
    """API server slow, silent, closed, or answering 429, 500, 410: a network that the agent knows is wired throughout, another one waits
    with code 11 and comes with the API server; so do the statuses."""
    node = world.nodes[0]
    world.nad("lan", bridge("br-lan"))
    first, = world.pods(("first", node, [on_lan("lan", lan_address())]))
    told(world, node, first)
    for name, (rule, learns) in TROUBLES.items():
        between.do(**rule, cut=True)
        begun = time.monotonic()
        known = world.pod(f"{name}-known", node, [on_lan("lan", lan_address())])
        world.ready(known)
        wired = time.monotonic() - begun
        world.nad(f"{name}-new", bridge("br-lan"))
        new = world.pod(f"{name}-new", node, [on_lan(f"{name}-new", lan_address())])
        if learns:
            world.ready(new)
        else:
            until(60, f"a sandbox of {new.name} failed", lambda: [e for e in new.events() if e.startswith("FailedCreatePodSandBox")])
            same(f"statuses told while it is {name}", len(known.status()), 0)
        between.do("pass")
        begun = time.monotonic()
        world.ready(new)
        told(world, node, known, new)
        world.note(f"{name:10} a known network within {wired:4.1f} s; all told {time.monotonic() - begun:4.1f} s after the end")
        failed = [e for e in new.events() if e.startswith("FailedCreatePodSandBox")]
        claim(f"{new.name} failed with code 11 alone: {failed}", all("TR08" in e for e in failed))
        known.pings("192.0.2.1")
        world.delete(known, new)


@case("own", "meta", "bridges", alone=True)
@behind
def watch_broken(world, between):
    """Watches that are cut again and again, and watches that are told to list again: nothing is missed, and the server is not asked in a
    circle."""
    node = world.nodes[0]
    for turn in range(5):
        between.do("pass", cut=True)
        world.nad(f"net-{turn}", bridge("br-lan"))
        pod, = world.pods((f"cut-{turn}", node, [on_lan(f"net-{turn}", lan_address())]))
        between.do("pass", cut=True)
        told(world, node, pod)
    between.do("expire", cut=True)
    world.nad("expired", bridge("br-lan"))
    pod, = world.pods(("expired", node, [on_lan("expired", lan_address())]))
    told(world, node, pod)
    time.sleep(20)
    asked = between.do("pass")
    lists = [path for method, path in asked if method == "GET" and "?" in path and "watch=1" not in path]
    world.note(f"{len(asked)} requests of two agents, {len(lists)} of them lists, while each watch was told to list again for 20 s and more")
    claim(f"{len(lists)} lists", len(lists) < 60)
    until(60, "watches run again", lambda: all(agent.metrics(node).get(f'trestle_watch_running{{kind="{kind}"}}') == 1
                                               for kind in ("pods", "nads")))


@case("own", "meta", "bridges", alone=True)
@behind
def agent_begun_without_api(world, between):
    """An agent that is begun while the API server is away: pods whose networks are on disk start, and statuses come later."""
    node = world.nodes[0]
    world.nad("lan", bridge("br-lan"))
    first, = world.pods(("first", node, [on_lan("lan", lan_address())]))
    told(world, node, first)
    between.do("refuse", cut=True)
    node.run("kill", "-9", agent.pid(node))
    # The word of the agent before it is no longer good.
    node.run("touch", "-d", "1 minute ago", "/run/trestle/alive")
    until(60, "another agent listens", lambda: agent.pid(node) and node.sh("ss -xl | grep trestle/agent.sock"))
    a = world.pod("a", node, [on_lan("lan", lan_address())])
    world.ready(a)
    same("status", a.status(), [])
    between.do("pass")
    told(world, node, a)
    until(30, "an Event tells that the copy may be old", lambda: any(e.startswith("StaleNetwork") for e in a.events()))


@case("own", "meta", "bridges", alone=True)
@behind
def api_stopped_with_agent(world, between):
    """The API server itself stops in the middle of a crowd of pods: all get their networks, and their statuses once it is back."""
    node, count = world.nodes[0], 20
    world.nad("lan", bridge("br-lan"))
    running = "ctr -n k8s.io tasks ls | grep -c RUNNING"
    before = int(node.sh(running))
    # All at once: else the first ones run before the last is there.
    cluster.apply(*(world.manifest(f"p{i}", node, [on_lan("lan", lan_address())]) for i in range(count)))
    pods = [Pod(world, f"p{i}", node) for i in range(count)]
    until(30, "each pod is the node's", lambda: all(p["spec"].get("nodeName") for p in world.items("pods")))
    run(HERE / "service", "control", "stop", "kube-apiserver")
    try:
        ran = (int(node.sh(running)) - before) // 2
        world.note(f"{ran} of {count} pods ran when the API server stopped")
        claim("some are still to come", ran < count)
        until(90, "all pods run", lambda: int(node.sh(running)) - before == 2 * count)
        claim("statuses wait", untold(node))
    finally:
        run(HERE / "service", "control", "start", "kube-apiserver")
        until(90, "the API server is back", lambda: kubectl("get", "--raw=/readyz") == "ok")
    world.ready(*pods)
    told(world, node, *pods)
