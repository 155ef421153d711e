"""Canaries: secrets that name the place they were planted in, and the search for them.

A canary is told by its place and by the run that planted it, so a hit says what leaked,
and the canaries of another run must never be found. It is found whole, in pieces of 10
characters, reversed, in any case, encoded, compressed and hashed.
"""

import base64
import binascii
import contextlib
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from tests.canary_places import CONTROLS, PLACES

PIECE: Final = 10
"""Characters of a canary that make a leak."""

_KNOWN: Final = PLACES | CONTROLS
_LENGTH: Final = 24
_DIGITS: Final = 12
_HASH: Final = 16
_LAYERS: Final = 3
_MAX_INFLATED: Final = 1 << 24

_BLANKS: Final = re.compile(rb'[\s",]+')
_RUNS: Final = re.compile(rb"[a-z2-7]{10,}")
_DIGIT_RUNS: Final = re.compile(rb"[0-9]{12,}")
_HEX_RUNS: Final = re.compile(rb"[0-9A-Fa-f]{20,}")
_BASE64_RUNS: Final = re.compile(rb"[A-Za-z0-9+/_-]{14,}")
_ESCAPES: Final = re.compile(
    rb"\\+(?:u00|x|u\{)([0-9A-Fa-f]{2})\}?|&#(?:x([0-9A-Fa-f]{2})|([0-9]{2,3}));"
)
_ZLIB: Final = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08")
_HASHES: Final = (hashlib.md5, hashlib.sha1, hashlib.sha256)

_Unwrap: TypeAlias = Callable[[bytes], Iterable[bytes]]

Hits: TypeAlias = dict[str, str]
"""How each place that was found was found: ``piece``, ``reversed``, ``hash``, ..."""


@dataclass(frozen=True, slots=True)
class Mint:
    """Makes the canaries of one run.

    A canary has 24 characters of ``[a-z2-7]``, a letter first. It is a valid host
    label, header name, identifier and file name; no encoder of URLs or JSON has to
    change it, and no secret scanner knows it.
    """

    run: str

    def __call__(self, place: str) -> str:
        """Return the canary of a place; KeyError for one that is not listed."""
        text = base64.b32encode(self._digest(place)).decode().lower()
        return "k" + text[: _LENGTH - 1]

    def number(self, place: str) -> int:
        """Return the canary of a place as a number of 16 digits."""
        return 10**15 + int.from_bytes(self._digest(place)) % (9 * 10**15)

    def _digest(self, place: str) -> bytes:
        if place not in _KNOWN:
            raise KeyError(place)
        named = f"{self.run}/{place}".encode()
        return hashlib.blake2s(named, digest_size=15).digest()


ANOTHER: Final = "another run's"
"""Begins the place of a hit that cannot be: its canary was never planted."""

_DECOY: Final = Mint("never played")


