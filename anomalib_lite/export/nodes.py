"""Graphs of ONNX, written node by node."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Nodes:
    """Nodes and constants of a graph, in the order of writing.

    Parameters
    ----------
    prefix : str
        Begins the names of all that is written.

    Examples
    --------
    >>> nodes = Nodes("n")
    >>> total = nodes.add("Add", "x", nodes.constant(1.0))
    >>> [node.op_type for node in nodes.nodes], total
    (['Add'], 'n2')
    """

    def __init__(self, prefix: str):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix, self._n_names, self._known = prefix, 0, {}

    def _new_name(self):
        self._n_names += 1
        return f"{self._prefix}{self._n_names}"

    def add(self, operation: str, *inputs: str, output: str | None = None, **attributes) -> str:
        """Write a node of one output, whose name is given back."""
        output = output or self._new_name()
        self.nodes.append(helper.make_node(operation, [*inputs], [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a constant; ints are int64 and floats float32, unless a dtype is given."""
        array = np.asarray(value, dtype)
        if dtype is None and array.dtype == np.float64:
            array = array.astype(np.float32)
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in self._known:
            self._known[key] = self._new_name()
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def cast(self, value: str, dtype: Any, output: str | None = None) -> str:
        """Write a value in another dtype of NumPy."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", value, output=output, to=kind)

    def sides(self, value: str) -> tuple[str, str]:
        """Names of the first two sides of a tensor, int64 without an axis."""
        shape = self.add("Shape", value)
        return tuple(self.add("Gather", shape, self.constant(axis), axis=0) for axis in (0, 1))

    def reshape(self, value: str, *shape: int | str) -> str:
        """Write a value in another shape, of ints and names of ints."""
        if all(isinstance(side, int) for side in shape):
            return self.add("Reshape", value, self.constant([*shape]))
        one = self.constant([1])
        sides = [
            self.constant([side]) if isinstance(side, int) else self.add("Reshape", side, one)
            for side in shape
        ]
        return self.add("Reshape", value, self.add("Concat", *sides, axis=0))
