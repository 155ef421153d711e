"""What adapters of other people's servers report of an exchange: calls and replays."""

from otel_intercept.ending import Ending
from otel_intercept.record import RequestFacts
from otel_intercept.shield import shielded


class Reports(Ending):
    """The part of an exchange whose facts come from a server that we did not write.

    Such a server makes, times and repeats its upstream calls itself. No method raises.
    """

    __slots__ = ("_outlives_agent",)

    _outlives_agent: bool

    @property
    def start_ns(self) -> int:
        """When it started, in Unix nanoseconds."""
        return self._start_ns

    @property
    def called_upstream(self) -> bool:
        """Whether an upstream call has ended, well or not."""
        self.hear_upstream()
        return bool(self._waits)

    def asked_for(self, facts: RequestFacts) -> None:
        """Take what `describe_request` would read, from who has read it before."""
        self._asked = facts

    @shielded
    def upstream_called(self, started_ns: int, exc: BaseException | None) -> None:
        """Note an upstream call that somebody else made and timed, and that ends now.

        Args:
            started_ns: When it started, in Unix nanoseconds.
            exc: What it raised, or None. It is described here and not kept. A
                cancellation is no failure, and a later call that succeeds before the
                answer is through takes a failure back: it was retried.
        """
        self._call_ended(self._moment_of(started_ns), exc)

    @shielded
    def replays(self) -> None:
        """Note that the answer is that of an earlier exchange, which made the call.

        A failure in it is shown on this exchange too, but it does not count again.
        """
        self._find_trouble().replayed = True

    @shielded
    def outlives_agent(self) -> None:
        """Note that the call goes on without the agent, and that its result is kept.

        A lost connection is then no failure: the agent can come back for the answer.
        """
        self._outlives_agent = True
