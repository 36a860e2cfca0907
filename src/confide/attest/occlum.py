"""SGX quotes from Occlum, whose interface to DCAP is two requests of ioctl(2) on the device ``/dev/sgx`` inside of the enclave.

Numbers and layout are those that Occlum's documentation gives in "Remote attestation" (demo ``remote_attestation/dcap``): request 7 of type
``s`` reads a 32 bit size, request 8 hands over ``{report data, pointer to size, pointer to buffer}`` and gets the quote.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from confide.attest.device_files import Files
from confide.attest.evidence import MAX_EVIDENCE_BYTES, Evidence, check_report_data
from confide.errors import AttesterError
from confide.ids import ReportData, Tee

OCCLUM_DEVICE = Path("/dev/sgx")
GET_DCAP_QUOTE_SIZE: Final = 0x8004_7307
"""``_IOR('s', 7, uint32_t)``"""
GEN_DCAP_QUOTE: Final = 0xC018_7308
"""``_IOWR('s', 8, ...)`` of three pointers, 24 bytes."""

Ioctl = Callable[[int, int, bytearray], object]
"""``fcntl.ioctl``: descriptor, request, and an argument that the device may change."""


class GenQuoteArgument(ctypes.Structure):
    """What request 8 is given.  ``quote_len`` points to the buffer's size, and after the call to the quote's."""

    _fields_ = (("report_data", ctypes.c_void_p), ("quote_len", ctypes.c_void_p), ("quote_buf", ctypes.c_void_p))


class OcclumAttester:
    """SGX quotes from Occlum's device."""

    tee = Tee.SGX
    simulated = False

    def __init__(self, device: Path = OCCLUM_DEVICE, files: Files = os, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._device, self._files, self._ioctl = device, files, ioctl
        self._lock = threading.Lock()
        # SGX drivers of old kernels have a device of this name too; that it answers this request makes it Occlum's.
        self._call(self._size)

    def quote(self, report_data: ReportData) -> Evidence:
        """A quote of this enclave over ``report_data``."""
        data = check_report_data(report_data)
        with self._lock:
            return Evidence.of_device(self.tee, self._call(lambda fd: self._generate(fd, data)))

    def _call(self, request: Callable[[int], bytes]) -> bytes:
        try:
            fd = self._files.open(self._device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return request(fd)
            finally:
                self._files.close(fd)
        except OSError as cause:
            raise AttesterError(
                f"{self._device} gives no quotes as Occlum does: {cause.strerror}", path=str(self._device), errno=cause.errno or 0
            ) from cause

    def _size(self, fd: int) -> bytes:
        size = bytearray(4)
        self._ioctl(fd, GET_DCAP_QUOTE_SIZE, size)
        length = int.from_bytes(size, "little")
        if not 0 < length <= MAX_EVIDENCE_BYTES:
            raise AttesterError("the device tells a size that no quote has", got=length)
        return bytes(size)

    def _generate(self, fd: int, data: bytes) -> bytes:
        room = int.from_bytes(self._size(fd), "little")
        report_data, buffer, length = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(room), ctypes.c_uint32(room)
        argument = GenQuoteArgument(*(ctypes.addressof(each) for each in (report_data, length, buffer)))
        self._ioctl(fd, GEN_DCAP_QUOTE, bytearray(argument))
        if not 0 < length.value <= room:
            raise AttesterError("the device tells a size that its quote cannot have", got=length.value, room=room)
        return buffer.raw[: length.value]
