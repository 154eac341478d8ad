"""The cases. Each is a function of a World, whose docstring is its title. A module registers them; `run` reads the list."""
from dataclasses import dataclass
from typing import Callable

from .. import cluster, meta, nodes


@dataclass
class Case:
    name: str
    act: Callable
    alone: bool
    unmet: str | None

    @property
    def title(self):
        return (self.act.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")


CASES: list[Case] = []

# What a case may need besides two nodes, and whether this run has it.
NEEDS = {
    "nodes": (nodes.REACHED, "a look at the nodes: TRESTLE_NODE_SHELL"),
    "own": (cluster.OWN, "nodes that a test may stop: the tests' own cluster"),
    "trestle": (meta.HAS_TRESTLE, "networks of type trestle: TRESTLE_BIN"),
    "meta": (meta.IS_META, "Trestle as the meta plugin: TRESTLE_BIN without MULTUS"),
    "bridges": (cluster.OWN, "the LANs of the tests' own cluster"),
}


def case(*needs, alone=False):
    """Marks a function as a case. `alone`: it stops or configures nodes, so that nothing else may run beside it."""
    def mark(act):
        unmet = [why for have, why in (NEEDS[need] for need in needs) if not have]
        CASES.append(Case(act.__name__, act, alone, unmet[0] if unmet else None))
        return act
    return mark


from . import agents, api, bridges, foreign, asked, refused, machines, shipped, trouble  # noqa: E402,F401  (they need `case`)
