import errno
import os
import threading

import pytest
from support.kernel import ConfigfsKernel, GramineKernel, OcclumKernel, Quoter

from confide.attest import device_files
from confide.attest.configfs import ConfigfsAttester
from confide.attest.gramine import GramineAttester
from confide.attest.occlum import OcclumAttester
from confide.errors import AttesterError
from confide.ids import ReportData, Tee

DATA = ReportData(bytes(range(64)))
OTHER = ReportData(bytes(range(64, 128)))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(device_files, "TRY_EVERY_S", 0)


def over(quote: bytes, at: int) -> Quoter:
    """Makes quotes that differ in the report data only, as a TEE does."""
    return lambda data: quote[:at] + data + quote[at + 64 :]


@pytest.fixture
def gramine(make_evidence) -> GramineKernel:
    return GramineKernel(quoter=over(make_evidence(Tee.SGX).quote, 48 + 320))


@pytest.fixture
def occlum(make_evidence) -> OcclumKernel:
    return OcclumKernel(quoter=over(make_evidence(Tee.SGX).quote, 48 + 320))


@pytest.fixture
def configfs(make_evidence) -> ConfigfsKernel:
    quoter = over(make_evidence(Tee.TDX).quote, 48 + 520)
    return ConfigfsKernel(quoter=lambda data: quoter(data) + bytes(70))


def sgx_data(quote: bytes) -> bytes:
    return quote[368:432]


def td_data(quote: bytes) -> bytes:
    return quote[568:632]


def configfs_attester(kernel: ConfigfsKernel) -> ConfigfsAttester:
    return ConfigfsAttester(files=kernel)


def occlum_attester(kernel: OcclumKernel) -> OcclumAttester:
    return OcclumAttester(files=kernel, ioctl=kernel.ioctl)


# --- Gramine ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_gramine_quote_is_taken_over_the_report_data_in_pieces_of_any_size(gramine, piece) -> None:
    gramine.piece = piece
    attester = GramineAttester(files=gramine)
    evidence = attester.quote(DATA)
    assert gramine.user_report_data == DATA == sgx_data(evidence.quote)
    assert (attester.tee, attester.simulated, evidence.tee) == (Tee.SGX, False, Tee.SGX)
    assert gramine.descriptors == 0


def test_gramine_without_dcap_is_refused(gramine) -> None:
    gramine.kind = "none"
    with pytest.raises(AttesterError, match="DCAP"):
        GramineAttester(files=gramine)


def test_gramine_giving_something_else_is_refused(gramine) -> None:
    gramine.quoter = lambda data: b"nonsense"
    with pytest.raises(AttesterError, match="not a quote"):
        GramineAttester(files=gramine).quote(DATA)


@pytest.mark.parametrize(
    ("call", "says"), [("open quote", "cannot read"), ("read quote", "cannot read"), ("close user_report_data", "cannot write")]
)
def test_gramine_file_that_fails_is_reported_and_closed(gramine, call, says) -> None:
    attester = GramineAttester(files=gramine)
    gramine.errors[call] = [errno.EIO]
    with pytest.raises(AttesterError, match=says):
        attester.quote(DATA)
    assert gramine.descriptors == 0


def test_report_data_that_was_taken_in_part_is_refused_and_no_quote_is_made(gramine) -> None:
    attester = GramineAttester(files=gramine)
    gramine.short_writes = True
    with pytest.raises(AttesterError, match="took a part"):
        attester.quote(DATA)
    assert "open quote" not in gramine.calls


