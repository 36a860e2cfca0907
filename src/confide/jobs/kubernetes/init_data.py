"""Init-data of a run's confidential virtual machines: the document and its annotation.  Pure.

Kata Containers hands the document to the guest and puts its digest into the launch: TDX MRCONFIGID, SEV-SNP HOST_DATA.  A host that
gives a guest other init-data, or none, gets a guest with other evidence, which the client and the driver refuse
(:func:`confide.attest.init_data.require_init_data`).
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping

from confide.attest.init_data import JOB_DIGEST_NAME, InitData, job_init_data
from confide.errors import ConfigError, ParseError
from confide.ids import JobDigest, Tee


def render_init_data(digest: JobDigest, tee: Tee, more: Mapping[str, str]) -> InitData:
    """The document of one job: its digest, and what the profile adds.

    Raises:
        ConfigError: ``more`` has the job digest's name, or is no text, or too much of it.
    """
    if JOB_DIGEST_NAME in more:
        raise ConfigError(f"init_data: {JOB_DIGEST_NAME} is the run's own", hint="choose another name", field="init_data")
    try:
        return job_init_data(digest, tee, more)
    except ParseError as cause:
        raise ConfigError(f"init_data: {cause}", field="init_data") from cause


def annotation(document: InitData) -> str:
    """The document as Kata Containers takes it in an annotation: gzip, then base64.  The same document gives the same text."""
    return base64.b64encode(gzip.compress(document.body.encode(), mtime=0)).decode("ascii")
