"""What the commands take."""

import argparse
import math
import sys
from collections.abc import Sequence

import anomalib_lite

from .settings import LABELED, METHODS, SUGGESTED, parse_value, settings_of

_IMAGES = (
    "folders, image files, patterns ('new/*.png') and lists of paths (a .txt or .lst file, or - "
    "for standard input)"
)
_CHUNK = 64
_FOR_ANY = ("n_jobs", "device", "random_state")  # settings of whatever is suggested
_EPILOG = """\
exit codes:
  0  done, and no image is called anomalous
  1  some images are called anomalous; compare: some verdicts differ
  2  something could not be read or done; the rest is still scored and listed

Each command explains itself: anomalib-lite fit --help
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command, as ``command``, and what it was given."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="anomalib-lite",
        description="Find defective parts in photographs, given photographs of good ones.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {anomalib_lite.__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for add in (
        *(_fit, _inspect, _evaluate, _threshold, _compare, _benchmark, _export, _info, _doctor),
    ):
        name, (summary, *details) = add.__name__.strip("_"), add.__doc__.strip().split("\n\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description="\n\n".join([summary, *details]),
            allow_abbrev=False,
        )
        command.add_argument(
            "--json", action="store_true", help="results as JSON, one object per line"
        )
        command.add_argument("--quiet", "-q", action="store_true", help="results and errors only")
        add(command)
    if argv[:1] == ["fit"]:
        _add_settings(commands.choices["fit"], argv)
    args = parser.parse_args(argv)
    _check(commands.choices[args.command], args)
    return args


def _check(parser, args):
    """Refuse what does not go together."""
    if args.command == "fit":
        _check_suggested(parser, args)
        _check_labeled(parser, args)
    if args.command in ("fit", "inspect"):
        _check_workers(parser, args)
    if args.command == "inspect" and args.watch and not (args.csv or args.jsonl):
        parser.error("--watch needs --csv or --jsonl, which remember what has been inspected")
    if args.command == "inspect" and args.watch and "-" in args.images:
        parser.error("--watch cannot read a list from standard input")
    if args.command == "threshold":
        is_given = [args.false_alarm_rate, args.score, args.recall] != [None] * 3
        if not args.good and not is_given:
            parser.error("expected GOOD images, a --false-alarm-rate, a --recall or a --score")
        if args.recall is None and (args.bad, args.confidence) != (None, None):
            parser.error("--bad and --confidence need --recall")
        if args.good and args.recall is not None:
            parser.error("--recall is set by defects alone: leave out GOOD")
        if args.good and args.score is not None:
            parser.error("--score needs no images")


def _check_suggested(parser, args):
    if args.method != SUGGESTED:
        if args.budget is not None:
            parser.error(f"--budget needs --method {SUGGESTED}")
    elif args.workers is not None or args.cluster is not None:
        parser.error(f"--method {SUGGESTED} fits here alone: leave out --workers and --cluster")


def _check_labeled(parser, args):
    if args.bad is None:
        if args.masks is not None:
            parser.error("--masks needs --bad, the images that they are of")
        return
    if args.method not in ("patchcore", LABELED):
        parser.error("--bad needs --method patchcore")
    if args.conformal:
        parser.error("--conformal calibrates on good parts alone: leave out --bad")
    if args.workers is not None or args.cluster is not None:
        parser.error("--bad is learned here alone: leave out --workers and --cluster")
    args.method = LABELED


def _check_workers(parser, args):
    if args.cluster is None and args.workers is None:
        if args.chunk is not None:
            parser.error("--chunk needs --workers or --cluster")
        return
    args.chunk = _CHUNK if args.chunk is None else args.chunk
    if args.command == "inspect" and args.watch:
        parser.error("--watch runs here alone: leave out --workers and --cluster")
    if args.command == "fit" and args.conformal:
        parser.error(
            "--conformal holds images out, which is done here alone. Fit without it on some of "
            f"the images, then calibrate on others: anomalib-lite threshold {args.output} OTHERS "
            "--alpha 0.05"
        )


def _fit(parser):
    """Learn what good parts look like, and write a detector."""
    parser.add_argument("good", nargs="+", metavar="GOOD", help=_IMAGES)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the detector")
    parser.add_argument("--force", action="store_true", help="overwrite FILE, if it is a detector")
    parser.add_argument(
        "--bad",
        nargs="+",
        metavar="BAD",
        help="images of known defects, to learn which anomalies are defects (PatchCore only)",
    )
    parser.add_argument(
        "--masks",
        metavar="FOLDER",
        help="masks of where the defects are, of some or all of BAD: named like these, or with "
        "_mask at the end",
    )
    parser.add_argument(
        "--method",
        default="patchcore",
        type=str.lower,
        choices=[*METHODS, SUGGESTED],
        metavar="NAME",
        help=f"one of {', '.join(METHODS)} (default: %(default)s); the settings below are its own. "
        f"{SUGGESTED}: several views at once, for defects of any kind",
    )
    parser.add_argument(
        "--budget",
        type=_seconds,
        metavar="SECONDS",
        help=f"time that a fit with --method {SUGGESTED} may take, without trials that tell it "
        "(default: no limit)",
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        metavar="RATE",
        help="share of good parts that may be called anomalous (default: 0.01; with --conformal "
        "0.05)",
    )
    parser.add_argument(
        "--conformal",
        action="store_true",
        help="hold out half of the images, for p-values and a guaranteed rate of false alarms",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read, instead of stopping at the first",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=_assignment,
        help="a setting by its name, in place of its flag (coreset=0.01)",
    )
    _add_workers(parser, "what is learned depends on it, but not on the workers")


def _add_settings(parser, argv):
    """Flags for all settings of the method that is asked for."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--method", default="patchcore", type=str.lower)
    chooser.add_argument("--bad", nargs="*")
    chosen = chooser.parse_known_args(argv)[0]
    method = LABELED if chosen.bad and chosen.method == "patchcore" else chosen.method
    if method == SUGGESTED:
        settings = [each for each in settings_of("PatchCore") if each.name in _FOR_ANY]
    elif method in METHODS:
        settings = settings_of(METHODS[method])
    else:
        return  # the parser will say so
    group = parser.add_argument_group(f"settings of {METHODS.get(method, method)}")
    for setting in settings:
        default = "0" if setting.name == "random_state" else setting.default
        text = f"{setting.help} (default: {default})".replace("%", "%%")
        group.add_argument(
            setting.flag,
            dest="set",
            action="append",
            metavar="VALUE",
            type=_named(setting.name),
            help=text,
        )


