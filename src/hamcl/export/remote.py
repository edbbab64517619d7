"""The learned classifier as a class that transformers loads from the export itself, where its own classes cannot hold
the head: `AutoModelForSequenceClassification.from_pretrained(out, trust_remote_code=True)`, and `pipeline` likewise.
"""

import json
from pathlib import Path

from hamcl.export.learned import Learned
from hamcl.export.usage import Form, Script, head_lines, transformers_lines
from hamcl.nn.stock import auto_class, classification_class, samples

MODULE = "modeling_hamcl"
HEADER = '''"""The model of this folder and its classifier, as in README.md; for inference alone."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import {output}
from transformers.utils import cached_file
from {module} import {config}

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
        model = cls(config, AutoModel.from_pretrained(folder, **options), head).eval()
        return model.to(dtype) if isinstance(dtype, torch.dtype) else model

    def save_pretrained(self, *args, **options):
        raise NotImplementedError("copy the folder that this model was loaded from instead")

    @torch.no_grad()
    def forward(self, **inputs):
        model, head = self.backbone, {{name[5:]: tensor for name, tensor in self.named_buffers(recurse=False)}}
        batch = {{name: inputs[name] for name in {names} if name in inputs}}
'''


def write_remote(folder: Path, learned: Learned) -> None:
    """Write the class beside a merged model of transformers, and name it in `config.json`."""
    text = learned.merged.modality == "text"
    script = Script()
    transformers_lines(script, learned.merged, Form("merged", None))
    output = "SequenceClassifierOutput" if text else "ImageClassifierOutput"
    name = classification_class(learned.merged)
    head_lines(script, learned, f"return {output}(logits={{}})")
    names = list(samples(learned.merged))
    kind = type(learned.merged.module.config)
    code = HEADER.format(
        output=output,
        name=name,
        main=names[0],
        names=json.dumps(names),
        module=kind.__module__,
        config=kind.__name__,
    )
    body = "\n".join(f"    {line}" for line in script.lines)
    (folder / f"{MODULE}.py").write_text(f"{code}{body}\n", encoding="utf-8")

    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["auto_map"] = {auto_class(learned.merged).__name__: f"{MODULE}.{name}"}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
