"""A container commits to its key (decision 0022): nobody makes one that opens under two, to two plaintexts.

AES-GCM alone would let somebody who knows both keys do that, and the first test makes such chunks.  What refuses them is one comparison.
"""

from __future__ import annotations

import io

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from support.container_decoder import RefusedError, decode

from confide.crypto import container
from confide.crypto.container import ContainerReader, container_size
from confide.crypto.derive import container_keys
from confide.crypto.secret import SecretBytes
from confide.errors import IntegrityError
from confide.ids import DatasetId

DATASET, PATH, SALT = DatasetId("0123456789abcdef" * 2), "v-1/rows.csv", bytes(32)
FIXED = bytes.fromhex("434f4e464944453200021000" + "00000000")
NONCE = bytes(11) + b"\x01"
ONE, OTHER = b"1" * 32, b"2" * 32
ROWS = (b"\nfares went up!!\n", b"\nfares fell: -9%\n")


def times(x: int, y: int) -> int:
    """A product in the field of NIST SP 800-38D, section 6.3."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def inverse(x: int) -> int:
    """By Fermat: the power 2^128 - 2."""
    product = 1 << 127
    for _ in range(127):
        x = times(x, x)
        product = times(product, x)
    return product


class Opened:
    """One of the two keys, with what AES-GCM makes of it behind one header."""

    def __init__(self, dataset_key: bytes, header: bytes) -> None:
        self.dataset_key, self.header = SecretBytes(dataset_key), header
        key = container_keys(self.dataset_key, dataset=DATASET, path=PATH, salt=SALT).key.reveal()
        block = Cipher(AES(key), ECB()).encryptor().update(bytes(16) + NONCE + bytes(3) + b"\x01")
        self.h, self.mask = int.from_bytes(block[:16], "big"), int.from_bytes(block[16:], "big")
        self.stream = AESGCM(key).encrypt(NONCE, bytes(64), None)
        self.cipher = AESGCM(key)

    def tag(self, ciphertext: bytes) -> int:
        """Sections 6.4 and 7.1."""
        digest = 0
        lengths = (8 * len(self.header)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
        for at in range(0, len(data := self.header + ciphertext + lengths), 16):
            digest = times(digest ^ int.from_bytes(data[at : at + 16], "big"), self.h)
        return digest ^ self.mask

    def reads(self, file: bytes) -> bytes:
        return ContainerReader(io.BytesIO(file), self.dataset_key, DATASET, PATH).read()


def commitment(dataset_key: bytes) -> bytes:
    return container_keys(SecretBytes(dataset_key), dataset=DATASET, path=PATH, salt=SALT).commitment


def two_faced(committed: bytes) -> tuple[bytes, Opened, Opened]:
    """A file whose one chunk AES-GCM opens under both keys, with the commitment ``committed``."""
    header = FIXED + SALT + committed
    one, other = Opened(ONE, header), Opened(OTHER, header)
    chosen = bytes(p ^ s for p, s in zip(ROWS[0] + bytes(7), one.stream[:24], strict=True))
    chosen += bytes(p ^ s for p, s in zip(bytes(7) + ROWS[1], other.stream[24:48], strict=True))
    # The last block makes the two tags equal: it counts for its product with the square of each key's H.
    difference = one.tag(chosen + bytes(16)) ^ other.tag(chosen + bytes(16))
    last = times(difference, inverse(times(one.h, one.h) ^ times(other.h, other.h)))
    ciphertext = chosen + last.to_bytes(16, "big")
    return header + ciphertext + one.tag(ciphertext).to_bytes(16, "big"), one, other


@pytest.mark.parametrize("committed", [commitment(ONE), commitment(OTHER), bytes(32)], ids=["to one", "to the other", "to neither"])
def test_container_that_two_keys_could_open_is_refused_under_each_that_it_does_not_commit_to(committed: bytes) -> None:
    file, one, other = two_faced(committed)
    assert len(file) == container_size(64)
    opened = []
    for key, row in ((one, ROWS[0]), (other, ROWS[1])):
        # AES-GCM has nothing against it: without the comparison each key would give its own rows.
        assert row in key.cipher.decrypt(NONCE, file[container.HEADER_BYTES :], key.header)
        if committed == commitment(key.dataset_key.reveal()):
            assert row in key.reads(file)
            opened.append(key)
        else:
            with pytest.raises(IntegrityError, match="of another key"):
                key.reads(file)
    assert len(opened) <= 1
    for key in (one, other):
        if key not in opened:
            with pytest.raises(RefusedError, match="commitment"):
                decode(file, key.dataset_key.reveal(), DATASET, PATH)
