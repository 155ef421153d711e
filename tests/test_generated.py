"""What is generated from the catalogue is committed as it is generated now."""

import pytest

from dashboards.generate import ROOT, generated


@pytest.mark.parametrize("name", sorted(generated()))
def test_the_committed_file_is_what_is_generated(name: str) -> None:
    """A name that changed in the catalogue has changed in every file made from it."""
    committed = (ROOT / name).read_text(encoding="utf-8")

    assert committed == generated()[name], "run `make dashboards`"
