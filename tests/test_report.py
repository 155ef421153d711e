"""The command ``report``: a page that says what the file says, and nothing gets out."""

import base64
import hashlib
import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_intercept.cli import main
from otel_intercept.cli.report.command import page_beside
from otel_intercept.cli.report.elements import MAX_TEXT
from otel_intercept.cli.report.figures import Bounds
from otel_intercept.cli.report.page import page
from otel_intercept.cli.story import RolloutStory, read_all, tell
from otel_intercept.record import AttributeValue
from otel_intercept.sdk import EventLine, SpanLine
from tests.stories import CANARY, failing, healthy, write

TRICKY = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "</script><script>alert(1)</script>",
            "</style><b>",
            '" onload="x',
            "' autofocus onfocus='x",
            "<!--",
            "]]>",
            "&lt;b&gt;",
            "a\0b",
            "\u202egnp.exe\u2066",
            "\ud800",
            "\x1b[2J\r\n",
        ]
    ),
)


class Seen(HTMLParser):
    """The elements, attributes and texts of a page, as a reader of HTML sees them."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        self.feed(content.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.lasttag in {"script", "style"} and self.lasttag not in self.raw:
            self.raw[self.lasttag] = data
        self.texts.append(data)

    @property
    def shape(self) -> list[tuple[str, str]]:
        """Every element, and every attribute by its name."""
        return [(tag, name) for tag, name, _ in self.attributes]


def span(
    name: str = "x",
    *,
    span_id: str = "2" * 16,
    trace_id: str = "1" * 32,
    start_ns: int = 10**18,
    events: tuple[EventLine, ...] = (),
    service: str | None = None,
    **attributes: AttributeValue,
) -> SpanLine:
    """Make a span as it is read from a file; ``__`` in a name stands for a dot."""
    named = {key.replace("__", "."): value for key, value in attributes.items()}
    end_ns = start_ns + 10**9
    return SpanLine(
        trace_id, span_id, None, name, 2, start_ns, end_ns, False, named, events, (),
        service,
    )  # fmt: skip


def hostile(text: str) -> tuple[RolloutStory, ...]:
    """Tell of a rollout in which a text stands wherever the file decides on it."""
    event = EventLine(
        "exception",
        10**18,
        {
            "error.type": text,
            "intercept.failure.phase": text,
            "exception.type": text,
            "intercept.failure.cause_types": (text, text),
        },
    )
    return tell(
        [
            span(
                text,
                events=(event,),
                service=text,
                intercept__rollout__id=f"r{text}",
                intercept__exchange__outcome=text,
                intercept__exchange__dialect=text,
                gen_ai__request__model=text,
            ),
            span(
                "rollout",
                span_id="3" * 16,
                service=text,
                intercept__rollout__id=f"r{text}",
                intercept__rollout__outcome=text,
            ),
        ]
    )


def many(count: int, spans: int = 1) -> tuple[RolloutStory, ...]:
    """Tell of so many rollouts without a failure."""
    return tell(
        span(
            start_ns=10**18 + number,
            trace_id=f"{number + 1:032x}",
            span_id=f"{place + 1:016x}",
            intercept__rollout__id=f"many-{number}",
            intercept__exchange__outcome="ok",
        )
        for number in range(count)
        for place in range(spans)
    )


def written(tmp_path: Path) -> Seen:
    """Write a page of a good and a bad rollout with the real program; read it."""
    path = write(tmp_path / "spans.jsonl", healthy, failing)
    assert main(["report", "--file", str(path), "-o", str(tmp_path / "r.html")]) == 0
    return Seen((tmp_path / "r.html").read_bytes())


def test_the_page_says_what_the_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rollouts, outcomes, error types, spans and failures stand on the page."""
    seen = written(tmp_path)

    for words in (
        "healthy",
        "failing",
        "completed",
        "silent_empty",
        "upstream_connection",
        "upstream_timeout",
        "exchange 0: chat_completions, stream, retry 1 by the agent's SDK",
        "upstream: scripted-1",
        "phase upstream_call, origin upstream, retryable",
        "raised as ConnectionResetError",
        "outside any open exchange",
        "50.0%",
    ):
        assert any(words in text for text in seen.texts), words
    assert seen.tags.count("details") == 2
    assert seen.tags.count("circle") == 2
    assert capsys.readouterr().out.startswith("2 rollouts in ")


