"""What is shipped says the same everywhere: metadata, changelog, README, Makefile."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
README = ROOT / "README.md"

NOT_INSTALLED_WITH_US = {"anthropic", "openai", "verifiers"}


def text_of(name: str) -> str:
    """Return the text of a file in the root of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_installed_version_is_the_declared_one() -> None:
    """The metadata that users see carries the version of pyproject.toml."""
    assert metadata.version("otel-intercept") == PROJECT["version"]


def test_the_changelog_names_the_version() -> None:
    """The version has its place in the changelog, released or not."""
    changelog = text_of("CHANGELOG.md")

    assert "## [Unreleased]" in changelog
    assert PROJECT["version"] in changelog


def test_every_make_command_of_the_docs_exists() -> None:
    """README and CONTRIBUTING name only targets that the Makefile has."""
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    docs = text_of("README.md") + text_of("CONTRIBUTING.md")

    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", docs, re.MULTILINE))

    assert "demo" in named
    assert named - targets == set()


def test_every_terminal_command_of_the_readme_exists() -> None:
    """README names only commands that the terminal program has."""
    named = set(re.findall(r"(?:^|`)otel-intercept ([a-z]+)", README.read_text(), re.M))

    done = subprocess.run(
        [sys.executable, "-m", "otel_intercept", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert [name for name in sorted(named) if name not in done.stdout.split()] == []


def test_the_terminal_program_resolves() -> None:
    """The installed script points at something that can be called."""
    (script,) = metadata.entry_points(group="console_scripts", name="otel-intercept")

    assert callable(script.load())


def test_nothing_undeclared_is_imported() -> None:
    """Every distribution that the package imports is declared as a dependency."""
    declared = {re.split(r"[<>=\[ ]", line)[0] for line in PROJECT["dependencies"]}
    owners = metadata.packages_distributions()
    tops = {
        name.split(".")[0]
        for path in (ROOT / "otel_intercept").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    foreign = (
        tops - sys.stdlib_module_names - NOT_INSTALLED_WITH_US - {"otel_intercept"}
    )

    assert [name for name in sorted(foreign) if not declared & set(owners[name])] == []


@pytest.mark.parametrize("name", ["LICENSE", "README.md"])
def test_the_metadata_carries_what_it_must(name: str) -> None:
    """The licence and the README reach those who install the package."""
    document = metadata.metadata("otel-intercept")

    assert document["License-Expression"] == "Apache-2.0"
    assert document["License-File"] == "LICENSE"
    assert text_of(name).strip() != ""
    assert document["Description-Content-Type"] == "text/markdown"
