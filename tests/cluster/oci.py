"""Images from files, without a registry and without a builder: one layer, one configuration, as an archive that containerd imports.

Follows the OCI Image Format, "Image Layout".
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_image(
    target: Path,
    name: str,
    *,
    files: Mapping[str, bytes],
    links: Mapping[str, str] | None = None,
    folders: Sequence[str] = (),
    entrypoint: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> str:
    """Write an image as an archive; its manifest's digest (``sha256:...``), which is added to a ``name`` that ends with ``@``."""
    layer = _layer(files, links or {}, folders)
    variables = [f"{key}={value}" for key, value in (environment or {}).items()]
    config = json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": variables, "User": "10001"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }).encode()  # fmt: skip
    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _described("application/vnd.oci.image.config.v1+json", config),
        "layers": [_described("application/vnd.oci.image.layer.v1.tar", layer)],
    }).encode()  # fmt: skip
    entry = _described("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": name + _digest(manifest) if name.endswith("@") else name}
    parts = {f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in (layer, config, manifest)}
    parts["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    parts["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    with tarfile.open(target, "w") as archive:
        for path, data in parts.items():
            _add(archive, path, data)
    return _digest(manifest)


def _layer(files: Mapping[str, bytes], links: Mapping[str, str], folders: Sequence[str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        parents = {str(parent) for path in (*files, *links) for parent in Path(path).parents if str(parent) != "."}
        for folder in sorted({*folders, *parents, *(str(p) for f in folders for p in Path(f).parents if str(p) != ".")}):
            about = tarfile.TarInfo(folder)
            about.type, about.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(about)
        for path, to in sorted(links.items()):
            about = tarfile.TarInfo(path)
            about.type, about.linkname = tarfile.SYMTYPE, to
            archive.addfile(about)
        for path, data in sorted(files.items()):
            _add(archive, path, data, mode=0o755)
    return made.getvalue()


def _add(archive: tarfile.TarFile, path: str, data: bytes, *, mode: int = 0o644) -> None:
    about = tarfile.TarInfo(path)
    about.size, about.mode = len(data), mode
    archive.addfile(about, io.BytesIO(data))


def _described(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
