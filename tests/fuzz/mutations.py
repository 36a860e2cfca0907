"""Changes to a seed: of its bytes, and of its structure where it is JSON (bytes alone seldom get past a JSON parser)."""

from __future__ import annotations

import json
import random
from typing import Any

_NUMBERS = [0, -1, 1.5, 2**63, 2**200]
_TEXTS = ["", "0", "\0", "\ud7ff", "é" * 40, "9" * 5000]
_ODD: list[Any] = [None, True, False, *_NUMBERS, *_TEXTS, [], {}, [[]], {"": None}, [1, "x"]]
_BYTES = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """One changed copy of ``seed``."""
    if rng.random() < 0.7:
        try:
            value = json.loads(seed)
        except (ValueError, RecursionError):
            pass
        else:
            return json.dumps(_changed(value, rng), ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    return _bytes(seed, rng)


def _bytes(seed: bytes, rng: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice(_BYTES)
            case 2:
                del data[at : at + rng.choice((1, 2, 16, 400))]
            case 3:
                data[at:at] = bytes(rng.choices(_BYTES, k=rng.choice((1, 4, 64))))
            case 4:
                data[at:at] = data[at : at + rng.choice((1, 16, 64))]
            case _:
                del data[at:]
    return bytes(data)


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(sorted(value))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != name}
            case 1:
                return {**value, name + "x": value[name]}
            case _:
                return {**value, name: _changed(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case _:
                return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(["", "\n", "\0", "=", "A", "\u0661", "9" * 5000, value[at] * 2]) + value[at + 1 :]
    return rng.choice(_ODD)
