"""The data forms (XEP-0004) that the configuration of nodes and rooms and archive queries need.

All values are strings: some servers compare ``true`` and ``1`` literally.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement

FORM = "jabber:x:data"


def submission(form_type: str, values: Mapping[str, str]) -> Element:
    """A form of type ``submit``."""
    form = Element(f"{{{FORM}}}x", {"type": "submit"})
    for var, value in {"FORM_TYPE": form_type, **values}.items():
        field = SubElement(form, f"{{{FORM}}}field", {"var": var})
        if var == "FORM_TYPE":
            field.set("type", "hidden")
        SubElement(field, f"{{{FORM}}}value").text = value
    return form


def offered(parent: Element | None) -> dict[str, list[str]]:
    """The fields of the form inside `parent`, each with the values of its options (empty: any value)."""
    fields: dict[str, list[str]] = {}
    if parent is None:
        return fields
    for field in parent.iterfind(f"{{{FORM}}}x/{{{FORM}}}field"):
        options = field.iterfind(f"{{{FORM}}}option/{{{FORM}}}value")
        fields[field.get("var", "")] = [option.text or "" for option in options]
    return fields


def entered(parent: Element | None) -> dict[str, str]:
    """The fields with a value of the form inside `parent`, each with its first value."""
    values: dict[str, str] = {}
    if parent is None:
        return values
    for field in parent.iterfind(f"{{{FORM}}}x/{{{FORM}}}field"):
        value = field.find(f"{{{FORM}}}value")
        if value is not None and value.text:
            values[field.get("var", "")] = value.text
    return values
