"""A config explained: YAML that loads again, each key followed by its type and range, its default and its meaning."""

from __future__ import annotations

import json
from typing import Any

import yaml

from rlhf.config import Config

COMMENT_COLUMN = 40
KINDS = {"string": "text", "array": "list", "object": "mapping", "boolean": "true | false"}
LIMITS = (("minimum", ">= {}"), ("exclusiveMinimum", "> {}"), ("maximum", "<= {}"), ("exclusiveMaximum", "< {}"))


def annotated(config: Config) -> str:
    """The resolved config with a comment on every key."""
    schema = Config.model_json_schema()
    return "\n".join(_section(config.model_dump(mode="json"), schema, schema["$defs"], ""))


def _section(values: dict[str, Any], schema: dict[str, Any], named: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        part = schema["properties"][key]
        section = _section_schema(part, named)
        if section is not None and isinstance(value, dict):
            meaning = part.get("description") or section.get("description", "").split("\n")[0]
            lines += ["" if not indent else f"{indent}#", f"{indent}# {meaning}", f"{indent}{key}:"]
            lines += _section(value, section, named, indent + "  ")
        else:
            comment = "; ".join(filter(None, (_kind(part), _default(part), part.get("description", ""))))
            lines.append(f"{indent}{key}: {_plain(value)}".ljust(COMMENT_COLUMN) + f"  # {comment}")
    return lines


def _section_schema(part: dict[str, Any], named: dict[str, Any]) -> dict[str, Any] | None:
    for option in (part, *part.get("anyOf", ())):
        if "$ref" in option:
            found: dict[str, Any] = named[option["$ref"].rsplit("/", 1)[1]]
            return found
    return None


def _kind(part: dict[str, Any]) -> str:
    """The type and its limits, as `integer >= 1` or `nf4 | int8`."""
    if "anyOf" in part:
        return " or ".join(_kind(option) for option in part["anyOf"])
    if "$ref" in part:
        return "a section"
    if "enum" in part:
        return " | ".join(map(str, part["enum"]))
    if "pattern" in part:
        return f"text like {part['pattern']}"
    name = KINDS.get(part["type"], part["type"])
    limits = " and ".join(text.format(part[limit]) for limit, text in LIMITS if limit in part)
    return f"{name} {limits}".strip()


def _default(part: dict[str, Any]) -> str:
    return f"default {_plain(part['default'])}" if "default" in part else ""


def _plain(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    text: str = yaml.safe_dump(value, allow_unicode=True, width=10_000, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")
