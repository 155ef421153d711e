"""Fingerprints: equal failures group, nothing can be guessed, nothing costs much."""

import http.client
import statistics
import sys
import timeit
from collections.abc import Callable

import aiohttp
import httpx
import pytest

from otel_intercept import failure as failures
from otel_intercept.failure import describe
from otel_intercept.semconv import Phase
from tests.broken_upstream import aiohttp_json, closed_port, httpx_json, raised_by
from tests.exceptions import KEY, described, linked, made

ALIKE: list[Callable[[int], BaseException]] = [
    lambda n: RuntimeError(f"Connection to 10.0.0.{n}:80{n} failed after {n}.5 s."),
    lambda n: RuntimeError(f"Connection to host_{n} failed after {n} s!"),
    lambda n: KeyError(f"req_{n:08x}"),
    lambda n: ConnectionResetError(104, "Connection reset by peer"),
    lambda n: ValueError(f"no model {'sk-' + 'a1' * n} here"),
    lambda n: ValueError(f"no model {'longword' * (n + 1)} here"),
    lambda n: TimeoutError(f"waited {n}"),
    lambda n: httpx.ReadError(f"read of {n} bytes"),
    lambda n: linked(RuntimeError(f"call {n}"), KeyError(f"{n}")),
]


@pytest.mark.parametrize("make", ALIKE, ids=range(len(ALIKE)))
def test_equal_failures_have_equal_fingerprints(
    make: Callable[[int], BaseException],
) -> None:
    """Ids, ports, times, counts and keys do not part equal failures."""
    prints = {described(make(number)).fingerprint for number in range(1, 20)}

    assert len(prints) == 1


def test_different_failures_have_different_fingerprints() -> None:
    """Class, chain, sentence, status and code part failures; phase does not."""
    different = [
        described(RuntimeError("model failed")),
        described(RuntimeError("tool failed")),
        described(ValueError("model failed")),
        described(linked(RuntimeError("model failed"), KeyError())),
        described(linked(RuntimeError("model failed"), ValueError())),
        described(RuntimeError()),
        failures.from_status(500, phase=Phase.LATE, key=KEY),
        failures.from_status(502, phase=Phase.LATE, key=KEY),
        failures.from_error_frame("server_error", None, key=KEY),
        failures.from_error_frame("api_error", None, key=KEY),
        failures.from_error_frame(None, None, key=KEY),
    ]
    again = described(RuntimeError("model failed"), Phase.LATE)

    assert len({failure.fingerprint for failure in different}) == len(different)
    assert again.fingerprint == different[0].fingerprint


async def test_a_refused_port_does_not_part_failures() -> None:
    """The same client's errors for two ports have one fingerprint."""
    for call in (aiohttp_json, httpx_json):
        prints = set()
        for _ in range(2):
            exc = await raised_by(call, f"http://127.0.0.1:{closed_port()}")
            prints.add(described(exc).fingerprint)

        assert len(prints) == 1


@pytest.mark.parametrize(
    "exc",
    [
        lambda text: made("Own", text, base=RuntimeError),
        lambda text: http.client.HTTPException(text),
        lambda text: aiohttp.http_exceptions.BadStatusLine(text),
    ],
    ids=["own", "http.client", "aiohttp"],
)
def test_text_that_may_echo_a_body_parts_nothing(
    exc: Callable[[str], BaseException],
) -> None:
    """Of classes that are not known to say fixed sentences no text is read."""
    one, two = exc("a prompt"), exc("another prompt entirely")

    assert described(one).fingerprint == described(two).fingerprint


def test_a_fingerprint_is_16_hex_digits() -> None:
    """A fingerprint has one closed shape."""
    fingerprint = described(RuntimeError("x")).fingerprint

    assert len(fingerprint) == 16
    assert set(fingerprint) <= set("0123456789abcdef")


def test_a_fingerprint_tells_nothing_without_the_key() -> None:
    """Trying every text that is likely finds nothing under any other key."""
    words = [f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop"]
    target = described(RuntimeError("password is bj")).fingerprint
    guesses = (b"", b"\0" * 32, b"otel_intercept", KEY[:-1])

    found = [
        word
        for key in guesses
        for word in words
        if target
        == describe(
            RuntimeError(f"password is {word}"), phase=Phase.UPSTREAM_CALL, key=key
        ).fingerprint
    ]

    assert "bj" in words
    assert found == []


def test_digits_cannot_be_guessed_even_with_the_key() -> None:
    """Numbers are left out before hashing, so no number can be tried."""
    one = described(RuntimeError("the code is 123456"))
    two = described(RuntimeError("the code is 654321"))

    assert one.fingerprint == two.fingerprint


def _median_s(exc: BaseException) -> float:
    runs = timeit.repeat(lambda: described(exc), number=50, repeat=21)
    return statistics.median(runs) / 50


@pytest.mark.parametrize(
    "exc",
    [
        RuntimeError("Connection to 10.0.0.1:80 failed after 3 tries"),
        made("Own"),
        httpx.ReadTimeout("x"),
        linked(RuntimeError(), httpx.ReadError("r"), ConnectionResetError()),
    ],
    ids=["builtin", "own", "httpx", "chain"],
)
def test_describing_is_cheap(exc: BaseException) -> None:
    """A plain failure is described in well under 60 microseconds."""
    # Coverage slows every line down.
    limit_s = 60e-6 if sys.gettrace() is None else 240e-6

    assert _median_s(exc) < limit_s


@pytest.mark.parametrize(
    "text",
    ["x" * 10_000_000, "x " * 5_000_000, "\n" * 10_000_000, "://" * 3_000_000],
    ids=["word", "words", "lines", "urls"],
)
def test_long_messages_cost_no_more(text: str) -> None:
    """Ten megabytes of message are not read to their end."""
    assert _median_s(RuntimeError(text)) < 1e-3
