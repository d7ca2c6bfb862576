"""Runs ``python -m anomalib_lite``, or code, where nothing but the reader's packages is installed.

python tests/deploy/alone.py inspect part.onnx folder
python tests/deploy/alone.py -c "import anomalib_lite"
"""

import runpy
import sys

MISSING = {
    "torch", "torchvision", "timm", "scipy", "sklearn", "joblib", "threadpoolctl", "safetensors",
    "tqdm", "onnx", "onnxscript", "pandas", "matplotlib",
}  # fmt: skip


class Finder:
    """Says of packages that they are not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder())
    if sys.argv[1] == "-c":
        exec(sys.argv[2])
    else:
        runpy.run_module("anomalib_lite", run_name="__main__", alter_sys=True)
