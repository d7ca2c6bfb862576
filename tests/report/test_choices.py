"""Which images are shown."""

import numpy as np
import pytest

from anomalib_lite.records import Record
from anomalib_lite.report.choices import choose


def records_of(severities):
    return [Record(None, "anomalous" if s > 1 else "normal", s, s) for s in severities]


def shown(groups):
    return [i for group in groups for i in group.indices]


def by_title(groups):
    return {group.title: group.indices for group in groups}


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20, 59, 60, 61, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_none_is_shown_twice_and_not_too_many(n, share):
    rng = np.random.default_rng(n)
    severities = np.where(rng.random(n) < share, rng.uniform(1.01, 9, n), rng.uniform(-1, 1, n))
    for y in (None, rng.choice([-1, 1], n)):
        indices = shown(choose(records_of(severities), y))
        assert len(indices) == len({*indices}) <= 60
        assert indices


def test_many_images_fill_the_page():
    rng = np.random.default_rng(0)
    severities = np.concatenate([rng.uniform(1.01, 9, 200), rng.uniform(-1, 1, 800)])
    groups = by_title(choose(records_of(severities)))
    assert {title: len(indices) for title, indices in groups.items()} == {
        "Most anomalous": 30, "Borderline": 18, "Normal": 12,
    }  # fmt: skip
    assert severities[groups["Most anomalous"]].min() == np.sort(severities)[-30]
    near = severities[groups["Borderline"]]
    assert (near > 1).sum() == (near < 1).sum() == 9
    above, below = severities[severities > 1], severities[severities < 1]
    assert near.max() == np.sort(above)[8] and near.min() == np.sort(below)[-9]
    normal = severities[groups["Normal"]]
    assert (np.diff(normal) < 0).all() and normal[-1] == severities.min()


def test_few_anomalous_images_are_not_all_borderline():
    groups = by_title(choose(records_of([1.1, 1.2, 1.3, 5.0, 0.2, 0.1, 0.9])))
    assert groups["Most anomalous"] == [3, 2]
    assert groups["Borderline"] == [1, 0, 6]


def test_mistakes_come_first_the_worst_first():
    records = records_of([5.0, 0.9, 0.1, 1.2, 7.0, 0.0])
    groups = choose(records, np.array([1, -1, -1, 1, -1, 1]))
    assert [group.title for group in groups[:2]] == ["Escapes", "Overkill"]
    assert groups[0].indices == [2, 1]
    assert groups[1].indices == [0, 3]
    assert sorted(shown(groups)) == [0, 1, 2, 3, 4, 5]


def test_nothing_anomalous_shows_the_highest_scores():
    groups = by_title(choose(records_of([0.1, 0.3, 0.2])))
    assert groups == {"Highest scores": [1, 2, 0]}


def test_without_verdicts_the_oddest_come_first():
    records = [Record(None, "undecided", score) for score in (1.0, 3.0, 2.0)]
    [group] = choose(records)
    assert (group.title, group.indices) == ("Highest scores", [1, 2, 0])
    assert "called" not in group.text


def test_unreadable_images_are_not_shown():
    assert choose([Record("a", "unreadable")]) == []
    assert shown(choose([Record("a", "unreadable"), Record("b", "normal", 1.0, 0.1)])) == [1]


def test_none_are_shown_if_none_are_wanted():
    assert choose(records_of([3.0, 0.5]), n_most=0) == []
