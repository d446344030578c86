"""Writes ensembles of scikit-learn's decision trees as one ONNX operator, without losing a bit of a threshold.

The operator knows one comparison that is fast, `<=`, and its rules for missing values differ between runtimes. So no NaN ever
reaches it: each column stands there twice, with minus infinity and with plus infinity for NaN, and a node reads the one that
sends missing values where scikit-learn sends them. Splits on categories become chains of `==` on the category's number, at
most 64 to a column, which onnxruntime joins into one look at a bit mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windvane.onnx_graph import Graph, NotConvertible

_BITS = 64
_MAX_NODES = 1_000_000
_Column = tuple[str, int, int]


@dataclass(frozen=True)
class Tree:
    """One decision tree of m nodes; node 0 is the root.

    Attributes:
        feature: Column that a node looks at, (m,).
        threshold: Values up to it go left, (m,).
        left: Node on the left, (m,).
        right: Node on the right, (m,).
        leaf: Whether the node is a leaf, (m,).
        missing_left: Whether NaN goes left, (m,).
        values: What a leaf adds to the target number (in order) `target + j`, (m, j).
        target: The first target.
        categories: Node to the categories that go left, as booleans (number of categories,).
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf: np.ndarray
    missing_left: np.ndarray
    values: np.ndarray
    target: int
    categories: dict[int, np.ndarray]


class _Nodes:
    """Collects the nodes of all trees and the columns that they look at."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, str, float, int, int]] = []
        self.weights: list[tuple[int, int, int, float]] = []
        self.columns: dict[_Column, int] = {}

    def add(self, number: int, tree: Tree) -> None:
        self._next = len(tree.leaf)
        for node in range(len(tree.leaf)):
            if tree.leaf[node]:
                self.rows.append((number, node, 0, "LEAF", 0.0, 0, 0))
                self.weights += [(number, node, tree.target + j, float(value)) for j, value in enumerate(tree.values[node])]
            elif node in tree.categories:
                self._add_categories(number, node, tree)
            else:
                self._add_threshold(number, node, tree)

    def _column(self, kind: str, feature: int, group: int = 0) -> int:
        return self.columns.setdefault((kind, feature, group), len(self.columns))

    def _add_threshold(self, number: int, node: int, tree: Tree) -> None:
        feature, threshold, missing_left = int(tree.feature[node]), float(tree.threshold[node]), bool(tree.missing_left[node])
        if np.isposinf(threshold) and not missing_left:
            column, threshold = self._column("missing", feature), 0.5
        else:
            column = self._column("nan_left" if missing_left else "nan_right", feature)
        self.rows.append((number, node, column, "BRANCH_LEQ", threshold, int(tree.left[node]), int(tree.right[node])))

    def _add_categories(self, number: int, node: int, tree: Tree) -> None:
        """A chain of comparisons with the smaller side; the number behind the last category stands for missing and unknown."""
        feature, left, right = int(tree.feature[node]), int(tree.left[node]), int(tree.right[node])
        goes_left = np.append(tree.categories[node], bool(tree.missing_left[node]))
        if 2 * goes_left.sum() > len(goes_left):
            goes_left, left, right = ~goes_left, right, left
        chosen = np.flatnonzero(goes_left).tolist()
        if not chosen:
            self.rows.append((number, node, self._column("code", feature), "BRANCH_EQ", -1.0, left, right))
        for place, code in enumerate(chosen):
            column, last = self._column("code", feature, code // _BITS), place == len(chosen) - 1
            self.rows.append((number, node, column, "BRANCH_EQ", float(code % _BITS + 1), left, right if last else self._next))
            if not last:
                node, self._next = self._next, self._next + 1


def add_trees(graph: Graph, matrix: str, trees: Sequence[Tree], *, targets: int, base: np.ndarray, codes: dict[int, str]) -> str:
    """Add the sum of all trees and return its name, shape (n, targets), doubles that were rounded to 32 bits.

    Args:
        matrix: Name of the features, shape (n, d).
        targets: How many sums.
        base: What each sum begins with, (targets,).
        codes: Feature to the name of its categories' numbers, shape (n, 1).

    Raises:
        NotConvertible: If there are too many nodes.
    """
    from onnx import numpy_helper

    size = sum(len(tree.leaf) for tree in trees)
    if size > _MAX_NODES:
        raise NotConvertible(f"its trees have {size} nodes, at most {_MAX_NODES} are converted; limit their depth or leaves")
    nodes = _Nodes()
    for number, tree in enumerate(trees):
        nodes.add(number, tree)
    order = sorted(nodes.columns, key=lambda column: (column[0], column[2], column[1])) or [("nan_left", 0, 0)]
    place = {nodes.columns.get(column, 0): i for i, column in enumerate(order)}
    names: tuple[str, ...] = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    attributes: dict[str, Any] = {f"nodes_{name}": list(values) for name, values in zip(names, zip(*nodes.rows, strict=True), strict=True)}
    attributes["nodes_featureids"] = [place[column] for column in attributes["nodes_featureids"]]
    names = ("treeids", "nodeids", "ids", "weights")
    attributes |= {f"target_{name}": list(values) for name, values in zip(names, zip(*nodes.weights, strict=True), strict=True)}
    tensors = {"nodes_values": attributes.pop("nodes_values"), "target_weights": attributes.pop("target_weights"), "base_values": base}
    attributes |= {f"{name}_as_tensor": numpy_helper.from_array(np.asarray(v, dtype=float), name) for name, v in tensors.items()}
    kinds = {kind: [column for column in order if column[0] == kind] for kind, _, _ in order}
    read = graph.concat([_READ[kind](graph, matrix, columns, codes) for kind, columns in kinds.items()])
    return graph.cast(graph.add("TreeEnsembleRegressor", read, version=3, n_targets=targets, **attributes), "DOUBLE")


def _read_codes(graph: Graph, matrix: str, columns: list[_Column], codes: dict[int, str]) -> str:
    joined = graph.concat([codes[feature] for _, feature, _ in columns])
    return graph.add("Add", joined, graph.constant([1.0 - group * _BITS for _, _, group in columns]))


def _read_missing(graph: Graph, matrix: str, columns: list[_Column], codes: dict[int, str]) -> str:
    return graph.cast(graph.add("IsNaN", _gather(graph, matrix, columns)), "DOUBLE")


def _read_values(graph: Graph, matrix: str, columns: list[_Column], codes: dict[int, str]) -> str:
    values = _gather(graph, matrix, columns)
    return graph.add("Where", graph.add("IsNaN", values), graph.constant([-np.inf if columns[0][0] == "nan_left" else np.inf]), values)


def _gather(graph: Graph, matrix: str, columns: list[_Column]) -> str:
    return graph.add("Gather", matrix, graph.constant([feature for _, feature, _ in columns]), axis=1)


_READ: dict[str, Callable[[Graph, str, list[_Column], dict[int, str]], str]] = {
    "code": _read_codes,
    "missing": _read_missing,
    "nan_left": _read_values,
    "nan_right": _read_values,
}
