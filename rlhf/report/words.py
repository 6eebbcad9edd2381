"""Numbers and verdicts as text. A claim is never stronger than its interval, and always names whose judgement it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf.data import film_reviews
from rlhf.report.record import RunRecord, finite, number

Verdict = Literal["won", "lost", "unclear"]
MISSING = "–"
FILM_QUALITY = "more positive"
FILM_NOTE = (
    "The film reviews’ labelers are pseudo-labelers: each is one place in the lists of ratings, and a place is one "
    "person only within a block of 30 texts. Nothing about a person may be concluded from their names. The ratings "
    "measure how positive a text is, not how good."
)


@dataclass(frozen=True)
class Judge:
    """One judge's comparison of policy and SFT on the same prompts."""

    name: str
    source: str
    optimised: bool  # PPO was rewarded by it
    sft: float | None
    policy: float | None
    win_rate: float | None
    low: float | None
    high: float | None
    prompts: int | None
    batches: str  # the label batches it learned from, where the config names them

    @property
    def verdict(self) -> Verdict:
        if self.low is not None and self.low > 0.5:
            return "won"
        if self.high is not None and self.high < 0.5:
            return "lost"
        return "unclear"

    @property
    def whose(self) -> str:
        """Whose judgement it is, and what it is worth."""
        if self.optimised:
            return "PPO was rewarded by this judge: a gain here is expected, and is no evidence by itself."
        if self.source.startswith("adapter:"):
            own = f" ({self.batches})" if self.batches else ""
            return f"A reward model that learned from labels of its own{own}; PPO was never rewarded by it."
        return f"The function {self.source}: no training here was fitted to it."

    @property
    def short(self) -> str:
        """A few words to stand beside its name."""
        if self.optimised:
            return "PPO’s own reward"
        return "a reward model on held-out labels" if self.source.startswith("adapter:") else "an outside judge"


def judges(run: RunRecord) -> list[Judge]:
    """The evaluation's judges, those with most to say first: apart from training, then PPO's own."""
    rewards = run.setting("ppo", "rewards")
    rewarded = set(rewards) if isinstance(rewards, dict) else {"adapter:reward"}
    prompts = number(run.section("eval"), "prompts")
    found = []
    for name in run.section("eval", "judges"):
        values = run.section("eval", "judges", name)
        source = str(values.get("source") or "")
        interval = values.get("ci95")
        low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
        batches = run.setting(source.removeprefix("adapter:"), "batches") if source.startswith("adapter:") else None
        found.append(
            Judge(
                name=name,
                source=source,
                optimised=source in rewarded,
                sft=number(values, "sft"),
                policy=number(values, "policy"),
                win_rate=number(values, "win_rate"),
                low=finite(low),
                high=finite(high),
                prompts=None if prompts is None else int(prompts),
                batches=", ".join(map(str, batches)) if isinstance(batches, list) else "",
            )
        )
    return sorted(found, key=lambda j: (j.optimised, not j.source.startswith("adapter:")))


def headline(run: RunRecord) -> tuple[str, Verdict | None]:
    """What changed, in one sentence; the verdict is None where nothing was compared."""
    for judge in judges(run):
        if judge.win_rate is not None:
            own = judge.optimised and judge.verdict == "won"
            return _compared(judge, quality(run)), "unclear" if own else judge.verdict
    ppo, reward, sft = run.section("ppo"), run.section("reward"), run.section("sft")
    if run.ran("ppo"):
        moved = number(ppo, "kl")
        distance = f" and moved the policy {plain(moved)} nats from SFT" if moved is not None else ""
        return f"PPO has run{distance}; until the evaluation runs, nothing says whether that helped.", None
    if number(reward, "accuracy") is not None:
        share, pairs = percent(number(reward, "accuracy")), count(number(reward, "pairs"))
        return f"The reward model orders {share} of {pairs} held-out pairs as their labels do; PPO has not run.", None
    if run.ran("sft"):
        loss = number(sft, "eval_loss")
        held_out = f" (held-out loss {plain(loss)} nats a token)" if loss is not None else ""
        return f"Supervised fine-tuning has run{held_out}; no reward model has been measured yet.", None
    return "No stage of this run has finished.", None


def _compared(judge: Judge, wanted: str | None) -> str:
    opening = {"won": "The policy won", "lost": "The policy lost", "unclear": "No clear change"}[judge.verdict]
    text = "the policy’s text" if judge.verdict == "unclear" else "its text"
    if judge.optimised and judge.verdict == "won":
        opening, text = "Gained under its own reward, by no other judgement", "the policy’s text"
    says = f"finds {text} {wanted} than SFT’s" if wanted else f"prefers {text} to SFT’s"
    only = "only " if judge.verdict == "lost" else ""
    over = f"{count(judge.prompts)} held-out prompts" if judge.prompts else "the held-out prompts"
    if judge.low is None or judge.high is None:
        spread = "no interval was recorded, so this is no verdict"
    else:
        spread = f"95% interval {interval(judge)}" + (", which holds an even split" * (judge.verdict == "unclear"))
    return f"{opening}: “{judge.name}” ({judge.short}) {says} on {only}{percent(judge.win_rate)} of {over} ({spread})."


def quality(run: RunRecord) -> str | None:
    """What the labels measure, as a comparative; from the manifest, else known of the builtin data."""
    said = [q for q in run.noted("quality") if isinstance(q, str)]
    return said[0] if said else FILM_QUALITY if uses_film_reviews(run) else None


def notes(run: RunRecord) -> list[str]:
    """What the inputs say about their labels; for the builtin data at least the pseudo-labelers' note."""
    said = [n for n in run.noted("note") if isinstance(n, str)]
    if uses_film_reviews(run) and not any("pseudo-labeler" in n for n in said):
        said.append(FILM_NOTE)
    return said


def notices(run: RunRecord) -> list[str]:
    """Licence notices of the data."""
    said = [n for n in run.noted("notice") if isinstance(n, str)]
    if uses_film_reviews(run) and film_reviews.NOTICE not in said:
        said.append(film_reviews.NOTICE)
    return said


def uses_film_reviews(run: RunRecord) -> bool:
    return any(source.startswith(film_reviews.NAME) for source in run.sources())


# --- numbers -----------------------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}%"


def signed_percent(value: float) -> str:
    """A change as a whole percentage."""
    return f"{100 * value:+.0f}%".replace("-", "−")


def plain(value: float | None) -> str:
    """A measured number in three significant digits, or in whole ones from 1000 on."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2e}".replace("-", "−", 1) if value < 0 else f"{value:.2e}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", "−")


def setting(value: float) -> str:
    """A number that somebody chose: as it was written."""
    return f"{value:g}"


def signed(value: float | None) -> str:
    return MISSING if value is None else f"{'+' if value > 0 else '−' if value < 0 else '±'}{plain(abs(value))}"


def count(value: float | None) -> str:
    return MISSING if value is None else f"{int(value):,}"


def interval(judge: Judge) -> str:
    if judge.low is None or judge.high is None:
        return "not recorded"
    return f"{100 * judge.low:.1f}–{100 * judge.high:.1f}%"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def memory(mib: float | None) -> str:
    return MISSING if mib is None else f"{mib / 1024:.2f} GiB"
