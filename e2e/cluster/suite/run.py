"""Runs the cases: some at a time, then those that must be alone, and after each of these, and at the end, looks whether the nodes are
as they were. Prints a line for each."""
import argparse
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from . import cluster, meta, nodes
from .cases import CASES
from .cluster import Failed, HERE, kubectl, run, until
from .world import World, all_gone

AT_ONCE = int(os.environ.get("TRESTLE_TEST_JOBS", "4"))


def counts(line):
    """Whether this is a leftover. The primary network's bridge comes with the first pod, and stays. Multus forgets the ports that
    an annotation asked for: portmap, told of none at DEL, lets its rules stand."""
    return line != "link cni0" and (meta.IS_META or not line.startswith("-A CNI-DN"))


class Run:
    def __init__(self, found):
        self.nodes, self.failed, self.passed = found, [], 0
        self.before = {node.name: node.left() for node in found} if nodes.REACHED else {}
        self.print = threading.Lock()

    def one(self, case):
        begun, failure, world = time.monotonic(), None, None
        try:
            world = World(f"t-{case.name.replace('_', '-')}", self.nodes)
            case.act(world)
        except Failed as fault:
            failure = f"{fault}\n{diagnosis(world)}"
        except Exception as fault:  # a fault of the test itself
            failure = f"{type(fault).__name__}: {fault}"
        finally:
            if world:
                world.remove()
        if case.alone and not failure:
            failure = self.what_is_left()
        self.tell(case, failure, world, time.monotonic() - begun)

    def tell(self, case, failure, world, seconds):
        with self.print:
            self.passed += not failure
            print(f"  {'FAIL' if failure else 'ok  '} {case.name:32} {seconds:5.1f} s  {case.title}", flush=True)
            for note in world.notes if world else []:
                print(f"       {note}", flush=True)
            if failure:
                self.failed.append(case.name)
                print("       " + failure.strip().replace("\n", "\n       "), flush=True)

    def left_on(self, node):
        return sorted(line for line in node.left() - self.before[node.name] if counts(line))

    def what_is_left(self):
        """All that the pods of the run have left on the nodes, or None."""
        try:
            all_gone()
            for node in self.nodes if self.before else []:
                try:
                    until(60, "nothing is left", lambda: not self.left_on(node))
                except Failed:
                    return f"left on {node.name}: {', '.join(self.left_on(node))}"
        except Failed as failure:
            return str(failure)
        return None



def diagnosis(world):
    """What a person would look at first: the pods, and each warning once."""
    if not world:
        return ""
    try:
        said = {f"{e['involvedObject']['name']}: {e['reason']}: {re.sub('[0-9a-f]{64}', '...', e.get('message', ''))[:700]}"
                for e in world.items("events") if e["type"] == "Warning"}
        return "\n".join([kubectl("get", "pods", "-n", world.namespace, "-o", "wide").rstrip(), *sorted(said)[:8]])
    except Failed as failure:
        return str(failure)


def chosen(names):
    unknown = set(names) - {case.name for case in CASES}
    if unknown:
        raise Failed(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in CASES)}")
    return [case for case in CASES if not names or case.name in names]


def the_run(cases):
    all_gone()  # of an earlier run
    found = nodes.find()
    meta.install(found)
    print(f"{meta.NAME}, on {', '.join(node.name for node in found)}", flush=True)
    begun, doing = time.monotonic(), Run(found)
    able = [case for case in cases if not case.unmet]
    with ThreadPoolExecutor(AT_ONCE) as crew:
        list(crew.map(doing.one, [case for case in able if not case.alone]))
    for case in able:
        if case.alone:
            doing.one(case)
    if left := doing.what_is_left():
        doing.failed.append("nothing left")
        print(f"  FAIL nothing left\n       {left}")
    for case in cases:
        if case.unmet:
            print(f"  --   {case.name:32} not run, needs {case.unmet}")
    print(f"{doing.passed} passed, {len(doing.failed)} failed, {len(cases) - len(able)} not run, "
          f"{time.monotonic() - begun:.0f} s")
    return 0 if doing.passed and not doing.failed else 1


def alone(name, act):
    """For a program that is no list of cases, and is for the tests' own cluster alone: starts that if none runs, and ends it then.
    `act` returns what does not hold."""
    ours = False
    try:
        if not (cluster.OWN and meta.IS_META):
            raise Failed("TRESTLE_BIN must name the program, MULTUS none, and KUBECONFIG no other cluster")
        meta.check()
        ours = "it runs already" not in run(HERE / "up", timeout=3600)
        faults = act()
        for fault in faults:
            print(f"FAIL {fault}")
        return 1 if faults else 0
    except Failed as failure:
        print(f"e2e/cluster/{name}: {failure}")
        return 2
    finally:
        if ours:
            run(HERE / "down")


def main():
    reader = argparse.ArgumentParser(prog="e2e/cluster/test", description="The tests on a real cluster; e2e/cluster/README.md.")
    reader.add_argument("--list", action="store_true", help="print the cases")
    reader.add_argument("--keep", action="store_true", help="leave the cluster running")
    reader.add_argument("cases", nargs="*")
    asked = reader.parse_args()
    if asked.list:
        for case in CASES:
            print(f"{case.name:32} {case.title}")
        return 0
    ours = False
    try:
        cases = chosen(asked.cases)
        meta.check()
        ours = cluster.OWN and "it runs already" not in run(HERE / "up", timeout=3600)
        return the_run(cases)
    except Failed as failure:
        print(f"e2e/cluster/test: {failure}")
        return 2
    finally:
        if ours and not asked.keep:
            run(HERE / "down")
