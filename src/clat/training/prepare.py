"""What a run works on, read and built, with everything refused that would otherwise fail hours later."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clat.attacks.draws import batch_parts
from clat.core.errors import ClatError
from clat.core.notices import notice, recorded
from clat.core.random_states import preserve_all_states
from clat.core.seeds import derive_seed, generator, seed_global
from clat.data import BatchAugment, Extra, ImageSet, Loader, as_train_and_test, hold_out, load_split, open_generated
from clat.data.channels import with_channels
from clat.data.classes import are_numbers, check_trainable, numbered
from clat.data.per_image import PerImage
from clat.data.splits import images_in_both, mixed
from clat.evaluation.protocols import find_protocol
from clat.models import build_model
from clat.models.files import fit_state, read_state
from clat.models.fitting import OtherOutputs
from clat.models.output_names import first_names, in_other_order
from clat.network.exchange import copied, tensors_of
from clat.network.layers import find_layers
from clat.network.swap import swapped
from clat.recipe.schema import DataConfig, Recipe, StageConfig
from clat.runtime.blocks import check_blocks
from clat.training.augmentation import augmentation
from clat.training.frozen import frozen_parameters, movable_layers
from clat.training.picks import check_picks, check_whole
from clat.training.trial import check_model, check_single, check_training_mode, runs_channels_last, trainable

_TRIED = 8
"""Images that an augmentation is tried on."""
Data = Any
"""Train and test images: see `clat.data.as_train_and_test`. The held-out part is cut from train."""


@dataclass(frozen=True)
class RunInputs:
    """The network and the images of a run."""

    model: nn.Module
    given: bool
    """The network starts from the user's weights, not from random ones of the recipe's seed."""
    train: ImageSet
    heldout: ImageSet
    test: ImageSet
    extra: ImageSet | None = None
    """Generated images to train on."""
    augment: BatchAugment | None = None
    """What is done to the training images, a batch at a time."""
    notes: tuple[str, ...] = ()
    """What was decided for the user while the network was built."""
    frozen: frozenset[str] = frozenset()
    """Names of parameters that came in frozen, and stay."""
    own_model: bool = False
    """The network is the user's, and not the recipe's."""
    own_data: bool = False
    """The images are the user's, and not the recipe's."""
    channels_last: bool = False
    """The memory layout is asked for, and the network runs in it."""

    def model_name(self, recipe: Recipe) -> str:
        """Return what the network is called: by the recipe, or by its class where it is the user's own.

        Args:
            recipe: the run's.

        Returns:
            A name for records and file headers.
        """
        return type(self.model).__qualname__ if self.own_model else recipe.model.name

    @property
    def fingerprint(self) -> str:
        """Return a hash of what is trained and decided on.

        It covers labels, and pixels where they are in memory; of the extra images, which can be many gigabytes,
        labels and the pixels of about a thousand.
        """
        digest = hashlib.sha256()
        sets = [self.train, self.heldout]
        if self.extra is not None:
            digest.update(self.extra.labels.numpy().tobytes())
            sets.append(self.extra.subset(range(0, len(self.extra), max(len(self.extra) // 1000, 1))))
        for images in sets:
            digest.update(images.labels.numpy().tobytes())
            if images.resident:
                digest.update(images.pixels().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]


def prepare(
    recipe: Recipe,
    model: nn.Module | None,
    data: Data | None,
    augment: Callable[[Tensor], Any] | None = None,
    processes: int | None = None,
) -> RunInputs:
    """Return the inputs of a run, with everything refused that would fail later.

    Args:
        recipe: resolved for this machine.
        model: the user's network instead of the recipe's; images (N, C, H, W) in [0, 1] -> logits (N, K).
        data: (train, test) of the user's instead of the recipe's.
        augment: the user's own change of a training image (C, H, W) instead of the recipe's.
        processes: how many share each batch; None: as the recipe says.

    Returns:
        The network with its first weights, and the images with the held-out part cut off.

    Raises:
        ClatError: anything that does not fit together; nothing has been written.
    """
    if recipe.evaluation.weights != "none":
        find_protocol(recipe.evaluation.protocol)
    if model is None:
        _check_classifier(recipe)
    processes = recipe.engine.devices * recipe.engine.nodes if processes is None else processes
    train_set, heldout, test = _data(recipe, data)
    check_trainable(train_set.name, train_set.class_names)
    own_model = model is not None
    given = own_model or recipe.model.starts_from_weights
    with recorded() as notes:
        for images in (train_set, test):
            for note in images.notes:
                notice(f"{images.split} images: {note}")
        if (count := images_in_both(train_set, heldout)) > 0:
            notice(
                f"{count} of the {len(heldout)} held-out images are trained on as well, as the train split holds "
                "them more than once: what they decide looks better than it is; give each image once"
            )
        model = (
            build_network(recipe, train_set.num_classes, train_set.shape[0]) if model is None else trainable(model)
        )
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        sample, _ = next(iter(Loader(heldout.take(1), 1, device=device, workers=0).epoch()))
        sample = sample.contiguous()
        check_model(model, sample, train_set.num_classes, exactly=recipe.data.mixes)
        check_training_mode(model, sample, train_set.num_classes)
        layout = recipe.engine.channels_last and runs_channels_last(model, sample)
        frozen = frozen_parameters(model)
        order = in_other_order(model, train_set.class_names)
        if order is not None:
            notice(
                f"the model names its outputs {first_names(order)}, in another order than the data has its "
                "classes, which is the one that it is taught: data.classes (classes=[...]) gives another"
            )
    for stage in recipe.stages:
        stage.objective.requires(model, sample)
        for treatment in stage.treatments:
            treatment.requires(model, sample)
        _check_selection(stage, model, sample, frozen, first=stage is recipe.stages[0])
        (stage.optimizer or recipe.optimizer).build(list(model.parameters()))  # does it take such shapes?
    check_blocks(recipe.engine, model, sample)
    extra = None if recipe.data.extra is None else open_generated(recipe.data.extra.file, train_set)
    batch_augment = augmentation(recipe.data) if augment is None else PerImage(augment)
    loader = train_loader(recipe, train_set, torch.device("cpu"), 0, processes, extra, batch_augment)
    with recorded() as of_batches:
        if extra is not None and not are_numbers(train_set.class_names):
            notice(f"labels of the extra images are taken for {numbered(train_set.class_names)}")
        if batch_augment is not None:
            _try_augmentation(batch_augment, train_set, recipe.seed)
    parts = batch_parts(loader.batch_size // processes, recipe.micro_batch)
    single = any(rows.stop - rows.start == 1 for rows in parts)
    if single and any(stage.bn_policy != "frozen" for stage in recipe.stages):
        check_single(model, sample)
    for stage in recipe.stages:
        for treatment in stage.treatments:
            treatment.check_steps(stage.epochs * loader.num_batches * stage.objective.replays)
    own = {"own_model": own_model, "own_data": data is not None, "channels_last": layout}
    return RunInputs(
        model, given, train_set, heldout, test, extra, batch_augment, (*notes, *of_batches), frozen, **own
    )


def _try_augmentation(augment: BatchAugment, images: ImageSet, seed: int) -> None:
    """Augment some images twice: does it suit their size, and do the same numbers give the same images?"""
    few = images.take(min(_TRIED, len(images))).pixels()
    params = augment.draw(len(few), generator(seed))
    if not torch.equal(augment(few, params), augment(few, params)):
        notice(
            "the augmentation draws from a generator that no seed reaches, so that no run can be repeated or"
            " resumed as it was: draw from torch, random, NumPy, or a generator that the callable holds"
        )


def train_loader(
    recipe: Recipe,
    train_set: ImageSet,
    device: torch.device,
    rank: int,
    world: int,
    extra: ImageSet | None = None,
    augment: BatchAugment | None = None,
) -> Loader:
    """Return the loader of one process's training batches.

    Args:
        recipe: batch size, augmentation and seed.
        train_set: images to train on.
        device: where batches are wanted.
        rank: the number of this process, from 0.
        world: how many processes there are.
        extra: generated images, where the recipe has some.
        augment: what is done to a batch of them.

    Returns:
        A loader that shuffles and leaves out the last batch where it is not full.
    """
    config = recipe.data
    return Loader(
        train_set,
        min(recipe.batch_size, max(len(train_set) // world, 1) * world),
        device=device,
        seed=recipe.seed,
        shuffle=True,
        augment=augment,
        cutmix=config.cutmix,
        mixup=config.mixup,
        extra=None if extra is None or config.extra is None else Extra(extra, config.extra.fraction),
        drop_last=True,
        rank=rank,
        world_size=world,
    )


def _check_classifier(recipe: Recipe) -> None:
    """Raise ClatError if a new classifier, which is drawn at random, would stay so."""
    rules = [stage.selection for stage in recipe.stages]
    if recipe.model.classifier == "new" and not any(rule is None or rule.moves_classifier for rule in rules):
        raise ClatError(
            'model.classifier = "new" draws the classifier at random, and no stage trains it: begin with a stage '
            "without a selection, as the recipe pgd-at-clat does"
        )


def _check_selection(
    stage: StageConfig, model: nn.Module, x: Tensor, frozen: frozenset[str], *, first: bool
) -> None:
    """Raise ClatError if the stage's selection asks for layers that the model does not have or that are frozen, or
    for weights to rewind to that there are not."""
    rule = stage.selection
    if rule is None:
        check_whole(stage, model, x, frozen)
        return
    candidates = rule.candidates(model, x)
    layers = movable_layers(model, candidates, frozen)
    if rule.rule == "named":
        still = [layer.name for layer in find_layers(candidates, rule.layers) if layer not in layers]
        if still:
            raise ClatError(
                f"stage '{stage.name}': selection.layers names {still[0]}, which came in frozen "
                "(requires_grad=False): leave it out, or model.requires_grad_(True)"
            )
    if not layers:
        raise ClatError(f"stage '{stage.name}': all layers that it may select came in frozen (requires_grad=False)")
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
    check_picks(stage, model, x, layers, frozen)


def _data(recipe: Recipe, data: Data | None) -> tuple[ImageSet, ImageSet, ImageSet]:
    config = recipe.data
    if data is None:
        train_set, test = read_split(config, "train"), read_split(config, "test")
    else:
        train_set, test = as_train_and_test(
            data,
            image_size=config.image_size,
            label_column=config.label_column,
            image_column=config.image_column,
            classes=config.classes,
            channels=config.channels,
        )
    if (train_set.shape, train_set.num_classes) != (test.shape, test.num_classes):
        raise ClatError(
            f"train and test of '{train_set.name}' differ: images {train_set.shape} and {test.shape}, "
            f"{train_set.num_classes} and {test.num_classes} classes"
        )
    for number, (ours, theirs) in enumerate(zip(train_set.class_names, test.class_names, strict=True)):
        if ours != theirs:
            raise ClatError(
                f"train and test of '{train_set.name}' differ: class {number} is '{ours}' in train and '{theirs}' "
                "in test; give both the same names in the same order"
            )
    if len(test) == 0:
        raise ClatError(f"the test split of '{test.name}' is empty: the final evaluation needs images")
    if config.decide_on == "test-split":
        return _cut(config, train_set, 0)[0], mixed(test), test
    if config.heldout < 1:
        raise ClatError(
            f"data.heldout is {config.heldout}: a run decides on held-out images; give it some, such as 500"
        )
    train_set, heldout = _cut(config, train_set, config.heldout)
    return train_set, heldout, test


def _cut(config: DataConfig, train_set: ImageSet, heldout: int) -> tuple[ImageSet, ImageSet]:
    """Return the part that is trained on and the one that is held out.

    An error names the field that asks for too much.
    """
    try:
        return hold_out(train_set, heldout, config.split_seed, config.train_size)
    except ClatError as error:
        field = "heldout" if heldout >= len(train_set) else "train_size"
        raise ClatError(f"data.{field} is {getattr(config, field)}: {error}") from None


def read_split(config: DataConfig, split: str) -> ImageSet:
    """Read a split of a recipe's data set.

    Args:
        config: a recipe's `data`.
        split: "train" or "test".

    Returns:
        The images, with the channels that the recipe asks for.

    Raises:
        ClatError: as `load_split`.
    """
    asked = ("image_size", "label_column", "image_column", "classes", "decoded")
    images = load_split(config.name, split, **{name: getattr(config, name) for name in asked})
    return with_channels(images, config.channels)


def build_network(recipe: Recipe, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Return the recipe's network with its first weights: a file's, or random ones that the seed decides.

    Args:
        recipe: its `model` and `seed`.
        num_classes: logits that the network has to give.
        in_channels: channels of the images.

    Returns:
        The network on the CPU. The global random states are as before.

    Raises:
        ClatError: there is no such network, or its weights do not fit.
    """
    with preserve_all_states():
        seed_global(derive_seed(recipe.seed, "init"))
        try:
            return build_model(recipe.model, num_classes, in_channels)
        except OtherOutputs as error:
            if error.own != num_classes:
                raise
            raise ClatError(
                f"the weights that the recipe begins with have {error.held} outputs, the data {num_classes} "
                "classes: check data.name, or begin with a new classifier (--model.classifier new)"
            ) from None
