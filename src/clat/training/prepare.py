"""What a run works on, read and built, with everything refused that would otherwise fail hours later."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.notices import recorded
from clat.core.seeds import derive_seed, generator
from clat.data import (
    IDBH_VARIANTS,
    Augment,
    BatchAugment,
    Extra,
    ImageSet,
    Loader,
    hold_out,
    load_split,
    open_generated,
)
from clat.data.channels import with_channels
from clat.evaluation.protocols import find_protocol
from clat.models import build_model
from clat.models.files import fit_state, read_state
from clat.network import modes
from clat.network.exchange import copied, tensors_of
from clat.network.layers import find_layers
from clat.network.swap import swapped
from clat.recipe.schema import DataConfig, Recipe, StageConfig
from clat.training.trial import check_training_mode, tried

Data = tuple[ImageSet, ImageSet]
"""(train, test). The held-out part is cut from train."""


@dataclass(frozen=True)
class RunInputs:
    """The network and the images of a run. `given`: the network does not start from random weights of the
    recipe's seed, but from the user's; `extra`: generated images to train on; `notes`: what was decided for the
    user while the network was built."""

    model: nn.Module
    given: bool
    train: ImageSet
    heldout: ImageSet
    test: ImageSet
    extra: ImageSet | None = None
    notes: tuple[str, ...] = ()
    own_model: bool = False
    """The network is the user's, and not the recipe's."""
    own_data: bool = False
    """The images are the user's, and not the recipe's."""

    def model_name(self, recipe: Recipe) -> str:
        """Return what the network is called: by the recipe, or by its class where it is the user's own."""
        return type(self.model).__qualname__ if self.own_model else recipe.model.name

    @property
    def fingerprint(self) -> str:
        """A hash of what is trained and decided on: labels, and pixels where they are in memory; of the extra
        images, which can be many gigabytes, labels and the pixels of about a thousand."""
        digest = hashlib.sha256()
        sets = [self.train, self.heldout]
        if self.extra is not None:
            digest.update(self.extra.labels.numpy().tobytes())
            sets.append(self.extra.subset(range(0, len(self.extra), max(len(self.extra) // 1000, 1))))
        for images in sets:
            digest.update(images.labels.numpy().tobytes())
            if isinstance(images.images, Tensor):
                digest.update(images.images.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]


def prepare(recipe: Recipe, model: nn.Module | None, data: Data | None) -> RunInputs:
    """The inputs of a run. Raises ClatError for whatever does not fit together."""
    find_protocol(recipe.evaluation.protocol)
    train_set, heldout, test = _data(recipe, data)
    own_model = model is not None
    given = own_model or recipe.model.starts_from_weights
    with recorded() as notes:
        model = build_network(recipe, train_set.num_classes, train_set.shape[0]) if model is None else model
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        sample, _ = next(iter(Loader(heldout.take(1), 1, device=device, workers=0).epoch()))
        check_model(model, sample, train_set.num_classes, exactly=recipe.data.cutmix)
        check_training_mode(model, sample, train_set.num_classes)
    for stage in recipe.stages:
        stage.objective.requires(model, sample)
        for treatment in stage.treatments:
            treatment.requires(model, sample)
        _check_selection(stage, model, sample, first=stage is recipe.stages[0])
        (stage.optimizer or recipe.optimizer).build(list(model.parameters()))  # does it take such shapes?
    extra = None if recipe.data.extra is None else open_generated(recipe.data.extra.file, train_set)
    loader = train_loader(recipe, train_set, torch.device("cpu"), 0, recipe.engine.devices, extra)
    pixels = train_set.take(1).load().images
    if loader.augment is not None and isinstance(pixels, Tensor):  # does it suit the image size?
        loader.augment(pixels, loader.augment.draw(1, generator(recipe.seed)))
    if loader.batch_size == recipe.engine.devices and any(stage.bn_policy != "frozen" for stage in recipe.stages):
        check_single(model, sample)
    for stage in recipe.stages:
        for treatment in stage.treatments:
            treatment.check_steps(stage.epochs * loader.num_batches * stage.objective.replays)
    own = {"own_model": own_model, "own_data": data is not None}
    return RunInputs(model, given, train_set, heldout, test, extra, tuple(notes), **own)


def train_loader(
    recipe: Recipe,
    train_set: ImageSet,
    device: torch.device,
    rank: int,
    world: int,
    extra: ImageSet | None = None,
) -> Loader:
    """The training batches of one process."""
    config = recipe.data
    return Loader(
        train_set,
        min(recipe.batch_size, len(train_set)),
        device=device,
        seed=recipe.seed,
        shuffle=True,
        augment=augmentation(config),
        cutmix=config.cutmix,
        extra=None if extra is None or config.extra is None else Extra(extra, config.extra.fraction),
        drop_last=True,
        rank=rank,
        world_size=world,
    )


def augmentation(config: DataConfig) -> BatchAugment | None:
    """What `data.augment` and the fields beside it ask for."""
    if config.augment == "standard" and (config.pad or config.flip):
        return Augment(pad=config.pad, flip=config.flip, padding_mode=config.padding_mode)
    if config.augment in IDBH_VARIANTS:
        return replace(IDBH_VARIANTS[config.augment], flip=config.flip)
    return None


def check_model(model: nn.Module, x: Tensor, num_classes: int, *, exactly: bool = False) -> None:
    """Raise ClatError unless `model` turns `x` (1, C, H, W) into at least `num_classes` logits; `exactly`: into
    no more either, as labels that are probabilities need."""
    with tried(model, x, ""), modes.attack_mode(model), torch.no_grad():
        logits = model(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ClatError("the model does not return logits of shape (N, classes): wrap it so that it does")
    if logits.shape[1] < num_classes:
        raise ClatError(f"the model has {logits.shape[1]} classes, the data {num_classes}: give it as many")
    if exactly and logits.shape[1] != num_classes:
        raise ClatError(
            f"data.cutmix needs a model with the data's {num_classes} classes: it has {logits.shape[1]}"
        )


def check_single(model: nn.Module, x: Tensor) -> None:
    """Raise ClatError if `model` cannot train on `x` (1, C, H, W), a single image: BatchNorm cannot normalise by
    a batch that leaves it one value a channel."""
    with (
        modes.restore_flags(model),
        modes.preserve_buffers(model),
        modes.preserve_random_states(model),
        torch.no_grad(),
    ):
        model.train()
        try:
            model(x)
        except ValueError:
            raise ClatError(
                "one image a batch and process is too few for the model's BatchNorm: raise batch_size"
            ) from None


def _check_selection(stage: StageConfig, model: nn.Module, x: Tensor, *, first: bool) -> None:
    """Raise ClatError if the stage's selection asks for layers that the model does not have, or for weights to
    rewind to that there are not."""
    rule = stage.selection
    if rule is None:
        return
    layers = rule.candidates(model, x)
    if rule.rule == "named":
        find_layers(layers, [str(name) for name in rule.layers])
    if rule.initial is not None:
        with swapped(model, copied(tensors_of(model))):
            fit_state(model, read_state(rule.initial, rule.initial_key)[0], rule.initial)
    elif rule.ranking.needs_initial and first:
        raise ClatError(
            f"stage '{stage.name}' is the first: there is no way back to rank by; name a weight file to rewind to "
            "in selection.initial"
        )
    most = rule.ranking.rankable(len(layers)) if rule.rule == "least-critical" else len(layers)
    if rule.rule not in ("all", "named") and rule.k > most:
        raise ClatError(
            f"stage '{stage.name}': selection.k is {rule.k}, but there are {most} layers to select from"
        )


def _data(recipe: Recipe, data: Data | None) -> tuple[ImageSet, ImageSet, ImageSet]:
    config = recipe.data
    if data is None:
        train_set, test = (
            with_channels(load_split(config.name, split, image_size=config.image_size), config.channels)
            for split in ("train", "test")
        )
    else:
        train_set, test = data
    if (train_set.shape, train_set.num_classes) != (test.shape, test.num_classes):
        raise ClatError(
            f"train and test of '{train_set.name}' differ: images {train_set.shape} and {test.shape}, "
            f"{train_set.num_classes} and {test.num_classes} classes"
        )
    if len(test) == 0:
        raise ClatError(f"the test split of '{test.name}' is empty: the final evaluation needs images")
    if config.decide_on == "test-split":
        return hold_out(train_set, 0, config.split_seed, config.train_size)[0], test, test
    if config.heldout < 1:
        raise ClatError(
            f"data.heldout is {config.heldout}: a run decides on held-out images; give it some, such as 500"
        )
    train_set, heldout = hold_out(train_set, config.heldout, config.split_seed, config.train_size)
    return train_set, heldout, test


def build_network(recipe: Recipe, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The recipe's network, for images of so many channels, with its first weights: a file's, or random ones that
    the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "init"))
        return build_model(recipe.model, num_classes, in_channels)
