"""The command ``explain``: tell what happened in one rollout of an OTLP file."""

import json
from pathlib import Path
from typing import Final

from otel_intercept.cli.output import EXIT_OK, console, refuse
from otel_intercept.cli.reading import read
from otel_intercept.cli.story import (
    ExchangeStory,
    Found,
    RolloutStory,
    failure_of,
    find,
)
from otel_intercept.cli.timeline import timeline
from otel_intercept.sdk import EventLine, SpanLine

_NS: Final = 1e-9
_MAX_SHOWN: Final = 64


def explain(rollout_id: str, path: Path, *, as_json: bool) -> int:
    """Print one rollout of a file; return the exit code.

    Args:
        rollout_id: Which one. If several rollouts had this id, the last one started.
        path: A file of OTLP JSON lines.
        as_json: Whether to print JSON for machines instead of a timeline.

    Raises:
        Refused: The file cannot be read, or does not have the rollout.
    """
    found = read(path, lambda file: find(file, rollout_id))
    if not found.stories:
        refuse(_unknown(found))
    story = found.stories[-1]
    if as_json:
        print(json.dumps(_json_of(story), indent=2))
        return EXIT_OK
    out = console()
    if len(found.stories) > 1:
        out.print(
            f"{len(found.stories)} rollouts in the file have this id; "
            "this is the one that started last."
        )
    out.print(timeline(story))
    return EXIT_OK


def _unknown(found: Found) -> str:
    if not found.rollouts:
        return "the file has no rollout at all"
    ids = ", ".join(known[:_MAX_SHOWN] for known in found.some_ids)
    some = "" if found.rollouts == len(found.some_ids) else "for example "
    noun = "rollout" if found.rollouts == 1 else "rollouts"
    return (
        f"no rollout of this id in the file, which has {found.rollouts} {noun}: "
        f"{some}{ids}"
    )


def _json_of(story: RolloutStory) -> dict[str, object]:
    root = story.root
    failures = story.failures
    return {
        "rollout_id": story.rollout_id,
        "trace_id": story.trace_id,
        "service_name": story.service_name,
        "start_unix_ns": story.start_ns,
        "ended": root is not None,
        "outcome": story.outcome,
        "end_s": None if root is None else _since(story, root.end_ns),
        "attributes": {} if root is None else dict(root.attributes),
        "first_failure": _failure(story, failures[0] if failures else None),
        "exchanges": [_exchange(story, item) for item in story.exchanges],
        "late_failures": [_failure(story, failure_of(span)) for span in story.late],
    }


def _exchange(story: RolloutStory, item: ExchangeStory) -> dict[str, object]:
    return {
        **_span(story, item.span),
        "upstream": [_span(story, wait) for wait in item.waits],
        "failure": _failure(story, item.failure),
    }


def _span(story: RolloutStory, span: SpanLine) -> dict[str, object]:
    return {
        "span_id": span.span_id,
        "name": span.name,
        "start_s": _since(story, span.start_ns),
        "end_s": _since(story, span.end_ns),
        "attributes": dict(span.attributes),
    }


def _failure(story: RolloutStory, event: EventLine | None) -> dict[str, object] | None:
    if event is None:
        return None
    return {"at_s": _since(story, event.at_ns), "attributes": dict(event.attributes)}


def _since(story: RolloutStory, at_ns: int) -> float:
    return round((at_ns - story.start_ns) * _NS, 9)
