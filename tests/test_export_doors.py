"""Each side door of the exporters is shut by itself, whatever the others do."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from requests import RequestException
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import SSLError, Timeout

from otel_intercept.sdk.export_logs import ExportLogs
from otel_intercept.sdk.http_session import ExportSession, Redirected
from otel_intercept.translate.guarded import exporting
from tests.collectors import Answer, HttpCollector, closed_port

CANARY = "sk-canary-0451"

EXPORTER_LOGGERS = [
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk.metrics._internal.export",
    "opentelemetry.sdk.resources",
    "opentelemetry.util.re",
]
SHARED_LOGGERS = [
    "urllib3.connectionpool",
    "urllib3.connection",
    "urllib3.util.retry",
    "grpc._channel",
    "grpc._common",
]


def post(url: str, *, timeout: float = 30.0) -> RequestException:
    """Return what a request of an exporter's session raises."""
    with ExportSession(()) as session, pytest.raises(RequestException) as caught:
        session.request("POST", url, data=b"", timeout=timeout, allow_redirects=False)
    return caught.value


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (f"http://127.0.0.1:{closed_port()}/{CANARY}", RequestsConnectionError),
        (f"https://u:{CANARY}@127.0.0.1:{closed_port()}/", RequestsConnectionError),
        (f"http://*.{CANARY}/", RequestException),
        (f"http://{'a' * 70}.{CANARY}/", RequestException),
    ],
    ids=["refused", "refused-tls", "bad-label", "long-label"],
)
def test_what_the_session_raises_has_no_url(
    url: str, kind: type[RequestException]
) -> None:
    """The error has the class that decides on a retry, our own words, and no chain."""
    error = post(url)

    assert type(error) is kind
    assert CANARY not in repr(error)
    assert error.__context__ is None
    assert error.__cause__ is None
    assert error.request is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(hang=True), Timeout),
        (Answer(garbage=CANARY.encode() + b"\r\n\r\n"), RequestsConnectionError),
        (
            Answer(
                garbage=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
                + CANARY.encode()
            ),
            RequestException,
        ),
        (Answer(status=302, headers=(("location", CANARY),)), Redirected),
    ],
    ids=["hang", "junk", "bad-chunk", "redirect"],
)
def test_what_the_collector_says_is_not_raised(
    answer: Answer, kind: type[RequestException]
) -> None:
    """Neither junk nor a redirect's target is in the error."""
    with HttpCollector(answer) as server:
        timeout = 0.2 if answer.hang else 30
        error = post(f"{server.url}/v1/traces", timeout=timeout)

    assert type(error) is kind
    assert CANARY not in repr(error)
    assert error.__context__ is None


def test_a_plain_server_behind_https_is_a_tls_failure() -> None:
    """A failed handshake is told apart from a lost connection."""
    with HttpCollector() as server:
        error = post(server.url.replace("http:", "https:"))

    assert type(error) is SSLError


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, "OK"), (503, "Service Unavailable"), (799, "unknown status")],
)
def test_the_reason_phrase_is_the_standard_one(status: int, reason: str) -> None:
    """What the collector writes beside its status does not leave the session."""
    answer = Answer(status=status, reason=CANARY)
    with HttpCollector(answer) as server, ExportSession(()) as session:
        response = session.request("POST", f"{server.url}/v1/traces", data=b"")

    assert response.status_code == status
    assert response.reason == reason


@pytest.mark.parametrize("status", [b"200 OK", b"307 Elsewhere\r\nLocation: /"])
def test_of_an_endless_answer_only_the_beginning_is_read(status: bytes) -> None:
    """A collector that talks without end costs no memory, and is hung up on."""
    sent = 0
    hung_up = threading.Event()

    def talk(listener: socket.socket) -> None:
        nonlocal sent
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nX: y\r\n\r\n")
            with contextlib.suppress(OSError):
                while sent < 1 << 30:
                    sent += connection.send(b"x" * 65_536)
                return
            hung_up.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=(listener,), daemon=True)
        thread.start()
        with ExportSession(()) as session, contextlib.suppress(Redirected):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"
            answer = session.request("POST", url, data=b"", timeout=30)
            assert len(answer.content) == 65_536
        thread.join(30)

    assert hung_up.is_set()


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 0\r\n\r\n",
        b"Content-Length: 2\r\n\r\nok",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_a_connection_is_used_again(answer: bytes) -> None:
    """An answer of the usual size frees its connection for the next request."""
    answered = 0

    def serve_one_connection(listener: socket.socket) -> None:
        nonlocal answered
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65_536):
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + answer)
                answered += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one_connection, args=(listener,))
        thread.start()
        with ExportSession(()) as session:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"
            for _ in range(3):
                session.request("POST", url, data=b"", timeout=30)
        thread.join(30)

    assert answered == 3


