"""A run directory as plain data. Stages that have not run leave gaps; only a file that cannot be read is an error.

Everything here came from files that hold other people's texts, so strings are made safe to encode on the way in:
control characters become visible symbols and lone surrogates the replacement character.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import ArtifactError

Row = dict[str, Any]
FILES = ("summary.json", "metrics.jsonl", "samples.jsonl", "manifest.json", "config.yaml")
REWARD_STAGES = ("reward", "gold")


@dataclass(frozen=True)
class Sample:
    """One held-out prompt answered by SFT and by the policy; scores and lengths are (sft, policy)."""

    prompt: str
    sft: str
    policy: str
    scores: dict[str, tuple[float | None, float | None]]
    lengths: tuple[float | None, float | None]


@dataclass(frozen=True)
class RunRecord:
    """What the stages of one run wrote."""

    path: Path
    summary: dict[str, Any]
    metrics: dict[str, list[Row]]
    samples: list[Sample]
    manifest: dict[str, Any]
    config: dict[str, Any]
    config_text: str
    faults: tuple[str, ...]  # lines that could not be read, in words

    def section(self, *keys: str) -> dict[str, Any]:
        """A mapping inside the summary; empty where it is missing."""
        return mapping(self.summary, *keys)

    def setting(self, *keys: str) -> Any:
        """A value of the config; None where it is missing."""
        return mapping(self.config, *keys[:-1]).get(keys[-1])

    def ran(self, stage: str) -> bool:
        """Whether the stage left anything: a summary section or metrics."""
        return bool(self.summary.get(stage)) or bool(self.metrics.get(stage))

    def curve(self, stage: str) -> list[Row]:
        return self.metrics.get(stage, [])

    def inputs(self) -> Iterator[tuple[str, str, Any]]:
        """Every (stage, name, value) of the manifest's inputs."""
        for stage, entry in mapping(self.manifest, "stages").items():
            for name, value in mapping(entry, "inputs").items():
                yield stage, name, value

    def noted(self, key: str) -> list[Any]:
        """What the inputs say under a key (`note`, `quality`, `notice`, `labelers`), each value once, in order."""
        found: list[Any] = []
        for _, name, value in self.inputs():
            for said in ([value] if name == key else []) + list(_under(value, key)):
                if said not in found and said not in ("", None):
                    found.append(said)
        return found

    def sources(self) -> list[str]:
        """The data sources that the config names, each once."""
        keys = (("data", "demonstrations"), ("data", "prompts"), ("reward", "rankings"), ("gold", "rankings"))
        return list(dict.fromkeys(s for s in (self.setting(*k) for k in keys) if isinstance(s, str)))


def read_run(run_dir: Path) -> RunRecord:
    """Read what is there. A folder without any of a run's files, or with a damaged one, is an ArtifactError."""
    path = Path(run_dir)
    try:
        there = any((path / name).is_file() for name in FILES)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error})") from error
    if not there:
        raise ArtifactError(f"{path}: is no run directory (none of {', '.join(FILES)}); run a stage with -c first")
    faults: list[str] = []
    rows = _lines(path / "metrics.jsonl", faults)
    config_text = clean(_text(path / "config.yaml"))
    manifest = masked(_object(path / "manifest.json"))
    config = masked(_config(path / "config.yaml", config_text))
    for entry in mapping(manifest, "stages").values():  # what a stage ran with, whatever a later command was given
        config |= mapping(entry, "sections")
    return RunRecord(
        path=path,
        summary=_object(path / "summary.json"),
        metrics=_by_stage(rows),
        samples=[s for s in map(_sample, _lines(path / "samples.jsonl", faults)) if s is not None],
        manifest=manifest,
        config=config,
        config_text=mask_credentials(config_text),
        faults=tuple(faults),
    )


def number(values: Mapping[str, Any], key: str) -> float | None:
    """A finite number under a key, else None."""
    return finite(values.get(key))


def finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(value: Any, *keys: str) -> dict[str, Any]:
    """A mapping reached by keys; empty where something on the way is missing or no mapping."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def clean(value: Any) -> Any:
    """The same value with strings that every encoder and every reader can take."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", _symbol, value))
    if isinstance(value, Mapping):
        return {clean(str(k)): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    return value


def masked(value: Any) -> Any:
    """The same value without credentials: those under keys that name one, and those inside of texts."""
    if isinstance(value, str):
        return mask_credentials(value)
    if isinstance(value, Mapping):
        return {k: MASK if _is_secret(str(k), v) else masked(v) for k, v in value.items()}
    return [masked(v) for v in value] if isinstance(value, list | tuple) else value


def mask_credentials(text: str) -> str:
    """JSON, YAML or KEY=VALUE text without its credentials: they have no place in what is passed around or shown.

    Masked are the passwords of URLs, and the values of keys that name a credential, with the lines below them that are
    indented more. Where it is not clear how far a value goes, more is masked rather than less. Every step takes time
    in proportion to the text's length, whatever is in it.
    """
    lines, below = [], -1  # below: how far the last key of a credential is indented
    for line in _WORD.sub(_mask_url, text).split("\n"):
        indent = len(line) - len(line.lstrip())
        deeper = indent > below or (indent == below and line[indent:].startswith("- "))
        if below >= 0 and line.strip() and deeper:
            lines.append(line[:indent] + MASK)
            continue
        if line.strip():
            below = -1
        match = _FIRST_KEY.match(line)
        if match and _is_secret(match["name"], _said(match["value"])):
            below = len(match["indent"])
            lines.append(line[: match.start("value")] + _mask_value(match["value"]))
        else:
            lines.append(_mask_inside(line))
    return "\n".join(lines)


MASK = "***"
_WORD = re.compile(r"""(?:\\.|[^\s"\\])++""")  # what may be a URL; a quotation mark in it is escaped
_NAMED = r"""(?P<name>[\w.-]++)(?P<quote>\\*["']?)[ \t]*+(?P<sign>[=:])[ \t]*+"""
_FIRST_KEY = re.compile(rf"""(?P<indent>[ \t]*+(?:-[ \t]++)*+)(?:export[ \t]++)?["']?{_NAMED}(?P<value>.*)""")
_KEY = re.compile(rf"""(?<![\w.-])(?<!://){_NAMED}""")
_VALUE = re.compile(  # inside of a line: an escaped quotation, a quotation, something nested, or a bare word
    r"""\\+["'](?:[^\\]|\\+[^\\"'])*+(?:\\+["'])?|"(?:[^"\\]|\\.)*+"?|'(?:[^']|'')*+'?|[{\[].*|[^\s"&]++"""
)
_SECRET = re.compile(r"passw(or)?d|passphrase|secret|(api|access|private)_?key|credential")
_NO_SECRETS = {  # what stands beside "token" where it is a piece of text
    "pad", "eos", "bos", "unk", "sep", "cls", "mask", "special", "image", "audio", "stop", "start", "end", "first",
    "last", "next", "prev", "new", "max", "min", "mean", "num", "per", "id", "ids", "count", "type", "level", "loss",
}  # fmt: skip


def _is_secret(name: str, value: Any) -> bool:
    """Whether a key of this name holds a credential, which no truth value and nothing empty is."""
    if value is None or isinstance(value, bool) or value in ("", [], {}):
        return False
    words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    if _SECRET.search("_".join(words)):
        return True
    if any(word in _NO_SECRETS or word.removesuffix("token") in _NO_SECRETS for word in words):
        return False
    counts = isinstance(value, int | float) and not words[-1].endswith("token")  # "token_accuracy"
    return not counts and any(word.endswith("token") for word in words)


def _said(value: str) -> Any:
    """A value as it stands in a text, as far as `_is_secret` asks; what stands in the lines below is a value too."""
    word = value.strip().rstrip(",}]").rstrip()
    if word.lower() in ("null", "~", "none", "true", "false", "no", "yes", '""', "''"):
        return None
    try:
        return float(word)
    except ValueError:
        return value.strip() or "below"


def _mask_value(value: str) -> str:
    """The rest of a line after its key; what follows a quotation stays, as does the bracket that lines below close."""
    quoted = re.match(r"""("(?:[^"\\]|\\.)*+"|'(?:[^']|'')*+')([ \t]*,?[ \t]*)$""", value)
    if quoted:
        return f"{value[0]}{MASK}{value[0]}{quoted[2]}"
    if value.strip() in ("{", "[", "", "|", ">", "|-", ">-"):
        return value
    return MASK + ("," if value.rstrip().endswith(",") else "")


def _mask_inside(line: str) -> str:
    """Keys and values anywhere in a line, those inside of another key's value too."""
    parts, at = [], 0
    while key := _KEY.search(line, at):
        parts.append(line[at : key.end()])
        at = key.end()
        if not _is_secret(key["name"], "something"):
            continue
        value = _VALUE.match(line, at)
        if value and _is_secret(key["name"], _said(value.group())):
            opened = re.match(r"""\\*["']""", value.group())
            quote = opened.group() if opened else ""
            parts.append(f"{quote}{MASK}{quote}")
            at = value.end()
    return "".join(parts) + line[at:]


def _mask_url(match: re.Match[str]) -> str:
    """A password may hold anything, `@` and `/` too: it goes up to the last `@`."""
    word = match.group()
    found, end = re.search(r"://[^\s/:]*:", word), word.rfind("@")
    return f"{word[: found.end()]}{MASK}{word[end:]}" if found and end >= found.end() else word


def _symbol(match: re.Match[str]) -> str:
    code = ord(match.group())
    return "\n" if code == 13 else "\u2421" if code == 127 else chr(0x2400 + code)


def _under(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == key:
                yield inner
            else:
                yield from _under(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _under(inner, key)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error})") from error


def _object(path: Path) -> dict[str, Any]:
    text = _text(path)
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"{path}: is damaged ({error}); run the last stage again to rewrite it") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected an object, found {type(value).__name__}")
    return mapping(clean(value))


