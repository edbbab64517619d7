"""The generated pages are those the code would generate now."""

from pathlib import Path

from hamcl.config import reference

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_configuration_reference_is_current():
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == reference(), "run `make docs`"
