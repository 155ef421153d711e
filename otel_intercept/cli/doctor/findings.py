"""The closed list of what doctor can find, each with the line to add."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Code(StrEnum):
    """What is wrong with a wiring. The names are explained in docs/doctor.md."""

    INSTRUMENTED_TOO_LATE = "instrumented_too_late"
    MISCONFIGURED = "misconfigured"
    NO_ROUTE = "no_route"
    NOT_INSTRUMENTED = "not_instrumented"
    WRONG_ROLLOUT_ID = "wrong_rollout_id"
    OTHER_ROLLOUT_ID = "other_rollout_id"
    OTHER_REGISTRY = "other_registry"
    ROLLOUT_NOT_OPEN = "rollout_not_open"
    AGENT_REFUSED = "agent_refused"
    TELEMETRY_DISABLED = "telemetry_disabled"
    NO_TELEMETRY = "no_telemetry"
    NO_EXCHANGES = "no_exchanges"
    UPSTREAM_NOT_REACHED = "upstream_not_reached"
    EXCHANGE_MISSING = "exchange_missing"
    EXCHANGE_DOUBLED = "exchange_doubled"
    NOT_INJECTED = "not_injected"
    GOOD_CALL_FAILED = "good_call_failed"
    AGENT_LEFT_UNSEEN = "agent_left_unseen"
    STATUS_SWALLOWED = "status_swallowed"
    CALL_SWALLOWED = "call_swallowed"
    BODY_SWALLOWED = "body_swallowed"
    STREAM_SWALLOWED = "stream_swallowed"
    FAILURE_MISNAMED = "failure_misnamed"
    UPSTREAM_NOT_TIMED = "upstream_not_timed"
    MODEL_UNKNOWN = "model_unknown"
    SECOND_TRACE = "second_trace"
    SEVERAL_TRACES = "several_traces"
    FOREIGN_PARENT = "foreign_parent"
    SECRET_IN_TELEMETRY = "secret_in_telemetry"  # noqa: S105 - a word, not a secret
    SECRET_IN_ANSWER = "secret_in_answer"  # noqa: S105 - a word, not a secret
    EXPORT = "export"


class Finding(NamedTuple):
    """One thing that is wrong.

    Args:
        code: Which.
        what: What was seen, in one sentence of ours.
        add: The line to add, or what to do.
        probes: The names of the probes that showed it.
    """

    code: Code
    what: str
    add: str
    probes: tuple[str, ...] = ()


class _Words(NamedTuple):
    what: str
    add: str


_SEE: Final = (
    "add `exchange.watch(future)`, or put the call and its checks into "
    "`with exchange.upstream_call():`"
)

_WORDS: Final[Mapping[Code, _Words]] = MappingProxyType(
    {
        Code.INSTRUMENTED_TOO_LATE: _Words(
            "the app is frozen{where}: instrument_app came after its runner was set "
            "up, or after it was mounted",
            "call `instrument_app(app, registry)` where the app is made, before "
            "`AppRunner.setup()`, `run_app()` and `add_subapp()`",
        ),
        Code.NO_ROUTE: _Words(
            "POST {route} was answered with {status}: the app has no such route",
            "pass --route with the template of the route that agents call",
        ),
        Code.NOT_INSTRUMENTED: _Words(
            "no exchange span for POST {route}: the app is not instrumented",
            "add `instrument_app(app, registry)` in the factory, before the runner is "
            "set up",
        ),
        Code.WRONG_ROLLOUT_ID: _Words(
            "no request is seen: rollout_id={key!r} finds no id in route {route}",
            "{add}",
        ),
        Code.OTHER_ROLLOUT_ID: _Words(
            "the app is instrumented with another rollout_id than --rollout-id says",
            "pass the same to `instrument_app(app, registry, rollout_id=...)`",
        ),
        Code.OTHER_REGISTRY: _Words(
            "all requests were rejected: the app is instrumented for another registry "
            "than the one its rollouts are opened in",
            "make one `RolloutRegistry(telemetry)` per process, and give it to "
            "`instrument_app(app, registry)` and to whoever opens rollouts",
        ),
        Code.ROLLOUT_NOT_OPEN: _Words(
            "all requests were rejected: no rollout was open for them",
            "open each with `registry.open(rollout_id)` before its agent starts; for "
            "doctor, pass --open-url or --rollout-id",
        ),
        Code.AGENT_REFUSED: _Words(
            "the good call was answered with {status}: the app refuses doctor's agent",
            "pass the credential with --header-env NAME=VARIABLE",
        ),
        Code.TELEMETRY_DISABLED: _Words(
            "the app's telemetry is disabled: it was made without an exporter",
            "build it with `otel_intercept.sdk.configure()`",
        ),
        Code.NO_TELEMETRY: _Words(
            "no telemetry arrived: {why}",
            "{add}",
        ),
        Code.NO_EXCHANGES: _Words(
            "rollouts are seen, but no exchange of theirs",
            "add `instrument_app(app, registry)` with the registry that they are open "
            "in, and a rollout_id that finds their id",
        ),
        Code.UPSTREAM_NOT_REACHED: _Words(
            "the app did not call doctor's upstream, so nothing could be injected",
            "read the upstream's URL from OPENAI_BASE_URL or ANTHROPIC_BASE_URL, take "
            "it as parameter `upstream_url`, or pass --upstream-env NAME",
        ),
        Code.EXCHANGE_MISSING: _Words(
            "no exchange span arrived, though other calls have one",
            "check that the export keeps up and that nothing samples rollouts away",
        ),
        Code.EXCHANGE_DOUBLED: _Words(
            "one request has more than one exchange span",
            "instrument the root app only, for one registry",
        ),
        Code.NOT_INJECTED: _Words(
            "the app did not call the upstream for this, so nothing was injected",
            "switch off caches and circuit breakers for doctor",
        ),
        Code.GOOD_CALL_FAILED: _Words(
            "a good answer of the upstream came out as {seen}",
            "run the app against a model: it cannot serve doctor's scripted answers, "
            "or rejects doctor's requests",
        ),
        Code.AGENT_LEFT_UNSEEN: _Words(
            "an agent that left before its answer came out as {seen}",
            "let the handler write to the response itself, without `shield` and "
            "without answering from another task",
        ),
        Code.STATUS_SWALLOWED: _Words(
            "the upstream's error status came out as {seen}: the handler swallows it",
            f"{_SEE}; in the block, call `answer.raise_for_status()`",
        ),
        Code.CALL_SWALLOWED: _Words(
            "an upstream that hung or refused the connection came out as {seen}: the "
            "handler swallows it",
            _SEE,
        ),
        Code.BODY_SWALLOWED: _Words(
            "an upstream's body that is empty or no JSON came out as {seen}: nothing "
            "checks it where it is watched",
            f"{_SEE}; in the block, parse the answer and raise if it is empty",
        ),
        Code.STREAM_SWALLOWED: _Words(
            "a broken stream of the upstream came out as {seen}: the handler ends the "
            "agent's stream as if all were well",
            f"{_SEE}; read the stream in the block, and raise on an error frame and "
            "when its terminal event is missing",
        ),
        Code.FAILURE_MISNAMED: _Words(
            "the failure was seen, but as {seen}",
            "let `upstream_call` or `watch` see the client library's own exception: "
            "raise your own one `from` it",
        ),
        Code.UPSTREAM_NOT_TIMED: _Words(
            "time and class of the upstream call are missing: there is no chat span",
            "add `exchange.watch(future)`, or put the call into "
            "`with exchange.upstream_call():`",
        ),
        Code.MODEL_UNKNOWN: _Words(
            "the model is not known",
            "call `exchange.describe_request(body)` with the parsed request",
        ),
        Code.SECOND_TRACE: _Words(
            "another instrumentation traces rollout routes too, and its spans follow "
            "the agent's trace",
            "instrument the root app: `instrument_app(root, registry)`, so that it "
            "stands outside of the other middleware",
        ),
        Code.SEVERAL_TRACES: _Words(
            "one rollout has {count} root spans or traces",
            "open each rollout once, in one registry, in one process",
        ),
        Code.FOREIGN_PARENT: _Words(
            "exchange spans are not below the root span of their rollout",
            "do not set a parent or trace id on what otel_intercept exports",
        ),
        Code.SECRET_IN_TELEMETRY: _Words(
            "a secret that doctor planted in the upstream's error texts, or in its own "
            "prompt, came out in telemetry",
            "switch off instrumentations that record exceptions or bodies, and do not "
            "put them into attributes",
        ),
        Code.SECRET_IN_ANSWER: _Words(
            "the upstream's error text came out in the agent's answer",
            "answer with your own words; if agents may read it, pass "
            "--allow-error-texts",
        ),
    }
)


def find(code: Code, probes: tuple[str, ...] = (), **facts: object) -> Finding:
    """Make a finding.

    Args:
        code: Which.
        probes: The names of the probes that showed it.
        **facts: What the sentences name: words of closed sets, numbers, routes and
            identifiers.
    """
    what, add = _WORDS[code]
    return Finding(code, what.format(**facts), add.format(**facts), probes)