def test_no_secret_of_an_exception_is_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an exception said is neither on the page nor printed."""
    written(tmp_path)

    assert CANARY.encode() not in (tmp_path / "r.html").read_bytes()
    assert CANARY not in "".join(capsys.readouterr())


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    """The policy allows our style and script by their hashes, and nothing else."""
    seen = written(tmp_path)
    policy = next(
        value
        for tag, name, value in seen.attributes
        if (tag, name) == ("meta", "content") and "default-src" in value
    )

    hashes = {
        kind: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in seen.raw.items()
    }
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; "
        f"script-src 'sha256-{hashes['script']}'; base-uri 'none'; form-action 'none'"
    )
    assert not {"href", "src", "style", "action"} & {name for _, name in seen.shape}
    assert not [name for _, name in seen.shape if name.startswith("on")]
    assert re.findall(r"url\(|@import|https?:", "".join(seen.raw.values())) == []


def test_it_can_be_read_without_seeing_it(tmp_path: Path) -> None:
    """Table headers have a scope, failures take the focus, waterfalls have a name."""
    seen = written(tmp_path)
    scopes = [value for tag, name, value in seen.attributes if name == "scope"]
    ids = {value for _, name, value in seen.attributes if name == "id"}
    named = [value for _, name, value in seen.attributes if name == "aria-labelledby"]

    assert seen.tags.count("th") == len(scopes)
    assert set(scopes) == {"row", "col"}
    assert seen.shape.count(("li", "tabindex")) == 2
    assert len(named) == 2
    assert {part for value in named for part in value.split()} <= ids


@given(TRICKY)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_value_gets_out_of_its_element(text: str) -> None:
    """The page has the same elements and attributes whatever stands in the file."""
    plain = Seen(page(hostile("plain")))

    content = page(hostile(text))
    seen = Seen(content)

    if text:
        assert seen.tags == plain.tags
        assert seen.shape == plain.shape
    assert seen.raw == plain.raw
    rest = "".join(seen.texts) + "".join(value for _, _, value in seen.attributes)
    for raw in seen.raw.values():
        rest = rest.replace(raw, "")
    assert [char for char in rest if not char.isprintable() and char != "\n"] == []


def test_values_are_shown_as_they_are_up_to_a_length() -> None:
    """Markup in a value is text, and a value without end is cut."""
    told = "".join(Seen(page(hostile("<b>&amp;</b>"))).texts)
    long = Seen(page(hostile("x" * 100_000)))

    assert "r<b>&amp;</b>" in told
    assert max(len(run) for run in re.findall("x+", "".join(long.texts))) < MAX_TEXT
    assert any(text.endswith("…") for text in long.texts)


def test_what_is_beyond_the_bounds_is_counted_and_said(tmp_path: Path) -> None:
    """Rollouts with failures are drawn before others, and the page says what is not."""
    failed = read_all(write(tmp_path / "spans.jsonl", failing))
    first = [story._replace(start_ns=1) for story in failed]

    seen = Seen(page([*first, *many(9)], Bounds(rollouts=3)))
    told = "".join(seen.texts)

    assert "3 of 10 rollouts are shown" in told
    assert seen.tags.count("details") == 3
    assert "failing" in told
    assert "many-8" in told
    assert "many-6" not in told
    assert "10" in seen.texts


def test_spans_have_bounds_of_their_own() -> None:
    """A rollout's spans end at its bound, and those of all at the bound of all."""
    each = Seen(page(many(1, spans=9), Bounds(spans_each=4)))
    whole = Seen(page(many(3, spans=9), Bounds(spans=12)))

    assert each.tags.count("rect") == 4
    assert any("6 spans of 10 not drawn" in text for text in each.texts)
    assert whole.tags.count("rect") == 12
    assert any("8 spans of 10 not drawn" in text for text in whole.texts)
    assert any("10 spans of 10 not drawn" in text for text in whole.texts)


