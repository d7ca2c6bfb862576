"""Several learners of one pass over the batches."""

import threading

import pytest
import torch

from anomalib_lite.ensemble.lockstep import learn_together

IMAGES = [["a"], ["b", "c"], ["d"]]


def deliveries(n_learners, seen=None):
    """Deliver ``IMAGES``; ``seen`` gets the number of each batch as it is read."""

    def deliver(work):
        for i, images in enumerate(IMAGES):
            if seen is not None:
                seen.append(i)
            batch = torch.full((len(images),), float(i))
            yield [(images, work(place, images, batch)) for place in range(n_learners)]

    return deliver


def test_all_see_each_batch_as_their_functions_make_it():
    def doubled(feed):
        return [(images, batch.tolist()) for images, batch in feed.map(lambda batch: 2 * batch)]

    def plain(feed):
        return [(images, batch.tolist()) for images, batch in feed]

    def named(feed):
        return [found for _, found in feed.each(lambda images, batch: (images, len(batch)))]

    learned = learn_together([doubled, plain, named], deliveries(3))
    assert learned == [
        [(["a"], [0.0]), (["b", "c"], [2.0, 2.0]), (["d"], [4.0])],
        [(["a"], [0.0]), (["b", "c"], [1.0, 1.0]), (["d"], [2.0])],
        [(["a"], 1), (["b", "c"], 2), (["d"], 1)],
    ]


def test_one_learner_runs_at_a_time():
    running, most = [], []

    def learn(feed):
        def busy():
            running.append(None)
            most.append(len(running))
            running.pop()

        busy()
        for _ in feed:
            busy()
        busy()

    learn_together([learn] * 3, deliveries(3))
    assert len(most) == 15 and {*most} == {1}


def test_a_learner_may_stop_reading_and_go_on():
    seen = []

    def one(feed):
        first = next(iter(feed))
        return first[0]

    def none(feed):
        return "nothing read"

    learned = learn_together([one, none, lambda feed: len([*feed])], deliveries(3, seen))
    assert learned == [["a"], "nothing read", 3]
    assert seen == [0, 1, 2]


def threads():
    return {each for each in threading.enumerate() if each is not threading.main_thread()}


def test_an_error_of_one_ends_all():
    before, ended = threads(), []

    def failing(feed):
        for images, _ in feed:
            if images == ["b", "c"]:
                raise ValueError("b: too dark")

    def waiting(feed):
        try:
            for _ in feed:
                pass
        finally:
            ended.append("waiting")

    with pytest.raises(ValueError, match="b: too dark"):
        learn_together([waiting, failing, waiting], deliveries(3))
    assert ended == ["waiting"] * 2
    assert threads() == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_images_ends_all(error):
    before = threads()

    def deliver(work):
        yield [(["a"], work(0, ["a"], torch.zeros(1)))]
        raise error("a file is gone")

    with pytest.raises(error, match="a file is gone"):
        learn_together([lambda feed: len([*feed])], deliver)
    assert threads() == before


def test_batches_are_iterated_once():
    before = threads()
    with pytest.raises(ValueError, match="expected to be iterated once"):
        learn_together([lambda feed: [len([*feed]), len([*feed])]], deliveries(1))
    assert threads() == before


def test_learners_are_in_a_plain_context():
    def learn(feed):
        return [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]

    with torch.inference_mode():
        assert learn_together([learn], deliveries(1)) == [[False, False]]
