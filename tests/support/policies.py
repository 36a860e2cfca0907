"""Strategies of policies: of each kind of TEE, and composed."""

from __future__ import annotations

from datetime import date
from typing import Any

from hypothesis import strategies as st

from confide.attest.policy import Policy
from confide.ids import JobDigest

names = st.from_regex(r"[a-z0-9](?:[a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True)
days = st.dates(date(2020, 1, 1), date(2099, 12, 31)).map(date.isoformat)


def hexes(size: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.binary(min_size=size, max_size=size).filter(any).map(bytes.hex), min_size=1, max_size=3)


dated = st.builds(lambda number, day: {"id": f"INTEL-SA-{number:05}", "until": day}, st.integers(0, 99999), days)
lasting = st.integers(0, 99999).map(lambda number: f"INTEL-SA-{number:05}")
advisories = st.lists(st.one_of(dated, lasting), unique_by=lambda one: one["id"] if isinstance(one, dict) else one, max_size=2)
signer = st.fixed_dictionaries(
    {"mrsigner": hexes(32).map(lambda found: found[0]), "isv_prod_id": st.integers(0, 0xFFFF), "min_isv_svn": st.integers(0, 0xFFFF)}
)
svns = st.integers(0, 255)
least = st.fixed_dictionaries(dict.fromkeys(("bootloader", "tee", "snp", "microcode"), svns))
common: dict[str, st.SearchStrategy[Any]] = {
    "min_tcb_eval": st.integers(1, 2**32 - 1),
    "min_tcb_date": days,
    "max_collateral_age_days": st.integers(1, 3650),
    "max_evidence_age_s": st.integers(1, 10**6),
    "advisories_allowed": advisories,
    "jobs": st.lists(st.binary(min_size=48, max_size=48).map(lambda raw: JobDigest(raw.hex())), max_size=2),
    "roles": st.lists(st.sampled_from(["driver", "worker", "broker"]), min_size=1, max_size=3),
    "allow": st.lists(st.sampled_from(["simulated", "debug", "tdx-migratable", "snp-no-revocation-list"]), max_size=4),
    "statuses": st.lists(st.sampled_from(["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded"]), min_size=1, max_size=3),
}
registers = st.fixed_dictionaries({"rtmr1": hexes(48), "rtmr2": hexes(48)}, optional={"rtmr0": hexes(48), "mr_owner": hexes(48)})
sgx = st.fixed_dictionaries(
    {"name": names, "measurements": st.fixed_dictionaries({"sgx": hexes(32)})},
    optional={**common, "signers": st.fixed_dictionaries({"sgx": st.lists(signer, min_size=1, max_size=2)})},
)
td = {"name": names, "measurements": st.fixed_dictionaries({"tdx": hexes(48)}), "registers": registers}
tdx = st.fixed_dictionaries(td, optional=common)
snp = st.fixed_dictionaries(
    {
        "name": names,
        "measurements": st.fixed_dictionaries({"snp": hexes(48)}),
        "min_tcb": st.dictionaries(st.sampled_from(["Milan", "Genoa"]), least, min_size=1),
    },
    optional={**common, "vmpls": st.lists(st.integers(0, 3), min_size=1), "platforms": st.fixed_dictionaries({"chip_id": hexes(48)})},
)
rules = st.one_of(sgx, tdx, snp)
unique = {"min_size": 1, "max_size": 3, "unique_by": lambda member: member["name"]}
any_of = st.builds(lambda name, members: {"name": name, "any_of": members}, names, st.lists(rules, **unique))
all_of = st.builds(lambda name, members: {"name": name, "all_of": members}, names, st.lists(sgx, **unique))
policies = st.one_of(rules, any_of, all_of).map(Policy.from_json)