def _config(path: Path, text: str) -> dict[str, Any]:
    try:
        return mapping(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ArtifactError(f"{path}: is damaged ({str(error).splitlines()[0]}); run a stage again") from error


def _lines(path: Path, faults: list[str]) -> list[Row]:
    """The objects of a JSON Lines file; a line cut off by a killed run is counted, not hidden."""
    rows, bad = [], 0
    for line in _text(path).split("\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(mapping(clean(row)))
            else:
                bad += 1
    if bad:
        faults.append(f"{path.name}: {bad} line{'s' if bad > 1 else ''} could not be read, and left out.")
    return rows


def _by_stage(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by stage. A resumed stage writes some steps again: the later line counts, and what followed it goes."""
    result: dict[str, list[Row]] = {}
    for row in rows:
        step = number(row, "step")
        if isinstance(row.get("stage"), str) and step is not None:
            kept = result.setdefault(row["stage"], [])
            while kept and kept[-1]["step"] >= step:
                kept.pop()
            kept.append(row)
    return result


def _sample(row: Row) -> Sample | None:
    texts = [row.get(key) for key in ("prompt", "sft", "policy")]
    if any(text is None for text in texts):
        return None
    prompt, sft, policy = (t if isinstance(t, str) else json.dumps(t, ensure_ascii=False) for t in texts)
    scores = {judge: _two(values) for judge, values in mapping(row, "scores").items()}
    return Sample(prompt, sft, policy, scores, _two(row.get("lengths")))


def _two(values: Any) -> tuple[float | None, float | None]:
    if isinstance(values, list) and len(values) == 2:
        return finite(values[0]), finite(values[1])
    return None, None
