"""What a lead decides about a project: how many people a task, which flags, which extras on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rlhf.data.records import check_text
from rlhf.errors import ConfigError, DataError

MOST_COMPLETIONS = 9  # one key each
FLAGS = ("Not true", "Harmful or unsafe", "Does not do what was asked", "Wrong language or garbled", "Private data")
SKIP_REASONS = (
    "I cannot judge this topic",
    "The prompt makes no sense",
    "It is upsetting or harmful",
    "Something else",
)
Line = Annotated[str, Field(min_length=1, max_length=80)]


class ProjectSettings(BaseModel):
    """A project's settings; every key has a default, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: Annotated[int, Field(ge=2, le=MOST_COMPLETIONS)] | None = Field(
        None, description="completions a task has, refused otherwise; null: 2 to 9"
    )
    overlap: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="people who rank each task that is queued from now on, where nothing else is said"
    )
    lease_seconds: Annotated[float, Field(gt=0, le=7 * 86400)] = Field(
        1800.0, description="how long a task stays reserved without a sign of life from its labeler"
    )
    allow_partial: bool = Field(False, description="may a labeler leave completions unranked?")
    order: Literal["priority", "random", "active"] = Field(
        "priority",
        description="highest priority first, then oldest; drawn at random; or `active`: as `priority`, and each reward "
        "run sets the priorities so that what its model does not know comes first",
    )
    gold_share: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.1, description="share of tasks that are gold ones, unseen, for as long as a labeler has some left"
    )
    strength: bool = Field(False, description="of two completions: ask how much better one is (7 steps)")
    quality: bool = Field(True, description="offer a quality of 1 to 7 for each completion")
    flags: Annotated[tuple[Line, ...], Field(max_length=9)] = Field(FLAGS, description="offered for each completion")
    better_answer: bool = Field(True, description="offer to write a better answer, which becomes a demonstration")
    skip_reasons: Annotated[tuple[Line, ...], Field(min_length=1, max_length=9)] = Field(
        SKIP_REASONS, description="why a task may be skipped"
    )

    @field_validator("flags", "skip_reasons")
    @classmethod
    def _lines(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for i, line in enumerate(lines):
            try:
                check_text(line, f"[{i}]")
            except DataError as error:
                raise ValueError(str(error)) from None
            if line in lines[:i]:
                raise ValueError(f"{line!r} is there twice")
        return lines


def parse_settings(values: Mapping[str, Any], where: str) -> ProjectSettings:
    """Checked settings; ConfigError naming `where`, the key, what was found and what was expected."""
    try:
        return ProjectSettings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(ProjectSettings.model_fields)
            raise ConfigError(f"{where}: there is no setting {key!r}; there are: {known}") from None
        raise ConfigError(f"{where}: {key}: {first['msg']}, found {first.get('input')!r}") from None


def stored_settings(values: Mapping[str, Any], where: str) -> ProjectSettings:
    """The settings as a store has them: keys that a newer version wrote beside ours are left alone."""
    return parse_settings({key: value for key, value in values.items() if key in ProjectSettings.model_fields}, where)
