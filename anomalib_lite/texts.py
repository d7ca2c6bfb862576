"""Texts that can be printed."""


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
