"""Whether an E2E text says an attribute: words looked at one by one, in place of a parser.

The published success rate of attributes asks whether the value is a substring of the text, so
"low" is found in "yellow" and "Blue Spice" (the neighbour) counts as the name. The matcher here is
stricter: whole words, the ways of E2E to say a price, a rating or friendliness, negation, and the
neighbour told from the name. It is a matcher, not truth: unknown phrasings count as not said. A
field is absent where none of its values is said.
"""

import re
from collections.abc import Mapping, Sequence

from diffusion_jax.text.labels import ABSENT

_NEAR = r"(?:near|nearby|close to|next to|beside|by|not far from|around|adjacent to|opposite)"
_NOT = r"(?:not|no|isn ?' ?t|aren ?' ?t|non|never|n't|un|without|doesn ?' ?t)"
_FRIENDLY = r"(?:family|families|kids?|child|children|childs)"
_WELCOME = rf"(?:{_FRIENDLY} ?-? ?(?:friendly|oriented|welcome)|{_FRIENDLY} (?:\w+ ){{0,2}}welcome)"
_RATED = r"(?:rating|rated|ratings|rate|customer|customers|stars?|reviews?)"

_PHRASES = {
    ("area", "city centre"): (r"cit\w+ (?:centre|center)",),
    ("area", "riverside"): (r"river ?side", r"river"),
    ("price", "cheap"): (r"cheap\w*", r"inexpensive", r"low ?-? ?(?:price|prices|priced|cost)"),
    ("price", "moderate"): (
        r"moderate\w* ?-? ?(?:price|prices|priced)?",
        r"(?:average|mid) ?-? ?(?:price|prices|priced)",
    ),
    ("price", "high"): (r"expensive", r"high\w* ?-? ?(?:price|prices|priced)", r"high price range"),
    ("price", "less than £ 20"): (r"(?:less than|under|below) £ ?20",),
    ("price", "£ 20 - 25"): (r"£ ?20 ?(?:-|to|and) ?£? ?25",),
    ("price", "more than £ 30"): (r"(?:more than|over|above|start\w* at|from) £ ?30",),
    ("customer rating", "low"): (rf"(?:low|poor|bad)\w* (?:\w+ )?{_RATED}",),
    ("customer rating", "average"): (rf"average\w* (?:\w+ )?{_RATED}",),
    ("customer rating", "high"): (rf"(?:high|highly|excellent) (?:\w+ )?{_RATED}",),
    ("family friendly", "yes"): (_WELCOME,),
    ("family friendly", "no"): (
        rf"{_NOT} (?:\w+ ){{0,3}}?{_WELCOME}",
        rf"{_NOT} (?:\w+ ){{0,2}}?{_FRIENDLY}",
        r"adults?(?: only)?",
    ),
}
_STARS = {"1": "one", "3": "three", "5": "five"}
# What may stand before a phrase of "yes" and turns it around.
_NEGATED = re.compile(rf"\b{_NOT}\b(?: \w+){{0,3}} ?-? ?$")


def says(text: str, field: str, value: str) -> bool:
    """Return whether a text says ``field = value``, by whole words.

    Args:
        text: tokens between spaces, in any case.
        field: an attribute as E2E names it (``Type``, ``food``, ``customer rating``, ...).
        value: its value.
    """
    return _says(_normal(text), field, value)


def _says(text: str, field: str, value: str) -> bool:
    """Return ``says`` of a text that is normal already."""
    wanted = _normal(value)
    key = (field.lower(), wanted)
    found = re.search(r"([135]) out of 5", wanted)
    if key[0] == "customer rating" and found:
        number = found.group(1)
        stars = rf"(?:{number}|{_STARS[number]}) ?-? ?(?:out of (?:5|five)|stars?)"
        return _has(text, stars)
    if key not in _PHRASES and wanted not in text:
        return False
    if key[0] == "near":
        return _has(text, rf"{_NEAR} (?:\w+ ){{0,4}}?{re.escape(wanted)}")
    if key[0] == "name":
        without_neighbour = re.sub(rf"\b{_NEAR} (?:\w+ )?{re.escape(wanted)}", " ", text)
        return _has(without_neighbour, re.escape(wanted))
    for pattern in _PHRASES.get(key, (re.escape(wanted),)):
        for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text):
            negated = key == ("family friendly", "yes") and _NEGATED.search(text[: match.start()])
            if not negated:
                return True
    return False


def contains(text: str, value: str) -> bool:
    """Return whether the value is a substring of the text: the published success of attributes."""
    return value in text


def says_all(
    text: str, attributes: Mapping[str, str], fields: Mapping[str, Sequence[str]]
) -> bool | None:
    """Return whether a text says every attribute, see ``says``; None where nobody knows.

    Args:
        text: tokens between spaces, in any case.
        attributes: field -> value; ``absent`` asks that the field is not said.
        fields: field -> all its values, by which it is known to be absent.
    """
    unknown = False
    for field, value in attributes.items():
        if value != ABSENT:
            holds = says(text, field, value)
        elif field in fields:
            holds = not _values_said(text, field, fields[field])
        else:
            unknown = True
            continue
        if not holds:
            return False
    return None if unknown else True


def said_attributes(
    text: str, given: Mapping[str, str], fields: Mapping[str, Sequence[str]]
) -> dict[str, str | None]:
    """Return what a text says, whatever it was meant to say.

    Args:
        text: tokens between spaces, in any case.
        given: field -> value that the text was written for; decides where several are said.
        fields: field -> all its values.

    Returns:
        field -> the value that is said; ``absent`` where none is, and None where several are and
        none of these was given.
    """
    found: dict[str, str | None] = {}
    for field, values in fields.items():
        said = _values_said(text, field, values)
        own = given.get(field)
        if own in said:
            found[field] = own
        elif len(said) <= 1:
            found[field] = said[0] if said else ABSENT
        else:
            found[field] = None
    return found


def _values_said(text: str, field: str, values: Sequence[str]) -> list[str]:
    """Return those of a field's values that a text says."""
    text = _normal(text)
    return [value for value in values if value != ABSENT and _says(text, field, value)]


def _has(text: str, pattern: str) -> bool:
    return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", text) is not None


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
