"""Which variable of a TensorFlow checkpoint is which: its object graph, read as data.

TensorFlow 2 calls a variable by the way to it (`layer_with_weights-0/kernel`), and keeps what the variable calls itself
(`conv1_conv/kernel`) in a graph of objects beside it. The graph also tells what belongs to an optimizer or a metric,
and in which order the layers were made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from greffon.weights.read.wire import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from greffon.weights.read.wire import Span

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ATTRIBUTES = "/.ATTRIBUTES/"
_SLOT = ".OPTIMIZER_SLOT"
# Ways that lead to what is no part of the network. Those of Keras 2's `keras_api` lead to the layers a second time.
_ASIDE = frozenset(
    {"metrics", "_metrics", "compiled_metrics", "_compile_metrics", "loss_tracker", "_loss_tracker"}
    | {"keras_api", "save_counter"}
)
_COUNTERS = frozenset({"iter", "_iterations", "iterations"})
_RATES = frozenset({"learning_rate", "_learning_rate", "lr"})


@dataclass(frozen=True)
class Variable:
    """One variable.

    Attributes:
        key: what the index calls it.
        full_name: what it calls itself; empty where that is not kept.
    """

    key: str
    full_name: str


@dataclass
class _Node:
    children: list[tuple[int, str]] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    @property
    def optimizer(self) -> bool:
        """Whether it is an optimizer, whatever the way to it is called."""
        names = {name for _, name in self.children}
        return bool(self.slots or (names & _COUNTERS and names & _RATES))


def network_variables(graph: bytes) -> list[Variable]:
    """The variables of the network itself in the order of its layers, from a serialised `TrackableObjectGraph`.

    Raises:
        WeightFileError: the bytes are no such graph.
    """
    source = Source(graph)
    nodes = [_node(source, it.span) for it in source.fields(source.all) if it.number == 1]
    aside = {slot for node in nodes for slot in node.slots}
    found: list[Variable] = []
    waiting = [0]
    while waiting:
        number = waiting.pop()
        if number in aside or not 0 <= number < len(nodes):
            continue
        aside.add(number)
        node = nodes[number]
        if node.optimizer:
            continue
        found.extend(node.variables)
        waiting.extend(child for child, name in reversed(node.children) if name not in _ASIDE)
    return found


def names_of(variables: Iterable[tuple[Variable, object]]) -> dict[str, Variable]:
    """Name -> variable: `layer/weight` in Keras' words wherever the variables' own names allow it.

    Args:
        variables: each with what tells its content (the checksum): two of one name and one content, which Keras'
            `export` writes, are one.
    """
    by_name: dict[str, dict[object, Variable]] = {}
    for variable, content in variables:
        by_name.setdefault(_keras_name(variable), {}).setdefault(content, variable)
    names: dict[str, Variable] = {}
    for name, found in by_name.items():
        if len(found) == 1 and "/" in name:
            names.setdefault(name, *found.values())
        else:
            names.update(_told_apart(list(found.values())))
    return names


def key_name(key: str) -> str:
    """The way to a variable as `layer/weight`: `model/_operations/1/_kernel/.ATTRIBUTES/VARIABLE_VALUE`."""
    layer, slash, weight = key.partition(_ATTRIBUTES)[0].rpartition("/")
    return f"{layer}{slash}{weight.removeprefix('_')}"


def of_network(keys: Iterable[str]) -> list[str]:
    """The keys that are not an optimizer's or a counter's, where only keys can tell.

    TensorFlow 1 puts what belongs to a variable below it: `conv1/weights/Momentum`.
    """
    every = dict.fromkeys(keys)
    return [key for key in every if "/" in key and key.rpartition("/")[0] not in every and not _of_training(key)]


def _of_training(key: str) -> bool:
    return key.startswith(("optimizer/", "save_counter/")) or _SLOT in key


def _told_apart(variables: list[Variable]) -> Iterator[tuple[str, Variable]]:
    names = [variable.full_name.partition(":")[0] for variable in variables]
    distinct = len(set(names)) == len(names) and all("/" in name for name in names)
    for name, variable in zip(names, variables, strict=True):
        yield (name if distinct else key_name(variable.key)), variable


def _keras_name(variable: Variable) -> str:
    return "/".join(variable.full_name.partition(":")[0].split("/")[-2:])


def _node(source: Source, span: Span) -> _Node:
    node = _Node()
    for part in source.fields(span):
        if part.number == 1:
            values = {it.number: it for it in source.fields(part.span)}
            name = source.text(values[2].span) if 2 in values else ""
            node.children.append((values[1].integer if 1 in values else 0, name))
        elif part.number == 2:
            texts = {it.number: source.text(it.span) for it in source.fields(part.span) if it.number in (1, 2, 3)}
            if texts.get(1) == "VARIABLE_VALUE":
                node.variables.append(Variable(texts.get(3, ""), texts.get(2, "")))
        elif part.number == 3:
            node.slots.extend(it.integer for it in source.fields(part.span) if it.number == 3)
    return node
