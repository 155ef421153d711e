"""What all parts of the canary program share: the rollouts, and what came to them."""

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Final, NoReturn

from otel_intercept import Exchange, Rollout, RolloutRegistry
from tests.canary import Mint
from tests.canary_callers import Target
from tests.canary_liars import Trap
from tests.canary_places import PLACES
from tests.canary_plan import Scenario, plan
from tests.canary_walk import reachable, renderings

if TYPE_CHECKING:
    import asyncio

# Where the fake upstream and the agents have no log of their own.
_TAPPED: Final = ("exc.", "attr.", "conf.host")


class Opaque:
    """What is no str, bool, int or float, and prints as a canary."""

    def __init__(self, canary: str) -> None:
        self._canary = canary

    def __str__(self) -> str:
        return self._canary

    __repr__ = __str__


class _Text(str):
    __slots__ = ()


class _Number(int):
    text = ""

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class _RefusingState(MutableMapping[str, object]):
    """A state that takes nothing and tells a secret instead."""

    def __init__(self, canary: str) -> None:
        self._canary = canary

    def __getitem__(self, key: str) -> NoReturn:
        raise RuntimeError(self._canary)

    def __setitem__(self, key: str, value: object) -> NoReturn:
        raise RuntimeError(self._canary)

    def __delitem__(self, key: str) -> NoReturn:
        raise RuntimeError(self._canary)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError(self._canary)

    def __len__(self) -> int:
        raise RuntimeError(self._canary)


class Stage:
    """Where the plan is played.

    Args:
        registry: Where the rollouts are opened.
        mint: Makes the canaries.
        port: Where the hostile upstream listens.
        silent_port: Where somebody accepts and says nothing.

    Attributes:
        scenarios: The plan, by rollout id.
        reached: Places whose canary came as far as an exception or a call of ours.
        rollouts: Every rollout.
        states: The mapping that each rollout was given.
        exchanges: Every exchange that an app of our own has seen.
        late: Futures that fail after their exchange, and that nobody awaits.
    """

    def __init__(
        self, registry: RolloutRegistry, mint: Mint, port: int, silent_port: int
    ) -> None:
        self.registry = registry
        self.mint = mint
        self.port = port
        self.scenarios = {scenario.rollout_id: scenario for scenario in plan()}
        self.reached: set[str] = set()
        self.rollouts: list[Rollout] = []
        self.states: list[MutableMapping[str, object]] = []
        self.exchanges: list[Exchange] = []
        self.late: list[asyncio.Future[object]] = []
        self._silent_port = silent_port
        self._tapped_canaries = {
            place: (mint(place).encode(), f"{mint.number(place)}".encode())
            for place in PLACES
            if place.startswith(_TAPPED)
        }

    def open(self, scenario: Scenario) -> MutableMapping[str, object]:
        """Open a scenario's rollout with attributes of all wrong types."""
        state: MutableMapping[str, object] = {"prompt": "not ours"}
        if scenario.how == "report":
            state = _RefusingState(self.mint("app.refusing_state"))
            self.reached.add("app.refusing_state")
        self.keep(scenario.rollout_id, state)
        return state

    def keep(
        self, rollout_id: str, state: MutableMapping[str, object] | None = None
    ) -> None:
        """Open a rollout, and keep it to be read off at the end."""
        attributes = self._attributes()
        if not self.rollouts:
            self.note(attributes)
        state = {} if state is None else state
        rollout = self.registry.open(rollout_id, state=state, attributes=attributes)
        self.rollouts.append(rollout)
        self.states.append(state)

    def target(self, fault: str, prompt: str) -> Target:
        """Return where the upstream is called."""
        return Target(fault, self.port, self._silent_port, prompt, self.mint)

    def note(self, value: object) -> None:
        """Take down which canaries hang on an exception, or another value."""
        with Trap.disarmed():
            text = reachable(value) + renderings(value)
        self.reached |= {
            place
            for place, canaries in self._tapped_canaries.items()
            if any(canary in text for canary in canaries)
        }

    def _attributes(self) -> dict[str, object]:
        mint = self.mint
        number = _Number(7)
        vars(number)["text"] = mint("attr.int_subclass")
        return {
            "tenant": mint("control.attribute"),
            "object": Opaque(mint("attr.object")),
            "list": [mint("attr.list")],
            "tuple": (mint("attr.tuple"),),
            "dict": {mint("attr.dict"): 1},
            "bytes": mint("attr.bytes").encode(),
            "text": _Text(mint("attr.str_subclass")),
            "number": number,
            "error": RuntimeError(mint("attr.exception")),
            "big": mint.number("attr.big_int") * 10**8,
            f"Key {mint('attr.key')}": 1,
        }