def _named(name):
    def value(text):
        return name, parse_value(text)

    return value


def _assignment(text):
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name.replace("-", "_"), parse_value(value)


def _inspect(parser):
    """Score new images: a line for each, tables, pictures, a page."""
    _add_detector(parser)
    parser.add_argument("images", nargs="+", metavar="NEW", help=_IMAGES)
    parser.add_argument("--csv", metavar="FILE", help="write a table")
    parser.add_argument("--jsonl", metavar="FILE", help="write a table, one line of JSON per image")
    parser.add_argument("--report", metavar="FILE", help="write a page (.html) to look at and send")
    parser.add_argument(
        "--overlays", metavar="FOLDER", help="write pictures of the anomalous images with heatmaps"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="keep running, and inspect images as they arrive in the folders, until interrupted; "
        "what is in the table already is not inspected again",
    )
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="time between two looks at the folders with --watch (default: %(default)s)",
    )
    _add_workers(parser, "results do not depend on it")


def _evaluate(parser):
    """Measure a detector on images known to be good or defective.

    TEST is a folder in MVTec AD's layout (test/good, test/<defect>, ground_truth), or one with a
    folder of good images (good, ok, normal) beside folders of defective ones.
    """
    _add_detector(parser)
    parser.add_argument("test", metavar="TEST", help="a folder")
    parser.add_argument("--masks", metavar="FOLDER", help="masks of the defective pixels")
    parser.add_argument("--report", metavar="FILE", help="write a page (.html) to look at and send")
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        help="of the intervals that are printed (default: %(default)s)",
    )


