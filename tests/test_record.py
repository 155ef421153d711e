"""Records are values: nobody writes to one, and no collection has to look at it."""

import gc
from collections.abc import Sequence
from typing import get_args

import msgspec
import pytest

from otel_intercept.record import (
    ExchangeRejected,
    Record,
    RequestFacts,
    StreamFacts,
)
from otel_intercept.semconv import Dialect
from tests.samples import (
    ended,
    exchange,
    failure_seen,
    rollout_ref,
    started,
    wait,
)

RECORDS: Sequence[Record] = (
    started(),
    ended(),
    exchange(),
    failure_seen(),
    ExchangeRejected(Dialect.OTHER),
)
PARTS: Sequence[msgspec.Struct] = (
    rollout_ref(),
    wait(),
    exchange().request,
    RequestFacts(model=None, stream=False, attributes=()),
    StreamFacts(1, 2, 3, 0.5, 0.25),
)


def _name(value: object) -> str:
    return type(value).__name__


def test_every_kind_of_record_is_looked_at_here() -> None:
    """A new kind of record must be of the same make."""
    assert set(map(type, RECORDS)) == set(get_args(Record))


@pytest.mark.parametrize("value", [*RECORDS, *PARTS], ids=_name)
def test_a_record_is_invisible_to_the_garbage_collector(value: msgspec.Struct) -> None:
    """However many records wait, a collection has none of them to look at."""
    assert not gc.is_tracked(value)


@pytest.mark.parametrize("value", [*RECORDS, *PARTS], ids=_name)
def test_a_record_cannot_be_written_to(value: msgspec.Struct) -> None:
    """No cycle can be made through a record after it was made, on purpose or not."""
    name = value.__struct_fields__[0]

    with pytest.raises(AttributeError):
        setattr(value, name, value)
