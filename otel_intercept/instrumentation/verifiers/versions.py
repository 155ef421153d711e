"""Know which releases of verifiers can be observed, and what of them."""

from importlib import metadata
from typing import Final, NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

SUPPORTED: Final = "0.2.0 to 0.3.1 (legacy), 0.3.1 and 0.4.x (v1)"
"""In words, for whoever has another release."""

_LEGACY: Final = SpecifierSet(">=0.2.0,<=0.3.1", prereleases=True)
# Between the two, development releases lost the legacy stack bit by bit.
_V1: Final = (
    SpecifierSet("==0.3.1", prereleases=True),
    SpecifierSet(">=0.4.0.dev0,<0.5", prereleases=True),
)


class Support(NamedTuple):
    """What of a release can be observed.

    Args:
        legacy: Whether its legacy server can.
        v1: Whether its v1 server can. Releases before 0.3.1 have one too, which differs
            too much to be told the truth about: it is left alone.
    """

    legacy: bool
    v1: bool


def installed_version() -> str | None:
    """Return the version of verifiers as installed, without importing it, or None."""
    try:
        return metadata.version("verifiers")
    except metadata.PackageNotFoundError:
        return None


def support_of(version: str) -> Support:
    """Return what of a release can be observed; nothing of a version unknown to us."""
    try:
        release = Version(version)
    except InvalidVersion:
        return Support(legacy=False, v1=False)
    return Support(
        legacy=release in _LEGACY, v1=any(release in releases for releases in _V1)
    )
