"""The agent on the tests' own nodes: its image, manifests/agent.yaml, and what may be done with its token."""
import json
import tempfile
from pathlib import Path

from . import meta
from .cluster import Failed, HERE, ROOT, claim, get, kubectl, run, until
from .nodes import find

IMAGE = "trestle.test/trestle:1"
LABEL = "app.kubernetes.io/name=trestle-agent"

# kubectl's patch reads before it writes; the agent may not, and does not.
PATCH = """
import json, ssl, sys, urllib.error, urllib.request
token, path, body = sys.argv[1:]
request = urllib.request.Request("https://10.99.0.1:6443" + path, body.encode(), method="PATCH", headers={
    "Authorization": "Bearer " + token, "Content-Type": "application/merge-patch+json"})
try:
    urllib.request.urlopen(request, context=ssl._create_unverified_context())
    print("done")
except urllib.error.HTTPError as e:
    print(json.load(e)["message"])
"""


# Nodes that have the image: a restart does not take it away.
_have_it = set()


def import_image(nodes):
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "trestle.tar"
        run(ROOT / "manifests/image/build", image, IMAGE, meta.TRESTLE)
        for node in nodes:
            node.run("ctr", "-n", "k8s.io", "images", "import", image)
            _have_it.add(node.name)


def install(nodes, server=None):
    """One on each node, Ready. `server`: address and port in place of the API server's."""
    if missing := [node for node in nodes if node.name not in _have_it]:
        import_image(missing)
    manifest = (ROOT / "manifests/agent.yaml").read_text().replace("image: trestle:0.1.0", f"image: {IMAGE}")
    if server:
        host, port = server
        own = f"env:\n            - {{name: KUBERNETES_SERVICE_HOST, value: {host}}}\n"
        own += f"            - {{name: KUBERNETES_SERVICE_PORT, value: '{port}'}}\n"
        manifest = manifest.replace("env:\n", own, 1)
    kubectl("apply", "--validate=strict", "-f", "-", stdin=manifest)
    until(120, "each node has an agent that is Ready", lambda: len([p for p in pods() if ready(p)]) == len(nodes))


def remove():
    kubectl("delete", "--ignore-not-found", "-f", str(ROOT / "manifests/agent.yaml"))
    until(60, "the agents are gone", lambda: not pods())
    for node in find():
        # Where it is, an agent is expected: below Multus no machine starts without its word.
        node.run("rm", "-f", "/run/trestle/agent.sock", "/var/lib/trestle/agent")


def pods():
    return get("pods", "-n", "trestle-system", "-l", LABEL)["items"]


def pid(node):
    """Of its process, as the node counts; none while it is away."""
    # The oldest: a child that has not yet become another program has its words, too.
    return node.sh("pgrep -oxf '/bin/trestle agent' || true").strip()


def kill(node):
    """As the OOM killer does. Returns its pid."""
    was = until(30, f"an agent runs on {node.name}", lambda: pid(node))
    node.run("kill", "-9", was)
    return was


def ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def on(node):
    """The name of this node's."""
    found = [p["metadata"]["name"] for p in pods() if p["spec"].get("nodeName") == node.name]
    claim(f"one agent on {node.name}: {found}", len(found) == 1)
    return found[0]


class Token:
    """As the agent of this node has it."""

    def __init__(self, node):
        self.token = kubectl("create", "token", "trestle-agent", "-n", "trestle-system", "--bound-object-kind", "Pod",
                             "--bound-object-name", on(node)).strip()

    def patch(self, path, body):
        """What the API server says: "done", or why not."""
        return run(HERE / "in", "control", "python3", "-c", PATCH, self.token, path, json.dumps(body)).strip()


def metrics(node):
    """All lines that the agent of this node tells, without the comments."""
    text = run(HERE / "in", node.name, "python3", "-c",
               f"import urllib.request as r; print(r.urlopen('http://{node.address}:9477/metrics').read().decode())")
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    if not lines:
        raise Failed(f"no metrics on {node.name}")
    return {name: float(value) for name, value in lines}
