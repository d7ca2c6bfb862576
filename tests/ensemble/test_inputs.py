"""Inputs of several networks in one tensor."""

import numpy as np
import pytest
import torch
from worlds import stripes

from anomalib_lite.data.images import ImageStream
from anomalib_lite.data.inputs import NetworkInput
from anomalib_lite.ensemble.inputs import JointInput, parts_of
from anomalib_lite.notes import digest_of

RAW = NetworkInput.raw(64)
COARSE = NetworkInput((32, 48), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 8)


def checked(n=3):
    return [*ImageStream(stripes(n, 80))]


def test_parts_are_what_each_network_takes_alone():
    joint, images = JointInput.of([RAW, COARSE]), checked()
    batch = joint.batch(images)
    assert batch.shape == (3, 1, 1, 3 * 64 * 64 + 3 * 32 * 48)
    parts = parts_of(joint, batch)
    for seen in (RAW, COARSE):
        assert torch.equal(parts[seen], seen.batch(images))


def test_one_image_lies_in_memory_as_alone():
    """Or convolutions may round in another way."""
    joint, images = JointInput.of([RAW, COARSE]), checked(1)
    for seen, part in parts_of(joint, joint.batch(images)).items():
        assert part.is_contiguous(memory_format=torch.channels_last)
        assert part.stride()[1:] == seen.batch(images).stride()[1:]


def test_networks_that_see_the_same_need_no_joint_input():
    assert JointInput.of([RAW, RAW]) is RAW


def test_maps_have_the_finest_size_and_images_are_large_enough_for_all():
    small_patches = NetworkInput.raw(64, patch_size=4)
    large_patches = NetworkInput.raw(32, patch_size=16)
    joint = JointInput.of([large_patches, small_patches])
    assert (joint.image_size, joint.patch_size) == ((64, 64), 16)


def test_crops_in_proportion_are_fine():
    half = NetworkInput.raw(64, center_crop=32)
    joint = JointInput.of([half, NetworkInput.raw(128, center_crop=64)])
    assert (joint.image_size, joint.seen_size) == ((128, 128), (64, 64))


def test_other_parts_of_the_image_are_refused():
    with pytest.raises(ValueError, match=r"same part of an image.*center_crop=\(48, 48\)"):
        JointInput.of([RAW, NetworkInput.raw(64, center_crop=48)])


def test_rows_have_a_digest_each():
    joint, images = JointInput.of([RAW, COARSE]), checked()
    digests = [*map(digest_of, joint.batch(images))]
    assert len(np.unique(digests)) == 3
    assert digests == [digest_of(joint.batch([each])[0]) for each in images]
