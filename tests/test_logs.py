"""Logs say which rollout they belong to, and leave without raw text of others."""

import asyncio
import importlib
import logging
import logging.config
import logging.handlers
import queue
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler, ReadableLogRecord
from opentelemetry.sdk._logs.export import (
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_intercept import RolloutRegistry, instrument_app
from otel_intercept.errors import ConfigurationError
from otel_intercept.logs import (
    RAW_LOGGERS,
    REDACTED_MESSAGE,
    RedactingFilter,
    RolloutContextFilter,
    redact_exports,
)
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve

CANARY = "sk-canary-0451"
ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
APP = logging.getLogger("tests.app")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SERVER = importlib.import_module("verifiers.legacy.utils.interception_utils")
    PARSER = importlib.import_module("verifiers.legacy.parsers.parser")


class Kept(logging.Handler):
    """Keeps the log records that get through its filters."""

    def __init__(self) -> None:
        super().__init__(level=1)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the log record, and use it as a formatter does."""
        self.format(record)
        self.records.append(record)

    def text(self) -> str:
        """Return everything that is on the log records."""
        return "\n".join(f"{vars(each)} {self.format(each)}" for each in self.records)


class KeptLogs(LogRecordExporter):
    """Keeps what an SDK handler exports."""

    def __init__(self) -> None:
        self.logs: list[ReadableLogRecord] = []

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Keep the batch."""
        self.logs.extend(batch)
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Have nothing to flush."""
        return True

    def shutdown(self) -> None:
        """Have nothing to shut down."""


class Opaque:
    """Tells a secret to whoever prints it."""

    def __repr__(self) -> str:
        return CANARY


@contextmanager
def on(name: str, *handlers: logging.Handler) -> Iterator[logging.Logger]:
    """Put handlers on a logger that says everything, for a while."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(1)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)


def fields(record: logging.LogRecord) -> tuple[object, object, object]:
    """Return the three fields."""
    known = vars(record)
    return known["trace_id"], known["span_id"], known["rollout_id"]


async def call(serve: Serve, registry: RolloutRegistry, kept: Kept) -> None:
    """Serve one exchange whose handler logs, itself and in a task and a thread."""

    async def later() -> None:
        await asyncio.sleep(0)
        APP.info("task")

    async def handler(_: web.Request) -> web.Response:
        APP.info("handler")
        await asyncio.create_task(later())
        await asyncio.to_thread(APP.info, "thread")
        return web.json_response({})

    app = web.Application()
    app.router.add_post(ROUTE, handler)
    instrument_app(app, registry)
    base = await serve(app)
    with on("tests.app", kept):
        APP.info("before")
        async with aiohttp.ClientSession() as session:
            url = base + ROUTE.format(rollout_id="r-1")
            async with session.post(url, json={}) as answer:
                assert answer.status == 200
        APP.info("after")


@pytest.mark.parametrize("sampled", [True, False])
async def test_log_records_say_which_exchange_they_belong_to(
    serve: Serve, sampled: bool
) -> None:
    """Handler, task and thread have the ids of span and rollout; outside none has."""
    recorder = TelemetryRecorder(sampler=None if sampled else ALWAYS_OFF)
    registry = RolloutRegistry(recorder.telemetry)
    rollout = registry.open("r-1")
    kept = Kept()
    kept.addFilter(RolloutContextFilter())
    kept.setFormatter(logging.Formatter("%(rollout_id)s %(trace_id)s %(span_id)s"))

    await call(serve, registry, kept)
    registry.close("r-1")

    said = {record.getMessage(): fields(record) for record in kept.records}
    assert said["before"] == said["after"] == ("", "", "")
    assert said["handler"] == said["task"] == said["thread"]
    trace_id, span_id, rollout_id = said["handler"]
    assert (trace_id, rollout_id) == (rollout.trace_id, "r-1")
    spans = {f"{span.context.span_id:016x}": span.name for span in recorder.spans()}
    assert spans.get(str(span_id)) == (f"POST {ROUTE}" if sampled else None)
    assert len(str(span_id)) == 16


async def test_a_span_of_the_application_is_told_where_it_is_active(
    serve: Serve, registry: RolloutRegistry, recorder: TelemetryRecorder
) -> None:
    """Within a span of another library, the ids are that span's."""
    registry.open("r-1")
    kept = Kept()
    kept.addFilter(RolloutContextFilter())
    inner = trace.SpanContext(0xABC, 0xDEF, is_remote=False)

    async def handler(_: web.Request) -> web.Response:
        with trace.use_span(trace.NonRecordingSpan(inner)):
            APP.info("inner")
        return web.json_response({})

    app = web.Application()
    app.router.add_post(ROUTE, handler)
    instrument_app(app, registry)
    base = await serve(app)
    with on("tests.app", kept):
        async with aiohttp.ClientSession() as session:
            await session.post(base + ROUTE.format(rollout_id="r-1"), json={})

    (record,) = kept.records
    assert fields(record) == (f"{0xABC:032x}", f"{0xDEF:016x}", "r-1")


async def test_the_fields_survive_a_queue_between_logger_and_handler(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """A handler in another thread, with the filter too, keeps what was told before."""
    rollout = registry.open("r-1")
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    first, kept = logging.handlers.QueueHandler(waiting), Kept()
    first.addFilter(RolloutContextFilter())
    kept.addFilter(RolloutContextFilter())
    listener = logging.handlers.QueueListener(waiting, kept)

    async def handler(_: web.Request) -> web.Response:
        APP.info("queued")
        return web.json_response({})

    app = web.Application()
    app.router.add_post(ROUTE, handler)
    instrument_app(app, registry)
    base = await serve(app)
    listener.start()
    with on("tests.app", first):
        async with aiohttp.ClientSession() as session:
            await session.post(base + ROUTE.format(rollout_id="r-1"), json={})
    listener.stop()

    assert [fields(record)[0] for record in kept.records] == [rollout.trace_id]


def test_both_filters_can_be_configured_by_name() -> None:
    """``dictConfig`` makes the filters, and a redacted handler, from their names."""
    target = Kept()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {
                "rollout": {"()": "otel_intercept.logs.RolloutContextFilter"},
                "redact": {
                    "()": "otel_intercept.logs.RedactingFilter",
                    "prefixes": ["tests.raw"],
                },
            },
            "handlers": {
                "export": {
                    "()": "otel_intercept.logs.redact_exports",
                    "handler": target,
                    "prefixes": ["tests.raw"],
                },
                "plain": {
                    "class": "logging.NullHandler",
                    "filters": ["rollout", "redact"],
                },
            },
            "loggers": {"tests.raw": {"handlers": ["export", "plain"], "level": 1}},
        }
    )
    logger = logging.getLogger("tests.raw")

    logger.info("%s", CANARY)
    logger.handlers.clear()

    assert [record.getMessage() for record in target.records] == [REDACTED_MESSAGE]
    assert CANARY not in target.text()


