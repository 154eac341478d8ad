"""Pods come and go on a node with the agent as it is shipped, while the agent's process gets kill -9 at random moments. No pod may be
without its networks, no lease lost, no status untold. For the tests' own cluster only."""
import argparse
import json
import random
import threading
import time

from . import agent, meta, nodes
from .cluster import Failed, claim, same, until
from .lan import LEASE_SECONDS, NET, Dhcp
from .run import Run, alone, diagnosis
from .world import World, all_gone, bridge, host_local

# Pods that stay from the first kill to the last, and those that come and go at a time.
STAYERS, WORKERS = 6, 5
# From the moment the process is there until it is killed: also while it starts.
LONGEST_LIFE = 5.0


class Killer(threading.Thread):
    """Of the one process: what it has started goes along, as the process is the first of its pid namespace."""

    def __init__(self, node, kills, seed):
        super().__init__()
        self.node, self.kills, self.random, self.done, self.faults = node, kills, random.Random(seed), 0, []

    def run(self):
        try:
            last = None
            while self.done < self.kills:
                last = until(60, f"the agent is back after kill {self.done}", lambda: self.other_than(last))
                time.sleep(self.random.uniform(0, LONGEST_LIFE))
                self.node.run("kill", "-9", last)
                self.done += 1
                if self.done % 20 == 0:
                    print(f"  {self.done} kills", flush=True)
            until(60, "the agent is back after the last kill", lambda: self.other_than(last))
        except Failed as failure:
            self.faults.append(str(failure))

    def other_than(self, last):
        found = agent.pid(self.node)
        return found if found != last else None


class Churn:
    def __init__(self, world, node, server, seed):
        self.world, self.node, self.server, self.random = world, node, server, random.Random(seed)
        self.numbers, self.lock, self.over = iter(range(10 ** 6)), threading.Lock(), threading.Event()
        self.faults, self.lived, self.hasty = [], 0, 0
        world.nad("leased", bridge("br-lan", ipam={"type": "dhcp"}))
        world.nad("listed", bridge("br-lan", ipam=host_local("10.83.0", node)))

    def pod(self, kind):
        with self.lock:
            return self.world.pod(f"{kind}-{next(self.numbers)}", self.node, "leased, listed")

    def come_and_go(self):
        """One pod after the other, until it is over; a fifth of them goes before it is there."""
        while not self.over.is_set():
            with self.lock:
                hasty, pause = self.random.random() < 0.2, self.random.uniform(0, 5)
            try:
                self.life(hasty, pause)
            except Failed as failure:
                self.faults.append(str(failure))
                return

    def life(self, hasty, pause):
        pod = self.pod("hasty" if hasty else "pod")
        if hasty:
            time.sleep(pause / 3)
            self.hasty += 1
        else:
            self.world.ready(pod)
            addresses = self.look(pod)
            time.sleep(pause)
            self.is_told(pod, addresses)
            self.lived += 1
        self.world.delete(pod)

    def look(self, pod):
        """All links, and the addresses of both networks: one from the server, one from the list."""
        said = pod.sh("ls /sys/class/net; ip -4 -o addr show")
        same(f"links of {pod.name}", sorted(set(said.split()) & {"eth0", "lo", "net1", "net2"}), ["eth0", "lo", "net1", "net2"])
        found = {line.split()[1]: line.split()[3].split("/")[0] for line in said.splitlines() if " inet " in line}
        for link, net in (("net1", NET), ("net2", "10.83.0")):
            claim(f"{link} of {pod.name} has an address of {net}.0/24: {found}", found.get(link, "").startswith(f"{net}."))
        return [found["eth0"], found["net1"], found["net2"]]

    def is_told(self, pod, addresses):
        until(90, f"the status of {pod.name} with {addresses}", lambda: [e["ips"] for e in pod.status()] == [[a] for a in addresses])

    def run(self, killer):
        """Addresses of those that stay."""
        stayers = [self.pod("stayer") for _ in range(STAYERS)]
        self.world.ready(*stayers)
        self.stay = {pod: self.look(pod) for pod in stayers}
        workers = [threading.Thread(target=self.come_and_go) for _ in range(WORKERS)]
        for thread in [killer, *workers]:
            thread.start()
        killer.join()
        self.over.set()
        for thread in workers:
            thread.join()

    def records(self):
        """The pods' names in the agent's files of leases."""
        text = self.node.sh("for f in /var/lib/trestle/leases/*.json; do [ ! -e $f ] || { cat $f; echo; }; done")
        return {json.loads(line)["pod"].split("/")[1] for line in text.splitlines() if line}

    def untold(self):
        return self.node.sh("ls /var/lib/trestle/untold 2>/dev/null || true").split()

    def settled(self, pods):
        """The node and the server know these pods and no others."""
        addresses = {self.stay[pod][1] for pod in pods}
        until(60, "nothing is untold", lambda: not self.untold())
        until(60, "leases on the node are those of living pods", lambda: self.records() == {pod.name for pod in pods})
        until(60, f"leases of the server: {addresses}", lambda: self.server.leased() == addresses)

    def the_end(self):
        self.settled(self.stay)
        for pod, addresses in self.stay.items():
            same(f"addresses of {pod.name} since the first kill", self.look(pod), addresses)
            self.is_told(pod, addresses)
        renewed, longest = self.renewals()
        claim(f"{longest} s without a renewal: longer than a lease", longest < LEASE_SECONDS)
        self.world.delete(*self.stay)
        self.settled([])
        return renewed, longest

    def renewals(self):
        """How often those that stay were given theirs again, and the longest time between two."""
        said = self.server.said("DHCPACK")
        times = [said[addresses[1]] for addresses in self.stay.values()]
        gaps = [later - earlier for one in times for earlier, later in zip(one, one[1:])]
        return len(gaps), max(gaps, default=0)


