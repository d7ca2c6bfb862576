"""DeepFeatures against its network's maps, and inside scikit-learn's conventions."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from torch import nn
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, PatchCore, load
from anomalib_lite.data import ImageStream

IMAGES = stripes(5)


def small(**params):
    return DeepFeatures(**{"image_size": 64, **params})


@pytest.fixture(scope="module")
def fitted():
    """Tests share it: they must not change it."""
    return small().fit(IMAGES)


@pytest.fixture(scope="module")
def maps(fitted):
    """The two feature maps of IMAGES, each (5, C, h, w)."""
    batch = fitted.input_.batch(list(ImageStream(IMAGES)))
    return [grid.numpy() for grid in fitted.backbone_(batch)]


@pytest.mark.parametrize(("pooling", "pool"), [("mean", np.mean), ("max", np.max)])
def test_pooled_features_are_each_layers_mean_or_maximum(maps, pooling, pool):
    features = small(pooling=pooling).fit_transform(IMAGES)
    expected = np.concatenate([pool(grid, axis=(2, 3)) for grid in maps], axis=1)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("neighborhood", [1, 3])
def test_patch_features_are_those_of_patchcore(neighborhood):
    rows = small(pooling=None, neighborhood=neighborhood).fit_transform(IMAGES)
    assert rows.shape == (5, 64, 152)
    detector = PatchCore(image_size=64, coreset=1.0, neighborhood=neighborhood).fit(IMAGES)
    bank = detector.memory_bank_.rows.numpy()
    order = [np.lexsort(table.T) for table in (bank, rows.reshape(-1, 152))]
    np.testing.assert_array_equal(bank[order[0]], rows.reshape(-1, 152)[order[1]])


def test_names_and_number_of_features(fitted):
    names = fitted.get_feature_names_out()
    assert len(names) == fitted.transform(IMAGES).shape[1] == 152
    assert names[0] == "deepfeatures0"
    assert len(small(layers=(8,)).fit(IMAGES).get_feature_names_out()) == 40


def test_one_pass_gives_what_two_give(fitted):
    features = fitted.transform(IMAGES)
    np.testing.assert_array_equal(small().fit_transform(iter(IMAGES)), features)
    assert fitted.n_images_ == 5
    one_by_one = [fitted.transform(image[None])[0] for image in IMAGES]
    np.testing.assert_array_equal(features, one_by_one)


def test_later_set_params_do_not_alter_fitted_features():
    patches, pooled = small(pooling=None).fit(IMAGES), small().fit(IMAGES)
    expected = patches.transform(IMAGES), pooled.transform(IMAGES)
    with pytest.warns(UserWarning, match="neighborhood, pooling: changed after fit"):
        patches.set_params(pooling="max", neighborhood=1)
    with pytest.warns(UserWarning, match="pooling: changed after fit"):
        pooled.set_params(pooling="max")
    np.testing.assert_array_equal(patches.transform(IMAGES), expected[0])
    np.testing.assert_array_equal(pooled.transform(IMAGES), expected[1])


def test_features_of_a_module():
    class Edges(nn.Module):
        def forward(self, x):
            return (x - x.roll(1, -1)).abs()

    transformer = small(backbone=Edges(), image_size=None).fit(IMAGES)
    batch = transformer.input_.batch(list(ImageStream(scratched(2))))
    assert batch.shape == (2, 3, 224, 224)
    expected = (batch - batch.roll(1, -1)).abs().mean((2, 3))
    np.testing.assert_allclose(transformer.transform(scratched(2)), expected, rtol=1e-4)


def test_random_weights_follow_the_seed():
    def features(random_state):
        network = {"backbone": "convnet", "weights": "random", "layers": "last"}
        return small(**network, random_state=random_state).fit_transform(IMAGES[:1])

    np.testing.assert_array_equal(features(0), features(0))
    assert not np.allclose(features(0), features(1))


def test_features_are_asked_for_after_fit_only():
    with pytest.raises(NotFittedError):
        small().transform(IMAGES)


def test_bad_images_are_refused(fitted):
    with pytest.raises(ValueError, match="image 1"):
        fitted.transform([IMAGES[0], np.full((64, 64), np.inf)])
    with pytest.raises(ValueError, match="Scale both the same way"):
        fitted.transform(IMAGES / 255 / 255)


@pytest.mark.parametrize(
    "params",
    [{"pooling": "median"}, {"neighborhood": 2}, {"batch_size": 0}, {"layers": ()}],
    ids=lambda params: next(iter(params)),
)
def test_bad_parameters_are_refused(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        small(**params).fit(IMAGES)


def test_a_fit_that_fails_leaves_nothing_learned():
    fresh = small()
    with pytest.raises(ValueError, match="image 0"):
        fresh.fit_transform(IMAGES * 2.0)
    assert not [name for name in vars(fresh) if name.endswith("_")]


@pytest.mark.parametrize("pooling", ["mean", None])
def test_features_that_are_no_numbers_name_their_image(pooling):
    class Standardizing(nn.Module):
        def forward(self, x):
            return x / (x - x.flip(-1)).abs().amax((1, 2, 3), True)

    transformer = small(backbone=Standardizing(), pooling=pooling).fit(IMAGES)
    with pytest.raises(ValueError, match="image 1: the backbone gives NaN"):
        transformer.transform([IMAGES[0], np.zeros((64, 64), np.uint8)])


def test_saved_and_loaded(tmp_path):
    transformer = small(pooling=None, neighborhood=1).fit(IMAGES)
    transformer.save(tmp_path / "features.alite")
    again = load(tmp_path / "features.alite")
    np.testing.assert_array_equal(again.transform(IMAGES), transformer.transform(IMAGES))
