"""Writes nodes of an ONNX graph for scikit-learn's estimators, in double precision throughout."""

from typing import Any

import numpy as np


class NotConvertible(Exception):
    """The pipeline cannot be written in ONNX so that it behaves as in scikit-learn; the text says why."""


class Graph:
    """Adds nodes for one estimator.

    Attributes:
        inputs: The estimator's input, one name of shape (n, c) with doubles or texts.
    """

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self._scope = scope
        self._operator = operator
        self._container = container
        self.estimator = operator.raw_operator

    def add(self, kind: str, *inputs: str, version: int | None = None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        name: str = self._scope.get_unique_variable_name(f"windvane_{kind}")
        domain = "ai.onnx.ml" if kind in ("LabelEncoder", "TreeEnsembleRegressor") else ""
        self._container.add_node(kind, list(inputs), [name], op_domain=domain, op_version=version, **attributes)
        return name

    def constant(self, values: Any) -> str:
        """Add an array of doubles, integers or texts."""
        from onnx import TensorProto

        array = np.asarray(values)
        kinds = {"f": TensorProto.DOUBLE, "i": TensorProto.INT64, "b": TensorProto.BOOL}
        name: str = self._scope.get_unique_variable_name("windvane_constant")
        texts = array.dtype.kind not in kinds
        content = [str(value).encode() for value in array.ravel()] if texts else array.ravel()
        self._container.add_initializer(name, TensorProto.STRING if texts else kinds[array.dtype.kind], list(array.shape), content)
        return name

    def cast(self, name: str, kind: str) -> str:
        """Cast to DOUBLE, FLOAT, INT64 or BOOL."""
        from onnx import TensorProto

        return self.add("Cast", name, to=getattr(TensorProto, kind))

    def concat(self, names: list[str]) -> str:
        """Join along the columns."""
        return names[0] if len(names) == 1 else self.add("Concat", *names, axis=1)

    def columns(self, width: int) -> list[tuple[str, bool]]:
        """Each input column as (name of shape (n, 1), whether it holds texts).

        Raises:
            NotConvertible: If the inputs do not have `width` columns.
        """
        from skl2onnx.common.data_types import StringTensorType

        found: list[tuple[str, bool]] = []
        for variable in self._operator.inputs:
            text = isinstance(variable.type, StringTensorType)
            columns = variable.type.shape[1]
            name = variable.full_name if text else self.cast(variable.full_name, "DOUBLE")
            if columns == 1:
                found.append((name, text))
            else:
                found += [(self.add("Gather", name, self.constant([i]), axis=1), text) for i in range(columns or width)]
        if len(found) != width:
            raise NotConvertible(f"{type(self.estimator).__name__} was fitted on {width} columns and gets {len(found)}")
        return found

    def matrix(self) -> str:
        """The input as one array of doubles, shape (n, d)."""
        return self.concat([self.cast(variable.full_name, "DOUBLE") for variable in self._operator.inputs])

    def joined(self) -> str:
        """The input as one array of doubles, or of texts where all columns are texts."""
        from skl2onnx.common.data_types import StringTensorType

        texts = all(isinstance(variable.type, StringTensorType) for variable in self._operator.inputs)
        return self.concat([variable.full_name for variable in self._operator.inputs]) if texts else self.matrix()

    def finish(self, *names: str) -> None:
        """Name the outputs."""
        for name, variable in zip(names, self._operator.outputs, strict=True):
            self._container.add_node("Identity", [name], [variable.full_name])
