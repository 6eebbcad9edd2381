"""Names of data and models turned into records and paths: files, `datasets` names, and the builtins. No torch here.

A data source is one of
  `path.jsonl` (or `.json`)   one JSON object a line; `.jsonl.gz` too
  `path.parquet`              one record a row
  `path.csv`                  a header row; lists (completions, ranks, messages, a chat prompt) as JSON in their cell;
                              an apostrophe against a spreadsheet's running a cell (`'=1+1`) is no part of the text
  `name` or `name:split`      a `datasets` name; without `:split` its `train` split
  `builtin:film-reviews`      rated film reviews; `builtin:film-reviews:gold` names the gold judge's rankings

Files are read as UTF-8. Every row passes `rlhf.data.records`; the first bad one is an error that names file, line and
field.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args

from rlhf.data import film_reviews, smollm2
from rlhf.data.cache import sha256_of
from rlhf.data.readers import READERS, Rows, no_file, path_of, read_hub, suffix_of
from rlhf.data.records import Demonstration, Prompt, Ranking, parse_demonstration, parse_prompt, parse_ranking
from rlhf.data.splits import split_by_hash
from rlhf.errors import DataError

Split = Literal["train", "eval"]
R = TypeVar("R", Prompt, Demonstration, Ranking)
BUILTIN = "builtin:"
DEFAULT_EVAL_FRACTION = 0.1


def load_demonstrations(
    source: str, split: Split | None = None, *, eval_fraction: float = DEFAULT_EVAL_FRACTION
) -> list[Demonstration]:
    """The source's demonstrations: all of them, or one side of its split (the builtin's own, else by prompt hash)."""
    if _is_builtin_data(source):
        return [d for s in _splits(split) for d in film_reviews.demonstrations(s)]
    return _side(_parsed(source, parse_demonstration), split, eval_fraction, source)


def load_prompts(
    source: str, split: Split | None = None, *, eval_fraction: float = DEFAULT_EVAL_FRACTION
) -> list[Prompt]:
    """The source's prompts; a file of demonstrations with a `prompt` field serves too."""
    if _is_builtin_data(source):
        return [p for s in _splits(split) for p in film_reviews.prompts(s)]
    return _side(_parsed(source, parse_prompt), split, eval_fraction, source)


def load_rankings(
    source: str,
    split: Split | None = None,
    judge: film_reviews.Judge = "reward",
    *,
    eval_fraction: float = DEFAULT_EVAL_FRACTION,
) -> list[Ranking]:
    """The source's rankings. `judge` concerns the builtin alone, and a judge in the source's name goes before it.

    The builtin without a split gives its training rankings: its eval pairs are there to measure with, not to train on.
    """
    if _is_builtin_data(source):
        named = source.removeprefix(film_reviews.NAME).removeprefix(":")
        return film_reviews.rankings(split or "train", named or judge)  # type: ignore[arg-type]  # checked in there
    return _side(_parsed(source, parse_ranking), split, eval_fraction, source)


def load_rows(source: str, parse: Callable[[Mapping[str, Any], str], R]) -> list[R]:
    """A source's rows, each through `parse(row, where)`, which raises DataError naming `where`."""
    return _parsed(source, parse)


def resolve_model(name: str) -> str:
    """What to hand to transformers: a builtin's folder in the cache; any other name unchanged."""
    if not name.startswith(BUILTIN):
        return name
    if name != smollm2.NAME:
        raise _unknown(name, (smollm2.NAME,), "model")
    return str(smollm2.smollm2_path())


def source_fingerprint(source: str) -> str:
    """What a manifest stores, and a rerun compares, of an input.

    A file: the sha256 of its bytes. A builtin: its package's pinned sha256 and the version of what is made of it.
    A `datasets` or model hub name: `hub:` and the name, for its content is not known without fetching it; pin a
    revision or use a file where that matters.
    """
    if source == smollm2.NAME:
        return f"{smollm2.PACKAGE.sha256}:v{smollm2.VERSION}"
    if _is_builtin_data(source):
        return f"{film_reviews.PACKAGE.sha256}:v{film_reviews.VERSION}"
    path = path_of(source)
    if path.is_file():
        return sha256_of(path)
    if suffix_of(path) in READERS:
        raise no_file(source)
    return f"hub:{source}"


def _is_builtin_data(source: str) -> bool:
    if not source.startswith(BUILTIN):
        return False
    names = (film_reviews.NAME, *(f"{film_reviews.NAME}:{j}" for j in get_args(film_reviews.Judge)))
    if source not in names:
        raise _unknown(source, names, "data source")
    return True


def _unknown(name: str, known: tuple[str, ...], what: str) -> DataError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "give one of these, or a file or hub name"
    return DataError(f"{name}: unknown builtin {what}; known: {', '.join(known)}; {hint}")


def _splits(split: str | None) -> tuple[Split, ...]:
    """One split, checked by the builtin itself, or both."""
    return get_args(Split) if split is None else (split,)


def _parsed(source: str, parse: Callable[[Mapping[str, Any], str], R]) -> list[R]:
    records = [parse(row, where) for where, row in _rows(source)]
    if not records:
        raise DataError(f"{source}: holds no rows; give it at least one")
    return records


def _rows(source: str) -> Rows:
    path = path_of(source)
    suffix = suffix_of(path)
    if path.is_dir():
        raise DataError(f"{source}: is a folder; name a file in it ({', '.join(READERS)})")
    if suffix in READERS:
        if not path.is_file():
            raise no_file(source)
        return READERS[suffix](path)
    if path.is_file():
        raise DataError(f"{source}: unknown kind of file {suffix!r}; expected one of {', '.join(READERS)}")
    if path.exists():
        raise no_file(source)
    return read_hub(source)


def _side(records: list[R], split: str | None, eval_fraction: float, source: str) -> list[R]:
    if split is None:
        return records
    if split not in get_args(Split):
        raise DataError(f"{source}: unknown split {split!r}; expected one of {', '.join(get_args(Split))}")
    try:
        train, held_out = split_by_hash(records, eval_fraction)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    return train if split == "train" else held_out
