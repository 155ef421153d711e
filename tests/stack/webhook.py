"""A receiver of Alertmanager's notifications."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple, Self


class Notified(NamedTuple):
    """One alert of one notification.

    Args:
        status: ``firing`` or ``resolved``.
        labels: Its labels.
        annotations: Its annotations.
    """

    status: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Webhook:
    """A server on a free loopback port that keeps what it is told."""

    def __init__(self) -> None:
        self._notified: list[Notified] = []
        notified = self._notified

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                for alert in json.loads(self.rfile.read(length))["alerts"]:
                    notified.append(
                        Notified(alert["status"], alert["labels"], alert["annotations"])
                    )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def of(self, alertname: str, **labels: str) -> list[Notified]:
        """Return what it was told of an alert, in the order of arrival."""
        wanted = {"alertname": alertname, **labels}
        return [
            item for item in self._notified if wanted.items() <= item.labels.items()
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
