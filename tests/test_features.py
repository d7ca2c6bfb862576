import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from torch import nn
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, load
from anomalib_lite.backbones import Backbone
from anomalib_lite.data import ImageStream

IMAGES = stripes(5)


def small(**params):
    return DeepFeatures(**{"image_size": 64, **params})


def literal_maps(images):
    backbone = Backbone("efficientnet_lite0", image_size=64)
    return [grid.numpy() for grid in backbone(backbone.input.batch(list(ImageStream(images))))]


@pytest.mark.parametrize(("pooling", "pool"), [("mean", np.mean), ("max", np.max)])
def test_pooled_features_are_each_layers_mean_or_maximum(pooling, pool):
    features = small(pooling=pooling).fit_transform(IMAGES)
    expected = np.concatenate([pool(grid, axis=(2, 3)) for grid in literal_maps(IMAGES)], axis=1)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_patch_features_are_those_of_patchcore():
    from anomalib_lite import PatchCore

    rows = small(pooling=None).fit_transform(IMAGES)
    assert rows.shape == (5, 64, 152)
    bank = PatchCore(image_size=64, coreset=1.0).fit(IMAGES).memory_bank_.rows.numpy()
    order = [np.lexsort(table.T) for table in (bank, rows.reshape(-1, 152))]
    np.testing.assert_array_equal(bank[order[0]], rows.reshape(-1, 152)[order[1]])


def test_names_and_number_of_features():
    transformer = small().fit(IMAGES)
    names = transformer.get_feature_names_out()
    assert len(names) == transformer.transform(IMAGES).shape[1] == 152
    assert names[0] == "deepfeatures0"
    assert len(small(layers=(8,)).fit(IMAGES).get_feature_names_out()) == 40


def test_one_pass_gives_what_two_give():
    transformer = small().fit(IMAGES)
    np.testing.assert_array_equal(
        small().fit_transform(iter(IMAGES)), transformer.transform(IMAGES)
    )
    assert transformer.n_images_ == 5
    one_by_one = [transformer.transform(image[None])[0] for image in IMAGES]
    np.testing.assert_array_equal(transformer.transform(IMAGES), one_by_one)


def test_a_network_of_ones_own():
    class Edges(nn.Module):
        def forward(self, x):
            return (x - x.roll(1, -1)).abs()

    features = small(backbone=Edges(), image_size=None).fit(IMAGES).transform(scratched(2))
    assert features.shape == (2, 3)


def test_bad_images_and_parameters_are_refused():
    with pytest.raises(NotFittedError):
        small().transform(IMAGES)
    transformer = small().fit(IMAGES)
    with pytest.raises(ValueError, match="image 1"):
        transformer.transform([IMAGES[0], np.full((64, 64), np.inf)])
    with pytest.raises(ValueError, match="Scale both the same way"):
        transformer.transform(IMAGES / 255 / 255)
    for params in ({"pooling": "median"}, {"neighborhood": 2}, {"batch_size": 0}, {"layers": ()}):
        with pytest.raises(ValueError, match=next(iter(params))):
            small(**params).fit(IMAGES)
    fresh = small()
    with pytest.raises(ValueError, match="image 0"):
        fresh.fit_transform(IMAGES * 2.0)
    assert not [name for name in vars(fresh) if name.endswith("_")]


def test_features_that_are_no_numbers_name_their_image():
    class Standardizing(nn.Module):
        def forward(self, x):
            return x / (x - x.flip(-1)).abs().amax((1, 2, 3), True)

    transformer = small(backbone=Standardizing()).fit(IMAGES)
    with pytest.raises(ValueError, match="image 1: the backbone gives NaN"):
        transformer.transform([IMAGES[0], np.zeros((64, 64), np.uint8)])


def test_saved_and_loaded(tmp_path):
    transformer = small(pooling=None).fit(IMAGES)
    transformer.save(tmp_path / "features.alite")
    again = load(tmp_path / "features.alite")
    np.testing.assert_array_equal(again.transform(IMAGES), transformer.transform(IMAGES))
