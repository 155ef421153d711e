"""Draw the dashboards from real rollouts: ``python -m dashboards.draw [SECONDS]``."""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from dashboards.boards import BOARDS
from dashboards.live import live

_HERE: Final = Path(__file__).parent
_IMAGES: Final = _HERE.parent / "docs" / "images"
_SECONDS: Final = 300
_DRAWING_S: Final = 40


def main(arguments: list[str]) -> int:
    """Play rollouts, draw what Prometheus has of them; 1 when a panel has no data."""
    seconds = int(arguments[0]) if arguments else _SECONDS
    _IMAGES.mkdir(parents=True, exist_ok=True)
    boards = [_HERE / f"{name}.json" for name in BOARDS]
    with tempfile.TemporaryDirectory() as folder, live(Path(folder)) as engines:
        # Still at it while the picture is taken, so that something is open and moves.
        player = threading.Thread(target=engines.play, args=(seconds + _DRAWING_S,))
        player.start()
        time.sleep(seconds)
        command = ["node", str(_HERE / "render" / "draw.mjs"), engines.prometheus]
        command += [str(seconds), str(_IMAGES), *map(str, boards)]
        code = subprocess.run(command, check=False, timeout=300).returncode
        player.join()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
