"""Tables of what a benchmark has measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..texts import plural, printable

if TYPE_CHECKING:
    import pandas as pd

_ABSENT = "-"
Published = Mapping[str, Mapping[str, float]]
_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


class Cell(NamedTuple):
    """What a method reached on a data set.

    Attributes
    ----------
    mean, spread : float
        Mean of the seeds and their standard deviation (ddof=1); NaN where there is none.
    n, n_failed : int
        How many seeds have figures, and how many rows have failed.
    """

    mean: float
    spread: float
    n: int
    n_failed: int


@dataclass(frozen=True, eq=False)
class BenchmarkTable:
    """Rows of a benchmark.

    Attributes
    ----------
    rows : list of dict
        Of each method, data set and seed: these, ``settings`` and ``data`` (what tells it from
        another one of its name), ``n_train``, ``n_test``, a number or None for each metric,
        ``fit_s``, ``score_ms`` (of an image), ``peak_mb``, ``measured`` (the time), and ``error``,
        None unless the row has failed; then the figures are missing.
    metrics : list of str

    Examples
    --------
    >>> rows = [
    ...     {"method": "A", "dataset": "x", "seed": 0, "image_auroc": 0.9, "error": None},
    ...     {"method": "A", "dataset": "x", "seed": 1, "image_auroc": 0.8, "error": None},
    ...     {"method": "A", "dataset": "y", "seed": 0, "error": "MemoryError"},
    ... ]
    >>> print(BenchmarkTable(rows, ["image_auroc"]).to_markdown())
    | image_auroc | x | y | mean |
    |---|---|---|---|
    | A | 0.850 ± 0.071 | failed | - |
    """

    rows: list[dict[str, Any]] = field(repr=False)
    metrics: list[str]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, as they came."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets, as they came."""
        return list(dict.fromkeys(row["dataset"] for row in self.rows))

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The rows that have failed."""
        return [row for row in self.rows if row["error"] is not None]

    def __str__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"{plural(len(self.rows), 'row')}{failed}"

    def to_frame(self) -> "pd.DataFrame":
        """All rows as a pandas ``DataFrame``, a line for each."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def pooled(self, groups: Mapping[str, Sequence[str]]) -> Self:
        """The same with some data sets as one: of each seed, their mean counts.

        Seeds without a figure of all of them have none.

        Parameters
        ----------
        groups : dict of str to sequence of str
            New names, and those of the data sets behind them; others stay.

        Returns
        -------
        table : BenchmarkTable

        Raises
        ------
        ValueError
            If a name is not among the data sets, or in two groups, or a new one is taken.
        """
        names = [name for group in groups.values() for name in group]
        if len({*names}) < len(names) or not {*names} <= {*self.datasets}:
            raise ValueError(
                f"groups: expected lists of names out of {self.datasets}, each once, got {names}."
            )
        taken = {*self.datasets} - {*names}
        if not taken.isdisjoint(groups):
            raise ValueError(f"groups: expected other names than {sorted(taken & {*groups})}.")
        group_of = {name: group for group, members in groups.items() for name in members}
        rows = [
            {**row, "dataset": group_of.get(row["dataset"], row["dataset"])} for row in self.rows
        ]
        return replace(self, rows=rows)

    def cell(self, method: str, dataset: str, metric: str) -> Cell:
        """What a method reached on a data set, over all seeds."""
        rows = [row for row in self.rows if (row["method"], row["dataset"]) == (method, dataset)]
        by_seed = {}
        for row in rows:
            by_seed.setdefault(row["seed"], []).append(row.get(metric))
        values = [np.mean(figures) for figures in by_seed.values() if None not in figures]
        return Cell(
            float(np.mean(values)) if values else float("nan"),
            float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
            len(values),
            sum(row["error"] is not None for row in rows),
        )

    def to_markdown(
        self,
        metric: str | None = None,
        *,
        digits: int = 3,
        published: Published | None = None,
    ) -> str:
        """A table of one metric: methods down, data sets across, and their mean.

        Parameters
        ----------
        metric : str or None, default=None
            One of the metrics, "fit_s", "score_ms" or "peak_mb"; None is the first metric.
        digits : int, default=3
            Digits after the point.
        published : dict of str to dict of str to float, or None, default=None
            Figures of others, by method and data set, put in parentheses.

        Returns
        -------
        table : str
            Mean and standard deviation of the seeds; "failed" where one has failed, "-" where there
            is no figure.

        Raises
        ------
        ValueError
            If no row has this metric.
        """
        plain = str.maketrans({"|": "\\|"})
        lines = self._lines(metric, digits, published, lambda text: text.translate(plain), "±")
        head, *body = [f"| {' | '.join(cells)} |" for cells in lines]
        return "\n".join([head, "|---" * len(lines[0]) + "|", *body])

    def to_latex(
        self,
        metric: str | None = None,
        *,
        digits: int = 3,
        published: Published | None = None,
    ) -> str:
        """The same as a ``tabular`` of LaTeX, which needs no package."""
        table = str.maketrans(_TEX)
        lines = self._lines(metric, digits, published, lambda text: text.translate(table), r"$\pm$")
        head, *body = [f"{' & '.join(cells)} \\\\" for cells in lines]
        columns = "l" + "r" * (len(lines[0]) - 1)
        begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
        return "\n".join([begin, r"\hline", head, r"\hline", *body, r"\hline", end])

    def _lines(
        self,
        metric: str | None,
        digits: int,
        published: Published | None,
        escape: Callable[[str], str],
        plus_minus: str,
    ) -> list[Sequence[str]]:
        metric, published = metric or self.metrics[0], published or {}
        if not any(metric in row for row in self.rows) and metric not in self.metrics:
            raise ValueError(f"metric: expected one of {self.metrics}, or of time, got {metric!r}.")
        names, has_mean = self.datasets, len(self.datasets) > 1
        lines = [[metric, *names, *["mean"] * has_mean]]
        lines[0] = [escape(printable(name)) for name in lines[0]]
        for method in self.methods:
            cells = [self.cell(method, name, metric) for name in names]
            words = [_in_words(cell, digits, plus_minus) for cell in cells]
            if has_mean:  # of other data sets than those of the line above it would mislead
                is_whole = all(cell.n and not cell.n_failed for cell in cells)
                mean = float(np.mean([cell.mean for cell in cells])) if is_whole else None
                words.append(_ABSENT if mean is None else f"{mean:.{digits}f}")
            theirs = published.get(method, {})
            for i, name in enumerate(names):
                if name in theirs:
                    words[i] += f" ({theirs[name]:.{digits}f})"
            lines.append([escape(printable(method)), *words])
        return lines


def _in_words(cell, digits, plus_minus):
    if cell.n_failed:
        return "failed"
    if not cell.n:
        return _ABSENT
    spread = f" {plus_minus} {cell.spread:.{digits}f}" if cell.n > 1 else ""
    return f"{cell.mean:.{digits}f}{spread}"
