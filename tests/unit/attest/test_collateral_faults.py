"""What is kept of collateral, and what is not: roll-backs, wrong signers, damaged files, full disks, races.  Both vendors."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.amd import NOW as AMD_NOW
from support.amd import Vendor
from support.simulated_evidence import NOW, all_up_to_date, pem, signed_tcb
from support.vendor_server import VendorServer

from confide.attest import collateral_sources
from confide.attest.collateral import Collateral
from confide.attest.collateral_service import CollateralService
from confide.attest.collateral_sources import AnyCollateral, CollateralStore
from confide.attest.insecure import Installation
from confide.attest.insecure.installation import raw_signature
from confide.attest.roots import TrustRoots
from confide.attest.vendor_http import Http
from confide.attest.vendor_services import AmdService, IntelService
from confide.errors import CollateralError
from confide.ids import Tee


@dataclass
class World:
    """One vendor whose keys are known here, its service, and what is kept of it."""

    server: VendorServer
    folder: Path
    roots: TrustRoots
    name: tuple[str, str, Tee]
    good: AnyCollateral
    changed: Callable[..., AnyCollateral]
    now: Any
    services: list[CollateralService] = field(default_factory=list)

    def serve(self, found: AnyCollateral) -> None:
        if isinstance(found, Collateral):
            self.server.serve_intel(found, "sgx")
        else:
            self.server.serve_amd(found)  # type: ignore[arg-type]

    def service(self, **changes: Any) -> CollateralService:
        http, now = Http(timeout_s=2, retries=0), changes.get("now", self.now)
        intel, amd = IntelService(http, self.server.url), AmdService(http, self.server.url)
        return CollateralService(CollateralStore(self.folder), self.roots, intel=intel, amd=amd, clock=lambda: now)

    def get(self, **changes: Any) -> AnyCollateral:
        return self.service(**changes).get(*self.name)

    @property
    def soon(self) -> dict[str, Any]:
        """When a new set is wanted and the kept one is still good."""
        return {"now": self.good.epoch.stale_from - timedelta(hours=1)}

    @property
    def file(self) -> Path:
        (found,) = self.folder.glob("*.json")
        return found


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("faults") / "tee", now=NOW)


def intel_changed(vendor: Installation) -> Callable[..., Collateral]:
    """The good set with other numbers or times, signed by the vendor (or whom ``signer`` names)."""
    good = vendor.collateral(Tee.SGX)
    signer, ca = vendor._signer("tcb-signer"), vendor._signer("platform-ca")

    def change(*, crl: int | None = None, until: Any = None, wrong_signer: bool = False, **tcb: Any) -> Collateral:
        found = good
        if tcb or until is not None:
            times = {} if until is None else {"nextUpdate": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
            found = signed_tcb(found, signer, found.tcb_info_issuer_chain, **tcb, **times)
        if crl is not None:
            issued = good.pck_revocations.last_update_utc
            found = dataclasses.replace(found, pck_crl=ca.revocation_list(crl, issued, issued + timedelta(days=40)))
        if wrong_signer:
            leaf = vendor._signer("root").issue("Intel SGX TCB Signing", NOW, ca_depth=0)
            other = leaf.issue("Intel SGX TCB Signing", NOW)
            found = signed_tcb(found, other, pem(other) + pem(leaf), tcbLevels=all_up_to_date(found))
        return found

    return change


def amd_changed(vendor: Vendor) -> Callable[..., AnyCollateral]:
    def change(*, crl: int = 4, until: Any = None, wrong_signer: bool = False, **_: Any) -> AnyCollateral:
        times = {} if until is None else {"until": until}
        signed = {"signed_by": f"SEV-{vendor.product}"} if wrong_signer else {}
        return vendor.collateral(crl=vendor.crl(number=crl, **times, **signed))

    return change


@pytest.fixture(params=["intel", "amd"])
def world(request: pytest.FixtureRequest, tmp_path: Path, installation: Installation) -> Iterator[World]:
    server, folder = VendorServer(), tmp_path / "kept"
    if request.param == "intel":
        changed = intel_changed(installation)
        made = World(server, folder, TrustRoots(intel=installation.root_der), changed().platform, changed(), changed, NOW)
    else:
        amd = Vendor("Genoa")
        other = amd_changed(amd)
        made = World(server, folder, TrustRoots(amd=amd.roots), ("Genoa", "vcek", Tee.SNP), other(), other, AMD_NOW)
    made.serve(made.good)
    yield made
    server.close()


def lower(world: World) -> AnyCollateral:
    """A validly signed, current set whose revocation list has a lower number."""
    return world.changed(crl=1)


def test_service_that_goes_back_changes_nothing_while_the_kept_set_is_good(world: World) -> None:
    kept = world.get()
    world.serve(lower(world))
    assert world.get(**world.soon).epoch == kept.epoch
    assert CollateralStore(world.folder).get(*world.name).epoch == kept.epoch


def test_every_number_that_goes_back_is_refused(world: World) -> None:
    """Signed by the vendor and valid today, with one smaller number than was seen: refused even where no set is kept any more."""
    world.get()
    lowered: list[dict[str, Any]] = [{"crl": 1}]
    if isinstance(world.good, Collateral):
        lowered.append({"tcbEvaluationDataNumber": world.good.epoch.tcb_eval - 1})
    for changes in lowered:
        world.file.unlink()
        world.serve(world.changed(**changes))
        with pytest.raises(CollateralError, match="older"):
            world.get()
        with pytest.raises(CollateralError, match="older"):
            CollateralStore(world.folder).put(world.changed(**changes))
        world.serve(world.good)
        world.get()


def test_mark_outlives_a_damaged_set(world: World) -> None:
    """The kept file is lost, and with it nothing: what is older than it was is still refused, what is not is kept again."""
    kept = world.get()
    for damage in (b"", b"{", b"\0" * 4096, json.dumps({"product": "Genoa"}).encode()):
        world.file.write_bytes(damage)
        world.serve(lower(world))
        with pytest.raises(CollateralError, match="older"):
            world.get()
        world.serve(world.good)
        assert world.get().epoch == kept.epoch
    world.file.unlink()
    world.serve(lower(world))
    with pytest.raises(CollateralError, match="older"):
        world.get()


def test_damaged_mark_is_no_mark_of_nothing(world: World) -> None:
    world.get()
    (mark,) = world.folder.glob("*.mark")
    for damage in (b"", b"{}", b'{"crl_number": "4"}', b"x" * 5000):
        mark.write_bytes(damage)
        with pytest.raises(CollateralError, match="not known any more"):
            CollateralStore(world.folder).put(world.good)
        assert world.get(**world.soon).epoch == world.good.epoch, "the kept set is good as long as it is valid"


def test_stale_and_wrongly_signed_answers_are_not_kept(world: World) -> None:
    for wrong in (world.changed(until=world.now - timedelta(days=1)), world.changed(wrong_signer=True)):
        world.serve(wrong)
        with pytest.raises(CollateralError):
            world.get()
    assert list(world.folder.glob("*.json")) == []
    world.serve(world.good)
    world.get()


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collateral_sources, "write_atomic", refuse)


def test_full_disk_is_said_in_words_and_the_kept_set_serves_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        full(patched)
        with pytest.raises(CollateralError, match="cannot be kept: No space left"):
            world.get()
    kept = world.get()
    full(monkeypatch)
    assert world.get(**world.soon).epoch == kept.epoch
    with pytest.raises(CollateralError):
        world.get(now=world.good.epoch.stale_from)


def test_folder_that_cannot_be_written_to_serves_what_it_has(world: World, tmp_path: Path) -> None:
    """Where the folder should be is a file: no user, root neither, can make a folder of it."""
    world.get()
    world.folder.rename(tmp_path / "aside")
    world.folder.write_bytes(b"")
    with pytest.raises(CollateralError, match="cannot be kept"):
        world.get()
    world.folder.unlink()
    (tmp_path / "aside").rename(world.folder)
    (lock,) = world.folder.glob("*.lock")
    lock.unlink()
    lock.mkdir()
    assert world.get(**world.soon).epoch == world.good.epoch


RACER = """
import sys
from datetime import datetime
from pathlib import Path
from confide.attest.collateral_service import CollateralService
from confide.attest.collateral_sources import CollateralStore
from confide.attest.roots import TrustRoots
from confide.attest.vendor_http import Http
from confide.attest.vendor_services import AmdService, IntelService
from confide.ids import Tee
url, folder, now, platform, ca, tee, intel, amd = sys.argv[1:]
roots = TrustRoots(**({"intel": bytes.fromhex(intel)} if intel else {}), **({"amd": {amd: platform}} if amd else {}))
http = Http(timeout_s=10, retries=0)
clock = datetime.fromisoformat(now)
intel, amd = IntelService(http, url), AmdService(http, url)
service = CollateralService(CollateralStore(Path(folder)), roots, intel=intel, amd=amd, clock=lambda: clock)
print(service.get(platform, ca, Tee(tee)).digest)
"""


def test_processes_that_race_fetch_once_and_see_one_set(world: World, tmp_path: Path) -> None:
    program = tmp_path / "racer.py"
    program.write_text(RACER)
    platform, ca, tee = world.name
    intel = world.roots.intel.hex() if tee is not Tee.SNP else ""
    amd = next(iter(world.roots.amd)) if tee is Tee.SNP else ""
    given = [world.server.url, str(world.folder), world.now.isoformat(), platform, ca, tee.value, intel, amd]
    racers = [subprocess.Popen([sys.executable, str(program), *given], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    digests = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert digests == {CollateralStore(world.folder).get(*world.name).digest}
    assert set(world.server.asked.values()) == {1}


def test_lock_of_a_process_that_was_killed_holds_nobody_up(world: World, tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from confide.ids import Tee\n"
        "from confide.attest.collateral_sources import CollateralStore\n"
        "with CollateralStore(Path(sys.argv[1])).locked(sys.argv[2], sys.argv[3], Tee(sys.argv[4])):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    (tmp_path / "holder.py").write_text(holder)
    names = [world.name[0], world.name[1], world.name[2].value]
    process = subprocess.Popen([sys.executable, str(tmp_path / "holder.py"), str(world.folder), *names], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    assert world.get().epoch == world.good.epoch


def test_set_that_is_put_while_another_is_put_is_held_against_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the mark and writing the set nobody else writes: an older set cannot slip in behind a newer one."""
    store, inside = CollateralStore(world.folder), []
    before = CollateralStore.put_within_lock

    def watched(self: CollateralStore, collateral: AnyCollateral) -> None:
        inside.append(len(inside))
        assert _is_locked(world)
        before(self, collateral)

    monkeypatch.setattr(CollateralStore, "put_within_lock", watched)
    store.put(world.good)
    world.serve(world.good)
    world.file.unlink()
    world.get()
    assert len(inside) == 2


def _is_locked(world: World) -> bool:
    import fcntl

    (lock,) = world.folder.glob("*.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_signature_of_the_one_that_signs_everything_else_is_needed(world: World, installation: Installation) -> None:
    """Each part has its own signer: a TCB info that a platform's CA signed is none."""
    if not isinstance(world.good, Collateral):
        return  # AMD's sets have one signed part
    ca = installation._signer("platform-ca")
    signature = raw_signature(ca.key, world.good.tcb_info.encode())
    world.serve(dataclasses.replace(world.good, tcb_info_signature=signature, tcb_info_issuer_chain=world.good.pck_crl_issuer_chain))
    with pytest.raises(CollateralError, match="CA certificate"):
        world.get()
