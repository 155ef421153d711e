"""The house rules that can be read off the source: layers, exits for text, size."""

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "otel_intercept"
READER = PACKAGE / "failure.py"

MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.glob("test_*.py"))

MAX_LINES = 350

TEXT_CALLS = {"ascii", "format", "print", "repr", "str", "vars"}
LOG_CALLS = {"critical", "debug", "error", "exception", "info", "log", "warning"}
TEXT_METHODS = LOG_CALLS | {"format", "join", "print", "write"}
SAFE_ATTRIBUTES = {"errno", "failure"}
SUBPROCESS_ENV = {
    name: value for name, value in os.environ.items() if "COVERAGE" not in name
}


def name_of(path: Path) -> str:
    """Return the dotted name of a module of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    """Return the parsed source of a module."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=path.name)


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)
each_non_reader = pytest.mark.parametrize(
    "path", [path for path in MODULES if path != READER], ids=name_of
)
each_test_file = pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)


def imports_of(path: Path) -> Iterator[str]:
    """Yield each module or name that a file imports, wherever in the file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def exception_names(scope: ast.AST) -> set[str]:
    """Return the names in a function or module that are bound to an exception."""
    names = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.ExceptHandler) and node.name is not None:
            names.add(node.name)
        elif isinstance(node, ast.arg) and node.annotation is not None:
            words = {
                leaf.id
                for leaf in ast.walk(node.annotation)
                if isinstance(leaf, ast.Name)
            }
            if words & {"BaseException", "BaseExceptionGroup", "Exception"}:
                names.add(node.arg)
        elif isinstance(node, ast.Assign | ast.NamedExpr):
            value = node.value
            if (
                isinstance(value, ast.Call)
                and isinstance(value.func, ast.Attribute)
                and value.func.attr == "exception"
            ):
                targets = (
                    node.targets if isinstance(node, ast.Assign) else [node.target]
                )
                names |= {item.id for item in targets if isinstance(item, ast.Name)}
    return names


def mentions(node: ast.AST, names: set[str]) -> bool:
    """Return whether a bare exception name stands directly in an expression.

    A name inside a nested call is that call's argument, and is judged there.
    """
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.Call):
        return False
    return any(mentions(child, names) for child in ast.iter_child_nodes(node))


def readings_of_text(tree: ast.AST) -> Iterator[int]:
    """Yield the lines where the text of a caught or passed exception is read."""
    names = exception_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=called), args=args):
                if called in TEXT_CALLS and any(mentions(arg, names) for arg in args):
                    yield node.lineno
            case ast.Call(
                func=ast.Attribute(attr=called), args=args, keywords=keywords
            ):
                values = [*args, *(keyword.value for keyword in keywords)]
                if called in TEXT_METHODS and any(
                    mentions(arg, names) for arg in values
                ):
                    yield node.lineno
            case ast.FormattedValue(value=value) | ast.BinOp(op=ast.Mod(), right=value):
                if mentions(value, names):
                    yield node.lineno
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                if name in names and attribute not in SAFE_ATTRIBUTES:
                    yield node.lineno
            case _:
                pass


def exits_for_text(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that hand an exception to something that prints it."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="exc_info" | "stack_info"):
                yield node.value.lineno
            case ast.keyword(
                arg="record_exception" | "set_status_on_exception",
                value=ast.Constant(value=False),
            ):
                pass
            case ast.keyword(arg="record_exception" | "set_status_on_exception"):
                yield node.value.lineno
            case ast.Attribute(
                attr="exc_info" | "exc_text" | "format_exc" | "record_exception",
                ctx=ast.Load(),
            ):
                yield node.lineno
            case ast.Assign(
                targets=[ast.Attribute(attr="exc_info" | "exc_text")], value=value
            ):
                if not isinstance(value, ast.Constant):
                    yield node.lineno
            case ast.Call(func=ast.Attribute(attr="exception"), args=[_, *_]):
                yield node.lineno
            case _:
                pass


@pytest.mark.parametrize(
    "source",
    [
        "str(exc)",
        "repr(exc)",
        "format(exc, '')",
        "f'{exc}'",
        "f'{exc!r}'",
        "'%s' % exc",
        "'%s %s' % (1, exc)",
        "'{}'.format(exc)",
        "log.error('%s', exc)",
        "log.error('%s', (exc,))",
        "exc.args",
        "exc.__notes__",
        "sys.stderr.write(exc.strerror)",
    ],
)
def test_the_rule_against_reading_text_can_fail(source: str) -> None:
    """Each known way to read the text of a caught exception is found."""
    tree = ast.parse(f"try:\n    pass\nexcept OSError as exc:\n    {source}")

    lines = set(readings_of_text(tree))

    assert lines == {4}


@pytest.mark.parametrize(
    "source",
    [
        "def f(exc: BaseException) -> None: print(exc)",
        "def f(exc: Exception | None) -> str: return str(exc)",
        "if cause := future.exception(): print(cause)",
        "cause = future.exception(); print(cause)",
    ],
)
def test_the_rule_against_reading_text_knows_other_names(source: str) -> None:
    """An exception from a parameter or a future counts like a caught one."""
    lines = set(readings_of_text(ast.parse(source)))

    assert lines == {1}


@pytest.mark.parametrize(
    "source",
    [
        "log.error('', exc_info=True)",
        "log.exception('failed')",
        "span.record_exception(problem)",
        "tracer.start_span('x', record_exception=True)",
        "sys.exc_info()",
        "record.exc_info = problem",
        "formatter.format(record.exc_info)",
        "traceback.format_exc()",
    ],
)
def test_the_rule_against_exits_can_fail(source: str) -> None:
    """Each known way to have something else print an exception is found."""
    lines = set(exits_for_text(ast.parse(source)))

    assert lines == {1}


@each_non_reader
def test_only_failure_reads_exception_text(path: Path) -> None:
    """No module but failure.py reads the text, arguments or notes of an exception."""
    assert list(readings_of_text(tree_of(path))) == []


@each_non_reader
def test_only_failure_hands_exceptions_on(path: Path) -> None:
    """No module but failure.py lets a logger or span print an exception."""
    assert list(exits_for_text(tree_of(path))) == []


@each_non_reader
def test_only_failure_may_format_tracebacks(path: Path) -> None:
    """No module but failure.py can format a traceback."""
    assert not {"traceback", "linecache", "cgitb"} & set(imports_of(path))


@each_module
def test_no_module_draws_from_the_seedable_generator(path: Path) -> None:
    """Ids come from secrets, because training code seeds random."""
    assert "random" not in set(imports_of(path))


@each_module
def test_every_module_says_its_one_job(path: Path) -> None:
    """Every module starts with a docstring."""
    assert ast.get_docstring(tree_of(path))


@each_module
def test_every_module_fits_on_a_few_screens(path: Path) -> None:
    """No module grows past the point where it does more than one job."""
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_LINES


@each_test_file
def test_every_test_says_what_must_hold(path: Path) -> None:
    """Every test function has a docstring."""
    silent = [
        node.name
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


@each_test_file
def test_no_test_replaces_a_real_part(path: Path) -> None:
    """Tests use real sockets and the real SDK: no mocks, no patched attributes."""
    patched = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and node.attr == "setattr"
        and isinstance(node.value, ast.Name)
    ]

    assert patched == []
    assert not {"mock", "unittest.mock"} & set(imports_of(path))


def test_imports_make_no_circle() -> None:
    """No module imports itself by a detour, not even inside a function."""
    names = {name_of(path) for path in MODULES}
    graph: dict[str, set[str]] = {name: set() for name in names}

    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name_of(path)] |= full & names or {node.module}
            elif isinstance(node, ast.Import):
                graph[name_of(path)] |= {alias.name for alias in node.names} & names

    order = list(graphlib.TopologicalSorter(graph).static_order())

    assert set(order) == names


def run_python(code: str) -> str:
    """Run code in a fresh interpreter where warnings are errors; return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=SUBPROCESS_ENV,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported_first() -> None:
    """Each module imports with none of the others loaded, and without a warning."""
    names = [name_of(path) for path in MODULES if path.stem != "__main__"]
    # Each is compiled once, also where no bytecode is kept: that is half of the time.
    code = f"""
import functools, importlib, importlib.machinery, sys
loader = importlib.machinery.SourceFileLoader
loader.get_code = functools.cache(loader.get_code)
for name in {names!r}:
    for loaded in [key for key in sys.modules if key.split(".")[0] == "otel_intercept"]:
        del sys.modules[loaded]
    importlib.import_module(name)
    print(name)
"""

    imported = run_python(code).split()

    assert imported == names


def test_the_face_of_the_package_loads_no_sdk() -> None:
    """Importing the package loads neither the SDK, nor an exporter, nor a model SDK."""
    unwanted = (
        "anthropic",
        "grpc",
        "httpx",
        "openai",
        "opentelemetry.exporter",
        "opentelemetry.sdk",
        "otel_intercept.cli",
        "otel_intercept.sdk",
        "otel_intercept.testing",
        "otel_intercept.translate",
        "rich",
        "verifiers",
    )

    loaded = set(run_python("import otel_intercept, sys; print(*sys.modules)").split())

    assert sorted(loaded.intersection(unwanted)) == []


def test_what_exports_over_http_loads_no_grpc() -> None:
    """A process that exports over HTTP has no gRPC for collections to walk through."""
    code = """
import sys
from otel_intercept.sdk import configure
here = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
with configure(here | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}) as telemetry:
    print(telemetry.enabled, *sys.modules)
    telemetry.shutdown(0.0)
"""

    enabled, *loaded = run_python(code).split()

    assert enabled == "True"
    assert "grpc" not in loaded
