"""Recognise the chunk that a stream repeats, but for one piece of text, at a glance.

Nearly all chunks of a stream are equal outside the text that the model has written.
Once one of them was found to be merely a chunk, all that differ from it only in that
text are, too: it stands where no key and no kind can, and no quote in it ends it.
"""

from typing import Final

_TEXT_KEYS: Final = (b'"content":', b'"text":', b'"delta":', b'"reasoning_content":')
_QUOTE: Final = b'"'
_LF: Final = b"\n"
_CR: Final = b"\r"
_MOST_TRIES: Final = 8
_MOST_BYTES: Final = 65_536


class Repeats:
    """What the chunks of one stream have in common, as far as it was learned.

    Learning is given up after a few tries, as where each chunk has a number of its own.
    """

    __slots__ = ("_after", "_before", "_size_after", "_size_before", "_tries")

    def __init__(self) -> None:
        # No event begins like this.
        self._before = _LF
        self._size_before = 1
        self._after = b""
        self._size_after = 0
        self._tries = 0

    def has(self, data: bytes) -> bool:
        """Tell whether this is one whole chunk that differs only in its text."""
        before = self._size_before
        size = len(data)
        return (
            size <= _MOST_BYTES
            and data.startswith(self._before)
            and data.find(_QUOTE, before) == size - self._size_after
            and data.endswith(self._after)
            and data.find(_LF, before) == size - 2
            and data.find(_CR, before) < 0
        )

    @property
    def learns(self) -> bool:
        """Whether it has not given up."""
        return self._tries < _MOST_TRIES

    def learn(self, data: bytes, *, plain: bool) -> None:
        """Learn from the chunk that was written last.

        Args:
            data: What was written.
            plain: Whether that is one whole event which needs no parsing.
        """
        self._tries += 1
        if not plain:
            return
        for key in _TEXT_KEYS:
            at = data.find(key)
            if at >= 0:
                self._learn_around(data, at + len(key))
                return

    def _learn_around(self, data: bytes, colon: int) -> None:
        opening = data.find(_QUOTE, colon)
        closing = data.find(_QUOTE, opening + 1)
        # The value is a string: nothing or a space stands before its quote.
        if 0 < opening < closing and data[colon:opening] in {b"", b" "}:
            self._before = data[: opening + 1]
            self._after = data[closing:]
            self._size_before = opening + 1
            self._size_after = len(self._after)
