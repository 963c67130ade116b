"""`clat evaluate` with a plan: bounded by a sample, with signs of masking, within a time, or up to a precision."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from clat.cli.console import say, show
from clat.cli.evaluation_setup import Prepared, cost_text, prepare_evaluation, say_clean, say_result
from clat.cli.evaluation_shares import check_shares, in_shares, one_share, parse_share, shares_asked
from clat.core.durations import parse_duration
from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.evaluation import Protocol, evaluate_set, find_protocol
from clat.evaluation.budget import EvaluationPlan, Sampling, choose, random_order, run_pilot
from clat.evaluation.fast import NAME as FAST
from clat.evaluation.fast import with_signs
from clat.evaluation.protocols import PLANS, PROTOCOLS
from clat.evaluation.sampled import CONFIDENCE, SampledEvaluation, evaluate_sampled
from clat.evaluation.sampled import NAME as SAMPLED
from clat.evaluation.widen import PartialEvaluation, SetInterval, check_width, evaluate_until

DEFAULT_PROTOCOL = "pgd-20"


def planned(options: Namespace) -> bool:
    """Return whether the options ask for more than one protocol on the images named.

    Args:
        options: those of `clat evaluate`.

    Returns:
        True for a plan, a budget, a target width or a sample.
    """
    more = (options.budget, options.target_width, options.screen, options.sample)
    return options.protocol in PLANS or any(value is not None for value in more)


def evaluate(options: Namespace) -> int:
    """Measure with one protocol, or with the plan that the options ask for; print and write the result.

    Args:
        options: those of `clat evaluate`.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If options do not go together, or the network and the images do not.
    """
    check_shares(options, planned=planned(options))
    if not planned(options):
        return _one_protocol(options)
    _check(options)
    if options.budget is not None:
        return _within_budget(options, parse_duration(options.budget))
    if options.protocol == FAST:
        return _fast(options)
    if options.protocol == SAMPLED:
        return _sampled(options)
    return _until(options)


def _one_protocol(options: Namespace) -> int:
    protocol = _protocol(options)
    share = None if options.share is None else parse_share(options.share)
    if share is not None and options.state is None:
        raise ClatError("--share needs --state, whose files make one result of all shares")
    prepared = prepare_evaluation(options, protocol)
    model, images, ids = prepared.model, prepared.images, prepared.ids
    if share is not None:
        return one_share(options, protocol, prepared, *share)
    if shares_asked(options):
        from clat.cli.evaluate import add_options

        result = in_shares(options, protocol, prepared, add_options)
    else:
        result = prepared.run(
            lambda settings: evaluate_set(
                model, images, ids=ids, protocol=protocol, state=options.state, **settings
            )
        )
    if result is not None:
        say_result(result, options, images)
        prepared.write(result)
        prepared.draw_gallery(result, result.to_dict())
    return 0


def _check(options: Namespace) -> None:
    for name in ("screen", "sample"):
        if getattr(options, name) is not None and options.protocol != SAMPLED:
            raise ClatError(f"--{name} goes with --protocol {SAMPLED} alone")
    if options.budget is not None and options.target_width is not None:
        raise ClatError("--budget and --target-width both say when to stop: give one of them")
    if options.protocol == FAST and (options.budget is not None or options.target_width is not None):
        raise ClatError(f"--budget and --target-width do not go with --protocol {FAST}: use cr, and clat check")
    if options.gallery is not None and options.protocol != FAST:
        raise ClatError(
            f"--gallery shows one protocol on all of its images: leave out --budget and --target-width, and give "
            f"another protocol than {SAMPLED}"
        )
    if options.budget is not None and options.state is not None:
        raise ClatError(
            "--budget chooses by the clock, so that a state could not be gone on from: leave out --state, or give "
            "--protocol and --num-samples instead"
        )
    if options.target_width is not None:
        check_width(options.target_width)
    if options.norm == "l1" and (options.budget is not None or options.protocol in PLANS):
        plan = "--budget" if options.budget is not None else f"--protocol {options.protocol}"
        raise ClatError(f"{plan} looks with cr, which knows linf and l2: for l1 give --protocol apgd-l1 alone")


def _protocol(options: Namespace) -> Protocol:
    """Return the protocol whose attacks and customary number of images are meant."""
    if options.protocol == SAMPLED:
        return PROTOCOLS["autoattack"]
    if options.protocol == FAST:
        return PROTOCOLS["cr"]
    return find_protocol(options.protocol or DEFAULT_PROTOCOL, also=PLANS)


def _fast(options: Namespace) -> int:
    protocol = _protocol(options)
    prepared = prepare_evaluation(options, protocol)
    model, images, ids = prepared.model, prepared.images, prepared.ids
    result = prepared.run(
        lambda settings: evaluate_set(model, images, ids=ids, protocol=protocol, state=options.state, **settings)
    )
    if result is None:
        return 0
    say_result(result, options, images)
    try:
        found = with_signs(model, images, result, ids, batch_size=options.batch_size)
    except ClatError as error:
        prepared.write(result)  # hours of work, which the signs only comment on
        raise ClatError(f"cr's verdicts stand, but the signs of masking could not be looked for: {error}") from None
    show(found.signs.table())
    if found.warning is not None:
        say(f"warning: {found.warning}", style="bold red")
    prepared.write(found)
    prepared.draw_gallery(result, found.to_dict())
    return 0


def _sampled(options: Namespace) -> int:
    prepared = prepare_evaluation(options, _protocol(options))
    found = prepared.run(lambda settings: _sample(options, prepared, prepared.ids, settings))
    if found is not None:
        _say_sampled(found, options, prepared)
        prepared.write(found)
    return 0


def _sample(options: Namespace, prepared: Prepared, ids: Any, settings: dict[str, Any]) -> SampledEvaluation:
    chosen: dict[str, Any] = {"screen": options.screen} if options.screen is not None else {}
    if options.target_width is not None:
        chosen |= {"width": options.target_width, "until": True}
    return evaluate_sampled(
        prepared.model, prepared.images, ids=ids, state=options.state, sample=options.sample, **chosen, **settings
    )


def _say_sampled(found: SampledEvaluation, options: Namespace, prepared: Prepared) -> None:
    for note in found.notes:
        say(f"note: {note}")
    say_clean(found.clean, options, prepared.images)
    say(f"screen           {found.screen} leaves {found.left} of {counted(found.n, 'image')}")
    say(f"sample           AutoAttack fools {found.fell} of {found.sample} of these, drawn at random")
    low, high = found.interval
    say(
        f"robust accuracy  at least {low:.2%} ({CONFIDENCE:.0%} confidence), at most {high:.2%}, estimate "
        f"{found.estimate:.2%}   {SAMPLED}, {found.threat}"
    )
    say(f"cost  {cost_text(found.cost)}")
    full = found.full_cost
    if full is not None:
        part = (found.cost.forwards + found.cost.backwards) / max(full.forwards + full.backwards, 1)
        say(f"full AutoAttack would cost about {cost_text(full)}: this was {part:.2f} of its passes")


def _within_budget(options: Namespace, budget: float) -> int:
    asked = None if options.protocol is None else (options.protocol, _protocol(options))
    sampling = Sampling(screen=options.screen or "cr", sample=options.sample)
    prepared = prepare_evaluation(options, asked[1] if asked else PROTOCOLS["autoattack"])
    model, images, engine = prepared.model, prepared.images, prepared.engine
    order = random_order(len(images), options.seed, prepared.ids)

    def measure(settings: dict[str, Any]) -> SampledEvaluation | PartialEvaluation:
        quiet = {**settings, "report": None}
        chosen: EvaluationPlan | ClatError
        try:
            pilot = run_pilot(model, images, order, budget, quiet)
            chosen = choose(
                pilot, budget=budget, available=len(order), classes=images.num_classes,
                batch_size=options.batch_size, asked=asked, processes=engine.world, sampling=sampling,
            )  # fmt: skip
        except ClatError as error:
            chosen = error
        chosen = engine.from_first(chosen)  # clocks differ
        if isinstance(chosen, ClatError):
            raise chosen
        if engine.rank == 0:
            _say_plan(chosen)
        ids = order[: chosen.images].sort().values
        settings = {**settings, "about": {**settings["about"], "budget": chosen.to_dict()}}
        if chosen.protocol == SAMPLED:
            return _sample(options, prepared, ids, settings)
        protocol = asked[1] if asked else PROTOCOLS[chosen.protocol]
        result = evaluate_set(model, images, ids=ids, protocol=protocol, **settings)
        return PartialEvaluation(
            result, SetInterval(robust=result.robust_accuracy.correct, n=len(ids), of=len(order))
        )

    found = prepared.run(measure)
    if isinstance(found, SampledEvaluation):
        _say_sampled(found, options, prepared)
    elif found is not None:
        _say_partial(found, options, prepared)
    if found is not None:
        prepared.write(found)
    return 0


def _say_plan(plan: EvaluationPlan) -> None:
    pilot = plan.pilot
    seen = "" if pilot.robust is None else f", {pilot.robust:.0%} robust"
    say(
        f"budget {plan.budget:.0f} s: {plan.protocol} on {plan.images:,} of {counted(f'{plan.of:,}', 'image')}, "
        f"about {plan.seconds:.0f} s ({1000 * pilot.seconds:.2f} ms a pass{seen}, from "
        f"{counted(pilot.images, 'image')} in {pilot.spent:.1f} s)"
    )


def _until(options: Namespace) -> int:
    protocol = _protocol(options)
    prepared = prepare_evaluation(options, protocol)
    order = random_order(len(prepared.images), options.seed, prepared.ids)

    def told(known: SetInterval) -> None:
        if prepared.engine.rank == 0:
            say(f"{known.n:,} of {counted(f'{known.of:,}', 'image')}: {_interval_text(known)}")

    found = prepared.run(
        lambda settings: evaluate_until(
            prepared.model,
            prepared.images,
            order,
            options.target_width,
            protocol=protocol,
            state=options.state,
            told=told,
            **settings,
        )
    )
    if found is not None:
        _say_partial(found, options, prepared)
        prepared.write(found)
    return 0


def _say_partial(found: PartialEvaluation, options: Namespace, prepared: Prepared) -> None:
    say_result(found.evaluation, options, prepared.images)
    say(f"of all {counted(f'{found.whole.of:,}', 'image')}  {_interval_text(found.whole)}")


def _interval_text(known: SetInterval) -> str:
    low, high = known.interval
    return f"robust accuracy from {low:.2%} to {high:.2%} ({CONFIDENCE:.0%} confidence)"
