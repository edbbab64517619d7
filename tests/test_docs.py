"""The generated pages are those the code would generate now; links lead somewhere."""

import ast
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import typer

from hamcl.cli.main import app
from hamcl.config import HAMConfig
from hamcl.methods.registry import METHODS, load_method

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = (*DOCS.parent.glob("*.md"), *DOCS.glob("*.md"))


def anchors(page: Path) -> set[str]:
    """What a link may name in a page: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_to_a_file_and_a_heading(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for target in (target for target in targets if not target.startswith(("https://", "http://"))):
        file, _, heading = target.partition("#")
        found = page.parent / file if file else page
        assert found.exists(), target
        assert not heading or heading in anchors(found), target


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_the_commands_in_the_pages_are_those_there_are(page):
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ ") for block in shown for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(ham [a-z][^`]*)`", text)
    for part in (part.strip() for line in lines for part in re.split(r"\s[|;]\s", line)):
        if part.startswith("ham "):
            _, name, *arguments = (word for word in shlex.split(part, comments=True) if word != "...")
            command = typer.main.get_command(app).commands[name]
            command.make_parser(command.context_class(command)).parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_snippets_import_exists(page):
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "hamcl":
                assert all(hasattr(import_module(str(node.module)), alias.name) for alias in node.names), code


def test_the_configuration_reference_is_current():
    done = subprocess.run([sys.executable, DOCS / "reference.py"], capture_output=True, text=True, check=True)
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == done.stdout, "run `make docs`"


def test_the_page_of_methods_names_them_all_with_their_own_options():
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    common = {field.name for field in fields(HAMConfig)}
    for name in METHODS:
        assert f"\n| `{name}` |" in page
        for field in fields(load_method(name).config_type):
            if field.name not in common:
                help_text = field.metadata["help"]
                assert f"| `{name}` | `{field.name}` | `{field.default}` | {help_text} |" in page


def test_the_tables_are_those_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "benchmarks")
    tables = import_module("result_tables")
    for file, renew in ((DOCS.parent / "README.md", tables.readme), (DOCS / "results" / "README.md", tables.page)):
        text = file.read_text(encoding="utf-8")
        assert renew(text) == text, "run `make tables`"
        assert renew(text.replace("| 9", "| 8")) == text, "a wrong figure is put right"
