"""Does a policy ask enough?  What can be built, and should not be relied on.  Pure; knows nothing of evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

from confide.attest.policy_tree import AllOf, Rules
from confide.attest.policy_values import OLD_STATUSES
from confide.ids import Role, Tee

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import date

    from confide.attest.policy_tree import Policy
    from confide.canonical import Json

Severity = Literal["error", "warning"]
_PROTECTS_NOTHING: Final = frozenset({"simulated", "debug"})
_WEAKENS: Final = {
    "tdx-no-sept-ve-disable": "the host can interrupt the TD wherever it takes away a page",
    "tdx-migratable": "a service TD that is measured nowhere may take the TD to another machine",
    "tdx-service-td": "a service TD that is measured nowhere may take the TD to another machine",
    "snp-migration-agent": "an agent may take a guest's keys to another machine",
    "snp-no-revocation-list": "a revoked AMD key would not be noticed",
    "tpm-no-memory-protection": "the machine's operator can read and change what runs",
}


_RESETTABLE: Final = {"pcr16", "pcr23"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a policy asks too little of.

    ``subject`` is the kind of TEE, status or switch that it is about; ``policy`` is the path of names to the policy within a composition.
    An ``error`` means that the policy should not decide about real data.
    """

    code: str
    severity: Severity
    subject: str
    message: str
    hint: str
    policy: str

    def to_json(self) -> Json:
        """The finding as JSON."""
        return asdict(self)


def lint(policy: Policy, today: date) -> tuple[Finding, ...]:
    """Everything that ``policy`` asks too little of as of ``today``, errors first.

    A node must meet every member of an ``all_of``: there, what one member does not ask counts only if no other asks it.  A policy that
    accepts any software in a TD is not told in addition that it accepts any configuration.
    """
    found = _lint(policy, policy.name, today)
    open_to_all = {finding.policy for finding in found if finding.code == "td-software-unpinned"}
    told = (finding for finding in found if finding.code != "td-configuration-unpinned" or finding.policy not in open_to_all)
    return tuple(sorted(told, key=lambda finding: (finding.severity, finding.policy, finding.code, finding.subject)))


