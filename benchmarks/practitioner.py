"""The round of docs/practitioner.md: every command of a model's life, on Omniglot, one alphabet a task.

Writes each alphabet into a folder of its own, as a practitioner would have it, runs every command through the real
command line in a pseudo-terminal, and prints the session as text: what was typed, and what the screen showed.

    python benchmarks/practitioner.py DATA OUT      DATA: the eight-alphabet parquet files; OUT: a new folder, or an
                                                    unfinished session, which goes on after its last command
"""

import argparse
import os
import pty
import re
import sys
from pathlib import Path

from hamcl.streams import load_source

ALPHABETS = (
    "Balinese",
    "Early_Aramaic",
    "Greek",
    "Japanese_(katakana)",
    "Korean",
    "Latin",
    "Sanskrit",
    "Tagalog",
)
LEARN = "ham learn scripts.ham data/{} --augmentation handwriting"
ROUND = (
    "ls data data/Greek data/Greek/train | head -22",
    "ham init scripts.ham --backbone efficientnet-lite0 --image-size 64 --epochs {epochs}",
    *(LEARN.format(f"'{name}'" if "(" in name else name) for name in ALPHABETS[:7]),
    "ham eval scripts.ham data/* --known",
    "ham status scripts.ham",
    "cp -r scripts.ham before.ham",
    LEARN.format("Tagalog"),
    "ham diff before.ham scripts.ham",
    "ham undo scripts.ham",
    "ham diff before.ham scripts.ham",
    LEARN.format("Tagalog"),
    "ham predict scripts.ham data/Greek/test/Greek-character01 --top 3",
    "ls data/Latin/test/*/*.png | head -200 | ham predict scripts.ham - --out latin.csv",
    "head -5 latin.csv",
    "echo broken > broken.png; ham predict scripts.ham broken.png data/Greek/test/Greek-character02/*.png --json; "
    "echo exit code $?",
    "ham export scripts.ham out/peft --as peft",
    "ham export scripts.ham out/merged --as merged --license mit",
    "ham export scripts.ham out/adapters --as adapters",
    "ham export scripts.ham out/onnx --as onnx",
    "ls out/*",
    "ham init lora.ham --backbone efficientnet-lite0 --image-size 64 --epochs {epochs}",
    LEARN.format("Tagalog").replace("scripts", "lora"),
    "ham export lora.ham tagalog-lora --as peft",
    "ham undo scripts.ham",
    "ham import scripts.ham tagalog-lora --data data/Tagalog --augmentation handwriting",
    "ham eval scripts.ham data/Tagalog --json | head -7",
    "ham verify scripts.ham",
    "ham status scripts.ham --history",
    "ham gc scripts.ham",
    "du -sh scripts.ham",
)


def write_folders(data: Path, out: Path) -> None:
    """Write `out/<alphabet>/{train,test}/<alphabet>-<character>/<n>.png`."""
    source = load_source(f"omniglot:{data}")
    for split in ("train", "test"):
        samples = getattr(source, split)
        for i, y in enumerate(samples.labels):
            alphabet, _, character = source.classes[y].partition("/")
            folder = out / alphabet / split / f"{alphabet}-{character}"
            folder.mkdir(parents=True, exist_ok=True)
            samples.inputs[i].save(folder / f"{i:04d}.png")


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


def bars(text: str) -> str:
    """A moment of the moving bars, from the middle of what was written."""
    frames = [frame for frame in re.split(r"\r", text) if "epoch" in frame]
    return screen(frames[len(frames) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    session = options.out / "session.txt"
    blocks = re.split(r"\n\n(?=\$ )", session.read_text(encoding="utf-8").rstrip()) if session.exists() else []
    if not blocks:
        write_folders(options.data, options.out / "data")
    os.chdir(options.out)
    os.environ |= {"COLUMNS": "110", "LINES": "40", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in ROUND[len(blocks) :]:
        command = line.format(epochs=options.epochs)
        code, text = run(command)
        if code:
            sys.exit(f"{command!r} ended with {code}")
        shown = screen(text)
        if "epoch" in text and not any("epoch " in block for block in blocks):
            shown = f"{bars(text)}\n{shown}"
        blocks.append(f"$ {command}\n{shown}".rstrip())
        Path(session.name).write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