def test_words_beyond_the_bound_are_counted_together() -> None:
    """A file with any number of error types gives a filter of a fixed length."""
    stories = [story for number in range(9) for story in hostile(f"type-{number}")]

    seen = Seen(page(stories, Bounds(words=2)))

    assert seen.texts.count("all others") == 4
    assert seen.tags.count("option") == 8
    assert [v for _, name, v in seen.attributes if name == "data-errors"] == [
        "0", "1", *["2"] * 7,
    ]  # fmt: skip


def test_times_that_cannot_be_are_drawn_all_the_same() -> None:
    """A clock that ran backwards, or far away, spoils neither page nor bar."""
    (story,) = many(1)
    late = story._replace(start_ns=10**30)
    early = story._replace(start_ns=-(10**30))

    for odd in (late, early):
        seen = Seen(page([odd]))
        sizes = [
            value for tag, name, value in seen.attributes if name in {"x", "width"}
        ]
        numbers = [float(size[:-1]) for size in sizes if size.endswith("%")]

        assert "unknown" in seen.texts
        assert all(0 <= number <= 100 for number in numbers)


def test_an_earlier_report_is_replaced_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a page of ours is overwritten; the file of spans and notes stay."""
    path = write(tmp_path / "spans.jsonl", healthy)
    before = path.read_bytes()
    own, notes = tmp_path / "own.html", tmp_path / "notes.html"
    notes.write_text("<!DOCTYPE html>\n<p>notes", encoding="utf-8")
    made = [main(["report", "--file", str(path), "-o", str(own)]) for _ in range(2)]
    capsys.readouterr()

    codes = [
        main(["report", "--file", str(path), "-o", str(kept)]) for kept in (notes, path)
    ]

    lines = capsys.readouterr().err.splitlines()
    assert made == [0, 0]
    assert codes == [2, 2]
    assert all("exists and is not a report" in line for line in lines)
    assert notes.read_text(encoding="utf-8") == "<!DOCTYPE html>\n<p>notes"
    assert path.read_bytes() == before
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    assert {item.name for item in tmp_path.iterdir()} == {
        "spans.jsonl", "own.html", "notes.html",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("/", "it is a directory"),
        ("/dev/null", "it is not a regular file"),
        ("/proc/none/r.html", "no such file or directory"),
        ("/dev/null/r.html", "a part of the path is not a directory"),
    ],
)
def test_a_page_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, words: str
) -> None:
    """What is wrong with the page's place is one line, and exit code 2."""
    path = write(tmp_path / "spans.jsonl", healthy)

    code = main(["report", "--file", str(path), "-o", output])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert words in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file has no rollout at all"),
        (f"not JSON {CANARY}\n", "cannot use"),
        (json.dumps({"resourceSpans": []}), "the file has no rollout at all"),
        (None, "no such file or directory"),
    ],
)
def test_a_file_without_rollouts_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, words: str
) -> None:
    """No page is written of nothing, and nothing of a foreign file is printed."""
    path, output = tmp_path / "spans.jsonl", tmp_path / "r.html"
    if content is not None:
        path.write_text(content, encoding="utf-8")

    code = main(["report", "--file", str(path), "-o", str(output)])

    printed = capsys.readouterr()
    assert code == 2
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert CANARY not in printed.err
    assert not output.exists()


def test_the_page_beside_a_file_is_never_the_file() -> None:
    """The page has the name of the file, and another ending."""
    assert page_beside(Path("a/spans.jsonl")) == Path("a/spans.html")
    assert page_beside(Path("spans.html")) == Path("spans.report.html")
