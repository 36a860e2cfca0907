"""Shares of a master key: any enough of them give it back, fewer say nothing, and a wrong one is known before it is used."""

from __future__ import annotations

import hashlib
import itertools
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.crypto.secret import SecretBytes
from confide.errors import ShareError, StoreError, UsageError
from confide.keys.custody.shares import PREFIX, Collected, Share, SharedRoot, ShareSet, combine, split


def _multiply(a: int, b: int) -> int:
    """In GF(2^8) by long multiplication and reduction, as FIPS 197, section 4.2 writes it out: not how the code does it."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11B
        b >>= 1
    return product


@given(st.binary(min_size=32, max_size=32), st.integers(2, 9), st.integers(0, 6), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_any_enough_shares_give_the_secret_back(secret: bytes, threshold: int, more: int, random: object) -> None:
    made = split(SecretBytes(secret), threshold=threshold, count=threshold + more)
    random.shuffle(made)  # type: ignore[attr-defined]
    assert combine(made[:threshold]).reveal() == secret
    assert combine(made).reveal() == secret


def test_all_255_shares_can_be_made_and_the_last_ones_give_the_secret_back() -> None:
    made = split(SecretBytes(b"s" * 32), threshold=20, count=255)
    assert combine(made[235:]).reveal() == b"s" * 32


def test_shares_are_points_of_one_polynomial_over_the_field_of_aes() -> None:
    """With two points the line between them is known: every other share must be on it, by another multiplication than the code's."""
    one, two, three, four = split(SecretBytes(bytes(range(32))), threshold=2, count=4)
    for at in range(32):
        # The secret is at 0, so share 1 less the secret is the slope.
        slope = one.value.reveal()[at] ^ at
        for share in (two, three, four):
            assert share.value.reveal()[at] == at ^ _multiply(slope, share.index)


def test_fewer_shares_leave_every_secret_possible() -> None:
    """One share of a 2-of-2: for each of the 256 values of a byte of the secret there is exactly one line through the share."""
    share = split(SecretBytes(bytes(32)), threshold=2, count=2)[0]
    seen = share.value.reveal()[0]
    got = {secret: [slope for slope in range(256) if secret ^ _multiply(slope, share.index) == seen] for secret in range(256)}
    assert all(len(slopes) == 1 for slopes in got.values())
    assert len({slopes[0] for slopes in got.values()}) == 256


@pytest.mark.parametrize(("threshold", "count"), [(0, 3), (1, 3), (4, 3), (2, 256), (2, 1)])
def test_shares_of_no_use_are_not_made(threshold: int, count: int) -> None:
    with pytest.raises(UsageError):
        split(SecretBytes.random(), threshold=threshold, count=count)


def test_too_few_or_mixed_shares_are_refused() -> None:
    made, others = (split(SecretBytes.random(), threshold=3, count=5) for _ in range(2))
    for given_ in ([], made[:2], [made[0], made[0], made[1]], [*made[:2], others[2]]):
        with pytest.raises(ShareError):
            combine(given_)


# --- text --------------------------------------------------------------------------------------------------------


SHARE = split(SecretBytes(bytes(range(32))), threshold=3, count=5)[1]
TEXT = SHARE.to_text().reveal()


def test_text_says_the_same_however_it_is_typed() -> None:
    for text in (TEXT, TEXT.upper(), b"  " + TEXT.replace(b"-", b" -  ") + b"\n"):
        assert Share.parse(SecretBytes(text)).digest() == SHARE.digest()


