"""Which meta plugin the nodes have, and how it gets there: Trestle, or thin Multus with the reference plugins, which tells a wrong
test from a wrong plugin. Only the tests' own nodes are changed; somebody else's cluster is taken as it is."""
import json
import os
import shutil
import time
from pathlib import Path

from . import cluster
from .cluster import Failed, ROOT, kubectl, run, until

TRESTLE = os.environ.get("TRESTLE_BIN")
MULTUS = os.environ.get("MULTUS")

# Multus alone: networks are wired by the reference plugins, and what only Trestle does is not asked for.
HAS_TRESTLE = bool(TRESTLE) or not cluster.OWN
IS_META = HAS_TRESTLE and not MULTUS
BRIDGE = "trestle" if HAS_TRESTLE else "bridge"
NAME = "Trestle" if IS_META else "Multus with Trestle below" if HAS_TRESTLE else "Multus with the reference plugins"

# Multus asks for more than manifests/rbac.yaml gives: it writes the whole status of a pod.
MULTUS_RIGHTS = [
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "trestle-tests-multus"},
     "rules": [{"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "update"]}]},
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "trestle-tests-multus"},
     "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "trestle-tests-multus"},
     "subjects": [{"kind": "ServiceAccount", "name": "trestle-plugin", "namespace": "trestle-system"}]},
]


def configuration(node, multus, **more):
    """manifests/node/00-trestle.conflist, filled in; for Multus the same keys, but for the default network: it is inline, as Multus'
    own installer has it, since Multus 4.3.0 forgets most of a list that `clusterNetwork` names by its path before DEL."""
    text = (ROOT / "manifests/node/00-trestle.conflist").read_text()
    conf = json.loads(text.replace("10-PRIMARY", "10-primary"))
    plugin = conf["plugins"][0]
    if multus:
        conf["name"] = "multus-cni-network"
        del plugin["clusterNetwork"]
        plugin.update(type="multus", logFile="/var/log/multus.log", logLevel="verbose",
                      delegates=[json.loads(disk(node, "/etc/cni/net.d/10-primary.conflist").read_text())])
    plugin.update(more)
    conf["plugins"][0] = {key: value for key, value in plugin.items() if value is not None}
    return conf


def disk(node, path):
    """A path of a node, as this machine has it."""
    state = os.environ.get("TRESTLE_CLUSTER") or Path(
        os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trestle-tests/cluster"
    return Path(state) / node.name / path.lstrip("/")


def place(path, text):
    """Never half a file: containerd reads it as soon as it is there."""
    part = path.with_name("." + path.name)
    part.write_text(text)
    part.chmod(0o600)
    part.rename(path)


def install(nodes):
    for manifest in ("crd.yaml", "namespace.yaml", "rbac.yaml"):
        kubectl("apply", "-f", str(ROOT / "manifests" / manifest))
    kubectl("wait", "--for=condition=Established", "crd/network-attachment-definitions.k8s.cni.cncf.io")
    if not cluster.OWN:
        return
    kubeconfig = until(30, "the service account's token", lambda: run("env", f"KUBECTL={cluster.HERE}/k", ROOT / "manifests/kubeconfig"))
    for node in nodes:
        folder = disk(node, "/etc/cni/net.d/trestle.d")
        folder.mkdir(exist_ok=True)
        place(folder / "kubeconfig", kubeconfig)
    if TRESTLE:
        program(nodes, "trestle", TRESTLE)
    if MULTUS:
        put_multus(nodes, MULTUS)
    configure(nodes)


def program(nodes, name, path):
    """Onto the nodes, whole at once: it may be running there."""
    for node in nodes:
        part = disk(node, f"/opt/cni/bin/{name}.part")
        shutil.copy(path, part)
        part.rename(disk(node, f"/opt/cni/bin/{name}"))


def put_multus(nodes, path):
    cluster.apply(*MULTUS_RIGHTS)
    program(nodes, "multus", path)


def configure(nodes, multus=not IS_META, **more):
    """The node's own configuration, with these keys besides, or without them: None."""
    for node in nodes:
        wanted = "00-multus.conflist" if multus else "00-trestle.conflist"
        place(disk(node, f"/etc/cni/net.d/{wanted}"), json.dumps(configuration(node, multus, **more), indent=2))
        for old in disk(node, "/etc/cni/net.d").glob("00-*"):
            if old.name != wanted:
                old.unlink()
    time.sleep(1)  # containerd reads the directory when it sees the change, and tells nobody when it has


def check():
    if cluster.OWN and not (TRESTLE or MULTUS):
        raise Failed("TRESTLE_BIN or MULTUS must name the meta plugin under test")
    for program in (TRESTLE, MULTUS):
        if program and not os.access(program, os.X_OK):
            raise Failed(f"no program at {program}")