def refusing(policy: Policy, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The errors among ``findings`` that ``policy`` does not answer for itself.

    A policy that names ``simulated`` or ``debug`` in ``allow`` says of itself that it protects nothing: what else it asks too little of is
    no news.
    """
    answered = {path for path, rules in _leaves(policy, policy.name) if _PROTECTS_NOTHING & set(rules.allow)}
    return tuple(finding for finding in findings if finding.severity == "error" and finding.policy not in answered)


def _leaves(policy: Policy, path: str) -> Iterator[tuple[str, Rules]]:
    if isinstance(policy, Rules):
        yield path, policy
    for member in policy.members:
        yield from _leaves(member, f"{path}/{member.name}")


def _lint(policy: Policy, path: str, today: date) -> list[Finding]:
    if isinstance(policy, Rules):
        return [finding for check in _CHECKS for finding in check(policy, path, today)]
    members = [_lint(member, f"{path}/{member.name}", today) for member in policy.members]
    found = [finding for member in members for finding in member]
    if not isinstance(policy, AllOf):
        return found
    asked_by_none = set.intersection(*(set(map(_gap, member)) for member in members))
    return [finding for finding in found if finding.code == "grace-expired" or _gap(finding) in asked_by_none]


def _gap(finding: Finding) -> tuple[str, str]:
    """What is not asked: who names no role and who names every role leave open the same."""
    return "role" if finding.code in {"role-missing", "role-unrestricted"} else finding.code, finding.subject


def _software(rules: Rules, path: str, today: date) -> Iterator[Finding]:
    del today
    for tee in sorted(rules.signers.tees - set(rules.measurements)):
        yield Finding(
            "signer-only",
            "error",
            tee,
            f"{tee} is pinned by its signer alone: whoever holds that key can run anything",
            "pin measurements as well, or combine with a policy that does by all_of",
            path,
        )
    if Tee.TDX in rules.tees and not {"rtmr1", "rtmr2"} <= set(rules.registers):
        yield Finding(
            "td-software-unpinned",
            "error",
            "tdx",
            "MRTD covers a TD's firmware only: any kernel and program would be accepted",
            "pin registers rtmr1 and rtmr2",
            path,
        )
    if Tee.TDX in rules.tees and "rtmr0" not in rules.registers:
        yield Finding(
            "td-configuration-unpinned",
            "warning",
            "tdx",
            "RTMR0 is not pinned: the host chooses the TD's firmware configuration",
            "pin register rtmr0",
            path,
        )


def _told(rules: Rules, path: str, today: date) -> Iterator[Finding]:
    """What a Kata guest runs is not in its measurement: its host says it, within what init-data lets it.

    Where simulated guests are accepted that is no news: the finding that they are says that they protect nothing.
    """
    del today
    if "simulated" in rules.allow:
        return
    for tee in sorted({Tee.TDX, Tee.SNP} & set(rules.tees) - set(rules.init_data)):
        if not rules.job_init_data:
            yield Finding(
                "init-data-unpinned",
                "warning",
                tee,
                "whatever the host told the guest is accepted: if it is a Kata guest, so is any container that the host started in it",
                "set job_init_data or init_data (see confide job init-data), unless these guests run nothing that their host names",
                path,
            )


def _resettable(rules: Rules, path: str, today: date) -> Iterator[Finding]:
    """TCG PC Client Platform TPM Profile, "PCR Attributes": PCRs 16 and 23 are reset from any locality."""
    del today
    if Tee.TPM in rules.tees and set(rules.registers) <= _RESETTABLE:
        yield Finding(
            "pcrs-resettable",
            "error",
            "tpm",
            "any process that may use the TPM can reset PCRs 16 and 23 and extend them as it likes",
            "pin others, for instance pcr4 and pcr7",
            path,
        )


def _minimum_tcb(rules: Rules, path: str, today: date) -> Iterator[Finding]:
    del today
    for tee in sorted({Tee.SGX, Tee.TDX} & set(rules.tees)):
        if rules.min_tcb_eval is None and rules.min_tcb_date is None:
            yield Finding(
                "no-minimum-tcb",
                "error",
                tee,
                f"{tee} has no minimum TCB: a rating by old collateral counts as much as one by new",
                "set min_tcb_date, or min_tcb_eval",
                path,
            )
    for product, parts in rules.min_tcb.items():
        if not any(parts.values()):
            yield Finding("no-minimum-tcb", "error", product, f"every version of {product}'s firmware is accepted", "raise min_tcb", path)
    old = sorted(OLD_STATUSES & set(rules.statuses))
    for status in old:
        if status not in rules.statuses_until:
            yield Finding(
                "out-of-date-for-good", "error", status, f"{status} is accepted for good", "give it a last day in statuses_until", path
            )
    if old and rules.min_tcb_date is None:
        yield Finding(
            "platform-age-unbounded",
            "warning",
            "",
            "min_tcb_eval bounds the age of the rating, not of the platform's firmware",
            "set min_tcb_date",
            path,
        )


def _grace(rules: Rules, path: str, today: date) -> Iterator[Finding]:
    for advisory in rules.advisories_allowed:
        if advisory.until is None:
            yield Finding(
                "advisory-for-good", "warning", advisory.id, f"{advisory.id} is accepted for good", "give it a last day: until", path
            )
    ends = [(advisory.id, advisory.until) for advisory in rules.advisories_allowed if advisory.until is not None]
    ends += [(str(status), until) for status, until in rules.statuses_until.items()]
    for name, until in ends:
        if until < today:
            yield Finding("grace-expired", "warning", name, f"{name} has been refused since {until}", "remove it", path)


def _exceptions(rules: Rules, path: str, today: date) -> Iterator[Finding]:
    del today
    for switch in rules.allow:
        if switch in _PROTECTS_NOTHING:
            what = "a simulated TEE" if switch == "simulated" else "a TEE whose memory the host can read"
            yield Finding(
                f"{switch}-allowed",
                "error",
                switch,
                f"the policy accepts {what}, which protects nothing",
                f"remove {switch} from allow",
                path,
            )
        else:
            yield Finding("exception", "warning", switch, f"{switch}: {_WEAKENS[switch]}", "remove it unless you need it", path)
    if "roles" not in rules.model_fields_set:
        yield Finding("role-missing", "warning", "", "the policy names no role: drivers and workers are accepted", "set roles", path)
    elif set(rules.roles) == set(Role):
        yield Finding(
            "role-unrestricted", "warning", "", "every role is accepted", "name the roles that may have what this policy guards", path
        )
    if len(rules.vmpls) > 1:
        yield Finding("vmpls", "warning", "", "several privilege levels are accepted: software of each can attest", "name one VMPL", path)


_CHECKS: Final = cast(
    "tuple[Callable[[Rules, str, date], Iterator[Finding]], ...]", (_software, _told, _resettable, _minimum_tcb, _grace, _exceptions)
)
