"""YAML as a config may hold it: no key twice, and whatever is wrong said in one line with its place. No torch here."""

from __future__ import annotations

import reprlib
from typing import Any

import yaml

from rlhf.errors import ConfigError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class _Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys, and `seed: 2020-13-45` ends in a ValueError: here both are faults."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                raise _fault(key, f"key {key.value!r} is there twice (first in line {first}); remove one")
            lines[key.tag, key.value] = key.start_mark.line + 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            # What PyYAML's converters of numbers, truth values and dates let out.
            kind = node.tag.rpartition(":")[2]
            raise _fault(node, f"{shown(node.value)} is no valid {kind}; write it another way, or in quotes") from None


def read_yaml(text: str, where: str, *, line: bool = True) -> Any:
    """The value that `text` holds; `where` names it in errors, with the line or (an override has one) without.

    Raises:
        ConfigError: one line.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark and line else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}{place}: not valid YAML: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not valid YAML: it is nested too deeply") from None


def _fault(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def shown(value: object) -> str:
    """A value as errors show it: on one line, and not all of a long one."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        text = f"<{type(value).__name__} too long to print>"
    return text if len(text) <= 80 else text[:77] + "..."
