"""Clean and robust accuracy of a network under a protocol, sample by sample."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.attacks.search import at_a_time, worthwhile
from clat.core.checks import at_least
from clat.core.environment import describe_environment
from clat.core.errors import ClatError, unknown
from clat.core.threat_model import EVALUATION_NORMS, ThreatModel
from clat.core.units import Size
from clat.data import as_image_set
from clat.evaluation.batch_dependence import batch_notes, differing, first_and_last, is_random, logits_alone
from clat.evaluation.job import EvaluationJob, Report
from clat.evaluation.planned_search import PlannedSearch, plan_searches
from clat.evaluation.protocols import Protocol, find_protocol
from clat.evaluation.result import Evaluation
from clat.evaluation.state import EvaluationState, Extent, StateFile
from clat.models.fitting import bare
from clat.models.normalize import statistics_of
from clat.network import modes
from clat.network.cost import metered
from clat.network.edge import accept
from clat.network.fingerprint import device_of, digest, fingerprint, identity, sample_digests
from clat.network.logits import SQUASHED_NOTE, look_squashed
from clat.network.outputs import left_out, left_out_text

BATCH_SIZE = 250
"""Samples attacked at a time, at most."""
PRECISIONS = ("float32", "bfloat16")
"""Precisions of the search, but for FAB's, Square's and Pixle's, which is float32 always. float32 may be
TensorFloat32 on a GPU, as torch's flags have it. The verdict on every example is a fresh forward pass in
exact float32 either way."""

RESUMED_NOTE = "went on from a state file: the cost is of the last session alone"


def evaluate(
    model: nn.Module,
    x: Any,
    y: Tensor | None = None,
    *,
    protocol: str | Path | Protocol = "pgd-20",
    eps: Size,
    norm: str = "linf",
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    precision: str = "float32",
    ids: Tensor | None = None,
    state: str | Path | None = None,
    keep_examples: bool = False,
    report: Report | None = None,
    about: dict[str, Any] | None = None,
    extent: Extent | None = None,
) -> Evaluation:
    """Evaluate a network on images under a protocol.

    Images in memory may live on the CPU with the model on a GPU; others are read in parts. The model runs in
    evaluation mode and is left without a trace.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits.
        x: images in [0, 1], (N, C, H, W); or images with their labels, in any form that `clat.as_image_set`
            takes: a data set, a loader, a path.
        y: their labels, (N,) int64; None: x has them.
        protocol: a built-in name (`clat.evaluation.protocols.PROTOCOLS`), a TOML file or a Protocol.
        eps: the radius, a number or a fraction such as "8/255".
        norm: "linf", "l2", or of protocols of APGD alone "l1".
        batch_size: samples attacked at a time, at most: on a CPU no more than CPU_BYTES of `clat.attacks.search`
            hold.
        seed: of all random choices, which belong to a sample's number in `ids` and not to its batch.
        precision: of the search, "float32" or "bfloat16" (FAB's, Square's and Pixle's is float32 always).
        ids: the samples' numbers, (N,) int64; None: 0, 1, ... Without `y` they choose the images.
        state: a file from which an interrupted evaluation goes on.
        keep_examples: return the adversarial examples too, which a state does not hold.
        report: told of the progress, see `clat.evaluation.job.Report`.
        about: what is added to the result's JSON, such as model, weights and data.
        extent: go through a part of the protocol only, which is for `clat.evaluation.sampled`.

    Returns:
        Verdicts, sample by sample, with the accuracies, their intervals and the cost.

    Raises:
        ClatError: an unknown protocol, inputs outside [0, 1], wrong labels, a model whose output is not finite
            logits, or has more of them than a set has classes with names, or a state of something else.
    """
    protocol = find_protocol(protocol)
    if y is None:
        from clat.evaluation.dataset import PART_BYTES, evaluate_set  # which evaluates its parts by this function

        images = as_image_set(x, "test", resident_limit=PART_BYTES)
        return evaluate_set(
            model, images, protocol=protocol, eps=eps, norm=norm, batch_size=batch_size, seed=seed,
            precision=precision, ids=ids, state=state, keep_examples=keep_examples, report=report, about=about,
            extent=extent, foreign=True,
        )  # fmt: skip
    model, x = accept(model, x, y)
    threat = ThreatModel.parse(eps, norm, norms=EVALUATION_NORMS)
    _check_settings(x, threat, batch_size, precision, keep_examples=keep_examples, state=state)
    ids = _numbers(x, ids)
    samples, sources = sample_digests(x, y, ids), protocol.attack_sources()
    network: dict[str, Any] | None = identity(bare(model))
    if network is not None:  # which is no part of the weights
        network["normalize"] = statistics_of(model)
    examples = x.clone() if keep_examples else None
    device = device_of(model, x.device)
    batch_size = at_a_time(batch_size, x.shape[1:], device)
    ends = first_and_last(len(x), batch_size)
    with left_out(bare(model)) as others:
        alone = logits_alone(model, x[ends], y[ends])
        random = is_random(model, x, y)
    with metered(model) as cost, modes.attack_mode(model, labels=y), torch.autocast(device.type, enabled=False):
        upto = None if extent is None else extent.attacks
        job = EvaluationJob(model, x, y, ids, batch_size, device, precision, examples, report, upto)
        first = job.first_logits()
        room = worthwhile(batch_size, device)
        todo, notes = plan_searches(
            protocol, threat, classes=first.shape[1], seed=seed, room=room,
            leave=not (keep_examples or random),  # a wrong output that is random is no verdict to stop at
        )  # fmt: skip
        if others:
            notes.append(left_out_text(bare(model), others))
        if look_squashed(first):
            notes.append(SQUASHED_NOTE)
        state_file = StateFile(None, {})
        if state is not None:
            key = {
                "protocol": protocol.hash,
                "eps": threat.text,
                "norm": threat.norm,
                "seed": str(seed),
                "precision": precision,
                "model": fingerprint(model),
                "images": digest(samples),
                **{f"code of {attack}": source for attack, source in sources.items()},
            }
            state_file = StateFile(Path(state), key, alone[:1])
        reached = state_file.load()
        if reached is not None:
            _check_outputs(model, state_file, alone[:1], random)
            notes.append(RESUMED_NOTE)
        elif extent is not None:
            reached = extent.known_state(sum(one.attack < extent.known for one in todo))
        if reached is None:
            predicted = job.predicted(first)
            reached = EvaluationState.fresh(predicted == y.cpu(), predicted)
            state_file.save(reached, now=True)  # a file that cannot be written is better known now than in an hour
        _search_all(job, todo, reached, state_file)
    return Evaluation(
        protocol=protocol,
        threat=threat,
        seed=seed,
        precision=precision,
        correct=reached.correct,
        fooled_by=reached.fooled_by,
        labels=y.detach().cpu(),
        predicted=reached.predicted,
        samples=samples,
        cost=cost,
        environment=describe_environment(device),
        notes=[*batch_notes(model, x, y, batch_size, alone, first[ends], random=random), *notes],
        x_adv=examples,
        about=about or {},
        network=network,
        attack_sources=sources,
    )


def _check_outputs(model: nn.Module, state: StateFile, alone: Tensor, random: bool) -> None:
    """Refuse the state of a network with the same weights and other outputs, by another normalisation, say."""
    recorded = state.recorded
    if recorded is None:
        return
    if recorded.shape == alone.shape and (random or not differing(model, recorded, alone).any()):
        return
    raise ClatError(
        f"{state.path} belongs to another network: its weights are the same, but not its outputs (another "
        "normalisation or activation, say): name another state file or remove it"
    )


def _check_settings(
    x: Tensor,
    threat: ThreatModel,
    batch_size: int,
    precision: str,
    *,
    keep_examples: bool,
    state: str | Path | None,
) -> None:
    """Refuse what no evaluation can be made of."""
    if len(x) == 0:
        raise ClatError("the data set is empty: there is nothing to evaluate")
    if threat.eps == 0:
        raise ClatError("eps is 0: an evaluation needs a perturbation; clean accuracy comes with every protocol")
    at_least("batch_size", batch_size, 1)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if keep_examples and state is not None:
        raise ClatError("a state file holds verdicts, not examples: leave out state or keep_examples")


def _numbers(x: Tensor, ids: Tensor | None) -> Tensor:
    """Return the samples' numbers, (N,) int64, on the CPU."""
    ids = torch.arange(len(x)) if ids is None else ids.cpu().long()
    if ids.shape != (len(x),):
        raise ClatError(f"ids have shape {tuple(ids.shape)}, expected ({len(x)},): one number an image")
    return ids


def _search_all(
    job: EvaluationJob, todo: list[PlannedSearch], reached: EvaluationState, state_file: StateFile
) -> None:
    """Go through all passes, those of a group together, and leave the file as far as it was possible to come."""
    try:
        for _, group in itertools.groupby(enumerate(todo), key=lambda numbered: numbered[1].group):
            job.run(list(group), reached, state_file)
    finally:
        state_file.save(reached, now=True)
