"""Run the code of model cards in a process that cannot import hamcl: `python stock.py INPUTS.json EXPORT...`.

INPUTS.json lists texts, or paths of images. Each export gets a file `scores.npy` beside its folder.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(inputs: Path, exports: list[Path]) -> None:
    sys.modules["hamcl"] = None  # type: ignore[assignment]  # every import of it fails
    mended = importlib.util.spec_from_file_location("mended", ROOT / "src/hamcl/nn/_torchvision.py")
    assert mended is not None and mended.loader is not None
    module = importlib.util.module_from_spec(mended)
    mended.loader.exec_module(module)
    module.ensure_torchvision()  # the installed libraries may not fit each other; this knows nothing of hamcl

    import numpy as np
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    given = json.loads(inputs.read_text())
    if given[0].endswith(".png"):
        given = [Image.open(inputs.parent / name) for name in given]
    for export in exports:
        os.chdir(export)
        if not isinstance(given[0], str):
            given[0].save("example.png")
        code = (export / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
        space: dict = {}
        exec(compile(code, str(export / "README.md"), "exec"), space)
        scores = [space["scores"](given[i : i + 7]) for i in range(0, len(given), 7)]
        np.save(export.with_name(f"{export.name}.npy"), np.concatenate(scores))
        del sys.modules["hamcl"]
        assert not any(name.split(".")[0] == "hamcl" for name in sys.modules)
        sys.modules["hamcl"] = None  # type: ignore[assignment]


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name).resolve() for name in sys.argv[2:]])
