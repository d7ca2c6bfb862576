"""Plant bugs all over the package, and count those that the tests find.

Each mutation replaces one piece of code by a wrong one, in a copy of the repository. The tests that
should notice run first; if they pass, the whole fast part does.

    python tests/mutations.py                  # the fast part, two copies at a time
    python tests/mutations.py --only search    # those in files whose path has this in it
    python tests/mutations.py --targets-only   # do not fall back on the whole fast part
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("anomalib_lite", "tests", "examples", "docs", "pyproject.toml", "README.md")


class Mutation(NamedTuple):
    """``old`` stands once in ``file`` (below anomalib_lite); ``tests`` are below tests."""

    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    # -- ensembles
    Mutation(
        "ensemble/scales.py", "np.nanmean(anomaly_scores, 0)", "0 * anomaly_scores[0]", "ensemble"
    ),
    Mutation("ensemble/scales.py", "scaled.amax(1)", "scaled.amin(1)", "ensemble"),
    Mutation("ensemble/scales.py", "(self.deviations > 0).all()", "True", "ensemble"),
    Mutation("ensemble/inputs.py", "permute(0, 2, 3, 1).flatten(1)", "flatten(1)", "ensemble"),
    Mutation("ensemble/inputs.py", "replace(seen, patch_size=1)", "seen", "ensemble"),
    Mutation(
        "ensemble/sharing.py", '"batch", None) is not batch', '"batch", None) is None', "ensemble"
    ),
    Mutation("ensemble/sharing.py", "tensor._version != version", "False", "ensemble"),
    Mutation("ensemble/sharing.py", "len(backbones) > 1", "len(backbones) > 9", "ensemble"),
    Mutation("ensemble/lockstep.py", "if self._is_busy:", "if False:", "ensemble"),
    Mutation("ensemble/lockstep.py", "raise outcome.error", "return", "ensemble"),
    Mutation("ensemble/panel.py", "heat * self._is_seen.to(heat.device)", "heat", "ensemble"),
    Mutation("ensemble/panel.py", "if self._made is None:", "if True:", "ensemble"),
    Mutation(
        "ensemble/detector.py", "seed_estimator(member, draw_seed(generator))", "pass", "ensemble"
    ),
    Mutation(
        "ensemble/detector.py", "if members[place].backbone_ is sharing", "if sharing", "ensemble"
    ),
    Mutation("ensemble/detector.py", "member.false_alarm_rate = self", "self", "ensemble"),
    Mutation("ensemble/detector.py", "            self.detectors = before\n", "", "ensemble"),
    Mutation(
        "ensemble/detector.py", "is_flagged = seen.label == -1", "is_flagged = True", "ensemble"
    ),
    Mutation("ensemble/scales.py", "order[scaled[order] > threshold]", "order", "ensemble"),
    Mutation(
        "ensemble/scales.py", "np.cumsum(scaled[order])[:-1]", "scaled[order][:-1]", "ensemble"
    ),
    Mutation(
        "ensemble/inputs.py",
        "{without_patches(seen): whole}",
        "{without_patches(seen): digest_of(pixels)}",
        "ensemble",
    ),
    Mutation("decide/conformal.py", "flagged_by=None,", "", "ensemble"),
    Mutation(
        "cli/tables.py", "columns = found.pop() if found else columns", "", "cli/test_tables.py"
    ),
    Mutation("distributed/scoring.py", "            **told,\n", "", "distributed/test_scoring.py"),
    Mutation("report/page.py", "row.append(flagged_by)", "pass", "report/test_page.py"),
    Mutation("cli/scoring.py", "if record.flagged_by:", "if False:", "cli/test_inspect.py"),
    # -- workers of the command line
    Mutation("cli/fit.py", "if i not in left_out", "", "cli/test_clusters.py"),
    Mutation("cli/fit.py", '"skip" if args.skip_unreadable else', "", "cli/test_clusters.py"),
    Mutation("cli/inspect.py", "paths[n_told:]", "paths[1:]", "cli/test_clusters.py"),
    Mutation("cli/inspect.py", "except (NoneReadable, Re", "except (Re", "cli/test_clusters.py"),
    Mutation("cli/inspect.py", "shutil.rmtree(folder)", "pass", "cli/test_clusters.py"),
    Mutation("cli/inspect.py", "out=folder", "out=None", "cli/test_clusters.py"),
    Mutation(
        "cli/inspect.py",
        "chain([*islice(records, 1)], records)",
        "records",
        "cli/test_clusters.py",
    ),
    Mutation("cli/clusters.py", "logging.disable(before)", "pass", "cli/test_clusters.py"),
    Mutation("cli/clusters.py", "timeout=_PATIENCE", "", "cli/test_clusters.py"),
    Mutation("cli/tables.py", "if not table.is_special]", "]", "cli/test_clusters.py"),
    # -- reading images
    Mutation("data/rasters.py", '"uint16": 65535.0', '"uint16": 65536.0', "data/test_images.py"),
    Mutation("data/resizing.py", "antialias=True", "antialias=False", "data/test_images.py"),
    Mutation("data/resizing.py", "[-1] + reach)", "[-1])", "data/test_rasters.py"),
    Mutation("data/rasters.py", "[-before % step", "[before % step", "data/test_rasters.py"),
    Mutation("data/room.py", "<= self.size", "> 0", "data/test_rasters.py"),
    Mutation(
        "data/decoding.py",
        "    ImageOps.exif_transpose(image, in_place=True)\n",
        "",
        "data/test_images.py",
    ),
    Mutation("data/decoding.py", "2 * w > width or", "w > width or", "data/test_hostile_input.py"),
    Mutation(
        "data/deep_color.py",
        "astype(np.uint16) + low",
        "astype(np.uint16)",
        "data/test_hostile_input.py",
    ),
    Mutation(
        "data/files.py", 'name.startswith(".")', 'name.startswith("._")', "data/test_files.py"
    ),
    Mutation("data/files.py", "if real in entered:", "if False:", "data/test_files.py"),
    Mutation("data/masks.py", "(index != 0)", "(index > 1)", "data/test_masks.py"),
    Mutation("data/masks.py", "alpha.min() < alpha.max()", "True", "data/test_masks.py"),
    Mutation("data/images.py", "array[..., :3]", "array[..., 1:]", "data/test_images.py"),
    Mutation("data/images.py", "return item.clone()", "return item", "data/test_rasters.py"),
    Mutation("data/images.py", "if count == 0:", "if count < 0:", "data/test_images.py"),
    Mutation(
        "data/scales.py",
        "self.highest = max(self",
        "self.highest = min(self",
        "test_base.py test_contract.py",
    ),
    Mutation(
        "data/scales.py",
        "zip(levels[:3], (self.highest, self.mean, self.median)",
        "zip(levels[:1], (self.highest,)",
        "data/test_images.py",
    ),
    Mutation("data/inputs.py", "(s - c) // 2", "(s - c) // 3", "data/test_images.py backbones"),
    # -- workers elsewhere
    Mutation(
        "distributed/shared.py",
        "while len(_OPENED) > _N_KEPT",
        "while len(_OPENED) > 9",
        "distributed/test_engines.py",
    ),
    Mutation(
        "distributed/engines.py", "with_payloads=carries", "with_payloads=True", "distributed"
    ),
    Mutation("distributed/flow.py", "engine.cancel(flying)", "pass", "distributed"),
    Mutation(
        "distributed/flow.py",
        "IN_FLIGHT * engine.n_workers - len(flying)",
        "IN_FLIGHT * engine.n_workers",
        "distributed",
    ),
    Mutation(
        "distributed/chunks.py",
        "{self.first + index}",
        "{index}",
        "distributed/test_scoring.py",
    ),
    Mutation("distributed/chunks.py", "path=path, reason=reason", "reason=reason", "distributed"),
    Mutation(
        "distributed/scoring.py",
        "if not done:",
        "if done:",
        "distributed/test_scoring.py",
    ),
    Mutation(
        "distributed/scoring.py",
        "for ours, later in zip(self._scalings, seen.scalings, strict=False)",
        "for ours, later in zip(self._scalings[:0], seen.scalings[:0], strict=False)",
        "distributed/test_scoring.py",
    ),
    Mutation(
        "distributed/folders.py",
        "if record is None or record.path != path:",
        "if record is None:",
        "distributed/test_scoring.py",
    ),
    Mutation(
        "distributed/folders.py",
        "digest.update(os.fsencode(os.getcwd()))",
        "pass",
        "distributed/test_scoring.py",
    ),
    # -- exported detectors, and what they share
    Mutation("regions.py", '"right")', '"left")', "test_regions.py"),
    Mutation("regions.py", "starts - (self.width + 1))", "starts - self.width)", "test_regions.py"),
    Mutation("data/rasters.py", "(len(values) - 1) // 2", "len(values) // 2", "data"),
    Mutation("data/rasters.py", "[..., : self.n_channels]", "[..., -self.n_channels :]", "data"),
    Mutation(
        "deploy/seal.py", "digest_of(memoryview(data)[:-_LENGTH])", "digest_of(data)", "deploy"
    ),
    Mutation("deploy/card.py", '["format"] > FORMAT', '["format"] > 9', "deploy/test_card.py"),
    Mutation(
        "deploy/reader.py",
        "else array\n    if array.dtype.kind",
        "else 1 * array\n    if array.dtype.kind",
        "deploy/test_reader.py",
    ),
    Mutation(
        "deploy/reader.py",
        "* int(FULL_SCALE[dtype]",
        "* int(1 + FULL_SCALE[dtype]",
        "deploy/test_reader.py",
    ),
    Mutation("deploy/reader.py", "            scale.see(glance)\n", "", "deploy/test_reader.py"),
    Mutation("deploy/reader.py", "        scale.finish()\n", "", "deploy/test_reader.py"),
    Mutation("deploy/reader.py", "or not _is_finite(answer.map)", "", "deploy/test_reader.py"),
    Mutation(
        "deploy/graph.py",
        "        if self.digest != digest:",
        "        if False:",
        "deploy/test_reader.py",
    ),
    Mutation("deploy/graph.py", "any(head[3:])", "True", "deploy/test_reader.py"),
    Mutation(
        "deploy/graph.py", "            enable_fallback=0,", "            ", "deploy/test_reader.py"
    ),
    Mutation("deploy/processors.py", "math.ceil", "round", "deploy/test_processors.py"),
    Mutation("report/tiles.py", "2 * n - 1 - places", "2 * n - 2 - places", "report/test_tiles.py"),
    Mutation(
        "report/overlays.py", "range(2 * width + 1)", "range(width + 1)", "report/test_overlays.py"
    ),
    Mutation(
        "report/pictures.py",
        "-(-(i + 1) * rows // n)",
        "(i + 1) * rows // n",
        "report/test_small_pictures.py",
    ),
    Mutation(
        "export/graph.py", '"Greater", score', '"GreaterOrEqual", score', "export/test_graph.py"
    ),
    Mutation("export/graph.py", '"LessOrEqual"', '"Less"', "export/test_graph.py"),
    Mutation(
        "export/graph.py",
        "constant([0]), constant([3])",
        "constant([0]), constant([4])",
        "export/test_graph.py",
    ),
    Mutation(
        "export/resizing.py",
        'old_row(stop - 1, "Add"), constant(2)',
        'old_row(stop - 1, "Add"), constant(0)',
        "export/test_resizing.py",
    ),
    Mutation("export/parity.py", " and not is_on_threshold:", ":", "export/test_exporting.py"),
    Mutation("export/exporting.py", "    check(parity)\n", "", "export/test_exporting.py"),
    Mutation(
        "export/transformers.py",
        "if apart <= _LARGEST_DIFFERENCE",
        "if apart <= 1",
        "export/test_exported_heads.py",
    ),
    Mutation("search/portable.py", "index + n_before", "index", "search/test_portable_rows.py"),
    Mutation(
        "density/rebuilt.py",
        "found.indices + n_before",
        "found.indices",
        "density/test_portable_heads.py",
    ),
    # -- data sets and views
    Mutation(
        "data/mvtec.py",
        'np.where(defects == "good", 1, -1)',
        'np.where(defects == "good", -1, 1)',
        "data/test_datasets.py",
    ),
    Mutation(
        "data/packages.py",
        "test = np.concatenate([good[n_train:], bad])",
        "test = np.concatenate([good[:n_train], bad])",
        "data/test_datasets.py",
    ),
    Mutation(
        "data/packages.py",
        "*good[n_train : n_train + n_test]",
        "*good[:n_test]",
        "data/test_datasets.py",
    ),
    Mutation(
        "data/datasets.py",
        "read.any() == is_normal",
        "False",
        "data/test_masks.py",
    ),
    Mutation("data/masks.py", "for file in mask]", "for file in mask[:1]]", "data/test_loaders.py"),
    Mutation("data/datasets.py", "(self.test_labels == 1) | ", "", "data/test_loaders.py"),
    Mutation(
        "data/layouts.py",
        'Path(path).with_suffix("").is_dir()',
        "False",
        "data/test_loaders.py",
    ),
    Mutation("data/mvtec.py", "good += more", "pass", "data/test_loaders.py"),
    Mutation("data/mvtec.py", "if not found]", "if False]", "data/test_loaders.py"),
    Mutation(
        "data/mvtec.py",
        'or part_of(test_folder, "ground_truth")',
        "",
        "data/test_loaders.py",
    ),
    Mutation(
        "data/folders.py",
        "(order[n_test:], order[:n_test])",
        "(order, order[:n_test])",
        "data/test_loaders.py",
    ),
    Mutation("data/folders.py", "if other != kind", "if False", "data/test_loaders.py"),
    Mutation(
        "data/visa.py",
        'kinds.get(line["image"]) or "anomaly"',
        '"anomaly"',
        "data/test_loaders.py",
    ),
    Mutation(
        "benchmarks/tables.py",
        "if None not in figures",
        "if figures[0] is not None",
        "benchmarks/test_benchmarks.py",
    ),
    Mutation("benchmarks/running.py", '("settings", "data")', '("settings",)', "benchmarks"),
    Mutation("benchmarks/running.py", "of_all | settings", "settings", "benchmarks"),
    Mutation("benchmarks/loaders.py", "dataset.of_kinds(*self.kinds)", "dataset", "benchmarks"),
    Mutation("metrics.py", "rise[last] / rise[-1]", "rise[last] / len(rise)", "test_metrics.py"),
    Mutation(
        "report/pro_curves.py",
        "np.append(self.fpr[:n], self.max_fpr)",
        "np.append(self.fpr[:n], 1)",
        "report/test_pro_curves.py",
    ),
    Mutation("nn/autoencoders.py", "directions.T.flip(0)", "directions.flip(0)", "nn"),
    Mutation("validation.py", "(array == 0) | (array == top)", "array >= 0", "data/test_masks.py"),
    Mutation(
        "data/synthetic.py",
        "test = _crops(photo[:, -half:]",
        "test = _crops(photo[:, :half]",
        "data/test_datasets.py",
    ),
    Mutation(
        "data/drawing.py",
        "_full_scale(image.dtype) / 255",
        "_full_scale(image.dtype) / 6",
        "data/test_datasets.py",
    ),
    Mutation(
        "data/drawing.py",
        "np.clip(values, 0, _full_scale(dtype))",
        "np.clip(values, 0, 255)",
        "data/test_planting.py",
    ),
    Mutation(
        "data/planting.py",
        "round(max(SMALLEST, size * min(shape)))",
        "min(shape)",
        "data/test_planting.py",
    ),
    # -- choosing settings
    Mutation(
        "selection/planted.py",
        "fold_of[[d.image for d in defects]]",
        "fold_of[[0 for d in defects]]",
        "selection/test_planted.py",
    ),
    Mutation(
        "selection/planted.py",
        '_SIDES = "left", "right"',
        '_SIDES = ("left",)',
        "selection/test_planted.py",
    ),
    Mutation(
        "selection/planted.py",
        'np.mean([*self.by("is_global").values()])',
        "np.mean(self.found)",
        "selection/test_planted.py",
    ),
    # -- base classes
    Mutation(
        "base.py",
        "np.where(scores < self.offset_, -1, 1)",
        "np.where(scores <= self.offset_, -1, 1)",
        "test_base.py test_contract.py",
    ),
    Mutation(
        "base.py",
        'return 1 if self.device_.type == "cpu"',
        'return 2 if self.device_.type == "cpu"',
        "test_base.py",
    ),
    Mutation(
        "base.py",
        "ScaleCheck(copy.copy(self.value_range_)) if self.n_images_ else None",
        "None",
        "test_base.py methods/test_patchcore.py",
    ),
    Mutation(
        "base.py",
        "self.value_range_ = copy.deepcopy(self.value_range_)",
        "self.value_range_ = self.value_range_",
        "test_base.py",
    ),
    Mutation(
        "base.py",
        "self._warn_of_stale(sorted(changed - {*self._live_params}))",
        "pass",
        "test_contract.py",
    ),
    Mutation(
        "base.py",
        '        if "false_alarm_rate" in changed:\n            self._set_offset()\n',
        "",
        "test_contract.py",
    ),
    Mutation(
        "base.py",
        "return -self.anomaly_score(X, on_error=on_error)",
        "return self.anomaly_score(X, on_error=on_error)",
        "test_contract.py",
    ),
    Mutation("base.py", "if np.isinf(scores).any():", "if False:", "test_extension.py"),
    Mutation("base.py", 'method="weibull"', 'method="linear"', "test_calls.py"),
    Mutation("base.py", "if rate < lowest", "if rate > lowest", "test_calls.py"),
    Mutation("base.py", "if batches.scale.is_right:", "if True:", "test_calls.py"),
    Mutation("notes.py", "if digest in self._labels:", "if False:", "test_calls.py"),
    Mutation("base.py", "labels[unknown] =", "unknown =", "test_calls.py"),
    Mutation("data/scales.py", "self.n_wrong += later.n_wrong", "pass", "test_calls.py"),
    Mutation(
        "methods/patchcore/calibration.py", "if k not in parts]", "]", "methods/test_patchcore.py"
    ),
    Mutation(
        "methods/patchcore/calibration.py",
        "part_of.setdefault(digest, (first + len(part_of)) % N_PARTS)",
        "part_of[digest] = (first + len(part_of)) % N_PARTS",
        "methods/test_patchcore.py",
    ),
    Mutation(
        "base.py",
        "smoothing=self.smoothing,\n            **options",
        "smoothing=4.0,\n            **options",
        "test_base.py test_contract.py",
    ),
    # -- ground
    Mutation(
        "runtime.py",
        "        estimator.__dict__ = vars(learner)\n",
        "",
        "test_contract.py test_runtime.py",
    ),
    # -- contexts and random numbers
    Mutation(
        "contexts.py",
        'given["generator"] = self._generator(device)',
        'given["generator"] = None',
        "test_contexts.py",
    ),
    Mutation("contexts.py", "_push_mode(self)  #", "super().__enter__()  #", "test_contexts.py"),
    Mutation(
        "contexts.py",
        'kwargs = kwargs | {"dtype": torch.float32}',
        "pass",
        "test_contexts.py",
    ),
    Mutation(
        "contexts.py",
        "                yield item",
        "                with plain_context():\n                    yield item",
        "test_contexts.py",
    ),
    Mutation("nn/draws.py", "return not (all(", "return not (any(", "nn/test_training.py"),
    Mutation("nn/forecast.py", "median_low(steps)", "max(steps)", "nn/test_training.py"),
    Mutation("nn/forecast.py", "/ self._share", "", "nn/test_training.py"),
    Mutation("runtime.py", '"MB": 10**6', '"MB": 2**20', "test_runtime.py"),
    Mutation(
        "validation.py", "0 <= value < 1", "0 <= value <= 1", "test_base.py test_validation.py"
    ),
    Mutation(
        "io/container.py",
        "if digest(text, tensors) != written:",
        "if not written:",
        "io/test_persistence.py",
    ),
    Mutation(
        "io/files.py",
        "    target = Path(os.path.realpath(path))\n",
        "    target = Path(path)\n",
        "io/test_whole_files.py",
    ),
    Mutation(
        "io/compiled.py",
        'if _outside(nodes["feature"][inner], n_features):',
        "if False:",
        "io/test_sklearn_io.py",
    ),
    # -- backbones
    Mutation(
        "backbones/folding.py",
        "conv.weight, conv.bias = fuse_conv_bn_weights(",
        "_ = fuse_conv_bn_weights(",
        "backbones",
    ),
    Mutation(
        "backbones/patches.py",
        "padding=neighborhood // 2)\n\n\ndef _unfold",
        "padding=0)\n\n\ndef _unfold",
        "backbones",
    ),
    Mutation(
        "backbones/patches.py",
        'pool = torch.mean if pooling == "mean" else torch.amax',
        'pool = torch.mean if pooling == "mean" else torch.amin',
        "test_features.py",
    ),
    Mutation(
        "backbones/maps.py",
        "self.image_size[axis], self.offset[axis]",
        "self.image_size[axis], 0",
        "backbones test_base.py",
    ),
    Mutation(
        "backbones/maps.py",
        "np.exp(-distances / (2 * sigma**2))",
        "np.exp(-distances / sigma**2)",
        "backbones",
    ),
    # -- networks and training
    Mutation(
        "nn/autoencoders.py",
        "apart = (x - back).square().sum(1) / 2",
        "apart = (x - back).square().sum(1)",
        "nn methods/test_cance.py",
    ),
    Mutation(
        "nn/autoencoders.py",
        "(lengths / max(len(rows) - 1, 1) ** 0.5)",
        "(lengths / len(rows) ** 0.5)",
        "nn methods/test_cance.py",
    ),
    Mutation(
        "nn/training.py",
        "(1 + math.cos(math.pi * done)) / 2",
        "(1 + math.cos(math.pi * done))",
        "nn/test_training.py",
    ),
    Mutation(
        "nn/training.py", "self._base_rate * factor", "self._base_rate", "nn/test_training.py"
    ),
    Mutation(
        "nn/training.py",
        ".nan_to_num(1.0).clamp_max(1.0)",
        ".nan_to_num(1.0)",
        "nn/test_training.py",
    ),
    Mutation("nn/training.py", "< self._lowest:", "> self._lowest:", "nn/test_training.py"),
    Mutation(
        "nn/losses.py",
        "+ noise_ratio * F.softplus(noise_logits).mean()",
        "+ F.softplus(noise_logits).mean()",
        "nn/test_losses.py",
    ),
    Mutation(
        "nn/losses.py", "+ math.log(len(product))", "- math.log(len(product))", "nn/test_losses.py"
    ),
    # -- search
    Mutation(
        "search/nearest.py",
        'limit = nearest.float().scatter_reduce_(0, row, high, "amin")',
        'limit = nearest.float().scatter_reduce_(0, row, rough, "amin") * 0.9',
        "search",
    ),
    Mutation(
        "search/nearest.py",
        'index.scatter_reduce_(0, row, won, "amin")',
        "index[row] = won",
        "search",
    ),
    Mutation(
        "search/coreset.py",
        "self.seen[block] = self.n_picks",
        "self.seen[block] = self.n_picks + 1",
        "search",
    ),
    # -- densities
    Mutation(
        "density/gaussian.py",
        "self.scatter[places] / (self.count - 1)",
        "self.scatter[places] / self.count",
        "density/test_density.py",
    ),
    Mutation(
        "density/heads.py",
        "gamma = 10 / max(",
        "gamma = 1 / max(",
        "density/test_heads.py methods/test_deep_one_class.py",
    ),
    Mutation("density/nce.py", "+ self._log_ratio_", "", "density/test_nce.py"),
    Mutation(
        "density/nce.py",
        "return 1 + F.softplus(self.growth)",
        "return F.softplus(self.growth)",
        "density/test_nce.py",
    ),
    # -- methods
    Mutation(
        "methods/patchcore/detector.py",
        "ratio = (s - distances.logsumexp(0)).exp()",
        "ratio = (-s - distances.logsumexp(0)).exp()",
        "methods/test_patchcore.py",
    ),
    Mutation(
        "methods/patchcore/banks.py",
        "radius=self.radius + radius",
        "radius=radius",
        "methods/test_patchcore.py",
    ),
    Mutation(
        "methods/patchcore/calibration.py",
        "parts.setdefault(digest, set()).add(part)",
        "parts[digest] = {part}",
        "test_merging.py",
    ),
    Mutation(
        "methods/patchcore/banks.py",
        "max(one.radius for one in each)",
        "each[0].radius",
        "test_merging.py",
    ),
    Mutation("merging.py", "known[found] == digests, ", "True, ", "test_merging.py"),
    Mutation("merging.py", "state.first - first + image.index", "image.index", "test_merging.py"),
    Mutation(
        "methods/spade.py",
        "self._most(pyramids) - portion.first",
        "self._most(pyramids)",
        "test_merging.py",
    ),
    Mutation("suspects.py", "each[::-1]", "each", "test_merging.py"),
    Mutation(
        "methods/padim.py",
        "covariance.diagonal(dim1=1, dim2=2).add_(self.eps)",
        "covariance.diagonal(dim1=1, dim2=2).mul_(1 + self.eps)",
        "methods/test_padim.py",
    ),
    Mutation(
        "methods/padim.py",
        "return leave_one_out_squares(squares, self.statistics_.count, copies).sqrt()",
        "return squares.sqrt()",
        "methods/test_padim.py",
    ),
    Mutation(
        "methods/cance/composites.py",
        '-2 if score_type == "error" else -1',
        '-1 if score_type == "error" else -2',
        "methods/test_cance.py",
    ),
    Mutation(
        "methods/cance/learning.py",
        "found = on_scale_of(of_all[learned], other.score_composites(own), found)",
        "pass",
        "methods/test_cance.py",
    ),
    Mutation(
        "methods/cpc/prediction.py",
        "places[:, k:].flatten()",
        "places[:, :-k].flatten()",
        "methods/test_cpc.py",
    ),
    Mutation(
        "methods/mlsad.py",
        "both = concatenated(normal, F.pad(places, (0, rest, 0, rest)))",
        "both = concatenated(normal, F.pad(places, (rest, 0, rest, 0)))",
        "methods/test_mlsad.py",
    ),
    Mutation(
        "methods/mlsad.py",
        "scores[these] = _distance(values[these], _center(values[others]))",
        "scores[these] = _distance(values[these], _center(values))",
        "methods/test_mlsad.py",
    ),
    Mutation(
        "methods/spade.py", "squares[:, : self.n_pyramids_]", "squares", "methods/test_spade.py"
    ),
    Mutation(
        "methods/spade.py",
        "retrieved = to_images.argsort(stable=True)",
        "retrieved = to_images.argsort(stable=True, descending=True)",
        "methods/test_spade.py",
    ),
    Mutation(
        "methods/two_stage.py",
        "self.backbone_ = Backbone.for_estimator(self, generator, frozen=False)",
        "self.backbone_ = Backbone.for_estimator(self, generator, frozen=True)",
        "methods/test_two_stage.py",
    ),
    Mutation(
        "methods/cpc/layout.py",
        "step = self.tile_stride // self.patch_stride",
        "step = 1",
        "methods/test_cpc.py",
    ),
    # -- decisions, metrics, pictures
    Mutation("decide/probing.py", "one.clamp_(0, 1)", "one.clamp_(0, 2)", "decide/test_probing.py"),
    Mutation("metrics.py", "structure=np.ones((3, 3))", "structure=None", "test_metrics.py"),
    Mutation(
        "curves.py",
        "np.clip(max_fpr - (step.cumsum(-1) - step), 0, step)",
        "np.clip(max_fpr - (step.cumsum(-1) - step), 0, None)",
        "test_metrics.py",
    ),
    Mutation(
        "metrics.py",
        "best = len(f1) - 1 - int(np.argmax(f1[::-1]))",
        "best = int(np.argmax(f1))",
        "test_metrics.py",
    ),
    Mutation(
        "report/displays.py", "score {-self.scores[i]:.3g}", "score {self.scores[i]:.3g}", "report"
    ),
    Mutation(
        "decide/ranks.py",
        "return -(-whole // sizes), whole",
        "return np.full_like(sizes, whole), whole",
        "decide/test_conformal.py",
    ),
    # -- workers
    Mutation("contexts.py", "before = _limit_mkl()(1)", "before = 0", "test_workers.py"),
    Mutation(
        "contexts.py", "            _limit_mkl()(before)\n", "            pass\n", "test_workers.py"
    ),
    Mutation(
        "contexts.py", "nullcontext() if is_alone", "nullcontext() if True", "test_workers.py"
    ),
    Mutation("workers.py", "return 1 if is_shared else", "return", "test_workers.py"),
    Mutation("workers.py", "waiting.popleft()", "waiting.pop()", "test_workers.py"),
    Mutation(
        "workers.py",
        "while has_more and len(waiting) < limit:",
        "while has_more:",
        "test_workers.py",
    ),
    Mutation(
        "workers.py", "                task.cancel()", "                pass", "test_workers.py"
    ),
    Mutation("workers.py", "            del error", "            pass", "test_workers.py"),
    Mutation("workers.py", "shutdown(cancel_futures=True)", "shutdown(False)", "test_workers.py"),
    Mutation("workers.py", "            _wait_for_end(self._begun)\n", "", "test_workers.py"),
    Mutation("workers.py", "    _TEAM.set(_ALONE)  # in a", "    pass  # in a", "test_workers.py"),
    Mutation("workers.py", "        _TEAM.set(_ALONE)\n", "        pass\n", "test_workers.py"),
    Mutation("workers.py", "or not ahead:", "or False:", "test_workers.py"),
    Mutation("workers.py", "    with plain_context():", "    if True:", "test_workers.py"),
    Mutation("batches.py", "if self.reads_ahead else 1", "if True else 1", "test_workers.py"),
    Mutation(
        "batches.py",
        'self._by_workers if self.device.type == "cpu"',
        "self._by_workers if True",
        "test_workers.py",
    ),
    Mutation(
        "data/images.py",
        "        with _PICTURES:\n            return decode(item, enter), False",
        "        return decode(item, enter), False",
        "test_workers.py",
    ),
    Mutation("density/heads.py", "else SKLEARN", "else nullcontext()", "test_workers.py"),
    Mutation("density/gaussian.py", "if n_features > 1 and noise", "if noise", "density"),
    # -- labels
    Mutation("density/anchored.py", "aim[1] = 1.0", "aim[1] = 0.0", "density"),
    Mutation("density/anchored.py", "pull[0] = 0.0", "pass", "density"),
    Mutation(
        "density/anchored.py",
        "counts = np.where(is_bad, n_each / n_bad,",
        "counts = np.where(is_bad, 1.0,",
        "density",
    ),
    Mutation(
        "density/anchored.py",
        "_, which = np.unique(distinct[of_class], return_inverse=True)",
        "which = np.arange(of_class.sum())",
        "density",
    ),
    Mutation(
        "density/anchored.py",
        "for fold in range(n_folds if n_folds > 1 else 0):",
        "for fold in range(n_folds):",
        "density",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "lambda k, bank: function(good[k], bank)",
        "lambda k, bank: function(good[k], self.memory_bank_)",
        "methods/test_labeled_patchcore.py",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "self.calibration_scores_, self.defect_scores_ = -odds[~is_bad], -odds[is_bad]",
        "self.defect_scores_ = -odds[is_bad]",
        "methods/test_labeled_patchcore.py",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "            if its_label != label:",
        "            if False:",
        "methods/test_labeled_patchcore.py",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "return own if self.label_head_ is None else max(self._counts_)",
        "return own",
        "methods/test_labeled_patchcore.py",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "earlier = [self.evidence_] if self._has_labels else []",
        "earlier = []",
        "methods/test_labeled_patchcore.py",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "head = heads.get(digest, self.patch_head_)",
        "head = self.patch_head_",
        "methods/test_masks_of_defects.py",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "            self._set_examples(values, np.array([*grids]))\n",
        "",
        "methods/test_masks_of_defects.py",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "if (is_bad & trusted & ~evidence.has_mask).any():",
        "if (is_bad & trusted).any():",
        "methods/test_masks_of_defects.py",
    ),
    Mutation(
        "methods/patchcore/labeled.py",
        "if mask_size != image.size:",
        "if False:",
        "methods/test_masks_of_defects.py",
    ),
    Mutation(
        "methods/patchcore/masked.py",
        "min(_COVERED, share.max())",
        "_COVERED",
        "methods/test_masks_of_defects.py",
    ),
    Mutation(
        "methods/patchcore/masked.py",
        "good = np.flatnonzero(share == 0)",
        "good = np.flatnonzero(share < _COVERED)",
        "methods/test_masks_of_defects.py",
    ),
    Mutation("recall.py", "np.inf))", "-np.inf))", "test_recall.py"),
    Mutation("recall.py", "n, 1 - recall)", "n - 1, 1 - recall)", "test_recall.py"),
    Mutation(
        "recall.py",
        "    n_missed = int(np.sum(scores >= score))\n",
        "",
        "test_recall.py",
    ),
]


def plant(mutation, folder):
    """Put the bug into a copy of the package."""
    path = folder / "anomalib_lite" / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.file}: {mutation.old!r} does not stand there once")
    path.write_text(text.replace(mutation.old, mutation.new))
    return text


def notices(folder, tests):
    """Whether the fast part of some tests, or all of it, fails in a copy."""
    paths = [f"tests/{test}" for test in tests.split()] if tests else []
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200
        )
    except subprocess.TimeoutExpired:
        return True  # a bug that hangs is noticed
    if done.returncode not in (0, 1, 2):  # passed, failed, could not even be collected
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the path of the files to mutate")
    parser.add_argument("--targets-only", action="store_true", help="never run the whole fast part")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if arguments.only in m.file]
    with tempfile.TemporaryDirectory() as home:
        folders = []
        for job in range(arguments.jobs):
            folders.append(Path(home, str(job)))
            for name in COPIED:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                folders[-1].mkdir(exist_ok=True)
                copy(ROOT / name, folders[-1] / name)
        free = list(folders)

        def judge(mutation):
            folder, start = free.pop(), time.perf_counter()
            text = plant(mutation, folder)
            caught = notices(folder, mutation.tests)
            by = mutation.tests if caught else ""
            if not caught and not arguments.targets_only and notices(folder, ""):
                caught, by = True, "the whole fast part"
            (folder / "anomalib_lite" / mutation.file).write_text(text)
            free.append(folder)
            verdict = f"caught by {by}" if caught else "SURVIVED"
            seconds = time.perf_counter() - start
            print(
                f"{mutation.file}: {mutation.new.strip()[:60]!r}: {verdict}, {seconds:.0f} s",
                flush=True,
            )
            return caught

        with ThreadPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(judge, chosen))
    print(f"{sum(results)} of {len(results)} planted bugs caught")


if __name__ == "__main__":
    main()
