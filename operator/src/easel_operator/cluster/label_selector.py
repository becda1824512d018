"""Kubernetes label selectors as they come in a query string.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_SELECTOR_CHARACTERS: Final = 4096

_KEY: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_VALUE: Final = r"[A-Za-z0-9._-]*"
_EXISTS: Final = re.compile(rf"(?P<negation>!?)\s*(?P<key>{_KEY})")
_EQUALITY: Final = re.compile(rf"(?P<key>{_KEY})\s*(?P<operator>==?|!=)\s*(?P<value>{_VALUE})")
_SET: Final = re.compile(rf"(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_COMMA: Final = re.compile(r",(?![^(]*\))")  # not one between parentheses


class Relation(StrEnum):
    """How a label must relate to the values."""

    IN = "In"
    NOT_IN = "NotIn"  # also true where the label is absent
    EXISTS = "Exists"
    ABSENT = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector."""

    key: str
    relation: Relation
    values: frozenset[str] = frozenset()

    def is_met_by(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet it."""
        match self.relation:
            case Relation.IN:
                return labels.get(self.key) in self.values
            case Relation.NOT_IN:
                return labels.get(self.key) not in self.values
            case Relation.EXISTS:
                return self.key in labels
            case Relation.ABSENT:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Requirements that must all be met; none are met by everything."""

    requirements: tuple[Requirement, ...]

    def is_met_by(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet all requirements."""
        return all(requirement.is_met_by(labels) for requirement in self.requirements)


def parse_label_selector(text: str) -> LabelSelector:
    """Read a selector such as ``app=easel,tier in (a, b),!canary``. Raises ValueError that quotes what is wrong."""
    if len(text) > MAX_SELECTOR_CHARACTERS:
        raise ValueError(f"labelSelector of {len(text)} characters, at most {MAX_SELECTOR_CHARACTERS} are read")
    return LabelSelector(tuple(_parse_requirements(text)))


def _parse_requirements(text: str) -> Iterator[Requirement]:
    for part in _COMMA.split(text) if text.strip() else ():
        clause = part.strip()
        if found := _EQUALITY.fullmatch(clause):
            relation = Relation.NOT_IN if found["operator"] == "!=" else Relation.IN
            yield Requirement(found["key"], relation, frozenset({found["value"]}))
        elif found := _SET.fullmatch(clause):
            relation = Relation.IN if found["operator"] == "in" else Relation.NOT_IN
            yield Requirement(found["key"], relation, frozenset(v.strip() for v in found["values"].split(",")))
        elif found := _EXISTS.fullmatch(clause):
            yield Requirement(found["key"], Relation.ABSENT if found["negation"] else Relation.EXISTS)
        else:
            raise ValueError(
                f"not a label selector: {clause!r} in {text!r}; expected key=value, key in (a,b), key, !key"
            )
