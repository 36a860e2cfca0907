"""Init-data of a run's confidential virtual machines: the document, its annotation, and what the evidence has to hold.  Pure.

Kata Containers hands the document to the guest and puts its digest into the launch: TDX MRCONFIGID, SEV-SNP HOST_DATA.  A host that
gives a guest other init-data, or none, gets a guest with other evidence; :meth:`confide.keys.kbs.init_data.InitData.check_bound` checks.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Final

from confide.errors import ConfigError, ParseError
from confide.ids import JobDigest, Tee
from confide.keys.kbs.init_data import VERSION, InitData

JOB_DIGEST_NAME: Final = "confide.dev/job-digest"
"""Name of the job digest within ``data``."""
_ALGORITHMS: Final = {Tee.TDX: "sha384", Tee.SNP: "sha256"}
"""The digest that fills the field: 48 bytes of MRCONFIGID, 32 of HOST_DATA."""


def render_init_data(digest: JobDigest, tee: Tee, more: Mapping[str, str]) -> InitData:
    """The document of one job: its digest, and ``more`` (an agent policy, configuration of the guest's components) as given.

    Raises:
        ConfigError: ``more`` has the job digest's name, or is no text, or too much of it.
    """
    if JOB_DIGEST_NAME in more:
        raise ConfigError(f"init_data: {JOB_DIGEST_NAME} is the run's own", hint="choose another name", field="init_data")
    data = {JOB_DIGEST_NAME: str(digest), **{name: more[name] for name in sorted(more)}}
    # A JSON string is a TOML basic string: both escape quote, backslash and control characters, and know \uXXXX.
    lines = [f"version = {json.dumps(VERSION)}", f"algorithm = {json.dumps(_ALGORITHMS[tee])}", "", "[data]"]
    lines += [f"{_quoted(name)} = {_quoted(value)}" for name, value in data.items()]
    try:
        return InitData.parse("\n".join(lines) + "\n")
    except ParseError as cause:
        raise ConfigError(f"init_data: {cause}", field="init_data") from cause


def annotation(document: InitData) -> str:
    """The document as Kata Containers takes it in an annotation: gzip, then base64.  The same document gives the same text."""
    return base64.b64encode(gzip.compress(document.body.encode(), mtime=0)).decode("ascii")


def _quoted(text: str) -> str:
    # TOML takes no surrogate pairs, so characters stand for themselves; DEL is a control character there, and is not in JSON.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