def fail(exc: Exception) -> None:
    """Raise it, with a cause."""
    raise exc from KeyError(CANARY)


def exercise(logger: logging.Logger) -> int:
    """Log a secret in every way there is; return in how many."""
    adapter = logging.LoggerAdapter(logger, {"header": CANARY})
    logger.info(f"in the message {CANARY}")  # noqa: G004 - as others do it
    logger.info("as an argument %s", CANARY)
    logger.warning("as an object %r", Opaque())
    logger.info("as a mapping %(key)s", {"key": CANARY})
    logger.error("as an extra", extra={"url": CANARY, "trace_id": CANARY})
    logger.error("with a stack", stack_info=True)
    adapter.warning("through an adapter %s", CANARY)
    logger.log(35, "%s", CANARY)
    lying = type(CANARY.replace("-", "_"), (ValueError,), {"__module__": CANARY})
    for exc in (
        RuntimeError(CANARY),
        lying(CANARY),
        ExceptionGroup(CANARY, [OSError()]),
    ):
        try:
            fail(exc)
        except Exception:
            logger.exception("with an exception %s", CANARY)
    logger.error("with a given one", exc_info=TimeoutError(CANARY))
    return 12


@pytest.mark.parametrize("name", [*RAW_LOGGERS, f"verifiers.{CANARY}", "httpx.a.b"])
def test_no_text_of_a_raw_logger_gets_through(name: str) -> None:
    """Whatever is logged, and however, the exporting handler gets safe copies only."""
    exported, local = redact_exports(Kept()), Kept()

    with on(name, local, exported) as logger:
        number = exercise(logger)

    assert len(exported.records) == len(local.records) == number
    assert CANARY not in exported.text()
    assert CANARY.replace("-", "_") not in exported.text()
    assert {record.getMessage() for record in exported.records} == {REDACTED_MESSAGE}
    assert all(
        record.exc_info is None
        and record.exc_text is None
        and record.stack_info is None
        and record.threadName is None
        and record.processName is None
        and not record.args
        for record in exported.records
    )


