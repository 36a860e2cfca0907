"""``confide attest tpm``: a machine's key from its TPM to an accepted quote, each side by its own commands, with a real software TPM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.tpm import Owner, Swtpm, log_of

from confide.attest.tpm_exchange import CHALLENGE_TTL, OpenChallenges
from confide.attest.tpm_trust import TpmTrust
from confide.config import Settings
from confide.crypto.sign import SigningKey

HANDLE = "0x81010002"
EVENTS = ((0, b"firmware"), (4, b"boot loader"))


@dataclass
class Site:
    """A machine with a TPM, its home folder, and the owner's."""

    tpm: Swtpm
    machine: Path
    owner: Path
    confide: Callable[..., Any]

    def at_machine(self, *words: str | Path) -> Any:
        return self.confide("--home", self.machine, "attest", *words)

    def at_owner(self, *words: str | Path) -> Any:
        return self.confide("--home", self.owner, "attest", *words)

    def file(self, name: str) -> Path:
        return self.machine.parent / name

    def answered(self, name: str = "one") -> Path:
        """The answer of the machine to a challenge of the owner."""
        request, challenge, answer = (self.file(f"{name}.{part}.json") for part in ("request", "challenge", "answer"))
        assert self.at_machine("tpm", "request", "node-7", "--chain", self.file("ca.pem"), "--out", request).status == 0
        said = self.at_owner("tpm", "challenge", request, "--out", challenge)
        assert said.status == 0, said.err
        assert self.at_machine("tpm", "answer", challenge, "--out", answer).status == 0
        return answer

    def trust_manufacturer(self) -> None:
        said = self.at_owner("tpm", "trust", self.tpm.path("ca") / "swtpm-localca-rootca-cert.pem", "--for", "manufacturer")
        assert said.status == 0, said.err

    def enrol(self) -> str:
        self.trust_manufacturer()
        said = self.at_owner("tpm", "enrol", self.answered(), "--json")
        assert said.status == 0, said.err
        return str(said.json["name"])

    def evidence(self, name: str = "evidence.json", *words: str) -> Path:
        target = self.file(name)
        said = self.at_machine("collect", "--out", target, *words)
        assert said.status == 0, said.err
        self.tpm.flush()
        return target


@pytest.fixture(scope="module")
def tpm(tmp_path_factory) -> Iterator[Swtpm]:
    tpm = Swtpm(tmp_path_factory.mktemp("tpm"))
    try:
        tpm.start(*EVENTS)
        yield tpm
    finally:
        tpm.stop()