def test_threads_that_share_gramines_files_each_get_their_own_quote(gramine) -> None:
    attester = GramineAttester(files=gramine)
    wanted = [ReportData(bytes([n]) * 64) for n in range(16)]
    got: dict[bytes, bytes] = {}
    threads = [threading.Thread(target=lambda data=data: got.update({data: sgx_data(attester.quote(data).quote)})) for data in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {bytes(data): bytes(data) for data in wanted}


def test_second_thread_waits_until_the_firsts_quote_is_read(gramine) -> None:
    """Deterministic form of the race: in the middle of one quote another thread asks for one of its own."""
    attester = GramineAttester(files=gramine)
    second: list[threading.Thread] = []

    def intrude() -> None:
        second.append(threading.Thread(target=attester.quote, args=(OTHER,)))
        second[0].start()
        # The kernel's own lock (taken twice in open) is free for it between two calls: without the attester's lock its report data
        # would be in place now.
        gramine._lock.release()
        gramine._lock.release()
        second[0].join(0.2)
        gramine._lock.acquire()
        gramine._lock.acquire()

    gramine.hooks["open quote"] = intrude
    assert sgx_data(attester.quote(DATA).quote) == DATA
    second[0].join()
    assert gramine.user_report_data == OTHER


def test_file_without_an_end_is_not_read_for_ever(gramine) -> None:
    gramine.piece = 2**20
    gramine.quoter = lambda data: bytes(device_files.MAX_BLOB_BYTES + 1)
    with pytest.raises(AttesterError, match="no end"):
        GramineAttester(files=gramine).quote(DATA)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_report_data_of_another_length_is_refused_not_padded(gramine, configfs, occlum, length) -> None:
    for attester in (GramineAttester(files=gramine), configfs_attester(configfs), occlum_attester(occlum)):
        with pytest.raises(AttesterError, match="64 bytes"):
            attester.quote(ReportData(bytes(length)))


# --- Occlum ----------------------------------------------------------------------------------------------------------


def test_occlum_quote_is_taken_over_the_report_data(occlum) -> None:
    attester = occlum_attester(occlum)
    evidence = attester.quote(DATA)
    assert (attester.tee, attester.simulated, sgx_data(evidence.quote)) == (Tee.SGX, False, DATA)
    assert occlum.descriptors == 0


def test_occlum_quote_that_is_shorter_than_its_buffer_is_cut_to_its_length(occlum, make_evidence) -> None:
    occlum.size = 8000
    assert len(occlum_attester(occlum).quote(DATA).quote) == len(make_evidence(Tee.SGX).quote)


def test_occlum_may_tell_any_size_up_to_the_cap_of_evidence(occlum) -> None:
    for size in (1, 32 * 1024):
        occlum.size = size
        assert occlum_attester(occlum).tee is Tee.SGX
    assert sgx_data(occlum_attester(occlum).quote(DATA).quote) == DATA


def test_occlum_quote_that_fills_its_buffer_is_taken_whole(occlum, make_evidence) -> None:
    occlum.size = occlum.told = len(make_evidence(Tee.SGX).quote) + 8
    assert sgx_data(occlum_attester(occlum).quote(DATA).quote) == DATA


def test_occlum_is_asked_for_a_size_of_32_bits(occlum) -> None:
    asked: list[tuple[int, int]] = []

    def ioctl(fd: int, request: int, argument: bytearray) -> object:
        asked.append((request & 0xFF, len(argument)))
        return occlum.ioctl(fd, request, argument)

    OcclumAttester(files=occlum, ioctl=ioctl).quote(DATA)
    assert asked == [(7, 4), (7, 4), (8, 24)]


def test_occlum_quote_of_one_byte_is_no_quote(occlum) -> None:
    occlum.size, occlum.told = 8000, 1
    with pytest.raises(AttesterError, match="not a quote"):
        occlum_attester(occlum).quote(DATA)


def test_occlums_device_is_opened_for_this_process_only_and_its_failure_says_its_number(occlum, monkeypatch) -> None:
    flags: list[int] = []
    monkeypatch.setattr(occlum, "opening", lambda path, given: flags.append(given))
    occlum_attester(occlum).quote(DATA)
    assert flags == [os.O_RDONLY | os.O_CLOEXEC] * 2
    for error, number in ((OSError(errno.ENOTTY, "no"), errno.ENOTTY), (OSError("a driver's own"), 0)):

        def fail(fd: int, request: int, argument: bytearray, error: OSError = error) -> None:
            raise error

        with pytest.raises(AttesterError, match="as Occlum does") as failed:
            OcclumAttester(files=occlum, ioctl=fail)
        assert failed.value.facts["errno"] == number


@pytest.mark.parametrize("size", [0, 32 * 1024 + 1, 2**31])
def test_occlum_telling_a_size_that_no_quote_has_is_refused(occlum, size) -> None:
    occlum.size = size
    with pytest.raises(AttesterError, match="size that no quote has"):
        occlum_attester(occlum)


@pytest.mark.parametrize("told", [0, 8001])
def test_occlum_telling_more_than_the_buffer_holds_is_refused(occlum, told) -> None:
    occlum.size, occlum.told = 8000, told
    with pytest.raises(AttesterError, match="cannot have"):
        occlum_attester(occlum).quote(DATA)


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL])
def test_device_that_is_not_occlums_is_refused(occlum, number) -> None:
    occlum.errors["ioctl 7 sgx"] = [number]
    with pytest.raises(AttesterError, match="as Occlum does"):
        occlum_attester(occlum)
    assert occlum.descriptors == 0


def test_occlum_quote_that_fails_is_reported(occlum) -> None:
    attester = occlum_attester(occlum)
    occlum.errors["ioctl 8 sgx"] = [errno.EIO]
    with pytest.raises(AttesterError, match="Input/output"):
        attester.quote(DATA)
    assert occlum.descriptors == 0


# --- configfs-tsm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 4096])
def test_kernel_report_is_taken_and_its_padding_cut(configfs, make_evidence, piece) -> None:
    configfs.piece = piece
    attester = configfs_attester(configfs)
    evidence = attester.quote(DATA)
    assert (attester.tee, attester.simulated) == (Tee.TDX, False)
    assert (evidence.tee, len(evidence.quote), td_data(evidence.quote)) == (Tee.TDX, len(make_evidence(Tee.TDX).quote), DATA)
    assert (configfs.entries, configfs.descriptors, configfs.made) == ({}, 0, 1)


