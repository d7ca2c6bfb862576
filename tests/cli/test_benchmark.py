"""``anomalib-lite benchmark``."""

import json

import numpy as np
import pytest
from PIL import Image
from worlds import scratched, stripes

from anomalib_lite.cli import main

CONFIG = """
[methods.PaDiM]
image_size = 64
n_features = 20
false_alarm_rate = 0.2

[methods.broken]
class = "PaDiM"
image_size = -1

[datasets.stripes]
loader = "mvtec"
root = "."
category = "stripes"

[published.image_auroc.PaDiM]
stripes = 0.987
"""


@pytest.mark.slow
def test_tables_are_printed_and_failures_told(tmp_path, capsys):
    faint = (stripes(4, seed=2) * 0.8 + scratched(4, seed=3) * 0.2).astype(np.uint8)
    parts = {"train/good": stripes(8), "test/good": stripes(4, seed=1), "test/scratch": faint}
    for folder, images in parts.items():
        (tmp_path / "stripes" / folder).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "stripes" / folder / f"{i}.png")
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)
    assert main(["benchmark", str(config)]) == 2
    shown = capsys.readouterr()
    assert "stripes, broken, seed 0: ValueError: image_size" in shown.err
    assert shown.out.startswith("| image_auroc | stripes |\n|---|---|\n| PaDiM | ")
    assert shown.out.splitlines()[2].endswith(" (0.987) |")
    assert "| broken | failed |" in shown.out and "| fit_s | stripes |" in shown.out
    assert "pixel_auroc" not in shown.out  # there are no masks
    assert main(["benchmark", str(config), "--json", "--quiet"]) == 2
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kept = [json.loads(x) for x in (tmp_path / "small" / "rows.jsonl").read_text().splitlines()]
    assert rows == kept and [row["method"] for row in rows] == ["PaDiM", "broken"]
    config.write_text(CONFIG.replace("image_size = -1", "image_size = 64"))
    assert main(["benchmark", str(config), "--latex", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("\\begin{tabular}{lr}") and shown.err == ""


def test_a_broken_file_is_named(tmp_path, capsys):
    (tmp_path / "a.toml").write_text("[methods")
    assert main(["benchmark", str(tmp_path / "a.toml")]) == 2
    assert "a.toml" in capsys.readouterr().err