def test_the_safe_copy_says_what_is_safe_to_say() -> None:
    """Level, time, logger and the class of the exception are kept."""
    exported, local = redact_exports(Kept()), Kept()

    with on("verifiers", local, exported) as logger:
        exercise(logger)

    copies = exported.records
    assert [(each.levelno, each.created, each.name) for each in copies] == [
        (each.levelno, each.created, each.name) for each in local.records
    ]
    assert [each.levelname for each in copies[:3]] == ["INFO", "INFO", "WARNING"]
    assert copies[7].levelname == "Level 35"
    assert [vars(each).get("exception.type") for each in copies[7:]] == [
        None,
        "RuntimeError",
        "ValueError",
        "ExceptionGroup",
        "TimeoutError",
    ]
    # Logged from a test, which is no module of a raw package.
    assert {f"{each.pathname}:{each.lineno}:{each.funcName}" for each in copies} == {
        ":0:None"
    }


def test_the_other_handlers_get_the_original_unchanged() -> None:
    """The very log record, with all that was on it, before and after the exporter."""
    before, exported, after = Kept(), redact_exports(Kept()), Kept()

    with on("openai", before, exported, after) as logger:
        exercise(logger)

    assert [id(each) for each in before.records] == [id(each) for each in after.records]
    assert after.text().count(CANARY) > 12
    assert not {id(e) for e in exported.records} & {id(e) for e in after.records}


def test_other_loggers_are_let_through_as_they_are() -> None:
    """Only the named loggers and those below them are raw, not their namesakes."""
    exported, local = redact_exports(Kept()), Kept()

    for name in ("tests.app", "verifiersx", "aiohttp", "aiohttp.serverx", "my.openai"):
        with on(name, local, exported) as logger:
            logger.info("mine %s", 7, extra={"key": 1})

    assert exported.records == local.records
    assert len(exported.records) == 5


def test_the_raw_loggers_can_be_chosen() -> None:
    """Other prefixes replace the defaults; a text in their place is a mistake."""
    exported = redact_exports(Kept(), prefixes=["tests.raw"])

    with on("tests.raw.below", exported) as logger:
        logger.info(CANARY)
    with on("openai", exported) as logger:
        logger.info("open")

    assert [each.getMessage() for each in exported.records] == [
        REDACTED_MESSAGE,
        "open",
    ]
    for wrong in ("verifiers", [], [""]):
        with pytest.raises(ConfigurationError, match="list of logger names"):
            RedactingFilter(wrong)


def test_a_handler_is_redacted_once() -> None:
    """A second call adds nothing, so that nothing is logged twice."""
    exported = redact_exports(redact_exports(Kept()))

    with on("openai", exported) as logger:
        logger.info(CANARY)

    assert len(exported.filters) == 1
    assert len(exported.records) == 1


def test_what_cannot_be_redacted_is_dropped() -> None:
    """A log record that breaks the rules of logging neither leaves nor raises."""

    class Name(str):
        __slots__ = ()

    exported = redact_exports(Kept())
    plain = {"name": "openai", "msg": CANARY, "levelno": logging.INFO}
    broken = [
        logging.makeLogRecord({**plain, "name": Name("openai")}),
        logging.makeLogRecord({**plain, "levelno": CANARY}),
        logging.makeLogRecord({**plain, "created": CANARY}),
    ]
    odd = logging.makeLogRecord(
        {
            **plain,
            "pathname": Name(CANARY),
            "funcName": 7,
            "exc_info": (CANARY, CANARY),
            "exc_text": CANARY,
        }
    )

    for record in (*broken, odd):
        exported.handle(record)

    assert [each.getMessage() for each in exported.records] == [REDACTED_MESSAGE]
    assert CANARY not in exported.text()


def test_a_filter_that_does_not_know_its_handler_drops_raw_records() -> None:
    """Nothing can take the place of a log record then, so it must not leave."""
    kept = Kept()
    kept.addFilter(RedactingFilter())

    with on("openai", kept) as logger:
        logger.info(CANARY)

    assert kept.records == []