@given(st.integers(len(PREFIX), len(TEXT) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_any_mistyped_character_is_refused(place: int, letter: str) -> None:
    typed = bytearray(TEXT)
    if typed[place] == ord("-") or typed[place] == ord(letter):
        return
    typed[place] = ord(letter)
    with pytest.raises(ShareError):
        Share.parse(SecretBytes(bytes(typed)))


def test_last_letter_counts_with_all_its_bits() -> None:
    """Base32 leaves a bit of it unused: each share has one text, but for white space, capitals and hyphens."""
    _, made = _made()
    text = made[0].to_text().reveal()
    accepted = []
    for letter in b"abcdefghijklmnopqrstuvwxyz234567":
        with suppress(ShareError):
            Share.parse(SecretBytes(text[:-1] + bytes([letter])))
            accepted.append(letter)
    assert accepted == [text[-1]]


@pytest.mark.parametrize(
    "text",
    [b"x", TEXT[:-1], TEXT + b"a", TEXT + b"\xc3\xa9", TEXT[:-9], PREFIX.encode(), b"\xff\xfe", TEXT[1:], TEXT.replace(b"-1-", b"-2-", 1)],
    ids=["short", "cut", "longer", "not-ascii", "a-group-less", "prefix", "not-text", "no-prefix", "version-2"],
)
def test_text_that_is_no_share_is_refused(text: bytes) -> None:
    with pytest.raises(ShareError):
        Share.parse(SecretBytes(text))


def test_a_share_shows_its_value_to_nobody() -> None:
    assert SHARE.value.reveal().hex() not in repr(SHARE)
    assert "SecretBytes" in repr(SHARE.to_text())


# --- collecting --------------------------------------------------------------------------------------------------


def _made() -> tuple[SharedRoot, list[Share]]:
    return SharedRoot.create(threshold=3, count=5)


def test_holders_bring_their_shares_one_by_one() -> None:
    root, made = _made()
    desk = Collected(root.shares)
    for number, share in enumerate((made[4], made[0], made[2])):
        assert desk.missing == 3 - number
        desk.add(share)
    assert desk.take().reveal() == root.root.reveal()


def test_a_changed_share_is_known_and_whose_it_is_though_its_checksum_is_right() -> None:
    root, made = _made()
    desk = Collected(root.shares)
    forged = replace(made[3], value=SecretBytes(bytes(32)))
    again = Share.parse(forged.to_text())
    with pytest.raises(ShareError, match="changed") as refused:
        desk.add(again)
    assert refused.value.facts["share"] == 4
    assert desk.missing == 3


def test_a_share_under_another_number_is_refused() -> None:
    root, made = _made()
    with pytest.raises(ShareError, match="changed"):
        Collected(root.shares).add(replace(made[3], index=2))


def test_a_share_of_another_set_is_refused() -> None:
    root, _ = _made()
    _, others = _made()
    for stranger in (others[0], replace(_made()[1][0], threshold=2)):
        with pytest.raises(ShareError, match="another set"):
            Collected(root.shares).add(stranger)


def test_the_same_share_twice_counts_once() -> None:
    root, made = _made()
    desk = Collected(root.shares)
    desk.add(made[0])
    with pytest.raises(ShareError, match="already"):
        desk.add(made[0])
    assert desk.missing == 2
    with pytest.raises(ShareError, match="too few"):
        desk.take()


def test_what_the_store_keeps_gives_no_share_away() -> None:
    root, made = _made()
    kept = str(root.new_parameters())
    for share in made:
        value = share.value.reveal()
        assert value.hex() not in kept
        assert hashlib.sha256(value).hexdigest() not in kept
    assert root.root.reveal().hex() not in kept
    assert ShareSet.from_json(root.new_parameters()) == root.shares


@pytest.mark.parametrize(
    "changes",
    [{"threshold": 1}, {"threshold": 9}, {"set": "00"}, {"set": "zz"}, {"digests": ["!"]}, {"more": 1}, {"kind": "x"}],
    ids=str,
)
def test_damaged_parameters_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(StoreError):
        ShareSet.from_json({**_made()[0].new_parameters(), **changes})


def test_a_root_of_another_store_is_refused() -> None:
    one, two = _made()[0], _made()[0]
    with pytest.raises(StoreError, match="another store"):
        one.unlock(two.new_parameters())


def test_every_choice_of_three_of_five_opens() -> None:
    root, made = _made()
    for choice in itertools.combinations(made, 3):
        assert combine(choice).reveal() == root.root.reveal()
