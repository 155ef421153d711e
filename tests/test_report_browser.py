"""The report in a real browser: read, filtered and opened with the keyboard alone."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from otel_intercept.cli import main
from tests.browser import Page, browsing
from tests.stories import failing, healthy, write

pytestmark = pytest.mark.engines

_VISIBLE: Final = (
    "[...document.querySelectorAll('tbody.rollout')]"
    ".filter((group) => group.checkVisibility())"
    ".map((group) => group.rows[0].cells[0].textContent).join()"
)
_FOCUS: Final = "document.activeElement.tagName + '#' + document.activeElement.id"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Write a page of a good and of a bad rollout; return its address."""
    path = write(tmp_path / "spans.jsonl", healthy, failing)
    assert main(["report", "--file", str(path), "-o", str(tmp_path / "r.html")]) == 0
    return (tmp_path / "r.html").as_uri()


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Page]:
    """Give a page in a browser of its own."""
    async with browsing(tmp_path / "profile") as page:
        yield page


async def keys(page: Page, *pressed: str) -> None:
    """Press keys, one after the other."""
    for key in pressed:
        await page.press(key)


async def test_the_keyboard_filters_and_opens(url: str, browser: Page) -> None:
    """Tab reaches the filter and the rollouts, typing filters, Enter and Space open."""
    await browser.open(url)
    assert await browser.value(_VISIBLE) == "healthy,failing"

    await keys(browser, "Tab", *"FAIL")
    assert await browser.value(_FOCUS) == "INPUT#text"
    assert await browser.value(_VISIBLE) == "failing"
    assert await browser.value("shown.textContent") == "1 of 2 shown"

    await keys(browser, "Tab", "Tab", "Tab", "Tab")
    assert await browser.value(_FOCUS) == "SUMMARY#s1"
    opened = "document.activeElement.parentElement.open"
    assert await browser.value(opened) is False
    await keys(browser, "Enter")
    assert await browser.value(opened) is True
    await keys(browser, "Space")
    assert await browser.value(opened) is False
    await keys(browser, "Enter", "Tab")

    told = await browser.value("document.activeElement.textContent")
    assert isinstance(told, str)
    assert "upstream_connection" in told
    assert "phase upstream_call" in told
    assert "raised as ConnectionResetError" in told
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert await browser.value(outline) == "solid"


async def test_outcome_and_error_type_filter_and_clear(url: str, browser: Page) -> None:
    """Each list leaves what has that word, and one key shows everything again."""
    await browser.open(url)

    await keys(browser, "Tab", "Tab", *"compl")
    by_outcome = await browser.value(_VISIBLE)
    await keys(browser, "Tab", *"upstream_t")
    nothing = await browser.value(_VISIBLE)
    await keys(browser, "Tab", "Enter")
    await browser.value("new Promise((done) => setTimeout(done, 50))")
    cleared = await browser.value(_VISIBLE)
    await browser.value("error.focus()")
    await keys(browser, *"upstream_t")
    by_error = await browser.value(_VISIBLE)

    assert by_outcome == "healthy"
    assert nothing == ""
    assert cleared == "healthy,failing"
    assert by_error == "failing"


async def test_nothing_is_fetched_and_nothing_refused(url: str, browser: Page) -> None:
    """The browser asks for the page alone, and its policy has nothing to refuse."""
    await browser.open(url)

    background = await browser.value("getComputedStyle(document.body).backgroundColor")

    assert background == "rgb(255, 255, 255)"
    assert browser.requested == [url]
    assert browser.complaints == []


async def test_the_policy_refuses_what_is_not_ours(
    tmp_path: Path, url: str, browser: Page
) -> None:
    """A script that gets into the page all the same does not run."""
    page = tmp_path / "r.html"
    added = b"<script>document.title = 'foreign'</script></body>"
    page.write_bytes(page.read_bytes().replace(b"</body>", added))

    await browser.open(url)

    assert await browser.value("document.title") != "foreign"
    assert any("Content Security Policy" in text for text in browser.complaints)


async def test_it_can_be_read_without_scripts(url: str, browser: Page) -> None:
    """Without scripts there is no filter, and a rollout opens all the same."""
    await browser.call("Emulation.setScriptExecutionDisabled", value=True)
    await browser.open(url)

    await keys(browser, "Tab", "Enter")

    assert await browser.value("filter.checkVisibility()") is False
    assert await browser.value(_FOCUS) == "SUMMARY#s0"
    assert await browser.value("document.activeElement.parentElement.open") is True


@pytest.mark.parametrize("dark", [False, True])
async def test_words_can_be_told_from_the_ground(
    url: str, browser: Page, dark: bool
) -> None:
    """In both colours every text has a contrast of 4.5 to 1 at least (WCAG AA)."""
    await browser.open(url, dark=dark)

    poor = await browser.value(_POOR_CONTRAST)

    ground = await browser.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert poor == ""


_POOR_CONTRAST: Final = """
(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map((part) => {
      const share = Number(part) / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return colour === 'rgba(0, 0, 0, 0)' ? ground(element.parentElement) : colour;
  };
  for (const details of document.querySelectorAll('details')) details.open = true;
  return [...document.body.querySelectorAll('*')]
    .filter((element) => element.tagName !== 'SCRIPT' && element.tagName !== 'OPTION')
    .filter((element) => [...element.childNodes].some((node) => node.data?.trim()))
    .filter((element) => {
      const parts = [light(getComputedStyle(element).color), light(ground(element))];
      const [low, high] = parts.sort((one, other) => one - other);
      return (high + 0.05) / (low + 0.05) < 4.5;
    })
    .map((element) => element.outerHTML)
    .join();
})()
"""