@pytest.mark.filterwarnings("ignore:Bare functions are:DeprecationWarning")
async def test_the_server_of_verifiers_is_redacted_and_its_source_is_told() -> None:
    """What a real server logs of a failed call leaves as path, line and function."""
    exported, local = redact_exports(Kept()), Kept()
    secret = f"GET https://up/v1?api_key={CANARY} failed"

    with on("verifiers", local, exported):
        server = SERVER.InterceptionServer(0)
        await server.start()
        waiting = server.register_rollout("r-1", state={})
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{server.port}"
            asked = asyncio.create_task(
                session.post(
                    url + ROUTE.format(rollout_id="r-1"),
                    json={"messages": [{"role": "user", "content": CANARY}]},
                    headers={"Authorization": f"Bearer {server.secret}"},
                )
            )
            intercept = server.intercepts[await waiting.get()]
            SERVER.deliver_response(intercept, None, RuntimeError(secret))
            async with await asked as answer:
                assert answer.status == 500
        await server.stop()

    assert CANARY in local.text()
    assert CANARY not in exported.text()
    assert len(exported.records) == len(local.records) >= 2
    for copy, original in zip(exported.records, local.records, strict=True):
        assert copy.name == "verifiers.legacy.utils.interception_utils"
        assert copy.pathname == "verifiers/legacy/utils/interception_utils.py"
        assert copy.filename == "interception_utils.py"
        assert (copy.lineno, copy.funcName) == (original.lineno, original.funcName)


def test_a_logger_named_after_a_class_leaves_under_its_module() -> None:
    """Names below a module are data, so the module is what is told."""
    parser = PARSER.Parser()
    exported = redact_exports(Kept())

    with on(parser.logger.name, exported):
        parser.logger.info(CANARY)

    (copy,) = exported.records
    assert parser.logger.name == "verifiers.legacy.parsers.parser.Parser"
    assert copy.name == "verifiers.legacy.parsers.parser"


def test_a_file_that_only_looks_like_a_module_is_no_place() -> None:
    """A path is told if it is the file of that very module, and else not at all."""
    exported = redact_exports(Kept())
    fake = types.ModuleType(f"verifiers.{CANARY}")
    code = "import logging\nlogging.getLogger('verifiers').info('x')"

    with on("verifiers", exported):
        exec(compile(code, f"/home/{CANARY}/verifiers/{CANARY}.py", "exec"))  # noqa: S102
        sys.modules[fake.__name__] = fake
        exec(compile(code, f"/home/{CANARY}/verifiers/{CANARY}.py", "exec"))  # noqa: S102
        del sys.modules[fake.__name__]

    assert [each.pathname for each in exported.records] == ["", ""]
    assert CANARY not in exported.text()


def test_the_handler_of_the_sdk_exports_safe_copies_only() -> None:
    """In the bytes that OTLP would send, no secret of a raw logger is left."""
    exporter = KeptLogs()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    with pytest.warns(DeprecationWarning, match="LoggingHandler"):
        handler = LoggingHandler(logger_provider=provider)
    bare = Kept()

    with on("verifiers", bare, redact_exports(handler)) as logger:
        number = exercise(logger)
    with on("tests.app", handler):
        APP.error("mine", extra={"key": "value"})
    provider.shutdown()

    left = encode_logs(exporter.logs).SerializeToString()
    assert len(exporter.logs) == number + 1
    assert CANARY in bare.text()
    assert CANARY.encode() not in left
    assert b"RuntimeError" in left
    assert b"value" in left
    assert b"exception.message" not in left


async def test_a_redacted_record_keeps_a_format_with_the_fields_working(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """Its fields are told anew: ours inside an exchange, none of the raw logger's."""
    rollout = registry.open("r-1")
    exported = redact_exports(Kept())
    exported.setFormatter(logging.Formatter("%(trace_id)s %(rollout_id)s %(message)s"))

    async def handler(_: web.Request) -> web.Response:
        raw.info("x", extra={"trace_id": CANARY, "span_id": CANARY, "rollout_id": 1})
        return web.json_response({})

    app = web.Application()
    app.router.add_post(ROUTE, handler)
    instrument_app(app, registry)
    base = await serve(app)
    with on("httpx", exported) as raw:
        async with aiohttp.ClientSession() as session:
            await session.post(base + ROUTE.format(rollout_id="r-1"), json={})
        raw.info("x", extra={"rollout_id": CANARY})

    inside, outside = exported.records
    assert fields(inside)[0::2] == (rollout.trace_id, "r-1")
    assert fields(outside) == ("", "", "")
    assert CANARY not in exported.text()
