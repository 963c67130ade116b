"""Batches for training and evaluation, as a pure function of (seed, epoch, batch index).

There is no random stream to save or to fall out of step: order and augmentation of a batch follow from its
place. So a run that is killed and resumed in the middle of an epoch sees bit-identical batches, whatever else
draws random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from clat.core.checks import at_least
from clat.core.errors import ClatError
from clat.core.seeds import generator, permutation
from clat.data.augment import BatchAugment
from clat.data.cutmix import Windows, draw_windows
from clat.data.generated import Extra
from clat.data.imageset import ImageSet
from clat.data.lazy import LazyImages, decoded_batches, default_workers
from clat.data.mixup import Blend, check_alpha, draw_blend

Mixing = Windows | Blend


class Loader:
    """Serves an `ImageSet` in batches.

    A resident set is moved to the device as uint8 once and gathered, augmented and converted there. A lazy
    set is decoded by worker processes, and augmented and converted on the device by the same code.

    Args:
        image_set: at least one image.
        batch_size: images a step, over all processes together.
        device: where batches are wanted.
        seed: decides order and augmentation, together with the epoch.
        shuffle: a new order each epoch; otherwise the set's own order.
        augment: applied to uint8 batches; see `BatchAugment`.
        cutmix: mix windows of the augmented images, and their labels; see `clat.data.cutmix`.
        mixup: alpha of a blend of the augmented images, and of their labels; see `clat.data.mixup`. With `cutmix`
            too, each batch has one of the two, with equal probability.
        extra: generated images in every batch, as in the published sampler of Wang et al. 2023: of a batch of B,
            fraction * B are extra, rounded down, and an epoch is still ceil(N / B) batches, all of them full. So
            it costs what an epoch of the N images alone costs, and shows a random 1 - `fraction` of them. `shuffle`
            and `drop_last` then have no say.
        drop_last: leave out the last batch when it is not full. It is kept by default; with several processes
            its shares may then differ by one image, or be empty.
        rank: the number of this process, from 0. Each gets a contiguous share of each batch; together,
            in order of rank, they get bit for bit what one process would. It decodes its share and, where images
            are mixed, their partners.
        world_size: how many processes there are.
        workers: decoding processes of a lazy set; by default one a core, at most 8.

    Raises:
        ClatError: an empty set, or numbers that do not fit each other.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        shuffle: bool = False,
        augment: BatchAugment | None = None,
        cutmix: bool = False,
        mixup: float | None = None,
        extra: Extra | None = None,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int | None = None,
    ) -> None:
        here = f"'{image_set.name}/{image_set.split}'"
        if len(image_set) == 0:
            raise ClatError(f"no images in {here} to make batches of")
        at_least("batch_size", batch_size, 1)
        if not 0 <= rank < world_size:
            raise ClatError(f"rank is {rank}, expected 0 to world_size - 1 = {world_size - 1}")
        if batch_size % world_size:
            raise ClatError(f"batch_size {batch_size} cannot be shared by {world_size} processes: give a multiple")
        if drop_last and len(image_set) < batch_size:
            raise ClatError(
                f"batch_size {batch_size} is larger than the {len(image_set)} images of {here}: lower it"
            )
        if mixup is not None:
            check_alpha(mixup)
        if extra is not None:
            theirs, ours = ((s.shape, s.num_classes) for s in (extra.images, image_set))
            if theirs != ours:
                raise ClatError(
                    f"extra images '{extra.images.name}' have shape {theirs[0]} and {theirs[1]} classes, {here}"
                    f" {ours[0]} and {ours[1]}: they must agree"
                )
            if extra.images.dtype != image_set.dtype:
                raise ClatError(
                    f"extra images '{extra.images.name}' are {extra.images.dtype}, those of {here}"
                    f" {image_set.dtype}: they must agree"
                )
            extra.per_batch(batch_size)
        self.image_set, self.batch_size, self.device = image_set, batch_size, torch.device(device)
        self.cutmix, self.mixup, self.extra = cutmix, mixup, extra
        self.seed, self.shuffle, self.augment, self.drop_last = seed, shuffle, augment, drop_last
        self.rank, self.world_size = rank, world_size
        self.workers = default_workers() if workers is None else workers
        images = image_set.images
        self._images = images if isinstance(images, LazyImages) else images.to(self.device)
        self._labels = image_set.labels.to(self.device)
        # A tensor on the device, since CUDA multiplies by 1/255 when it is given a plain number: not the same
        # bits.
        self._white = torch.tensor(255.0, device=self.device)

    @property
    def num_batches(self) -> int:
        """Return the number of batches an epoch has, the same for every rank."""
        full, rest = divmod(len(self.image_set), self.batch_size)
        return full + (rest > 0 and (self.extra is not None or not self.drop_last))

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of one epoch from `start_batch` on.

        Args:
            epoch: its number, from 0; with the seed it decides order and augmentation.
            start_batch: the first batch that is wanted; those before it are not decoded.

        Yields:
            (x, y) on the device; x float32 in [0, 1], shape (B, C, H, W); y int64, shape (B,), or with CutMix
            probabilities, float32, shape (B, classes).

        Raises:
            ClatError: a batch that this epoch does not have; later, an unreadable image of a lazy set.
        """
        if not 0 <= start_batch <= self.num_batches:
            raise ClatError(f"start_batch is {start_batch}, expected 0 to {self.num_batches} batches")
        return self._epoch(epoch, start_batch)

    def _epoch(self, epoch: int, start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batches = self._batches(epoch)[start:]
        places = [(epoch, start + offset) for offset in range(len(batches))]
        mixings = [self._mixing(len(batch), place) for batch, place in zip(batches, places, strict=True)]
        rows = [self._rows(len(batch), mixing) for batch, mixing in zip(batches, mixings, strict=True)]
        made = self._gather([batch[own] for batch, own in zip(batches, rows, strict=True)], epoch)
        for batch, place, mixing, own, (images, labels) in zip(batches, places, mixings, rows, made, strict=True):
            if self.augment is not None:
                # Drawn on the CPU, for the whole batch: the same for every device and number of processes.
                params = self.augment.draw(len(batch), generator(self.seed, "augment", *place))
                images = self.augment(images, params[own])
            if images.dtype == torch.uint8:
                images = images.to(torch.float32).div_(self._white)
            if mixing is not None:
                share = self._share(torch.arange(len(batch)))
                mine, theirs = (
                    torch.searchsorted(own, one).to(self.device) for one in (share, mixing.partner[share])
                )
                images, labels = mixing.mix(
                    images[mine], labels[mine], images[theirs], labels[theirs], self.image_set.num_classes
                )
            yield images, labels

    def _rows(self, count: int, mixing: Mixing | None) -> torch.Tensor:
        """Return the rows of a batch that this process needs, ascending: its share, and what that is mixed with."""
        share = self._share(torch.arange(count))
        return share if mixing is None else torch.cat([share, mixing.partner[share]]).unique()

    def _mixing(self, count: int, place: tuple[int, int]) -> Mixing | None:
        """Return what is done to a batch whose windows are exchanged or whose images are blended."""
        windows = self.cutmix
        if windows and self.mixup is not None:
            windows = bool(torch.randint(2, (), generator=generator(self.seed, "mix", *place)))
        if windows:
            _, height, width = self.image_set.shape
            return draw_windows(count, height, width, generator(self.seed, "cutmix", *place))
        return None if self.mixup is None else draw_blend(count, self.mixup, generator(self.seed, "mixup", *place))

    def _batches(self, epoch: int) -> list[torch.Tensor]:
        """Return the indices of every batch of an epoch. Extra image j has the index N + j."""
        total, extra = len(self.image_set), self.extra
        if extra is None:
            order = permutation(total, self.seed, "order", epoch) if self.shuffle else torch.arange(total)
            return list(order.split(self.batch_size)[: self.num_batches])
        own = permutation(total, self.seed, "order", epoch).split(
            self.batch_size - extra.per_batch(self.batch_size)
        )
        return [
            extra.fill(batch, self.batch_size, total, generator(self.seed, "extra", epoch, number))
            for number, batch in enumerate(own[: self.num_batches])
        ]

    def _share(self, batch: torch.Tensor) -> torch.Tensor:
        """Return this rank's rows of something that has one row a sample of the global batch."""
        first, last = (len(batch) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return batch[first:last]

    def _gather(self, batches: list[torch.Tensor], epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images as they are stored and labels, on the device, at each index tensor of `batches`."""
        if self.extra is None:
            yield from self._gather_own(batches, epoch)
            return
        total = len(self.image_set)
        own = self._gather_own([batch[batch < total] for batch in batches], epoch)
        for batch, (images, labels) in zip(batches, own, strict=True):
            more_images, more_labels = self.extra.gather(batch[batch >= total] - total)
            # Where the whole batch's images lie once those of its own set come first.
            place = (batch >= total).long().argsort(stable=True).argsort().to(self.device)
            yield (
                torch.cat([images, more_images.to(self.device)])[place],
                torch.cat([labels, more_labels.to(self.device)])[place],
            )

    def _gather_own(self, batches: list[torch.Tensor], epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if isinstance(self._images, torch.Tensor):
            for indices in batches:
                here = indices.to(self.device, non_blocking=True)
                yield self._images[here], self._labels[here]
            return
        decoded = decoded_batches(
            self._images,
            batches,
            workers=self.workers,
            pin_memory=self.device.type == "cuda",
            place=(self.seed, epoch),
        )
        for indices, images in zip(batches, decoded, strict=True):
            yield images.to(self.device, non_blocking=True), self._labels[indices.to(self.device)]
