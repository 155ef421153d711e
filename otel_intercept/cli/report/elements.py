"""The one door through which text from outside gets into the page."""

from typing import Final
from xml.etree.ElementTree import Element, SubElement

from otel_intercept.cli.output import printable

MAX_TEXT: Final = 200
"""Characters of one value that are shown; ids and names may be of any length."""


def clean(text: str) -> str:
    """Return text on one line, without control or direction characters, not too long.

    Markup in it is harmless: the tree is escaped as a whole when it is written.
    """
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT - 1]}…"
    return printable(text)


def put(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    """Add an element to another one and return it.

    Args:
        parent: Where it goes, as the last child.
        tag: Its name, a constant.
        text: What stands in it first; cleaned.
        **attributes: Their values are cleaned; ``_`` in a name stands for ``-``, and
            one at its end for nothing, as in ``class_``.
    """
    named = {
        name.rstrip("_").replace("_", "-"): clean(value)
        for name, value in attributes.items()
    }
    element = SubElement(parent, tag, named)
    element.text = clean(text)
    return element
