"""Warnings that point at the user's own line."""

import warnings

from anomalib_lite.notices import warn_user


def test_warnings_point_at_the_line_of_the_user():
    inside = {"__name__": "anomalib_lite.methods", "warn_user": warn_user}
    deep = eval("lambda: warn_user('deep')", inside)
    deeper = eval("lambda: deep()", {**inside, "deep": deep})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_user("direct")
        deep()
        deeper()
    assert [str(each.message) for each in caught] == ["direct", "deep", "deep"]
    assert all(each.filename == __file__ for each in caught)
