"""Run the code of model cards in a process that cannot import hamcl: `python stock.py FOLDER...`.

Each folder holds `inputs.json`, a list of texts or of image files, and exports. The scores of `EXPORT/` go to
`EXPORT.npy` beside it.
"""

import json
import os
import sys
from pathlib import Path


def main(folders: list[Path]) -> None:
    sys.modules["hamcl"] = None  # type: ignore[assignment]  # every import of it fails
    import torch

    torch.set_num_threads(1)
    for folder in folders:
        inputs = json.loads((folder / "inputs.json").read_text())
        for export in sorted(path for path in folder.iterdir() if path.is_dir()):
            run(export, inputs)
    assert not any(name.startswith("hamcl.") for name in sys.modules)


def run(export: Path, inputs: list[str]) -> None:
    import numpy as np
    from PIL import Image

    os.chdir(export)
    given: list = inputs
    if inputs[0].endswith(".png"):
        given = [Image.open(export.parent / name) for name in inputs]
        given[0].save("example.png")
    code = Path("README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    space: dict = {}
    exec(compile(code, str(export / "README.md"), "exec"), space)
    scores = [space["scores"](given[i : i + 7]) for i in range(0, len(given), 7)]
    np.save(export.with_name(f"{export.name}.npy"), np.concatenate(scores))


if __name__ == "__main__":
    main([Path(name).resolve() for name in sys.argv[1:]])
