"""Check that a wheel holds the typed package, its licence and nothing else."""

import sys
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "otel_intercept"


def main(wheel: str) -> str | None:
    """Return what is wrong with the wheel, or None."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    wanted = sources | {"otel_intercept/__init__.py", "otel_intercept/py.typed"}
    if missing := wanted - names:
        return f"{wheel} lacks {sorted(missing)}"
    if extra := names - wanted - metadata:
        return f"{wheel} should not hold {sorted(extra)}"
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        return f"{wheel} lacks the licence"
    print(f"{Path(wheel).name}: {len(names)} files, as it should be")
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
