"""The generated pages are those the code would generate now."""

from dataclasses import fields
from pathlib import Path

from hamcl.config import HAMConfig, reference
from hamcl.registry import METHODS, load_method

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_configuration_reference_is_current():
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_the_page_of_methods_names_them_all_with_their_own_options():
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    common = {field.name for field in fields(HAMConfig)}
    for name in METHODS:
        assert f"\n| `{name}` |" in page
        for field in fields(load_method(name).config_type):
            if field.name not in common:
                help_text = field.metadata["help"]
                assert f"| `{name}` | `{field.name}` | `{field.default}` | {help_text} |" in page
