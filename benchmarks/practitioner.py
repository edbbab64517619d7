"""The session of docs/practitioner.md: the commands of a model's life, on the practice data of `ham demo --store`.

    python benchmarks/practitioner.py

Runs every command through the real command line in a pseudo-terminal, in a folder that is deleted afterwards, and
writes what was typed and what the screen showed into the page.
"""

import argparse
import os
import pty
import re
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "practitioner.md"
ROUND = (
    "ham demo --store try | head -2",
    "ls try/digits",
    "ham learn try/digits.ham try/digits/week-2 --augmentation handwriting",
    "ham predict try/digits.ham try/digits/inbox",
    "ham status try/digits.ham",
    "ham eval try/digits.ham try/digits/test | head -8",
    "ham undo try/digits.ham",
    "ham learn try/digits.ham try/digits/week-2 --augmentation handwriting",
    "ham export try/digits.ham out --as merged",
    "ham init try/diagnoses.ham --backbone minilm",
    "ham learn try/diagnoses.ham try/diagnoses/week-1.csv",
    "head -1 try/diagnoses/inbox.txt | ham predict try/diagnoses.ham - --json",
)


def run(command: str) -> tuple[int, str]:
    """Run a line of shell in a pseudo-terminal; its exit code and everything it wrote."""
    written: list[bytes] = []

    def read(terminal: int) -> bytes:
        written.append(os.read(terminal, 4096))
        return written[-1]

    # A command that writes nothing may outlive its terminal by a moment, which must not hang it up.
    status = pty.spawn(["bash", "-c", f"trap '' HUP; {command}"], read)
    return os.waitstatus_to_exitcode(status), b"".join(written).decode()


def screen(text: str) -> str:
    """What a terminal shows in the end: carriage returns, cursor up and erased lines are obeyed, colours left out."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\r\n\x1b]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.startswith("\x1b"):
            row -= int(part[2:-1] or 1) if part.endswith("A") else 0
            lines[row] = "" if part.endswith("K") else lines[row]
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return "\n".join(line.rstrip() for line in lines).rstrip()


def session() -> str:
    """Every command of the round and what it showed."""
    blocks = []
    for command in ROUND:
        code, text = run(command)
        if code:
            sys.exit(f"{command!r} ended with {code}")
        blocks.append(f"$ {command}\n{screen(text)}".rstrip())
    return "\n".join(blocks)


def main() -> None:
    """Write the page anew."""
    argparse.ArgumentParser(description="Run the session of docs/practitioner.md and write it there.").parse_args()
    os.environ |= {"COLUMNS": "100", "LINES": "40", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        shown = session()
        os.chdir(PAGE.parent)
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition("<!-- session -->\n")
    _, end, after = rest.partition("<!-- /session -->")
    if not end:
        sys.exit(f"{PAGE} has no place for the session")
    PAGE.write_text(f"{before}{begin}```console\n{shown}\n```\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
