"""What changed from one policy to another, and in which direction: laxer accepts nodes that were refused, stricter the other way round.

Pure.  Fields are compared one by one; that two changes together come to nothing is not noticed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from confide.attest.policy_tree import AllOf, AnyOf, Rules
from confide.attest.policy_values import tee_of_register
from confide.canonical import sha256_hex
from confide.ids import Tee

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from confide.attest.policy_tree import Policy
    from confide.canonical import Json

Direction = Literal["laxer", "stricter", "changed"]


@dataclass(frozen=True, slots=True)
class Change:
    """One field that says something else.  ``changed`` is of a name, which decides nothing, or of a shape that is not comparable."""

    field: str
    direction: Direction
    old: str
    new: str

    def to_json(self) -> Json:
        """The change as JSON."""
        return asdict(self)


def diff(old: Policy, new: Policy) -> tuple[Change, ...]:
    """Each field that got laxer or stricter from ``old`` to ``new``, members of compositions under their names."""
    return tuple(_diff(old, new, ""))


def _diff(old: Policy, new: Policy, path: str) -> Iterator[Change]:
    if old.name != new.name:  # of the whole: members are paired by their names
        yield Change("name", "changed", old.name, new.name)
    match old, new:
        case Rules(), Rules():
            yield from _rules(old, new, path)
        case (AllOf(), AllOf()) | (AnyOf(), AnyOf()):
            yield from _members(old, new, path)
        case _:
            yield Change(f"{path}composition", "changed", _shape(old), _shape(new))


def _members(old: Policy, new: Policy, path: str) -> Iterator[Change]:
    before, after = ({member.name: member for member in policy.members} for policy in (old, new))
    more: Direction = "laxer" if isinstance(old, AnyOf) else "stricter"
    fewer: Direction = "stricter" if more == "laxer" else "laxer"
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield Change(f"{path}{name}", more, "not there", _shape(after[name]))
        elif name not in after:
            yield Change(f"{path}{name}", fewer, _shape(before[name]), "not there")
        else:
            yield from _diff(before[name], after[name], f"{path}{name}/")


def _rules(old: Rules, new: Rules, path: str) -> Iterator[Change]:
    shared = set(old.tees) & set(new.tees)  # what is asked of a kind of TEE that only one accepts says nothing of the other
    before, after = _lists(old, shared), _lists(new, shared)
    for field in sorted(before.keys() | after.keys()):
        yield from _list_change(f"{path}{field}", before.get(field), after.get(field))
    for bounds, higher_is_stricter in ((_floors, True), (_ceilings, False)):
        least, now = bounds(old), bounds(new)
        for field in sorted(least.keys() & now.keys()):
            yield from _bound_change(f"{path}{field}", least[field], now[field], higher_is_stricter=higher_is_stricter)
    if old.job_init_data != new.job_init_data:
        asked = bool(old.job_init_data), bool(new.job_init_data)
        direction: Direction = "changed" if all(asked) else "stricter" if asked[1] else "laxer"
        yield Change(f"{path}job_init_data", direction, _entries(old.job_init_data), _entries(new.job_init_data))


def _entries(more: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {sha256_hex(text.encode())[:16]}" for name, text in sorted(more.items())) or "not asked"


def _lists(rules: Rules, shared: set[Tee]) -> dict[str, Any]:
    """Fields where more entries accept more.  Of those that ask nothing when they are not there, only those that are there."""
    plain = ("tees", "statuses", "roles", "allow", "vmpls", "token_issuers")
    found: dict[str, Any] = {name: set(map(str, getattr(rules, name))) for name in plain}
    found["advisories_allowed"] = {advisory.id for advisory in rules.advisories_allowed}
    found["min_tcb products"] = set(rules.min_tcb)
    platforms = rules.platforms
    optional: dict[str, Any] = {"jobs": rules.jobs}
    optional |= {f"measurements.{tee}": values for tee, values in rules.measurements.items() if tee in shared}
    optional |= {f"signers.{tee}": tuple(map(repr, rules.signers.of(tee))) for tee in shared}
    optional |= {f"registers.{name}": values for name, values in rules.registers.items() if tee_of_register(name) in shared}
    optional |= {f"init_data.{tee}": values for tee, values in rules.init_data.items() if tee in shared}
    if shared & {Tee.SGX, Tee.TDX}:
        optional |= {"platforms.fmspc": platforms.fmspc, "platforms.ppid": platforms.ppid, "platforms.piid": platforms.piid}
    if Tee.SNP in shared:
        optional["platforms.chip_id"] = platforms.chip_id
    if Tee.TPM in shared:
        optional["platforms.tpm_key"] = platforms.tpm_key
    return found | {name: set(values) for name, values in optional.items() if values}


def _floors(rules: Rules) -> dict[str, Any]:
    """Fields where a larger value accepts less, and none accepts all."""
    parts = {f"min_tcb.{product}.{name}": least for product, minimum in rules.min_tcb.items() for name, least in minimum.items()}
    return {"min_tcb_eval": rules.min_tcb_eval, "min_tcb_date": rules.min_tcb_date, **parts}


def _ceilings(rules: Rules) -> dict[str, Any]:
    """Fields where a larger value accepts more, and none accepts all."""
    ends = {f"statuses_until.{status}": rules.statuses_until.get(status) for status in rules.statuses}
    ends |= {f"advisories_allowed.{advisory.id}.until": advisory.until for advisory in rules.advisories_allowed}
    return {"max_collateral_age_days": rules.max_collateral_age_days, "max_evidence_age_s": rules.max_evidence_age_s, **ends}


def _list_change(field: str, old: set[str] | None, new: set[str] | None) -> Iterator[Change]:
    if old == new:
        return
    if old is None or new is None:  # a list that is not there asks nothing
        yield Change(field, "stricter" if old is None else "laxer", _show(old), _show(new))
        return
    if new - old:
        yield Change(field, "laxer", _show(old), _show(new))
    if old - new:
        yield Change(field, "stricter", _show(old), _show(new))


def _bound_change(field: str, old: Any, new: Any, *, higher_is_stricter: bool) -> Iterator[Change]:
    if old != new:
        # A bound that is not there asks nothing.
        laxer = new is None if old is None or new is None else (new < old) is higher_is_stricter
        yield Change(field, "laxer" if laxer else "stricter", _show(old), _show(new))


def _shape(policy: Policy) -> str:
    return "rules" if isinstance(policy, Rules) else "any_of" if isinstance(policy, AnyOf) else "all_of"


def _show(value: Any) -> str:
    if value is None:
        return "not asked"
    return ", ".join(sorted(value)) or "none" if isinstance(value, set) else str(value)
