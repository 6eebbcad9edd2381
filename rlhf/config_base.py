"""What every section of a config is made of: how it reads its keys, and the kinds of number that several share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Epsilon = Annotated[float, Field(gt=0, le=1e-2)]
Temperature = Annotated[float, Field(gt=0, le=10)]


def divides(small: int, small_name: str, large: int, large_name: str) -> None:
    if large % small:
        raise ValueError(f"{large_name} ({large}) must be a multiple of {small_name} ({small})")


def check_judge(name: str) -> None:
    kind, sign, rest = name.partition(":")
    if not sign or not kind or not rest or (kind != "adapter" and not rest.isidentifier()):
        raise ValueError(f"{name!r} is no judge; expected `adapter:NAME` or `module:function`")


class Section(BaseModel):
    """A part of a config: unknown keys are errors, numbers must be finite, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, strict=False)

    @field_validator("*", mode="before")
    @classmethod
    def _readable(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` as true, which pydantic would take for the number 1; no file name can hold a NUL."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"found {value}, a truth value; expected a number, a text or a section")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"found {value!r}, which holds a NUL character; remove it")
        return value


class OptimizerSection(Section):
    """AdamW with linear warm-up and a schedule, as every stage uses it."""

    learning_rate: Rate = Field(2e-4, description="AdamW's step size at its highest")
    warmup_fraction: Fraction = Field(0.05, description="share of the steps over which the rate rises from 0")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="what the rate does after warm-up")
    weight_decay: NonNegative = Field(0.0, description="AdamW's decoupled decay of the adapter's weights")
    adam_eps: Epsilon = Field(1e-8, description="AdamW's epsilon")
    max_grad_norm: Above0 = Field(1.0, description="clip the gradient's norm to this")
