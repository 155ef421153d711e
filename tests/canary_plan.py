"""What happens in a canary run: one rollout per scenario, and what must come of it."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from tests.canary_callers import CALLS, ROUTES
from tests.canary_exceptions import HOSTILE
from tests.canary_upstream import STATUSES

How: TypeAlias = Literal[
    "call", "stream", "before", "after", "future", "swallow", "late", "report",
    "rollout_fail", "body", "signal", "block", "task", "stop", "answer", "cancel",
    "leave", "bad_json", "deliver", "break_stream", "empty_stream", "bad_answer",
    "bad_chunk", "relay",
]  # fmt: skip
Via: TypeAlias = Literal[
    "app", "server", "frames", "relay", "relay_slow", "relay_refused", "relay_no_host",
    "relay_no_tls",
]  # fmt: skip


class Scenario(NamedTuple):
    """One exchange in one rollout.

    Args:
        rollout_id: Names it; also its place in the plan.
        via: What the agent asks: somebody's own app, the interception server (with
            ``done`` or with error frames), or a relay to one upstream.
        how: What the handler or the consumer does.
        what: A fault of the upstream, or a hostile exception.
        route: The end of the path, which names the dialect.
        caller: The client that calls the upstream.
        types: The error types of which the one failure must have one; none if the
            rollout must not fail.
        outcomes: The outcomes of which the exchange must have one.
    """

    rollout_id: str
    via: Via
    how: How
    what: str
    route: str
    caller: str
    types: frozenset[str]
    outcomes: frozenset[str]

    @property
    def path(self) -> str:
        """What the agent asks for."""
        fault = f"{self.what}/" if self.how == "relay" else ""
        return f"/rollout/{self.rollout_id}/v1/{fault}{self.route}"

    @property
    def streams(self) -> bool:
        """Whether the agent asks for a stream."""
        return self.how in {"stream", "break_stream", "empty_stream", "bad_chunk"}

    @property
    def passes_through(self) -> bool:
        """Whether a good answer is the upstream's own words, as it should be."""
        return self.how in {"stream", "relay", "break_stream"}


_MALFORMED: Final = (
    "bad_status_line", "no_http", "bad_header", "bad_length", "bad_chunk",
    "bad_encoding",
)  # fmt: skip
_UNPARSED: Final = (
    "html_200", "long_header", "bad_trailer", "bad_charset", "broken_json", "empty_200",
)  # fmt: skip
_LOST: Final = ("says_nothing", "resets", "refused", "no_such_host", "no_tls")
_SLOW: Final = ("hangs", "hangs_in_body", "tls_hangs")
_REFUSED: Final = (
    *(f"status_{status}" for status in STATUSES),
    "context_length", "content_filter", "html_500", "text_503", "empty_500", "redirect",
)  # fmt: skip
_CUT_STREAMS: Final = ("sse_cut", "sse_reset", "sse_hangs")
_BAD_STREAMS: Final = (
    "sse_error", "sse_error_first", "sse_overloaded", "sse_broken_json", "sse_no_end",
)  # fmt: skip

_BY_STATUS: Final = {
    401: "upstream_auth",
    403: "upstream_auth",
    408: "upstream_timeout",
    429: "upstream_rate_limited",
    500: "upstream_server_error",
    502: "upstream_server_error",
    503: "upstream_overloaded",
    504: "upstream_timeout",
    529: "upstream_overloaded",
}
_FAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{f"status_{n}": _BY_STATUS.get(n, "upstream_bad_request") for n in STATUSES},
        **dict.fromkeys((*_MALFORMED, *_UNPARSED), "upstream_bad_response"),
        **dict.fromkeys(_LOST, "upstream_connection"),
        **dict.fromkeys((*_SLOW, "sse_hangs"), "upstream_timeout"),
        **dict.fromkeys(("short_body", "sse_cut", "sse_reset"), "upstream_truncated"),
        "context_length": "upstream_bad_request upstream_context_length",
        "content_filter": "upstream_bad_request upstream_content_filter",
        "html_500": "upstream_server_error",
        "text_503": "upstream_overloaded",
        "empty_500": "upstream_server_error",
        # Clients follow it to a closed port, or stop at the status.
        "redirect": "upstream_connection upstream_bad_response upstream_error_frame",
        "sse_error": "upstream_error_frame",
        "sse_error_first": "upstream_error_frame",
        "sse_overloaded": "upstream_overloaded",
        "sse_broken_json": "upstream_bad_response",
        "sse_no_end": "upstream_truncated",
    }
)
# The SDKs take a page of HTML for an answer, and the program trips over it.
_SDK_HTML: Final = "_OTHER"

_UPSTREAM_ERRORS: Final = {
    "lying_status": "upstream_error_frame",
    "lying_code": "upstream_server_error",
    "huge_status": "upstream_error_frame",
    "openai_fields": "upstream_server_error",
    "anthropic_fields": "upstream_overloaded",
    "timeout": "upstream_timeout",
    "connection": "upstream_connection",
}
_SEEN_AT_THE_FUTURE: Final = {
    "future", "late", "swallow", "report", "deliver", "break_stream", "empty_stream",
}  # fmt: skip
_SAMPLES: Final = (
    "message", "group", "metaclass", "openai_fields", "control_characters", "timeout",
)  # fmt: skip


def plan() -> list[Scenario]:
    """Return every scenario, in order."""
    rows = (*_app_rows(), *_server_rows(), *_relay_rows())
    return [row._replace(rollout_id=f"s{index}") for index, row in enumerate(rows)]


