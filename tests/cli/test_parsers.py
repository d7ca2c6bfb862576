"""What commands take, and that asking costs nothing."""

import inspect
import subprocess
import sys

import pytest
from detectors import PUBLIC

import anomalib_lite
from anomalib_lite.cli import main
from anomalib_lite.cli.parsers import parse
from anomalib_lite.cli.settings import METHODS, OURS, settings_of

COMMANDS = ("fit", "inspect", "evaluate", "threshold", "compare", "info", "doctor")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"] if command is None else [command, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: anomalib-lite" in shown
    for name in COMMANDS if command is None else ():
        assert name in shown


def test_help_loads_neither_torch_nor_numpy():
    code = (
        "import sys\n"
        "from anomalib_lite.cli import main\n"
        "for argv in (['--help'], ['fit', '--help'], ['inspect', '--help']):\n"
        "    try:\n"
        "        main(argv)\n"
        "    except SystemExit:\n"
        "        pass\n"
        "assert not {'torch', 'numpy', 'sklearn', 'PIL'} & {*sys.modules}, sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_package_is_a_program():
    shown = subprocess.run(
        [sys.executable, "-m", "anomalib_lite", "--version"], capture_output=True, check=True
    )
    assert shown.stdout.decode().split() == ["anomalib-lite", anomalib_lite.__version__]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["fit"],
        ["fit", "good"],
        ["fit", "good", "-o", "x", "--method", "nonsense"],
        ["fit", "good", "-o", "x", "--set", "coreset"],
        ["fit", "good", "-o", "x", "--method", "padim", "--coreset", "0.1"],
        ["inspect", "part.alite"],
        ["inspect", "part.alite", "new", "--watch"],
        ["inspect", "part.alite", "-", "--watch", "--csv", "x.csv"],
        ["inspect", "part.alite", "new", "--interval", "0"],
        ["threshold", "part.alite", "good", "--alpha", "0.1", "--false-alarm-rate", "0.1"],
        ["threshold", "part.alite"],
        ["threshold", "part.alite", "--alpha", "0.1"],
        ["threshold", "part.alite", "good", "--score", "3"],
        ["fit", "good", "-o", "x", "--budget", "60"],
        ["fit", "good", "-o", "x", "--method", "suggested", "--budget", "0"],
        ["fit", "good", "-o", "x", "--method", "suggested", "--workers", "2"],
        ["fit", "good", "-o", "x", "--method", "suggested", "--image-size", "64"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_methods_are_all_detectors_of_the_package():
    assert sorted(METHODS.values()) == sorted(cls.__name__ for cls in PUBLIC)


@pytest.mark.parametrize("name", sorted(METHODS.values()))
def test_settings_are_the_parameters_with_their_defaults_and_texts(name):
    parameters = inspect.signature(getattr(anomalib_lite, name)).parameters
    settings = settings_of(name)
    assert [setting.name for setting in settings] == [
        each for each in parameters if each not in OURS
    ]
    for setting in settings:
        default = parameters[setting.name].default
        if isinstance(default, bool | int | float | str | tuple | None):
            assert eval(setting.default) == default
        assert setting.help and "``" not in setting.help


@pytest.mark.parametrize("method", METHODS)
def test_flags_set_them(method):
    flags = ["--method", method, "--image-size", "(64, 32)", "--smoothing=2.5", "--device", "cpu"]
    args = parse(["fit", "good", "-o", "x", *flags, "--set", "a__b=None", "--set", "c=x=y"])
    assert dict(args.set) == {
        "image_size": (64, 32), "smoothing": 2.5, "device": "cpu", "a__b": None, "c": "x=y",
    }  # fmt: skip


def test_pairs_and_words_are_set_by_one_flag():
    flags = ["--aggregate", "('top', 0.01)", "--normalize", "True", "--whiten=False"]
    args = parse(["fit", "good", "-o", "x", "--method", "patchcore", *flags])
    assert dict(args.set) == {"aggregate": ("top", 0.01), "normalize": True, "whiten": False}
    args = parse(["fit", "good", "-o", "x", "--method", "patchcore", "--aggregate", "max"])
    assert dict(args.set) == {"aggregate": "max"}


def test_few_settings_suit_whatever_is_suggested():
    flags = ["--method", "suggested", "--budget", "60", "--n-jobs", "2", "--random-state", "5"]
    args = parse(["fit", "good", "-o", "x", *flags, "--device=cpu"])
    assert args.budget == 60
    assert dict(args.set) == {"n_jobs": 2, "random_state": 5, "device": "cpu"}


def test_methods_may_be_written_in_any_case():
    assert parse(["fit", "good", "-o", "x", "--method", "PatchCore"]).method == "patchcore"


def test_the_usage_shown_is_that_of_the_command(capsys):
    for command, what in (
        (["threshold", "a"], "expected GOOD images"),
        (["inspect", "a", "b", "--watch"], "--watch needs"),
        (
            ["inspect", "a", "b", "--interval", "abc"],
            "less than 86400, got abc",
        ),
    ):
        with pytest.raises(SystemExit):
            parse(command)
        shown = capsys.readouterr().err
        assert f"usage: anomalib-lite {command[0]}" in shown and what in shown
