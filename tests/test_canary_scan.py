"""The search for canaries: it finds every guise of them, and nothing else."""

import base64
import gzip
import hashlib
import json
import secrets
import zlib
from collections.abc import Callable
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.canary import PIECE, Mint, Scanner
from tests.canary_places import PLACES
from tests.canary_walk import reachable, renderings

MINT = Mint("run")
PLACE = "exc.message"
CANARY = MINT(PLACE).encode()
SCANNER = Scanner(MINT, PLACES)

GUISES: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda canary: canary,
    "in a word": lambda canary: b"sk-" + canary + b"ABC",
    "a piece": lambda canary: canary[7 : 7 + PIECE],
    "upper": bytes.upper,
    "reversed": lambda canary: canary[::-1],
    "hex": lambda canary: canary.hex().encode(),
    "HEX": lambda canary: b"0" + canary.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64, one on": lambda canary: base64.b64encode(b"x" + canary + b"y"),
    "base64, two on": lambda canary: base64.b64encode(b"xx" + canary + b"yy"),
    "base64 for URLs": lambda canary: base64.urlsafe_b64encode(b"\xff\xfe?" + canary),
    "percent": lambda canary: "".join(f"%{byte:02X}" for byte in canary).encode(),
    "JSON escapes": lambda canary: "".join(f"\\u{b:04x}" for b in canary).encode(),
    "JSON in JSON": lambda canary: json.dumps(
        "".join(f"\\u{byte:04x}" for byte in canary)
    ).encode(),
    "Python escapes": lambda canary: "".join(f"\\x{b:02x}" for b in canary).encode(),
    "HTML": lambda canary: "".join(f"&#{byte};" for byte in canary).encode(),
    "HTML in hex": lambda canary: "".join(f"&#x{byte:x};" for byte in canary).encode(),
    "UTF-16": lambda canary: canary.decode().encode("utf-16-le"),
    "UTF-16 from the end": lambda canary: canary.decode().encode("utf-16-be"),
    "UTF-32": lambda canary: canary.decode().encode("utf-32"),
    "gzip": lambda canary: b"head" + gzip.compress(b"body " + canary),
    "zlib": lambda canary: b"head" + zlib.compress(canary + b" body"),
    "gzip in base64": lambda canary: base64.b64encode(gzip.compress(canary)),
    "base64 in gzip": lambda canary: gzip.compress(base64.b64encode(canary)),
    "percent in base64": lambda canary: base64.b64encode(
        quote_from_bytes(canary, safe="").encode()
    ),
    "md5": lambda canary: _hashed("md5", canary).hex().encode(),
    "sha1": lambda canary: _hashed("sha1", canary).hex().encode(),
    "sha256": lambda canary: _hashed("sha256", canary).hex().encode(),
    "the beginning of a hash": lambda canary: (
        _hashed("sha256", canary).hex()[:20].encode()
    ),
    "a raw hash": lambda canary: _hashed("sha256", canary),
    "a hash in base64": lambda canary: base64.b64encode(_hashed("sha1", canary)),
}


@pytest.mark.parametrize("guise", GUISES)
def test_every_guise_is_found(guise: str) -> None:
    """A canary is found encoded, compressed, hashed, and in pieces."""
    blob = b'{"before": 1}\xff' + GUISES[guise](CANARY) + b'\xff{"after": "of it"}'

    assert SCANNER.scan(blob).keys() == {PLACE}


@pytest.mark.parametrize("guise", GUISES)
def test_every_guise_is_found_in_a_log(guise: str) -> None:
    """It is found among the words of a text, too, of which each is looked at once."""
    text = GUISES[guise](CANARY)
    blob = b"again and again\n" * 3 + text + b"\nagain"

    assert SCANNER.scan(blob).keys() == {PLACE}


@settings(deadline=None)
@given(st.binary(), st.binary())
def test_a_canary_is_found_between_anything(before: bytes, after: bytes) -> None:
    """Whatever stands around it, no canary is missed."""
    assert PLACE in SCANNER.scan(before + CANARY + after)


def test_numbers_are_found() -> None:
    """A canary that was planted as a number is found by twelve of its digits."""
    number = f"{MINT.number(PLACE)}"

    assert SCANNER.scan(number[2:14].encode()).keys() == {PLACE}


def test_what_is_not_there_is_not_found() -> None:
    """Short pieces, other runs and noise are no hits."""
    noise = secrets.token_bytes(100_000) + secrets.token_hex(100_000).encode()
    other = Mint("another run")(PLACE).encode()

    assert SCANNER.scan(b" ".join((noise, other, CANARY[: PIECE - 1]))) == {}


def test_canaries_can_stand_anywhere() -> None:
    """Each place has its own word, which is an identifier, host label and token."""
    canaries = {MINT(place) for place in PLACES}

    assert len(canaries) == len(PLACES)
    assert all(canary.isidentifier() and len(canary) == 24 for canary in canaries)


def test_a_place_must_be_listed() -> None:
    """A canary of no listed place would never be looked for, so there is none."""
    with pytest.raises(KeyError):
        MINT("nowhere")


def test_objects_are_read_off_to_the_bottom() -> None:
    """Chains, notes, groups, arguments, fields and locals of an exception are read."""
    planted = {
        "exc.message",
        "exc.note",
        "exc.cause",
        "exc.context",
        "exc.group_member",
        "exc.attribute",
        "exc.args",
        "exc.local",
    }

    text = reachable(_laden()) + renderings(_laden())

    assert planted <= SCANNER.scan(text).keys()


def _laden() -> BaseException:
    def fail() -> None:
        key = MINT("exc.local")
        try:
            dict[str, int]()[MINT("exc.context")]
        except KeyError:
            group = ExceptionGroup(
                f"of {len(key)}", [ValueError(MINT("exc.group_member"))]
            )
            group.add_note(MINT("exc.note"))
            raise group from RuntimeError({MINT("exc.args"): 1}, MINT("exc.message"))

    try:
        fail()
    except ExceptionGroup as exc:
        cause = exc.__cause__
        assert cause is not None
        cause.__cause__ = ValueError(MINT("exc.cause"))
        vars(cause)["body"] = {"error": MINT("exc.attribute")}
        return exc
    raise AssertionError


def _hashed(name: str, canary: bytes) -> bytes:
    return hashlib.new(name, canary, usedforsecurity=False).digest()