def _threshold(parser):
    """Set a detector's threshold: from good parts, for a share of all defects, or by hand.

    GOOD are fresh images of good parts, such as after a change of lamp or camera. Without them, the
    threshold is set anew from the scores it was last set from: those of fit, or of the GOOD that
    were given since. With --recall it is set by defects instead: BAD, or those of fit.
    """
    _add_detector(parser)
    parser.add_argument("good", nargs="*", metavar="GOOD", help=_IMAGES)
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--false-alarm-rate",
        type=float,
        metavar="RATE",
        help="share of good parts that may be called anomalous (default: the detector's)",
    )
    rate.add_argument(
        "--alpha",
        type=float,
        metavar="RATE",
        help="the same with a guarantee, and p-values; needs GOOD that the detector has not seen",
    )
    rate.add_argument(
        "--score",
        type=float,
        metavar="SCORE",
        help="call an image anomalous if its score is higher than this",
    )
    rate.add_argument(
        "--recall",
        type=float,
        metavar="SHARE",
        help="find this share of all defects at least (0.9 takes 29 known ones, 0.99 takes 299)",
    )
    parser.add_argument(
        "--bad",
        nargs="+",
        metavar="BAD",
        help="images of defects that the detector has not learned from, for --recall (default: "
        "those that it was given by fit --bad, out of sample)",
    )
    parser.add_argument("--confidence", type=float, help="that --recall is reached (default: 0.95)")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to write (default: the detector's own file)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file of --output")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read, instead of stopping at the first",
    )


def _compare(parser):
    """Compare two detectors on the same images: which verdicts change?"""
    parser.add_argument("a", metavar="A", help="a detector")
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument("images", nargs="+", metavar="NEW", help=_IMAGES)
    parser.add_argument("--csv", metavar="FILE", help="write a table")
    parser.add_argument("--report", metavar="FILE", help="write a page (.html) to look at and send")


def _benchmark(parser):
    """Measure methods on data sets, as a file says: a row at a time, and not again.

    The file, in TOML, names methods with their settings and data sets with their loaders; the page
    docs/benchmark.md shows one. Rows are kept in the folder that it calls "out", or one that is
    named like it. What fails is told at the end, and measured again with --retry.
    """
    parser.add_argument("config", metavar="FILE", help="the file (.toml)")
    parser.add_argument("--retry", action="store_true", help="measure what has failed again")
    parser.add_argument("--latex", action="store_true", help="tables for LaTeX, not markdown")


def _export(parser):
    """Write a whole detector to one ONNX file, for machines without PyTorch.

    The file takes decoded pixels and gives scores, verdicts and maps; inspect reads it without
    PyTorch or scikit-learn, and so does any runtime of ONNX. Before it is
    written, images go through both detectors; where they differ, nothing is written.
    """
    _add_detector(parser)
    parser.add_argument("output", metavar="FILE", help="the ONNX file")
    parser.add_argument("--force", action="store_true", help="overwrite FILE, if it is ONNX")
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="NEW",
        help=f"compare both on these: {_IMAGES} (default: a few that are made up)",
    )
    parser.add_argument(
        "--input",
        default="auto",
        choices=("auto", "uint8", "uint16", "float32"),
        help="type of the pixels that FILE takes (default: uint8, unless fit saw more)",
    )


def _info(parser):
    """Show what a detector is: method, settings, images, date, versions, threshold."""
    _add_detector(parser)


def _doctor(parser):
    """Check this installation: versions, device, weights, extras, and a short speed test.

    With an exported detector (.onnx): is there what it needs, is its file whole, how fast is it?
    """
    parser.add_argument(
        "detector", nargs="?", metavar="EXPORTED", help="an exported detector, to be tried"
    )
    parser.add_argument(
        "--no-speed", action="store_true", help="skip the speed test, which takes some seconds"
    )


def _add_workers(parser, on_chunks):
    group = parser.add_argument_group(
        "workers", 'Many processes or machines, by dask: pip install "anomalib_lite[distributed]".'
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=_count, metavar="N", help="share the images among N processes here"
    )
    where.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="share them among the workers of a scheduler of dask (tcp://host:8786), which see the "
        "files under the same paths",
    )
    group.add_argument(
        "--chunk",
        type=_count,
        metavar="N",
        help=f"images that a worker takes at one time (default: {_CHUNK}); {on_chunks}",
    )


def _add_detector(parser):
    parser.add_argument(
        "detector",
        metavar="DETECTOR",
        help="a file written by fit or save; inspect and info take exported ones (.onnx), too",
    )


def _count(text):
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def _seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 86400:
        raise argparse.ArgumentTypeError(f"expected more than 0 and less than 86400, got {text}")
    return value
