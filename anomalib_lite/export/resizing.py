"""Bilinear, antialiased resizing as products with matrices of weights.

The operator ``Resize`` of ONNX has a flag for it, but what runtimes then compute differs by several
of 255 gray levels from what PyTorch and Pillow do. Here the weight of each old row in each new one
is an integer: twice the longer of both lengths, less the distance of the rows' centers in units of
half a row of the other's length. Weights are therefore exact, in any runtime.
"""

from itertools import pairwise

from .nodes import Nodes

_BLOCKS = 8  # of new rows, each a product with the few old rows that it touches


def weights(
    nodes: Nodes,
    n_old: str,
    n_new: str,
    old: tuple[str, str] | None = None,
    new: tuple[str, str] | None = None,
) -> str:
    """Weights (new, old), float32, of old rows in new ones.

    Parameters
    ----------
    nodes : Nodes
    n_old, n_new : str
        How many rows there are, int64 without an axis.
    old, new : tuple (start, stop) or None, default=None
        Some of the rows; their weights in a new row must be all that are not 0. None: all.
    """
    zero, one, two = (nodes.constant(value) for value in (0, 1, 2))

    def centers(rows, of_them, of_others, shape):
        start, stop = (zero, of_them) if rows is None else rows
        doubled = nodes.add("Mul", nodes.add("Range", start, stop, one), two)
        odd = nodes.add("Add", doubled, one)
        return nodes.reshape(nodes.add("Mul", odd, of_others), *shape)

    distances = nodes.add(
        "Abs",
        nodes.add("Sub", centers(new, n_new, n_old, (-1, 1)), centers(old, n_old, n_new, (1, -1))),
    )
    reach = nodes.add("Mul", nodes.add("Max", n_old, n_new), two)
    triangle = nodes.add("Max", nodes.add("Sub", reach, distances), zero)
    triangle = nodes.cast(triangle, "float32")
    total = nodes.add("ReduceSum", triangle, nodes.constant([1]), keepdims=1)
    return nodes.add("Div", triangle, total)


def resized_rows(nodes: Nodes, rows: str, n_old: str, n_new: int) -> str:
    """Rows (n_new, width), float32, of rows (n_old, width) of any dtype."""
    n_blocks = min(_BLOCKS, n_new)
    ends = [n_new * i // n_blocks for i in range(n_blocks + 1)]
    blocks = []
    for first, stop in pairwise(ends):
        old = _touched(nodes, n_old, n_new, first, stop)
        new = nodes.constant(first), nodes.constant(stop)
        bounds = [nodes.reshape(bound, 1) for bound in old]
        some = nodes.cast(nodes.add("Slice", rows, *bounds, nodes.constant([0])), "float32")
        share = weights(nodes, n_old, nodes.constant(n_new), old, new)
        blocks.append(nodes.add("MatMul", share, some))
    return nodes.add("Concat", *blocks, axis=0)


def _touched(nodes, n_old, n_new, first, stop):
    """(start, stop) of the old rows that have weights in some new ones, or a few more."""
    constant = nodes.constant
    reach = nodes.add("Mul", nodes.add("Max", n_old, constant(n_new)), constant(2))

    def old_row(new, sign):
        """About where a new row's triangle ends: never inside of it."""
        center = nodes.add("Mul", n_old, constant(2 * new + 1))
        end = nodes.add(sign, center, reach)
        positive = nodes.add("Max", nodes.add("Sub", end, constant(n_new)), constant(0))
        return nodes.add("Div", positive, constant(2 * n_new))

    start = old_row(first, "Sub")
    end = nodes.add("Add", old_row(stop - 1, "Add"), constant(2))
    return start, nodes.add("Min", end, n_old)


def resized_image(nodes: Nodes, pixels: str, size: tuple[int, int]) -> str:
    """Planes (C, h, w), float32, of pixels (H, W, C) of any dtype, in their unit."""
    height, width = nodes.sides(pixels)
    new_height, new_width = size
    rows = resized_rows(nodes, nodes.add("Flatten", pixels, axis=1), height, new_height)
    columns = nodes.reshape(rows, new_height, width, -1)
    columns = nodes.add("Transpose", columns, perm=[1, 2, 0])  # (W, C, h)
    columns = nodes.add("Flatten", columns, axis=1)
    columns = nodes.reshape(
        resized_rows(nodes, columns, width, new_width), new_width, -1, new_height
    )
    return nodes.add("Transpose", columns, perm=[1, 2, 0])
