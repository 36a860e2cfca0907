"""RFC 8785 canonical JSON and the digests made of it; reading of JSON and TOML.  Knows nothing of what is read."""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Callable
from itertools import compress
from operator import not_
from typing import Any, Final, cast

import rfc8785

from confide.errors import ParseError, UsageError

Json = dict[str, Any]
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_WORDS: Final = frozenset({str, bool, type(None)})
"""What both write alike, whatever it is."""
_TEXT: Final = frozenset({str})
_MAX_INTEGER: Final = 2**53 - 1
"""RFC 7493, section 2.2: larger ones are not the same number everywhere, and RFC 8785 has no form for them."""
MAX_DEPTH: Final = 128
"""How deep a JSON object may nest, itself included: far above what any format here does, and far below what ends a recursive reader."""


def json_writer(*, ensure_ascii: bool = True, sort_keys: bool = False, separators: tuple[str, str] = (",", ":")) -> Callable[[object], str]:
    """``json.JSONEncoder(...).encode`` for values without NaN, infinities and cycles.

    The standard library makes a new encoder in C at each call, which takes as long as writing a small object; here it is made once.
    """
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=separators, allow_nan=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another Python than CPython
        return encoder.encode
    quote = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring
    # Its arguments, in CPython's order: markers, default, encoder, indent, both separators, sort_keys, skipkeys, allow_nan.
    write = make(None, encoder.default, quote, None, separators[1], separators[0], sort_keys, encoder.skipkeys, encoder.allow_nan)
    return lambda value: "".join(write(value, 0))


_write = json_writer(ensure_ascii=False, sort_keys=True)


def canonical(value: object) -> bytes:
    """The RFC 8785 form of ``value``."""
    if _is_plain(value):
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate: rfc8785 refuses it
            return _write(value).encode("utf-8")
    return rfc8785.dumps(cast(Any, value))


def _is_plain(value: Any) -> bool:
    """Whether the standard library, which is several times as fast, writes ``value`` as RFC 8785 does.

    The two differ in floats, in integers beyond 2^53, in the order of keys that are not ASCII, and in what else they accept.
    """
    kind = type(value)
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)) or not "".join(value).isascii():
            return False
        inner = value.values()
    elif kind is list:
        inner = value
    else:
        return kind in _WORDS or (kind is int and -_MAX_INTEGER <= value <= _MAX_INTEGER)
    others = compress(inner, map(not_, map(_WORDS.__contains__, map(type, inner))))  # passed over in C: most of what is in objects is text
    return all(map(_is_plain, others))


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha384_hex(data: bytes) -> str:
    """SHA-384 in lower-case hex."""
    return hashlib.sha384(data).hexdigest()


def digest_of(value: object) -> str:
    """SHA-384 of the canonical form, lower-case hex: how jobs, policies and grants are named."""
    return sha384_hex(canonical(value))


def b64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515)."""
    return _b64url(data).decode("ascii")


def _b64url(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=")


def from_b64url(text: str) -> bytes:
    """The inverse of :func:`b64url`, strict: no padding, no foreign characters, no loose bits.

    Raises:
        ParseError: the text is not the one encoding of some bytes.
    """
    try:
        given = text.encode("ascii")
        data = binascii.a2b_base64(given.translate(_FROM_URL) + b"=" * (-len(given) % 4), strict_mode=True)
    except ValueError as cause:  # binascii's error is one
        raise ParseError("not base64url") from cause
    if _b64url(data) != given:
        raise ParseError("not canonical base64url")
    return data


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ParseError("a JSON object has a field twice", field=counts.most_common(1)[0][0][:80])
    return found


def parse_object(data: bytes | str) -> Json:
    """Read one JSON object; duplicate fields, numbers and characters that JSON cannot carry, and anything but an object are refused.

    What was read has a canonical form: integers are of 53 bits, and nothing is nested deeper than :data:`MAX_DEPTH`.

    Raises:
        ParseError: the text is not one JSON object.
    """
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
        value = _DECODER.decode(text)
        if text.count("{") + text.count("[") > MAX_DEPTH:  # fewer cannot nest that deep, wherever they stand
            _check_depth(value)
        # A lone surrogate has no UTF-8 form, so it could not be hashed or sent on.  It stands in the text itself or behind an escape.
        (json.dumps(value, ensure_ascii=False) if "\\u" in text else text).encode()
    except (ValueError, RecursionError) as cause:
        raise ParseError("not JSON", offset=getattr(cause, "pos", None)) from cause
    if not isinstance(value, dict):
        raise ParseError("JSON, but not an object")
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Read a TOML document.

    Raises:
        ParseError: the text is none, or one that is nested too deeply or has a number that is too long.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as cause:  # not only TOMLDecodeError: Python refuses integers of many digits by itself
        raise ParseError(str(cause)[:200]) from cause


def check_numbers(value: object) -> None:
    """Return if JSON carries each number in ``value``: none is infinite, no number at all, or a whole one beyond 2^53.

    Raises:
        UsageError: one is.
    """
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            check_numbers(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{value} is not a number", hint="give a finite one")
    elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise UsageError("a number is too large", hint=f"the largest is {_MAX_INTEGER}")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        holders = [item for item in level if isinstance(item, dict | list)]
        if not holders:
            return
        level = [item for holder in holders for item in (holder.values() if isinstance(holder, dict) else holder)]
    raise ParseError("JSON is nested too deeply", limit=MAX_DEPTH)


def _safe(text: str) -> int:
    number = int(text)
    if abs(number) > _MAX_INTEGER:
        raise ParseError("a JSON number is too large", got=text[:40])
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ParseError("a JSON number is too large", got=text[:40])
    return number


def _refuse_constant(name: str) -> None:
    raise ParseError("JSON has no such number", got=name)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_safe)
