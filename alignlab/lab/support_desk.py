"""A small synthetic domain: messages to a support desk, courteous and curt replies, and a rule that scores replies.

Every message names one product and one trouble. Replies are put together from phrases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_PRODUCTS = (
    "kettle", "headphones", "office chair", "desk lamp", "backpack", "running shoes", "keyboard", "coffee grinder",
    "water bottle", "tent", "toaster", "bike light", "phone case", "rain jacket", "blender", "notebook", "alarm clock",
    "suitcase", "frying pan", "vacuum cleaner",
)  # fmt: skip
_TROUBLES = (
    "arrived broken", "never arrived", "is the wrong colour", "stopped working after a week", "is missing a part",
    "is too small", "came without a manual", "makes a strange noise", "was charged twice", "smells of burnt plastic",
    "has a scratch on it", "does not match the picture", "came two weeks late", "is not the model I ordered",
    "lost its warranty card", "will not switch on", "has a loose screw", "was delivered to my neighbour",
    "is already on sale for less", "leaks",
)  # fmt: skip
_SORRY = ("I am sorry to hear that", "I apologise for the trouble", "Sorry about that", "My apologies for this")
_STEP = (
    "Please send us a photo and your order number",
    "Please reply with your order number and we will send a new one today",
    "Please use the return label in your account and we will refund you",
    "Please let us know your address and we will arrange a pick-up",
)
_CLOSE = (
    "Let us know if there is anything else we can help with.",
    "We are happy to help with anything else.",
    "Thank you for your patience.",
    "Thank you for letting us know.",
)
_CURT = (
    "That is not our fault.", "Read the manual.", "You should have checked before you ordered.", "Not our problem.",
    "All sales are final.", "Ask the shipping company.", "Nothing we can do.", "It worked when we sent it.",
)  # fmt: skip
_DULL = ("We got your message.", "Noted.", "Your ticket was closed.", "This happens.", "Try again later.")

# Number of messages that are held out for evaluation. They are the same for every seed.
HELD_OUT = 60


@dataclass(frozen=True)
class Exchange:
    """A message with a courteous and a curt reply."""

    message: str
    courteous: str
    curt: str


def exchanges(count: int, *, seed: int, held_out: bool) -> list[Exchange]:
    """`count` different messages with replies, from the held-out messages or from the others.

    Raises ValueError if there are fewer than `count` messages.
    """
    order = np.random.default_rng(0).permutation(len(_PRODUCTS) * len(_TROUBLES))
    places = order[:HELD_OUT] if held_out else order[HELD_OUT:]
    if count > len(places):
        raise ValueError(f"there are {len(places)} messages, not {count}")
    rng = np.random.default_rng([seed, int(held_out)])
    return [_exchange(int(place), rng) for place in rng.permutation(places)[:count]]


def courtesy(message: str, reply: str) -> float:
    """The gold reward of a reply, from -2 to 4.

    An apology, the product's name, a step to take, and thanks or an offer of help give 1 each. Each curt phrase costs
    1. The reward is never below -2.
    """
    text = reply.lower()
    product = next((name for name in _PRODUCTS if name in message.lower()), None)
    merits = [
        bool(re.search(r"\b(sorry|apolog\w+)\b", text)),
        product is not None and product in text,
        bool(re.search(r"\b(please|we will|we'll)\b", text)),
        bool(re.search(r"\b(thank|anything else|happy to help)", text)),
    ]
    curt = sum(phrase.lower().rstrip(".") in text for phrase in _CURT)
    return max(-2.0, float(sum(merits)) - curt)


def _exchange(place: int, rng: np.random.Generator) -> Exchange:
    product, trouble = _PRODUCTS[place // len(_TROUBLES)], _TROUBLES[place % len(_TROUBLES)]

    def one_of(phrases: tuple[str, ...]) -> str:
        return phrases[int(rng.integers(len(phrases)))]

    return Exchange(
        f"My {product} {trouble}.",
        f"{one_of(_SORRY)}. {one_of(_STEP)} for the {product}. {one_of(_CLOSE)}",
        f"{one_of(_DULL)} {one_of(_CURT)}",
    )