def churn(kills, seed):
    all_gone()
    found = nodes.find()
    meta.install(found)
    agent.install(found)
    try:
        # As docs/install.md has it with the agent.
        meta.configure(found, kubeconfig=None)
        return with_the_agent(found, kills, seed)
    finally:
        meta.configure(found)
        agent.remove()


def with_the_agent(found, kills, seed):
    node, doing = found[0], Run(found)
    before, begun = restarts(node), time.monotonic()
    with Dhcp() as server:
        world = World("t-churn-killed", found)
        pods, killer = Churn(world, node, server, seed), Killer(node, kills, seed)
        try:
            pods.run(killer)
            seconds = time.monotonic() - begun
            faults = pods.faults + killer.faults
            renewed, longest = (0, 0) if faults else pods.the_end()
            failed = [e["message"] for e in world.items("events") if e["reason"] == "FailedCreatePodSandBox"]
        except Failed as failure:
            raise Failed(f"{failure}\n{diagnosis(world)}") from None
        finally:
            world.remove()
        if left := doing.what_is_left():
            faults.append(left)
    claim(f"kubelet has begun the agent again {restarts(node) - before} times", restarts(node) - before >= killer.done)
    print(f"{killer.done} kills in {seconds:.0f} s: {pods.lived} pods came, were told and went, {pods.hasty} were deleted at once, "
          f"{STAYERS} stayed; {renewed} renewals of theirs, at most {longest:.0f} s apart; {len(failed)} sandboxes failed at first")
    for message in failed[:3]:
        print(f"     {message[-300:]}")
    return faults


def restarts(node):
    return sum(s["restartCount"] for p in agent.pods() if p["spec"].get("nodeName") == node.name
               for s in p["status"].get("containerStatuses", []))


def main():
    reader = argparse.ArgumentParser(prog="e2e/cluster/churn", description="Pods come and go while their node's agent is killed.")
    reader.add_argument("--kills", type=int, default=20, help="of the agent's process: 20")
    reader.add_argument("--seed", type=int, default=random.randrange(10 ** 6), help="of the random moments")
    asked = reader.parse_args()
    print(f"seed {asked.seed}", flush=True)
    return alone("churn", lambda: churn(asked.kills, asked.seed))
