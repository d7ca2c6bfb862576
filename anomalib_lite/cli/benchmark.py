"""``anomalib-lite benchmark``: methods on data sets, as a file says."""

from argparse import Namespace
from pathlib import Path

from ..benchmarks.configs import read_config
from ..benchmarks.row import COSTS
from ..benchmarks.running import benchmark
from ..benchmarks.tables import BenchmarkTable, Published
from ..texts import printable
from . import ALL_GOOD, NOT_DONE
from .console import Console


def run(args: Namespace, console: Console) -> int:
    """Measure what was not measured yet, and print tables."""
    arguments, published = read_config(args.config)
    arguments.setdefault("out", Path(args.config).with_suffix(""))
    console.say(f"rows are kept in {arguments['out']}")
    table = benchmark(**arguments, retry=args.retry, verbose=console.shows_progress)
    for row in table.failures:
        where = f"{row['dataset']}, {row['method']}, seed {row['seed']}"
        console.error(f"{printable(where)}: {printable(row['error'])}")
    if args.json:
        for row in table.rows:
            console.report(row, ())
    else:
        console.report({}, _lines(table, published, args.latex))
    return NOT_DONE if table.failures else ALL_GOOD


def _lines(table: BenchmarkTable, published: dict[str, Published], as_latex: bool):
    written = table.to_latex if as_latex else table.to_markdown
    for metric in [*table.metrics, *COSTS]:
        if any(row.get(metric) is not None for row in table.rows):
            shown = {"digits": COSTS.get(metric, 3), "published": published.get(metric)}
            yield from written(metric, **shown).splitlines()
            yield ""
