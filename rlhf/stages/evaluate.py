"""Evaluation: the policy beside SFT on held-out prompts, by judges that training did and did not see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from rlhf.config import Config
from rlhf.data.encoding import Encoder
from rlhf.data.records import Prompt, prompt_text
from rlhf.data.sources import source_fingerprint
from rlhf.errors import ConfigError, DataError
from rlhf.model.base import SharedBase
from rlhf.ops import kl
from rlhf.ppo.roles import POLICY, REFERENCE
from rlhf.ppo.rollout import Rollout, response_logprobs, sample
from rlhf.ppo.scoring import load_judge
from rlhf.stages.common import judge_adapters, judge_inputs, need_adapter, usable_prompts
from rlhf.stages.manifest import Plan, write_json
from rlhf.stages.tracking import Tracker

STAGE = "evaluate"


def plan(config: Config) -> Plan:
    """What the stage depends on."""
    if config.data.prompts is None:
        raise ConfigError("data.prompts: is not set; evaluation needs held-out prompts (a file, or a builtin)")
    judges = config.evaluate.judges.values()
    return Plan(
        STAGE,
        sections={"model": config.model, "data": config.data, "evaluate": config.evaluate},
        inputs={"prompts": source_fingerprint(config.data.prompts), **judge_inputs(judges)},
        parents=("sft", "ppo", *judge_adapters(judges)),
        outputs=(config.run_path / "samples.jsonl", config.run_path / "evaluation.json"),
        extra={"max_new_tokens": config.ppo.max_new_tokens},
    )


def run(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
    """Sample from both, score by every judge, measure KL, length and diversity; writes both down."""
    section, encoder = config.evaluate, Encoder(base.tokenizer)
    for name in (REFERENCE, POLICY, *judge_adapters(section.judges.values())):
        need_adapter(config, base, name)

    # 1. Held-out prompts, each answered once by SFT and once by the policy, at temperature 1.
    prompts, longer = usable_prompts(config, encoder, "eval", section.prompts, config.seed)
    if len(prompts) < section.prompts:
        raise DataError(
            f"{config.data.prompts}: holds {len(prompts)} held-out prompts, evaluate.prompts asks for "
            f"{section.prompts}; ask for fewer, or raise data.eval_fraction"
        )
    steps = 3 + len(section.judges)
    tracker.start(STAGE, steps)
    answers: dict[str, Rollout] = {}
    for step, name in enumerate((REFERENCE, POLICY), start=1):
        answers[name] = _answers(config, base, encoder, name, prompts)
        tracker.log(STAGE, step, steps)

    # 2. Scores by every judge, and the policy's win-rate over SFT with its interval over prompts.
    judges, scores = {}, {}
    for step, (name, source) in enumerate(section.judges.items(), start=3):
        judge = load_judge(source, base, encoder)
        texts = [p.prompt for p in prompts]
        of = [judge(texts, answers[a].prompts, answers[a].responses).tolist() for a in (REFERENCE, POLICY)]
        scores[name] = of
        judges[name] = {"source": source, **compare(of[0], of[1], section.bootstrap, config.seed)}
        tracker.log(STAGE, step, steps)

    # 3. How far the policy moved: k1 summed over a response, its mean over the held-out prompts.
    policy = answers[POLICY]
    logprobs = {n: response_logprobs(base, n, policy, temperature=1.0) for n in (POLICY, REFERENCE)}
    moved = (kl.k1(logprobs[POLICY], logprobs[REFERENCE]) * policy.response_mask).sum(1)
    tracker.log(STAGE, steps, steps)

    # 4. Side by side.
    result: dict[str, Any] = {"prompts": len(prompts), "over_long": longer, "judges": judges}
    result["kl"] = float(moved.mean())
    result["kl_ci95"] = mean_interval(moved.tolist(), section.bootstrap, config.seed)
    written = {name: [encoder.text(r) for r in answers[name].responses] for name in answers}
    for name, key in ((REFERENCE, "sft"), (POLICY, "policy")):
        result[f"length_{key}"] = float(answers[name].lengths.float().mean())
        result[f"truncation_{key}"] = 1.0 - float(answers[name].finished.float().mean())
        for n in (1, 2):
            result[f"distinct{n}_{key}"] = distinct(written[name], n)
    _write_samples(config, prompts, written, answers, scores)
    write_json(config.run_path / "evaluation.json", result)
    return result


def compare(sft: Sequence[float], policy: Sequence[float], resamples: int, seed: int) -> dict[str, Any]:
    """Mean scores, and the share of prompts on which the policy scores higher (ties half), with its 95 % interval."""
    wins = [1.0 if p > s else 0.5 if p == s else 0.0 for s, p in zip(sft, policy, strict=True)]
    return {
        "sft": float(np.mean(sft)),
        "policy": float(np.mean(policy)),
        "win_rate": float(np.mean(wins)),
        "ci95": mean_interval(wins, resamples, seed),
    }


def mean_interval(values: Sequence[float], resamples: int, seed: int) -> list[float]:
    """95 % percentile-bootstrap interval of a mean; the point itself where all values are equal."""
    if len(set(values)) < 2:
        return [float(values[0])] * 2
    interval = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words over all n-grams, in all texts together (Li 2016, distinct-n); 0 without any."""
    grams = []
    for text in texts:
        words = text.lower().split()
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _answers(config: Config, base: SharedBase, encoder: Encoder, adapter: str, prompts: list[Prompt]) -> Rollout:
    """One response a prompt; both adapters get the same random numbers, so that they differ by what they learned."""
    return sample(
        base,
        adapter,
        [encoder.prompt(p.prompt) for p in prompts],
        max_new_tokens=config.ppo.max_new_tokens,
        temperature=1.0,
        generator=torch.Generator().manual_seed(config.seed),
        batch_size=config.evaluate.batch_size,
    )


def _write_samples(
    config: Config,
    prompts: list[Prompt],
    written: dict[str, list[str]],
    answers: dict[str, Rollout],
    scores: dict[str, list[list[float]]],
) -> None:
    lengths = {name: answers[name].lengths.tolist() for name in answers}
    staging = config.run_path / ".samples.staging"
    with staging.open("w", encoding="utf-8") as stream:
        for i, prompt in enumerate(prompts):
            row = {
                "prompt": prompt_text(prompt.prompt),
                "sft": written[REFERENCE][i],
                "policy": written[POLICY][i],
                "scores": {judge: [of[0][i], of[1][i]] for judge, of in scores.items()},
                "lengths": [lengths[REFERENCE][i], lengths[POLICY][i]],
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    staging.replace(config.run_path / "samples.jsonl")