@pytest.fixture
def site(tpm: Swtpm, tmp_path: Path, confide: Callable[..., Any]) -> Site:
    machine, owner = tmp_path / "machine", tmp_path / "owner"
    machine.mkdir()
    settings = {"tpm_key": HANDLE, "tpm_tcti": tpm.tcti, "tpm_log": str(tpm.path("log")), "tpm_pcrs": "0,4,7"}
    (machine / "config.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    names = ("issuercert", "swtpm-localca-rootca-cert")
    (tmp_path / "ca.pem").write_bytes(b"".join((tpm.path("ca") / f"{name}.pem").read_bytes() for name in names))
    site = Site(tpm, machine, owner, confide)
    if HANDLE.encode() not in tpm.tool("tpm2_getcap", "handles-persistent"):
        made = site.at_machine("tpm", "request", "node-7", "--make", "--chain", tmp_path / "ca.pem", "--out", tmp_path / "made.json")
        assert made.status == 0, made.err
    return site


def test_enrolled_keys_quote_is_verified_and_a_policy_written_from_it_accepts_it(site: Site) -> None:
    name = site.enrol()
    evidence, policy = site.evidence(), site.file("policy.toml")
    refused = site.confide("--home", site.file("stranger"), "attest", "verify", evidence)
    assert (refused.status, "no root that is trusted" in refused.err) == (3, True)
    said = site.at_owner("verify", evidence, "--json")
    assert said.status == 0, said.err
    assert said.json["claims"]["vendor"]["key_name"] == name
    assert said.json["verifiers"] == ["confide"]
    assert "protects no memory" in site.at_owner("verify", evidence).out
    made = site.at_owner("policy", "new", evidence, "--out", policy)
    assert (made.status, "whoever operates" in made.err, "simulated" in made.err) == (0, True, False)
    assert site.at_owner("policy", "check", policy, evidence).status == 0
    site.tpm.extend(7, hashlib.sha256(b"another key database").digest())
    site.tpm.path("log").write_bytes(log_of(*EVENTS, (7, b"another key database")))
    changed = site.at_owner("policy", "check", policy, site.evidence("changed.json"))
    assert (changed.status, "REFUSED" in changed.out) == (3, True)


def test_policy_of_unverified_tpm_evidence_is_the_same_as_of_verified(site: Site) -> None:
    site.enrol()
    evidence = site.evidence()
    said = site.confide("--home", site.file("stranger"), "attest", "policy", "new", evidence, "--unverified", "--json")
    assert said.json["policy"] == site.at_owner("policy", "new", evidence, "--json").json["policy"]


def test_revoked_key_is_refused_for_good(site: Site) -> None:
    name = site.enrol()
    evidence = site.evidence()
    assert site.at_owner("verify", evidence).status == 0
    waiting = site.answered("again")
    assert site.at_owner("tpm", "revoke", "node-7", "--json").json == {"revoked": [name]}
    refused = site.at_owner("verify", evidence)
    assert (refused.status, "revoked" in refused.err) == (3, True)
    assert "revoked" in site.at_owner("tpm", "list").out
    assert "revoked" in site.at_owner("tpm", "enrol", waiting).err
    assert "revoked" in site.at_owner("tpm", "challenge", site.file("one.request.json"), "--out", site.file("more.json")).err
    assert "not the name" in site.at_owner("tpm", "revoke", "node-8").err


def test_owner_is_warned_of_another_key_of_a_tpm_whose_key_was_revoked(site: Site) -> None:
    site.enrol()
    site.at_owner("tpm", "revoke", "node-7")
    site.tpm.make_ek()
    site.tpm.make_ak("second")
    request = site.file("second.request.json")
    key = site.tpm.path("second.ctx")
    assert site.at_machine("tpm", "request", "node-7", "--key", key, "--chain", site.file("ca.pem"), "--out", request).status == 0
    site.tpm.flush()
    said = site.at_owner("tpm", "challenge", request, "--out", site.file("second.challenge.json"))
    assert (said.status, "another key of this TPM was revoked" in said.err) == (0, True)


@pytest.mark.parametrize("simulate", [False, True], ids=["real", "simulated"])
def test_running_verifier_notices_a_revocation(site: Site, *, simulate: bool) -> None:
    from confide.cli.broker import _verifier
    from confide.cli.evidence import load
    from confide.errors import EvidenceInvalidError

    name = site.enrol()
    verifier = _verifier(Settings.load(home=site.owner), simulate=simulate)
    evidence, later = load(site.evidence(), _judging()), datetime.now(UTC)
    assert verifier.verify(evidence, later).claims.vendor["key_name"] == name
    site.at_owner("tpm", "revoke", name)
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        verifier.verify(evidence, later)


def _judging() -> Any:
    from confide.cli.evidence import Judging

    return Judging((), None, None, offline=True)


def test_nothing_is_challenged_before_a_manufacturer_is_trusted(site: Site) -> None:
    request = site.file("request.json")
    site.at_machine("tpm", "request", "node-7", "--chain", site.file("ca.pem"), "--out", request)
    said = site.at_owner("tpm", "challenge", request, "--out", site.file("challenge.json"))
    assert (said.status, "no root that is trusted" in said.err) == (3, True)
    site.trust_manufacturer()
    root = site.at_owner("tpm", "list", "--json").json["manufacturers"][0]
    assert site.at_owner("tpm", "distrust", root).status == 0
    assert site.at_owner("tpm", "list", "--json").json["manufacturers"] == []
    assert "no such root" in site.at_owner("tpm", "distrust", root).err
    assert "no root certificate" in site.at_owner("tpm", "trust", site.tpm.path("ca") / "issuercert.pem", "--for", "issuer").err


def test_answer_counts_once_and_for_a_week(site: Site) -> None:
    site.trust_manufacturer()
    answer = site.answered()
    assert site.at_owner("tpm", "enrol", answer).status == 0
    assert "no open challenge" in site.at_owner("tpm", "enrol", answer).err
    late = json.loads(site.answered("late").read_text())["id"]
    from confide.errors import NonceError

    with pytest.raises(NonceError, match="too long"):
        OpenChallenges(Settings.load(home=site.owner).tpm_dir / "open").take(late, datetime.now(UTC) + CHALLENGE_TTL)


def test_wrong_answer_enrols_nothing_and_ends_the_challenge(site: Site) -> None:
    site.trust_manufacturer()
    good = json.loads(site.answered().read_text())
    bad = site.file("bad.json")
    bad.write_text(json.dumps({**good, "secret": "A" * 43}))
    said = site.at_owner("tpm", "enrol", bad)
    assert (said.status, "not in the TPM" in said.err) == (3, True)
    assert not TpmTrust.load(Settings.load(home=site.owner).tpm_dir).keys
    assert "no open challenge" in site.at_owner("tpm", "enrol", site.file("one.answer.json")).err


def test_certificate_instead_of_a_record_is_for_verifiers_that_trust_its_issuer(site: Site) -> None:
    ca = Owner(datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5))
    root, key, chain = site.file("root.pem"), site.file("root.key.pem"), site.file("ak.pem")
    root.write_bytes(ca.root.public_bytes(Encoding.PEM))
    SigningKey(ca.key).save_private(key)
    site.trust_manufacturer()
    assert "a certificate needs" in site.at_owner("tpm", "enrol", site.file("ca.pem"), "--issuer", root).err
    words = ("--issuer", root, "--issuer-key", key, "--out", chain)
    answer = site.answered()
    assert "90 days" in site.at_owner("tpm", "enrol", answer, *words, "--days", "91").err
    assert "exists" in site.at_owner("tpm", "enrol", answer, *words[:-1], root).err
    other = site.file("other.key.pem")
    SigningKey.generate().save_private(other)
    assert "not the key of" in site.at_owner("tpm", "enrol", answer, *words[:3], other, *words[4:]).err
    said = site.at_owner("tpm", "enrol", answer, *words)
    assert said.status == 0, said.err
    with (site.machine / "config.toml").open("a") as file:
        file.write(f"tpm_chain_file = {json.dumps(str(chain))}\n")
    evidence = site.evidence()
    assert site.at_owner("verify", evidence).status == 3
    assert site.at_owner("tpm", "trust", root, "--for", "issuer").status == 0
    assert site.at_owner("verify", evidence).status == 0
    shown = site.at_owner("show", evidence, "--json").json["fields"]
    assert any(field["name"] == "certificate 1 subject" and field["value"].startswith("TPM AK 000b") for field in shown)


