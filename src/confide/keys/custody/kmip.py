"""Custody by a KMIP server: a symmetric key that it uses for us, by the operations Encrypt and Decrypt.

KMIP 1.4 (OASIS), sections 4.29 and 4.30, with AES-GCM: the binding is the Authenticated Encryption Additional Data, which came with 1.4.
Who we are is our certificate (Profiles 1.4, section 3.1: TLS with mutual authentication); the server's is verified by name.
The client is our own: the one of PyKMIP does not check the server's name and does not send additional data.
What is wrapped names its key, which must be the present one or one of those before it: the server may let us use others too.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confide.crypto.secret import SecretBytes
from confide.crypto.sign import read_private_file
from confide.errors import ConfigError, CustodyError, CustodyOfflineError, ParseError, UnwrapError
from confide.keys.custody import ttlv
from confide.keys.custody.verified_tls import verified_context

_VERSION: Final = (1, 4)
_ENCRYPT: Final = 0x1F
_DECRYPT: Final = 0x20
_AES: Final = 3
_GCM: Final = 9
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_MAX_ANSWER: Final = 64 * 1024
_MAX_NAME: Final = 255
_CALL_S: Final = 10.0
# Result Reason (section 9.1.3.2.29).
_CRYPTOGRAPHIC_FAILURE: Final = 0x0A
_GENERAL_FAILURE: Final = 0x100
# Tags (section 9.1.3.1).
_REQUEST, _REQUEST_HEADER, _REQUEST_PAYLOAD = 0x420078, 0x420077, 0x420079
_RESPONSE, _RESPONSE_PAYLOAD = 0x42007B, 0x42007C
_PROTOCOL, _MAJOR, _MINOR, _BATCH_COUNT, _BATCH_ITEM = 0x420069, 0x42006A, 0x42006B, 0x42000D, 0x42000F
_OPERATION, _STATUS, _REASON, _NAME = 0x42005C, 0x42007F, 0x42007E, 0x420094
_PARAMETERS, _MODE, _ALGORITHM, _TAG_LENGTH = 0x42002B, 0x420011, 0x420028, 0x4200CE
_DATA, _NONCE, _ADDITIONAL, _TAG = 0x4200C2, 0x42003D, 0x4200FE, 0x4200FF


@dataclass(frozen=True)
class KmipKey:
    """One key, by its unique identifier, at one server.  ``older_keys`` still open what they wrapped."""

    host: str
    port: int
    key: str
    ca: Path
    certificate: Path
    private_key: Path
    older_keys: tuple[str, ...] = ()
    timeout_s: float = _CALL_S

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        """See :meth:`KeyService.wrap_key`: length of the key's name (1 byte), its name, nonce, tag, ciphertext."""
        name = self.key.encode()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        answer = self._call(_ENCRYPT, self.key, ttlv.byte_string(_DATA, key.reveal()), ttlv.byte_string(_NONCE, nonce),
                            ttlv.byte_string(_ADDITIONAL, binding))  # fmt: skip
        try:
            tag, sealed = answer.child(_TAG).as_bytes(), answer.child(_DATA).as_bytes()
        except ParseError:
            raise _no_answer() from None
        if len(tag) != _TAG_BYTES or len(name) > _MAX_NAME:
            raise _no_answer()
        return bytes([len(name)]) + name + nonce + tag + sealed

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        """See :meth:`KeyService.unwrap_key`."""
        try:
            return self._decrypt(wrapped, binding)
        except CustodyOfflineError as error:
            if error.facts.get("reason") != _GENERAL_FAILURE:
                raise
        # What PyKMIP says to a wrong tag, and any server when it is broken: it is asked for something that must succeed.
        self._decrypt(self.wrap_key(SecretBytes.random(), binding), binding)
        raise _damaged()

    def _decrypt(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        start = 1 + wrapped[0]
        nonce, tag, sealed = wrapped[start : start + 12], wrapped[start + 12 : start + 28], wrapped[start + 28 :]
        try:
            name = wrapped[1:start].decode()
        except UnicodeDecodeError:
            raise _damaged() from None
        if not sealed or name not in {self.key, *self.older_keys}:
            raise _damaged()
        answer = self._call(_DECRYPT, name, ttlv.byte_string(_DATA, sealed), ttlv.byte_string(_NONCE, nonce),
                            ttlv.byte_string(_ADDITIONAL, binding), ttlv.byte_string(_TAG, tag))  # fmt: skip
        try:
            return SecretBytes(answer.child(_DATA).as_bytes())
        except ParseError:
            raise _no_answer() from None

    def _call(self, operation: int, name: str, *fields: bytes) -> ttlv.Item:
        parameters = ttlv.structure(_PARAMETERS, ttlv.enumeration(_MODE, _GCM), ttlv.enumeration(_ALGORITHM, _AES),
                                    ttlv.integer(_TAG_LENGTH, _TAG_BYTES))  # fmt: skip
        version = ttlv.structure(_PROTOCOL, ttlv.integer(_MAJOR, _VERSION[0]), ttlv.integer(_MINOR, _VERSION[1]))
        payload = ttlv.structure(_REQUEST_PAYLOAD, ttlv.text(_NAME, name), parameters, *fields)
        item = ttlv.structure(_BATCH_ITEM, ttlv.enumeration(_OPERATION, operation), payload)
        header = ttlv.structure(_REQUEST_HEADER, version, ttlv.integer(_BATCH_COUNT, 1))
        answer = self._exchange(ttlv.structure(_REQUEST, header, item))
        try:
            return _payload(ttlv.parse(answer), operation, name)
        except ParseError:
            raise _no_answer() from None

    def _exchange(self, request: bytes) -> bytes:
        context = self._context()
        ends = time.monotonic() + self.timeout_s
        try:
            with (
                socket.create_connection((self.host, self.port), timeout=self.timeout_s) as plain,
                context.wrap_socket(plain, server_hostname=self.host) as channel,
            ):
                channel.sendall(request)
                header = _receive(channel, ttlv.HEADER_BYTES, ends)
                length = int.from_bytes(header[4:], "big")
                if length > _MAX_ANSWER:
                    raise _no_answer()
                return header + _receive(channel, length, ends)
        except OSError as cause:  # ssl.SSLError is one
            raise CustodyOfflineError("the key server cannot be reached", reason=type(cause).__name__) from None

    def _context(self) -> ssl.SSLContext:
        """Made anew each time, as the certificates are short-lived in some places.  The private key must be ours alone."""
        read_private_file(self.private_key)
        context = verified_context(self.ca)
        try:
            context.load_cert_chain(self.certificate, self.private_key, password="")  # an encrypted key must not ask at a terminal
        except (OSError, ValueError) as cause:
            raise ConfigError("cannot use the certificates for the key server", path=str(self.certificate)) from cause
        return context


def _receive(channel: ssl.SSLSocket, length: int, ends: float) -> bytes:
    data = b""
    while len(data) < length:
        left = ends - time.monotonic()
        if left <= 0:
            raise CustodyOfflineError("the key server is too slow")
        channel.settimeout(left)
        part = channel.recv(length - len(data))
        if not part:
            raise CustodyOfflineError("the key server broke off its answer")
        data += part
    return data


def _payload(answer: ttlv.Item, operation: int, name: str) -> ttlv.Item:
    """The payload of a success for that operation and key."""
    if answer.tag != _RESPONSE:
        raise _no_answer()
    item = answer.child(_BATCH_ITEM)
    if item.child(_STATUS).as_number() != 0:
        raise _failure(item.child(_REASON).as_number())
    payload = item.child(_RESPONSE_PAYLOAD)
    if item.child(_OPERATION).as_number() != operation or payload.child(_NAME).value != name.encode():
        raise _no_answer()
    return payload


def _failure(reason: int) -> CustodyError | UnwrapError:
    if reason == _CRYPTOGRAPHIC_FAILURE:
        return _damaged()
    if reason == _GENERAL_FAILURE:
        return CustodyOfflineError("the key server answered with an error", reason=reason)
    return CustodyError("the key server refuses", hint="see its log: the key's state and mask, and our certificate", reason=reason)


def _no_answer() -> CustodyOfflineError:
    return CustodyOfflineError("the key server gave an answer that is not one")


def _damaged() -> UnwrapError:
    return UnwrapError("the key server does not open this wrapped key: another key, another use, or changed bytes")
