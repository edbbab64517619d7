"""The model of a store: what is kept of one, and how it is put together again."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hamcl.config import IDLE, PER_TASK, HAMConfig, answering
from hamcl.errors import DataError, UsageError
from hamcl.machine import Machine
from hamcl.methods.ham import HAM
from hamcl.nn.backbones import home, load_backbone
from hamcl.store import snapshot
from hamcl.store.document import sentence
from hamcl.store.files import MANIFEST
from hamcl.store.manifest import BackboneOptions, BackboneRecord, Manifest
from hamcl.store.objects import load_object


def beginner(spec: str, options: Mapping[str, Any], config: HAMConfig) -> HAM:
    """A learner that knows nothing yet, on a backbone that can be loaded again.

    Raises:
        UsageError: an option or the backbone cannot be used.
    """
    try:
        known = BackboneOptions(**options)
    except ValidationError as error:
        raise UsageError(f"the options of the backbone cannot be used: {sentence(error)}") from error
    return HAM(load_backbone(home(spec), depths=config.depths_to_read, **asdict(known)), config)


def facts_of(learner: HAM) -> tuple[BackboneRecord, dict[str, Any], dict[str, Any]]:
    """What a store keeps of a learner: its backbone, its options, and what they came to.

    A local folder is kept as an absolute path.

    Raises:
        UsageError: the backbone could not be loaded again.
    """
    backbone = learner.backbone
    if backbone.options is None:
        raise UsageError(
            f"backbone {backbone.spec!r} was not made by load_backbone, which would have to find it again; export() "
            "writes the model with its weights"
        )
    options, layers = BackboneOptions(**backbone.options), tuple(learner.model.layers)
    record = BackboneRecord(
        backbone.location, options, backbone.fingerprint, backbone.modality, backbone.width, layers
    )
    config = learner.config
    if config.depths_to_read == "auto" and backbone.read == "last":
        config = replace(config, depths="last")  # as it was loaded by hand, and is to be loaded again
    return record, config.to_dict(), learner.settings.to_dict()


def assembled(root: Path, manifest: Manifest, spec: str | None, machine: Machine, options: Mapping[str, Any]) -> HAM:
    """Put the model of a manifest together.

    Args:
        spec: where the backbone lies, if not where the manifest says.
        options: those of one task.

    Raises:
        DataError: the backbone is missing or another one, or a file is missing or was changed.
    """
    record, config = manifest.backbone, for_task(manifest, options)
    machine.resolved()  # a device that is not here is no fault of the store
    try:
        backbone = load_backbone(
            spec or record.spec, depths=config.depths_to_read, expected=record.fingerprint, **asdict(record.options)
        )
        layers = {name for name, _ in backbone.module.named_modules()}
        if len(set(record.layers)) != len(record.layers) or not layers.issuperset(record.layers):
            raise UsageError(f"{MANIFEST} tells of layers that the backbone has not")
        # Names and not the config's pattern: a stranger's pattern may take for ever to match.
        learner = HAM(backbone, config, machine, layers=record.layers)
        if (tuple(learner.model.layers), backbone.width) != (record.layers, record.width):
            raise DataError(f"{root / MANIFEST} tells of other layers or features than its backbone has")
    except (UsageError, OSError) as error:
        # A stranger's manifest may hold long names, too long for the file system even.
        why = str(error) if len(str(error)) <= 400 else f"{str(error)[:400]} ..."
        raise DataError(f"{root} cannot be used with its backbone: {why}") from error
    snapshot.give(manifest.state, learner, lambda r: load_object(root, r, finite=True), root)
    return learner


def for_task(manifest: Manifest, options: Mapping[str, Any]) -> HAMConfig:
    """The config of a store with options of one task.

    Raises:
        UsageError: an option belongs to the whole model, does nothing in it, or has a value that is not allowed.
    """
    config = manifest.options
    modality = manifest.backbone.modality
    head = answering(config, modality)
    read = HAM.reads(replace(config, head=head)) - IDLE[modality]  # type: ignore[arg-type]
    for name in options:
        if name not in PER_TASK:
            raise UsageError(
                f"option {name!r} belongs to the whole model and is chosen when the store is made; for one task "
                f"choose from {', '.join(PER_TASK)}"
            )
        if name not in read:
            raise UsageError(
                f"option {name!r} does nothing in a store of {modality}s with head {head!r}; leave it out"
            )
    return replace(config, **options)