def test_revoked_key_gets_no_certificate(site: Site) -> None:
    ca = Owner(datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5))
    root, key, chain = site.file("root.pem"), site.file("root.key.pem"), site.file("ak.pem")
    root.write_bytes(ca.root.public_bytes(Encoding.PEM))
    SigningKey(ca.key).save_private(key)
    name, waiting = site.enrol(), site.answered("again")
    site.at_owner("tpm", "revoke", name)
    said = site.at_owner("tpm", "enrol", waiting, "--issuer", root, "--issuer-key", key, "--out", chain)
    assert (said.status, "revoked" in said.err, chain.exists()) == (3, True, False)


def test_show_explains_each_part_of_the_evidence(site: Site) -> None:
    fields = {field["name"]: field for field in site.at_owner("show", site.evidence(), "--json").json["fields"]}
    raw = json.loads(site.file("evidence.json").read_text())
    assert fields["report data"]["offset"] == 15
    assert fields["extraData"]["meaning"] == "the digest of the report data"
    assert fields["pcrDigest"]["meaning"] == "over the values that came with it"
    assert "restricted" in fields["attestation key attributes"]["meaning"]
    assert fields["PCR0 quoted"]["meaning"] == "what the log leads to"
    assert fields["PCR0"]["value"] == fields["PCR0 quoted"]["value"]
    assert fields["PCR4 EV_IPL"]["meaning"] == "boot loader"
    assert raw["tee"] == "tpm"
    said = site.at_owner("show", site.file("evidence.json"))
    assert said.out.startswith("TPM 2.0 evidence; nothing is verified here\n")


def test_offsets_are_of_the_container(site: Site) -> None:
    from confide.canonical import from_b64url

    shown = site.at_owner("show", site.evidence(), "--json").json["fields"]
    raw = from_b64url(json.loads(site.file("evidence.json").read_text())["quote"])
    for field in shown:
        if field["offset"] is not None and field["name"] != "event log size" and " EV_" not in field["name"]:
            value = bytes.fromhex(field["value"])
            assert raw[field["offset"] : field["offset"] + len(value)] == value, field["name"]


def test_key_that_is_not_named_and_a_setting_that_is_none_are_told(site: Site) -> None:
    said = site.confide("--home", site.file("bare"), "attest", "tpm", "request", "node-7", "--out", site.file("x.json"))
    assert (said.status, "which key?" in said.err) == (2, True)
    said = site.at_machine("tpm", "answer", site.file("ca.pem"), "--out", site.file("x.json"))
    assert (said.status, "not JSON" in said.err) == (5, True)
    none = site.confide("--home", site.file("bare"), "attest", "collect", "--out", site.file("none.json"))
    assert (none.status, "does not run in a TEE" in none.err) == (6, True)
    (site.machine / "config.toml").write_text('tpm_key = "0x81010002"\ntpm_pcrs = "0-7"\n')
    bad = site.at_machine("collect", "--out", site.file("none.json"))
    assert (bad.status, "tpm_pcrs" in bad.err) == (2, True)
    assert "not hex" in site.at_machine("collect", "--report-data", "zz", "--out", site.file("none.json")).err


def test_doctor_says_that_a_tpm_is_taken_only_if_configured(site: Site) -> None:
    def finding(home: Path, name: str) -> Any:
        return next(one for one in site.confide("--home", home, "doctor", "--json").json["checks"] if one["check"] == name)

    bare = finding(site.file("bare"), "tpm as a source")
    assert (bare["ok"], "not configured" in bare["found"]) == (False, True)
    told = finding(site.machine, "tpm as a source")
    assert (told["ok"], "protects no memory" in told["found"]) == (True, True)
    assert finding(site.machine, "real evidence")["found"] == "from the TPM"
    (site.machine / "config.toml").write_text('tpm_key = "0x81010002"\n')
    without = finding(site.machine, "tpm as a source")
    assert without["ok"] is Path("/dev/tpmrm0").exists()
