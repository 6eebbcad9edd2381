"""What to look at before believing a run: each check states its measurement, its bound, and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.report.record import REWARD_STAGES, RunRecord, finite, number
from rlhf.report.words import Judge, count, percent, plain, setting, signed_percent

LENGTH_CHANGE = 0.30
DISTINCT_KEPT = 0.70
CUT_OFF = 0.10
JUDGES_APART = 0.15
ACCURACY = 0.60
LOGITS = 1e-3
KL_OVER_TARGET = 1.5


@dataclass(frozen=True)
class Check:
    """One statement about the run, and whether its bound holds."""

    name: str
    holds: bool
    said: str


def checks(run: RunRecord, compared: Sequence[Judge]) -> list[Check]:
    """Those that the run has numbers for."""
    found = [_judges_agree(compared), _length(run), _diversity(run), _cut_off(run), _distance(run)]
    found += [_accuracy(run, stage) for stage in REWARD_STAGES]
    found += [_base(run), _export(run)]
    return [check for check in found if check is not None]


def _judges_agree(compared: Sequence[Judge]) -> Check | None:
    """A policy that pleases its own reward far more than anyone else is gaming it."""
    own = [j for j in compared if j.optimised and j.win_rate is not None]
    others = [j for j in compared if not j.optimised and j.win_rate is not None]
    if not compared or not (own or others):
        return None
    if not others:
        return Check("An outside judge", False, "Only the reward that PPO was trained on has judged this run.")
    if not own:
        return None
    best, worst = max(own, key=_rate), min(others, key=_rate)
    gap = _rate(best) - _rate(worst)
    said = (
        f"“{best.name}”, which PPO was rewarded by, says {percent(best.win_rate)}; “{worst.name}”, which it was not, "
        f"{percent(worst.win_rate)}. Apart by {100 * gap:.0f} points (bound {100 * JUDGES_APART:.0f}): a wide gap "
        "can mean that the reward was gamed rather than met."
    )
    return Check("Own reward and outside judges", gap <= JUDGES_APART, said)


def _length(run: RunRecord) -> Check | None:
    before, after = _pair(run, "length")
    if not before or after is None:
        return None
    change = after / before - 1
    said = f"{plain(before)} → {plain(after)} tokens, {signed_percent(change)} (bound ±{100 * LENGTH_CHANGE:.0f}%)."
    return Check("Length", abs(change) <= LENGTH_CHANGE, said)


def _diversity(run: RunRecord) -> Check | None:
    before, after = _pair(run, "distinct2")
    if not before or after is None:
        return None
    said = f"Distinct bigrams at {after / before:.2f} of SFT’s (bound {DISTINCT_KEPT:.2f})."
    return Check("Diversity", after / before >= DISTINCT_KEPT, said)


def _cut_off(run: RunRecord) -> Check | None:
    _, after = _pair(run, "truncation")
    if after is None:
        return None
    said = f"{percent(after)} of the policy’s texts were cut off before they ended (bound {percent(CUT_OFF)})."
    return Check("Cut-off texts", after <= CUT_OFF, said)


def _distance(run: RunRecord) -> Check | None:
    kl = number(run.section("eval"), "kl")
    settings = run.setting("ppo", "kl")
    target = number(settings, "target") if isinstance(settings, dict) else None
    if kl is None or target is None:
        return None
    bound = KL_OVER_TARGET * target
    return Check(
        "Distance from SFT",
        kl <= bound,
        f"{plain(kl)} nats a response (target {setting(target)}, bound {setting(bound)}).",
    )


def _accuracy(run: RunRecord, stage: str) -> Check | None:
    part = run.section(stage)
    accuracy = number(part, "accuracy")
    if accuracy is None:
        return None
    name = "Reward model" if stage == "reward" else "Gold reward model"
    pairs = count(number(part, "pairs"))
    said = f"Orders {percent(accuracy)} of {pairs} held-out pairs as labelled (bound {percent(ACCURACY)})."
    return Check(name, accuracy >= ACCURACY, said)


def _base(run: RunRecord) -> Check | None:
    before, after = run.summary.get("base_sha256_before"), run.summary.get("base_sha256_after")
    if not before or not after:
        return None
    said = "The frozen weights hash the same before and after." if before == after else "The frozen weights changed."
    return Check("Base model", before == after, said)


def _export(run: RunRecord) -> Check | None:
    found = number(run.section("export"), "max_logit_difference")
    if found is None:
        return None
    bound = finite(run.setting("export", "tolerance")) or LOGITS
    said = f"Loaded by plain PEFT, its logits differ by {plain(found)} at most (bound {setting(bound)})."
    return Check("Exported adapter", found <= bound, said)


def _pair(run: RunRecord, key: str) -> tuple[float | None, float | None]:
    found = run.section("eval")
    return number(found, f"{key}_sft"), number(found, f"{key}_policy")


def _rate(judge: Judge) -> float:
    return judge.win_rate or 0.0