@pytest.mark.parametrize("call", ["open outblob", "read outblob", "open generation"])
def test_report_entry_that_another_wrote_to_is_refused(configfs, call) -> None:
    attester = configfs_attester(configfs)
    intrude = lambda: configfs.other_process_writes(OTHER)  # noqa: E731
    if call == "open generation":
        # After the report was read: the second look at the generation, not the first.
        configfs.hooks["close outblob"] = lambda: configfs.hooks.update({call: intrude})
    else:
        configfs.hooks[call] = intrude
    with pytest.raises(AttesterError, match="another process"):
        attester.quote(DATA)
    assert configfs.entries == {}


def test_entry_may_begin_with_any_generation(configfs) -> None:
    attester = configfs_attester(configfs)
    configfs.hooks["open provider"] = lambda: [vars(entry).update(write_generation=7) for entry in configfs.entries.values()]
    assert td_data(attester.quote(DATA).quote) == DATA


def test_write_that_the_kernel_dropped_without_a_word_is_refused(configfs, monkeypatch) -> None:
    attester = configfs_attester(configfs)
    monkeypatch.setattr(configfs, "written", lambda path, data: None)
    configfs.hooks["open outblob"] = lambda: [vars(entry).update(inblob=bytes(OTHER)) for entry in configfs.entries.values()]
    with pytest.raises(AttesterError, match="did not take"):
        attester.quote(DATA)


def test_two_attesters_use_entries_of_their_own(configfs) -> None:
    first, second = configfs_attester(configfs), configfs_attester(configfs)
    between: list[bytes] = []
    configfs.hooks["open outblob"] = lambda: between.append(td_data(second.quote(OTHER).quote))
    assert td_data(first.quote(DATA).quote) == DATA
    assert between == [OTHER]


def test_report_entry_without_a_generation_is_refused(configfs) -> None:
    configfs.generation_text = "?"
    with pytest.raises(AttesterError, match="generation"):
        configfs_attester(configfs).quote(DATA)


def test_reports_of_another_provider_are_refused(configfs) -> None:
    attester = configfs_attester(configfs)
    configfs.provider = "sev_guest"
    with pytest.raises(AttesterError, match="exchanged"):
        attester.quote(DATA)
    configfs.provider = "arm_cca_guest"
    with pytest.raises(AttesterError, match="cannot be verified"):
        configfs_attester(configfs)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EWOULDBLOCK, errno.EINTR])
def test_firmware_that_is_busy_is_asked_again(configfs, number) -> None:
    configfs.errors["read outblob"] = [number] * 3
    assert configfs_attester(configfs).quote(DATA).tee is Tee.TDX
    configfs.errors["read outblob"] = [number] * 50
    with pytest.raises(AttesterError, match="busy"):
        configfs_attester(configfs).quote(DATA)
    assert (configfs.entries, configfs.descriptors) == ({}, 0)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENXIO, errno.EINVAL])
def test_firmware_that_fails_is_reported_at_once(configfs, number) -> None:
    configfs.errors["read outblob"] = [number]
    with pytest.raises(AttesterError, match="cannot read"):
        configfs_attester(configfs).quote(DATA)
    assert configfs.calls.count("open outblob") == 1


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EACCES, errno.ENXIO])
def test_entry_that_cannot_be_made_is_reported(configfs, number) -> None:
    attester = configfs_attester(configfs)
    configfs.errors["mkdir report"] = [number]
    with pytest.raises(AttesterError, match="report entry"):
        attester.quote(DATA)


def test_entry_that_cannot_be_removed_does_not_spoil_the_quote(configfs) -> None:
    attester = configfs_attester(configfs)
    configfs.errors["rmdir report"] = [errno.EBUSY]
    assert td_data(attester.quote(DATA).quote) == DATA


def test_kernel_refuses_what_real_ones_refuse(configfs) -> None:
    """The made-up kernel itself: its rules are those that the tests above rest on."""
    root, entry = configfs.root, configfs.root / "x"
    configfs.mkdir(entry)
    for call, number in (
        (lambda: configfs.mkdir(entry), errno.EEXIST),
        (lambda: configfs.mkdir(root / "a" / "b"), errno.ENOENT),
        (lambda: configfs.rmdir(root / "y"), errno.ENOENT),
        (lambda: configfs.open(entry / "inblob", 0), errno.EACCES),
        (lambda: configfs.open(entry / "outblob", 1), errno.EACCES),
        (lambda: configfs.open(entry / "auxblob", 0), errno.ENOENT),
        (lambda: configfs.read(configfs.open(entry / "outblob", 0), 10), errno.EINVAL),
        (lambda: configfs.write(configfs.open(entry / "inblob", 1), bytes(65)), errno.EFBIG),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == number