def test_only_the_own_headers_are_sent() -> None:
    """Headers that the exporter took from elsewhere are replaced by the session's."""
    with HttpCollector() as server, ExportSession((("x-own", "1"),)) as session:
        session.request(
            "POST",
            f"{server.url}/v1/traces",
            data=b"x",
            headers={"X-Own": "2", "x-leak": CANARY, "authorization": CANARY},
        )

    (received,) = server.received
    assert received.headers["x-own"] == "1"
    assert CANARY.encode() not in received.raw


@pytest.fixture
def logs() -> Iterator[ExportLogs]:
    """Install the filters for one test, in the place of any that are there.

    An export that was given up keeps its filters, and with them a memory of what they
    have let through.
    """
    loggers = [*map(logging.getLogger, [*EXPORTER_LOGGERS, *SHARED_LOGGERS])]
    before = [list(logger.filters) for logger in loggers]
    for logger in loggers:
        logger.filters.clear()
    logs = ExportLogs()
    logs.install()
    yield logs
    logs.remove()
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters[:] = filters


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", EXPORTER_LOGGERS)
def test_loggers_of_exporters_are_filtered(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Message, arguments, exception and stack of an exporter's record are replaced."""
    caplog.set_level(0)
    logger = logging.getLogger(name)

    error = ValueError(CANARY)
    logger.error("Failed %s: %s", CANARY, error, exc_info=error, stack_info=True)
    logger.debug("sending to %s", CANARY)

    (record,) = [each for each in caplog.records if each.name == name]
    assert CANARY not in caplog.text + repr(vars(record))
    assert record.levelno == logging.ERROR
    assert (record.exc_info, record.exc_text, record.stack_info) == (None, None, None)


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", SHARED_LOGGERS)
def test_loggers_that_others_share_are_filtered_during_our_exports(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In an export they say nothing of ours; outside of it they are left alone."""
    caplog.set_level(0)
    logger = logging.getLogger(name)

    with exporting():
        logger.debug("POST /v1/traces?%s", CANARY)
        logger.warning("retrying %s", CANARY)
    inside = caplog.text
    logger.warning("the application's own business")

    assert CANARY not in inside
    assert "reported a problem with telemetry" in inside
    assert "the application's own business" in caplog.text


@pytest.mark.usefixtures("logs")
def test_only_words_of_closed_sets_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    """Signal, status and the kind of a failed request survive; nothing else does."""
    logger = logging.getLogger(EXPORTER_LOGGERS[0])
    arguments: list[tuple[object, ...]] = [
        ("spans", 503, "Service Unavailable"),
        ("metrics", grpc.StatusCode.UNAVAILABLE, CANARY),
        (Timeout(CANARY), 7, True, CANARY),
        (SSLError(CANARY), None, 3.5, {"a": CANARY}),
        (CANARY, CANARY, CANARY, CANARY),
    ]

    for args in arguments:
        logger.warning("%s " * len(args), *args)
    logger.warning("%(key)s", {"key": CANARY})
    logger.warning("no arguments " + CANARY)  # noqa: G003 - as a careless library does

    assert CANARY not in caplog.text
    facts = [record.getMessage().rpartition("(")[2] for record in caplog.records]
    assert facts == [
        "traces, HTTP 503, Service Unavailable)",
        "metrics, gRPC UNAVAILABLE)",
        "no answer in time)",
        "the TLS handshake failed)",
        "no details)",
    ]


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", [EXPORTER_LOGGERS[0], SHARED_LOGGERS[0]])
def test_what_is_known_survives_the_filters_of_other_telemetry(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two pipelines of a process tell as much as one, and no more."""
    others = ExportLogs()
    others.install()

    with exporting():
        logging.getLogger(name).warning("%s %s %s", "spans", 503, CANARY)
        logging.getLogger(name).warning("%s %s", CANARY, 429)
        logging.getLogger(name).warning("%s %s", CANARY, 429)
    others.remove()

    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"{name} reported a problem with telemetry (traces, HTTP 503)",
        f"{name} reported a problem with telemetry (HTTP 429)",
    ]
    assert CANARY not in caplog.text + repr([vars(one) for one in caplog.records])


def test_removing_leaves_no_filter_behind() -> None:
    """After `remove` every logger is as it was, also when installed twice."""
    loggers = [*map(logging.getLogger, [*EXPORTER_LOGGERS, *SHARED_LOGGERS])]
    before = [list(logger.filters) for logger in loggers]
    logs = ExportLogs()

    logs.install()
    logs.install()
    during = [len(logger.filters) for logger in loggers]
    logs.remove()
    logs.remove()

    assert during == [len(filters) + 1 for filters in before]
    assert [list(logger.filters) for logger in loggers] == before