def _app_rows() -> Iterator[Scenario]:
    for caller in CALLS:
        for fault in (*_REFUSED, *_MALFORMED, *_UNPARSED, *_LOST, *_SLOW, "short_body"):
            if (fault, caller) != ("empty_200", "aiohttp"):
                yield _fault("call", fault, caller, "upstream_failed")
        for fault in (*_REFUSED[::5], *_MALFORMED, *_LOST, *_SLOW, "short_body"):
            yield _fault("stream", fault, caller, "upstream_failed cut")
        for fault in _CUT_STREAMS:
            # On a busy machine the upstream may be late with its first word.
            yield _fault("stream", fault, caller, "cut upstream_failed")
        for fault in _BAD_STREAMS:
            yield _bad_stream(fault, caller)
    routes = cycle(ROUTES.values())
    for what in HOSTILE:
        yield _hostile("before", what, next(routes), "handler_failed")
        yield _hostile("after", what, next(routes), "cut")
        yield _hostile("future", what, next(routes), "upstream_failed")
        yield _hostile("late", what, next(routes), "ok")
    for what in _SAMPLES:
        yield _hostile("swallow", what, next(routes), "silent_empty")
        yield _hostile("report", what, next(routes), "silent_empty")
        yield _hostile("rollout_fail", what, next(routes), "ok")
        yield _hostile("body", what, next(routes), "cut")
        yield _hostile("signal", what, next(routes), "handler_failed")
        yield _hostile("block", what, next(routes), "ok")
    yield _row("task", "message", "_OTHER", "upstream_failed")
    yield _row("stop", "message", "", "clean_stop")
    yield _row("bad_json", "message", "handler_error", "handler_failed")
    yield _row("answer", "http_exception", "upstream_server_error", "upstream_failed")
    yield _row("cancel", "cancelled", "", "cancelled")
    yield _row("leave", "message", "agent_disconnected", "cut")


def _server_rows() -> Iterator[Scenario]:
    routes = cycle(ROUTES.values())
    ends: tuple[tuple[Via, str], ...] = (
        ("server", "silent_empty"),
        ("frames", "error_frame"),
    )
    for what in HOSTILE:
        yield _hostile("deliver", what, next(routes), "upstream_failed", "server")
        for via, outcome in ends:
            yield _hostile("break_stream", what, next(routes), outcome, via)
    for what in _SAMPLES:
        for via, outcome in ends:
            yield _hostile("empty_stream", what, next(routes), outcome, via)
            yield _hostile("bad_answer", what, next(routes), "handler_failed", via)
            # The other dialects leave out what they do not know.
            yield _hostile("bad_chunk", what, "chat/completions", "cut", via)


def _relay_rows() -> Iterator[Scenario]:
    routes = cycle(ROUTES.values())
    refused = (fault for fault in _REFUSED if fault != "redirect")
    malformed = (fault for fault in _MALFORMED if fault != "bad_encoding")
    for fault in (*refused, *malformed, "long_header", "says_nothing", "resets"):
        yield _relayed(fault, next(routes), "upstream_failed")
    for fault in ("short_body", "sse_cut", "sse_reset"):
        yield _relayed(fault, next(routes), "cut")
    for fault in ("sse_error", "sse_error_first", "sse_overloaded"):
        yield _relayed(fault, next(routes), "error_frame")
    for fault in ("sse_broken_json", "sse_no_end"):
        relayed = _relayed(fault, next(routes), "no_terminal")
        yield relayed._replace(types=_set("upstream_truncated"))
    yield _relayed("hangs", next(routes), "upstream_failed", "relay_slow")
    yield _relayed("hangs_in_body", next(routes), "cut upstream_failed", "relay_slow")
    yield _relayed("sse_hangs", next(routes), "cut upstream_failed", "relay_slow")
    yield _relayed("refused", next(routes), "upstream_failed", "relay_refused")
    yield _relayed("no_such_host", next(routes), "upstream_failed", "relay_no_host")
    yield _relayed("no_tls", next(routes), "upstream_failed", "relay_no_tls")


def _fault(how: How, fault: str, caller: str, outcomes: str) -> Scenario:
    types = _FAULTS[fault]
    if fault == "html_200" and caller in {"openai", "anthropic"}:
        types = _SDK_HTML
    row = _row(how, fault, types, outcomes)
    return row._replace(route=ROUTES[caller], caller=caller)


def _bad_stream(fault: str, caller: str) -> Scenario:
    if caller not in {"aiohttp", "httpx"}:
        outcomes = "no_terminal" if fault == "sse_no_end" else "cut upstream_failed"
        return _fault("stream", fault, caller, outcomes)
    if "error" in fault or "overloaded" in fault:
        return _fault("stream", fault, caller, "error_frame")
    # Nobody reads what passes through, but its end is missing.
    row = _fault("stream", fault, caller, "no_terminal")
    return row._replace(types=_set("upstream_truncated"))


def _hostile(
    how: How, what: str, route: str, outcomes: str, via: Via = "app"
) -> Scenario:
    types = _UPSTREAM_ERRORS.get(what)
    if types is None and how in _SEEN_AT_THE_FUTURE:
        # Data that cannot be parsed came from the upstream there.
        types = "upstream_bad_response" if what in {"json", "unicode"} else "_OTHER"
    if how == "bad_chunk":
        types = "handler_error"
    row = _row(how, what, types or "handler_error", outcomes)
    return row._replace(route=route, via=via)


def _relayed(fault: str, route: str, outcomes: str, via: Via = "relay") -> Scenario:
    row = _row("relay", fault, _FAULTS[fault], outcomes)
    return row._replace(route=route, via=via)


def _row(how: How, what: str, types: str, outcomes: str) -> Scenario:
    return Scenario(
        rollout_id="",
        via="app",
        how=how,
        what=what,
        route="chat/completions",
        caller="",
        types=_set(types),
        outcomes=_set(outcomes),
    )


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())
