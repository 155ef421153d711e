"""Reading ``traceparent`` headers, as W3C Trace Context has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_intercept.trace_context import TraceParent, read_traceparent

ids = st.tuples(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())


@given(ids)
def test_what_is_written_can_be_read(ids: tuple[int, int, bool]) -> None:
    """A well-formed header gives back its ids and its sampled flag."""
    trace_id, span_id, sampled = ids

    header = f"00-{trace_id:032x}-{span_id:016x}-{int(sampled):02x}"

    assert read_traceparent(header) == TraceParent(trace_id, span_id, sampled)


@given(st.text() | st.none())
def test_anything_else_is_nothing(header: str | None) -> None:
    """Text from outside is never an error: it is a parent or it is not."""
    parsed = read_traceparent(header)

    assert parsed is None or (parsed.trace_id and parsed.span_id)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{'0' * 32}-{'a' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        f"ff-{'a' * 32}-{'b' * 16}-01",
        f"00-{'A' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'b' * 16}-01-extra\n",
    ],
)
def test_malformed_headers_are_ignored(header: str | None) -> None:
    """Zero ids, version ff and upper case are not a parent."""
    assert read_traceparent(header) is None


def test_a_future_version_is_read_as_version_00() -> None:
    """Section 3.2: a higher version may append fields, which are ignored."""
    header = f"cc-{'a' * 32}-{'b' * 16}-01-what-comes-later"

    parsed = read_traceparent(header)

    assert parsed == TraceParent(int("a" * 32, 16), int("b" * 16, 16), True)
