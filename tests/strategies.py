"""Hypothesis strategies that follow from the declarations of the MLS structures.

:func:`values` makes any value that a codec can express, :func:`declared_structs` lists every
structure of :mod:`slixmpp_mls.mls`.  A structure declared tomorrow is covered without a word here.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from hypothesis import strategies as st

import slixmpp_mls.mls
from slixmpp_mls.mls.tls import Codec, Enum, Opaque, Optional, Select, Struct, StructCodec, UInt, Vector

__all__ = ["declared_structs", "structs", "values"]


@cache
def declared_structs() -> tuple[type[Struct], ...]:
    """Every structure declared in :mod:`slixmpp_mls.mls`, by name."""
    for module in pkgutil.walk_packages(slixmpp_mls.mls.__path__, f"{slixmpp_mls.mls.__name__}."):
        importlib.import_module(module.name)
    found = []
    todo = [Struct]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if "codec" in vars(cls) and cls.__module__.startswith(slixmpp_mls.mls.__name__):
                found.append(cls)
    return tuple(sorted(found, key=lambda cls: cls.__name__))


def structs(cls: type[Struct]) -> st.SearchStrategy[Any]:
    """Values of one structure."""
    return values(cls.codec)


@cache
def values(codec: Codec) -> st.SearchStrategy[Any]:
    """Values that `codec` can write, with the ends of each range more likely than the middle."""
    match codec:
        case UInt():
            numbers = st.integers(0, 2 ** (8 * codec.size) - 1)
            if codec.names is None:
                return numbers
            return st.sampled_from([int(name) for name in codec.names]) | numbers
        case Enum():
            return st.sampled_from(codec.type)
        case Opaque():
            return st.binary(max_size=8) | st.binary(min_size=62, max_size=66)  # one and two octets of length
        case Vector():
            return st.lists(values(codec.item), max_size=3).map(tuple)
        case Optional():
            return st.none() | values(codec.item)
        case Select():
            variants = [values(variant) for variant in codec.variants.values()]
            if codec.otherwise is not None:
                variants.append(values(codec.otherwise.codec).filter(lambda value: value.tag not in codec.variants))
            return st.one_of(variants)
        case StructCodec():
            return _fields(codec)
    raise TypeError(f"no strategy for {type(codec).__name__}")


@st.composite
def _fields(draw: st.DrawFn, codec: StructCodec) -> Any:
    drawn: dict[str, Any] = {}
    for field in codec.fields:
        there = field.when is None or field.when.holds(drawn[field.when.field])
        drawn[field.name] = draw(values(field.codec)) if there else None
    return codec.cls(**drawn)
