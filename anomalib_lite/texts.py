"""Texts for people to read."""


def printable(text: object) -> str:
    r"""A text on one line that does nothing to a terminal: other characters as escapes.

    Examples
    --------
    >>> print(printable("two\nlines \x1b[31m \udcff"))
    two\nlines \x1b[31m \udcff
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def plural(n: int, noun: str) -> str:
    """A number of things.

    Examples
    --------
    >>> plural(1, "image"), plural(200, "image")
    ('1 image', '200 images')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
