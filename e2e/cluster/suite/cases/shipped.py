"""The files that people apply: manifests/ and kubevirt/, and what the plugin's account may do."""
import json

from . import case
from .. import cluster
from ..cluster import Failed, HERE, ROOT, claim, kubectl, same

KUBEVIRT = ["virtualmachines.kubevirt.io", "virtualmachineinstances.kubevirt.io", "kubevirts.kubevirt.io"]


def yaml(folder):
    found = sorted((ROOT / folder).glob("*.yaml"))
    claim(f"{folder} has files", found)
    return found


@case()
def manifests(world):
    """manifests/ is valid to the letter, and applying it again changes nothing."""
    # (The agent has cases of its own, in which it has its image.)
    for path in yaml("manifests"):
        if path.name == "agent.yaml":
            kubectl("apply", "--validate=strict", "--dry-run=server", "-f", str(path))
            continue
        kubectl("apply", "--validate=strict", "-f", str(path))
        said = kubectl("apply", "--validate=strict", "-f", str(path)).splitlines()
        same(f"{path.name} applied again", [line for line in said if not line.endswith("unchanged")], [])


@case()
def rights(world):
    """The plugin's account may do what it needs, and nothing beyond."""
    who = "--as=system:serviceaccount:trestle-system:trestle-plugin"
    may = ["get pods", "patch pods --subresource=status", "create events", "get network-attachment-definitions.k8s.cni.cncf.io",
           "list resourceclaims.resource.k8s.io", "get resourceslices.resource.k8s.io"]
    may_not = ["list pods", "patch pods", "get secrets", "get configmaps", "patch nodes", "delete pods", "create pods",
               "update network-attachment-definitions.k8s.cni.cncf.io", "get nodes"]
    # (For the tests' Multus the account may update pods besides: it writes their whole status.)
    for what, wanted in [(w, "yes") for w in may] + [(w, "no") for w in may_not]:
        same(f"may the plugin {what}", ask(*what.split(), who, "-A"), wanted)


def ask(*args):
    try:
        return kubectl("auth", "can-i", *args).strip().splitlines()[-1]
    except Failed as failure:  # "no" is exit status 1
        if str(failure).rstrip().endswith("no"):
            return "no"
        raise


@case("own")
def kubevirt(world):
    """kubevirt/ fits KubeVirt's own schemas: the registration, its NAD, networks and machines."""
    kubectl("apply", "-f", str(HERE / "kubevirt/crds.yaml"))
    kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in KUBEVIRT))
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubevirt"}},
                  {"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
                   "spec": {}})
    for path in yaml("kubevirt"):
        if path.name == "binding.yaml":
            kubectl("-n", "kubevirt", "patch", "kubevirt", "kubevirt", "--type", "merge", "--patch-file", str(path))
            continue
        namespaced = path.read_text().replace("namespace: default", f"namespace: {world.namespace}")
        kubectl("apply", "--validate=strict", "-f", "-", stdin=namespaced)
    binding = cluster.get("kubevirt", "-n", "kubevirt", "kubevirt")["spec"]["configuration"]["network"]["binding"]["trestle"]
    namespace, name = binding["networkAttachmentDefinition"].split("/")
    json.loads(cluster.get("net-attach-def", "-n", namespace, name)["spec"]["config"])
    for machine in cluster.get("vm", "-n", world.namespace)["items"]:
        spec = machine["spec"]["template"]["spec"]
        for network in spec["networks"]:
            _, name = network["multus"]["networkName"].split("/")
            cluster.get("net-attach-def", "-n", world.namespace, name)
        claim(f"{machine['metadata']['name']} has interfaces", spec["domain"]["devices"]["interfaces"])
