"""What may be changed about verifiers v1 on request: error texts become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from otel_intercept.instrumentation.verifiers.host import Options
from otel_intercept.testing import TelemetryRecorder
from tests.hosts.v1_scenes import ask_beyond_a_limit, coalesce, coalesce_streams
from tests.hosts.v1_stage import (
    Observer,
    Played,
    Stage,
    is_old,
    load,
    new_server,
    new_session,
    play,
    started,
)
from tests.hosts.v1_upstream import SECRET

load("interception.server")

FAILING = ("500", "429", "401", "503")


@contextmanager
def observed(recorder: TelemetryRecorder, options: Options) -> Iterator[None]:
    """Observe every v1 server during a block."""
    observer = Observer(recorder, options)
    yield
    observer.undo()


async def ask(stage: Stage) -> None:
    """Ask once, and have the failure recorded as their rollout does at its end."""
    await stage.ask()
    if stage.session.error is not None:
        stage.session.trace.record_error(stage.session.error)


def sent(played: Played) -> bytes:
    """Return all that agents were sent."""
    return b"".join(played.sent)


@pytest.mark.parametrize("word", FAILING)
@pytest.mark.parametrize("redact", [False, True])
async def test_errors_on_a_trace_become_ours(
    recorder: TelemetryRecorder, word: str, redact: bool
) -> None:
    """With the option no error text is left on a trace; without it all of it is."""
    with observed(recorder, Options(redact_state=redact)):
        played = await play(ask, word)

    assert (SECRET in str(played.trace)) is not redact
    assert SECRET in played.error
    assert SECRET.encode() in sent(played)
    assert "'type': 'ProviderError'" in str(played.trace)
    assert f"'status_code': {word}" in str(played.trace)


async def test_a_redacted_error_keeps_its_class_and_no_traceback(
    recorder: TelemetryRecorder,
) -> None:
    """Class name and stop condition are theirs, the message is made of our words."""
    async with started(new_server()) as server:
        session = new_session("http://127.0.0.1:9")
        plain = new_session("http://127.0.0.1:9", "ab" * 16)
        plain.trace.record_error(ValueError(SECRET))
        with observed(recorder, Options(redact_state=True)):
            secrets = server.register(session)
            session.trace.record_error(ValueError(SECRET))
            server.unregister(*secrets)

    (recorded,) = session.trace.errors
    assert recorded.type == "ValueError"
    assert SECRET not in recorded.message
    assert recorded.message
    assert recorded.traceback is None
    assert session.trace.stop_condition == plain.trace.stop_condition


async def test_a_watcher_of_a_trace_never_sees_the_text(
    recorder: TelemetryRecorder,
) -> None:
    """A call is redacted before those who follow the trace live are told of it."""
    seen: list[str] = []

    async def scene(stage: Stage) -> None:
        watch = getattr(stage.session.trace, "watch", None)
        if watch is not None:
            watch(lambda trace: seen.append(str(trace.model_dump(mode="json"))))
        await stage.ask()

    with observed(recorder, Options(redact_state=True)):
        await play(scene, "500")

    assert bool(seen) is not is_old()
    assert not any(SECRET in each for each in seen)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("word", FAILING)
@pytest.mark.parametrize("redact", [False, True])
async def test_error_bodies_become_ours(
    recorder: TelemetryRecorder, word: str, redact: bool, stream: bool
) -> None:
    """With the option the agent gets the same status, and none of the text."""

    async def scene(stage: Stage) -> None:
        await stage.ask(stream=stream)

    with observed(recorder, Options(redact_responses=redact)):
        played = await play(scene, word)

    assert sent(played).startswith(f"HTTP/1.1 {word} ".encode())
    assert (SECRET.encode() in sent(played)) is not redact
    assert b'{"error": {"message": "' in sent(played)
    assert SECRET in str(played.trace)


@pytest.mark.parametrize("redact", [False, True])
async def test_a_repeated_answer_is_redacted_too(
    recorder: TelemetryRecorder, redact: bool
) -> None:
    """A retry that joins a failing call gets no text either."""
    with observed(recorder, Options(redact_responses=redact)):
        played = await play(coalesce, "slow-500")

    assert len(played.sent) == 2
    leaks = [SECRET.encode() in each for each in played.sent]
    assert leaks == [not redact, not redact and not is_old()]


@pytest.mark.skipif(is_old(), reason="not before 0.4: it relays streams as they come")
@pytest.mark.parametrize("redact", [False, True])
async def test_an_error_frame_of_theirs_becomes_ours(
    recorder: TelemetryRecorder, redact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure after the grace period is framed in our words."""
    monkeypatch.setattr(load("interception.server"), "KEEPALIVE_GRACE_SECONDS", 0.05)

    with observed(recorder, Options(redact_responses=redact)):
        played = await play(coalesce_streams, "slow-500")

    assert all(each.startswith(b"HTTP/1.1 200 ") for each in played.sent)
    assert all((SECRET.encode() in each) is not redact for each in played.sent)
    assert played.got == ("!APIError", "!APIError")


async def test_refusals_keep_their_words(recorder: TelemetryRecorder) -> None:
    """What verifiers says of itself, such as which limit was reached, stays."""
    with observed(recorder, Options(redact_state=True, redact_responses=True)):
        played = await play(ask_beyond_a_limit, "good")

    assert b"rollout stopped: max_turns" in sent(played)
