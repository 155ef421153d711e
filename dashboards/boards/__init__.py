"""The three dashboards."""

from typing import Final

from dashboards.boards.exchanges import EXCHANGES_AND_STREAMS
from dashboards.boards.rollouts import ROLLOUT_HEALTH
from dashboards.boards.telemetry import TELEMETRY_HEALTH
from dashboards.panels import Board

BOARDS: Final[dict[str, Board]] = {
    "rollout-health": ROLLOUT_HEALTH,
    "exchanges-and-streams": EXCHANGES_AND_STREAMS,
    "telemetry-health": TELEMETRY_HEALTH,
}
"""By the name of the file."""
