"""Writes a recalibration behind the output of an ONNX model, in double precision."""

from typing import Any

import numpy as np

from windvane.recalibrate import SMALLEST, Recalibration


def add_recalibration(graph: Any, calibration: Recalibration) -> None:
    """Make the one output of a graph the recalibrated one.

    Args:
        graph: An ONNX graph with the output `probabilities`, shape (n, k), or values, shape (n, 1), in doubles.
        calibration: As it was fitted on that output.
    """
    nodes = _Nodes(graph)
    given, slope, offsets = graph.output[0].name, nodes.constant([calibration.slope]), nodes.constant(calibration.offsets)
    if calibration.task == "regression":
        found = nodes.add("Add", offsets, nodes.add("Mul", slope, given))
    elif calibration.task == "binary_classification":
        positive = nodes.add("Gather", given, nodes.constant([1]), axis=1)
        kept = nodes.add("Min", nodes.add("Max", positive, nodes.constant([SMALLEST])), nodes.constant([1 - SMALLEST]))
        one = nodes.constant([1.0])
        odds = nodes.add("Sub", nodes.add("Log", kept), nodes.add("Log", nodes.add("Sub", one, kept)))
        chances = nodes.add("Sigmoid", nodes.add("Add", offsets, nodes.add("Mul", slope, odds)))
        found = nodes.add("Concat", nodes.add("Sub", one, chances), chances, axis=1)
    else:
        logs = nodes.add("Log", nodes.add("Max", given, nodes.constant([SMALLEST])))
        found = nodes.add("Softmax", nodes.add("Add", offsets, nodes.add("Mul", slope, logs)), axis=1)
    graph.output[0].name = found


class _Nodes:
    """Adds nodes and constants under names of their own."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._number = graph, 0

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        from onnx import helper

        name = self._name()
        self._graph.node.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Any) -> str:
        """Add an array of doubles or integers."""
        from onnx import numpy_helper

        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _name(self) -> str:
        self._number += 1
        return f"windvane_recalibration_{self._number}"
