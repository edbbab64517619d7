"""Remote code of an export: classes that transformers loads from it with `trust_remote_code=True`.

The classifier, where its own classes cannot hold the head (`AutoModelForSequenceClassification.from_pretrained`, and
`pipeline` likewise), and for images the pipeline, since no image processor of its own prepares them as hamcl does.
"""

import json
from pathlib import Path
from typing import Any

from hamcl.export.learned import Learned
from hamcl.export.parts import write_json
from hamcl.export.stock import Stock, auto_class, classification_class, library, samples
from hamcl.export.usage import (
    Form,
    Script,
    head_lines,
    inputs_lines,
    timm_call,
    timm_lines,
    transformers_lines,
)

MODULE, PIPELINE = "modeling_hamcl", "PreparedImageClassificationPipeline"
TITLE = '"""The model of this folder, as in README.md; for inference alone."""'
CLASSIFIER = """


HUB = ("cache_dir", "local_files_only", "revision", "token")


class {name}(PreTrainedModel):
    config_class = {config}
    main_input_name = "{main}"

    def __init__(self, config, backbone, head):
        super().__init__(config)
        self.backbone = backbone
        for name, tensor in head.items():
            self.register_buffer("head_" + name, tensor)

    @classmethod
    def from_pretrained(cls, folder, *args, config, dtype=None, **options):
        options = {{name: options[name] for name in HUB if options.get(name) is not None}}
        classes = json.loads(Path(cached_file(folder, "classes.json", **options)).read_text(encoding="utf-8"))
        config.id2label, config.label2id = dict(enumerate(classes)), {{name: i for i, name in enumerate(classes)}}
        config.problem_type = "single_label_classification"
        head = load_file(cached_file(folder, "head.safetensors", **options))
        model = cls(config, {backbone}, head).eval()
        return model.to(dtype) if isinstance(dtype, torch.dtype) else model

    def save_pretrained(self, *args, **options):
        raise NotImplementedError("copy the folder that this model was loaded from instead")

    @torch.no_grad()
    def forward(self, **inputs):
        model, head = self.backbone, {{name[5:]: tensor for name, tensor in self.named_buffers(recurse=False)}}
        batch = {{name: inputs[name] for name in {names} if name in inputs}}
"""


PREPARED = '''


class {pipeline}(ImageClassificationPipeline):
    """Takes images as Pillow opens them, and their files or addresses; one after another."""

    _load_image_processor = False

    def preprocess(self, image, timeout=None):
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            image = BytesIO(urlopen(image, timeout=timeout).read())
        pixels = prepare(image if isinstance(image, Image.Image) else Image.open(image))
        return {{"pixel_values": torch.from_numpy(pixels)[None].to(self.model.dtype)}}

    def _forward(self, inputs):
        return self.model(**inputs{options})
'''


def write_remote(folder: Path, learned: Learned, stock: Stock | None) -> None:
    """Write the classes beside a merged model of transformers or timm, and name them in `config.json`.

    Args:
        stock: the library's classification model, if the head is its classifier.
    """
    backbone, script = learned.merged, Script()
    named: dict[str, Any] = {}
    if stock is None:
        _classifier(script, learned, folder)
        named["auto_map"] = {auto_class(backbone).__name__: f"{MODULE}.{classification_class(backbone)}"}
    if backbone.modality == "image":
        inputs_lines(script, learned)
        # A classifier of ours gives them to the backbone itself.
        options = getattr(backbone.features, "options", {}) if stock else {}
        given = "".join(f", {name}={value!r}" for name, value in options.items())
        script.add(
            PREPARED.format(pipeline=PIPELINE, options=given),
            "from io import BytesIO",
            "from urllib.request import urlopen",
            "import torch",
            "from transformers import ImageClassificationPipeline",
        )
        own = {"impl": f"{MODULE}.{PIPELINE}", "pt": ["AutoModelForImageClassification"]}
        named["custom_pipelines"] = {"image-classification": own}
    (folder / f"{MODULE}.py").write_text(f"{TITLE}\n{script.text()}", encoding="utf-8")

    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **named}
    write_json(path, config)


def _classifier(script: Script, learned: Learned, folder: Path) -> None:
    backbone, inside, form = learned.merged, Script(), Form("merged", None)
    output = "SequenceClassifierOutput" if backbone.modality == "text" else "ImageClassifierOutput"
    if library(backbone.module) == "timm":
        from transformers import TimmWrapperConfig

        timm_lines(inside, backbone, form)
        kind: type = TimmWrapperConfig
        made, source = timm_call(folder, 'cached_file(folder, "model.safetensors", **options)'), "import timm"
    else:
        transformers_lines(inside, backbone, form)
        kind = type(backbone.module.config)
        made, source = "AutoModel.from_pretrained(folder, **options)", "from transformers import AutoModel"
    head_lines(inside, learned, f"return {output}(logits={{}})")
    names = list(samples(backbone))
    code = CLASSIFIER.format(
        backbone=made,
        output=output,
        name=classification_class(backbone),
        main=names[0],
        names=json.dumps(names),
        config=kind.__name__,
    )
    script.add(
        code + "\n".join(f"    {line}" for line in inside.lines),
        "import json",
        "from pathlib import Path",
        "import torch",
        "from safetensors.torch import load_file",
        source,
        "from transformers import PreTrainedModel",
        f"from transformers.modeling_outputs import {output}",
        "from transformers.utils import cached_file",
        f"from {kind.__module__} import {kind.__name__}",
    )