class Scanner:
    """Finds the canaries of one run, and those of another if there were any.

    Args:
        mint: Made them.
        places: Where they were planted.
    """

    def __init__(self, mint: Mint, places: Iterable[str]) -> None:
        self._pieces: dict[bytes, tuple[str, str]] = {}
        self._hashes: dict[bytes, str] = {}
        self._raw_hashes: dict[bytes, str] = {}
        for place in places:
            for name, maker in ((place, mint), (f"{ANOTHER} {place}", _DECOY)):
                self._add(maker(place).encode(), name, PIECE)
                self._add(f"{maker.number(place)}".encode(), name, _DIGITS)

    def scan(self, blob: bytes) -> Hits:
        """Return the places whose canary is in the blob, in whatever guise."""
        if blob.isascii():
            # Logs and JSON say most words many times, and no guise has a blank in it.
            blob = b"\n".join(dict.fromkeys(_BLANKS.split(blob)))
        hits: Hits = {}
        for view in _views(blob, _LAYERS):
            for place, how in self._find(view):
                hits.setdefault(place, how)
        for view in (blob, *_unwrapped(blob, (_inflated, _from_hex, _from_base64))):
            for digest, place in self._raw_hashes.items():
                if digest in view:
                    hits.setdefault(place, "hash")
        return hits

    def _add(self, canary: bytes, place: str, size: int) -> None:
        for how, text in (("piece", canary), ("reversed", canary[::-1])):
            for piece in _windows(text, size):
                self._pieces[piece] = (place, how)
        for algorithm in _HASHES:
            digest = algorithm(canary, usedforsecurity=False)
            self._hashes[digest.hexdigest().encode()[:_HASH]] = place
            self._raw_hashes[digest.digest()[: _HASH // 2]] = place

    def _find(self, view: bytes) -> Iterator[tuple[str, str]]:
        lower = view.lower()
        for runs, size in ((_RUNS, PIECE), (_DIGIT_RUNS, _DIGITS)):
            for run in runs.finditer(lower):
                for piece in _windows(run[0], size):
                    if piece in self._pieces:
                        yield self._pieces[piece]
        for run in _HEX_RUNS.finditer(lower):
            for piece in _windows(run[0], _HASH):
                if piece in self._hashes:
                    yield self._hashes[piece], "hash"


def _windows(text: bytes, size: int) -> Iterator[bytes]:
    for start in range(len(text) - size + 1):
        yield text[start : start + size]


def _views(blob: bytes, layers: int) -> Iterator[bytes]:
    """Yield the blob, and all that its layers of encoding and compression hold."""
    yield blob
    if layers == 0:
        return
    for inner in _unwrapped(blob, _UNWRAPPERS):
        yield from _views(inner, layers - 1)


def _unwrapped(blob: bytes, unwrappers: Iterable[_Unwrap]) -> Iterator[bytes]:
    """Yield what each kind of layer holds, all such layers in one."""
    for unwrap in unwrappers:
        inner = b"\n".join(unwrap(blob))
        if inner and inner != blob:
            yield inner


def _inflated(blob: bytes) -> Iterator[bytes]:
    for magic in _ZLIB.finditer(blob):
        # Takes zlib and gzip, by the header.
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        inner = bytearray()
        # Byte by byte, so that a broken end spoils nothing of what came before.
        with contextlib.suppress(zlib.error):
            for start in range(magic.start(), len(blob)):
                inner += inflater.decompress(blob[start : start + 1])
                if inflater.eof or len(inner) > _MAX_INFLATED:
                    break
        yield bytes(inner)


def _from_hex(blob: bytes) -> Iterator[bytes]:
    for run in _HEX_RUNS.finditer(blob):
        for start in range(2):
            text = run[0][start:]
            yield binascii.unhexlify(text[: len(text) // 2 * 2])


def _from_base64(blob: bytes) -> Iterator[bytes]:
    for run in _BASE64_RUNS.finditer(blob):
        # Of a canary it has letters of both cases; a path or a word has not.
        if run[0].islower() or run[0].isupper():
            continue
        text = run[0].replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):
            whole = text[start : start + (len(text) - start) // 4 * 4]
            yield binascii.a2b_base64(whole)


def _from_percent(blob: bytes) -> Iterator[bytes]:
    if b"%" in blob:
        yield unquote_to_bytes(blob)


def _from_escapes(blob: bytes) -> Iterator[bytes]:
    if _ESCAPES.search(blob):
        yield _ESCAPES.sub(_unescape, blob)


def _unescape(match: "re.Match[bytes]") -> bytes:
    hexadecimal = match[1] or match[2]
    number = int(hexadecimal, 16) if hexadecimal else int(match[3])
    return bytes([number & 0xFF])


def _from_wide(blob: bytes) -> Iterator[bytes]:
    # UTF-16 and UTF-32 of ASCII, in either order of bytes.
    if b"\0" in blob:
        yield blob.replace(b"\0", b"")


_UNWRAPPERS: Final[tuple[_Unwrap, ...]] = (
    _inflated,
    _from_hex,
    _from_base64,
    _from_percent,
    _from_escapes,
    _from_wide,
)
