"""What decision 0022 says that containers do not do: commit to their key.

If this fails, the weakness is gone, and the decision's text, the threat model's and the job file's are to be changed.
"""

from __future__ import annotations

import io

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from confide.crypto.container import ContainerReader, container_size
from confide.crypto.derive import file_key
from confide.crypto.secret import SecretBytes
from confide.ids import DatasetId

DATASET, PATH, SALT = DatasetId("0123456789abcdef" * 2), "v-1/rows.csv", bytes(32)
HEADER = bytes.fromhex("434f4e464944453100011000" + "00000000") + SALT
NONCE = bytes(11) + b"\x01"
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
    """One of the two keys, with what AES-GCM makes of it."""

    def __init__(self, dataset_key: bytes) -> None:
        self.dataset_key = SecretBytes(dataset_key)
        key = file_key(self.dataset_key, kind="container", dataset=DATASET, path=PATH, salt=SALT).reveal()
        block = Cipher(AES(key), ECB()).encryptor().update(bytes(16) + NONCE + bytes(3) + b"\x01")
        self.h, self.mask = int.from_bytes(block[:16], "big"), int.from_bytes(block[16:], "big")
        self.stream = AESGCM(key).encrypt(NONCE, bytes(64), None)

    def tag(self, ciphertext: bytes) -> int:
        """Sections 6.4 and 7.1."""
        digest = 0
        lengths = (8 * len(HEADER)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
        for at in range(0, len(data := HEADER + ciphertext + lengths), 16):
            digest = times(digest ^ int.from_bytes(data[at : at + 16], "big"), self.h)
        return digest ^ self.mask

    def sees(self, file: bytes) -> bytes:
        return ContainerReader(io.BytesIO(file), self.dataset_key, DATASET, PATH).read()


def test_who_knows_two_dataset_keys_makes_one_container_that_opens_under_both_to_two_plaintexts() -> None:
    one, other = Opened(b"1" * 32), Opened(b"2" * 32)
    chosen = bytes(p ^ s for p, s in zip(ROWS[0] + bytes(7), one.stream[:24], strict=True))
    chosen += bytes(p ^ s for p, s in zip(bytes(7) + ROWS[1], other.stream[24:48], strict=True))
    # The last block makes the two tags equal: it counts for its product with the square of each key's H.
    difference = one.tag(chosen + bytes(16)) ^ other.tag(chosen + bytes(16))
    last = times(difference, inverse(times(one.h, one.h) ^ times(other.h, other.h)))
    ciphertext = chosen + last.to_bytes(16, "big")
    file = HEADER + ciphertext + one.tag(ciphertext).to_bytes(16, "big")
    assert len(file) == container_size(64)
    assert ROWS[0] in one.sees(file)
    assert ROWS[1] in other.sees(file)
