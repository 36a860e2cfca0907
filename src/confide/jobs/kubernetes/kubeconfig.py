"""Where a cluster is and with what credential: from a kubeconfig, or from a pod's service account.

The official client reads both (its modules come from :mod:`~confide.jobs.kubernetes.client`, the only one that imports them).  A context by
which anybody could be the API server is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from confide.errors import ConfigError
from confide.jobs.kubernetes.api_errors import clean
from confide.jobs.kubernetes.changes import Json

Library = Callable[[str], ModuleType]
"""A module of the official client, by its name in there."""


def of_context(library: Library, context: str, kubeconfig: Path | None) -> tuple[Any, str]:
    """The client's configuration for a context, and the context's namespace.  A credential plugin of the kubeconfig is run.

    Raises:
        ConfigError: there is no such context, it has no credential, or its server would not be authenticated.
    """
    reading = library("kubernetes.config.kube_config")
    place = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or "~/.kube/config"
    hint = "`kubectl config get-contexts` lists the contexts; KUBECONFIG names other files"
    try:
        merged = reading.KubeConfigMerger(place).config
        if merged is None:
            raise ConfigError(f"there is no kubeconfig at {place}", hint=hint)
        loader = reading.KubeConfigLoader(config_dict=merged, active_context=context)
        found: Json = next(each["context"] for each in loader.list_contexts() if each["name"] == context)
        _refuse_unsafe(merged, found, context)
        configuration = library("kubernetes.client").Configuration()
        loader.load_and_set(configuration)
    except config_errors(library) as cause:
        raise ConfigError(f"cannot use the context {context[:120]} of {place}: {clean(str(cause))}", hint=hint) from cause
    if not configuration.auth_settings() and not configuration.cert_file:
        plugin = "see that `kubectl` works with it: its credential plugin may have failed, or wants you to log in"
        raise ConfigError(f"the context {context} of {place} gives no credential", hint=plugin)
    return configuration, str(found.get("namespace") or "default")


def of_pod(library: Library, mount: Path, server: str) -> tuple[Any, str]:
    """The client's configuration for the service account that is mounted at ``mount``, and its namespace.

    Raises:
        ConfigError: there is no service account's token.
    """
    host, _, port = server.removeprefix("https://").partition(":")
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port or "443"}
    configuration = library("kubernetes.client").Configuration()
    loader = library("kubernetes.config.incluster_config").InClusterConfigLoader
    try:
        namespace = (mount / "namespace").read_text(encoding="ascii").strip()
        loader(token_filename=str(mount / "token"), cert_filename=str(mount / "ca.crt"), environ=environ).load_and_set(configuration)
    except config_errors(library) as cause:
        hint = "only a run's driver has one: its pod is made with automountServiceAccountToken"
        raise ConfigError(f"this process has no service account of a cluster: {clean(str(cause))}", hint=hint) from cause
    configuration.proxy = None
    return configuration, namespace


def config_errors(library: Library) -> tuple[type[Exception], ...]:
    """What the official client raises if a kubeconfig or token is not what it must be.  It does not look at each value's type."""
    stated: type[Exception] = library("kubernetes.config").ConfigException
    return stated, OSError, ValueError, KeyError, TypeError, AttributeError, library("kubernetes.config.kube_config").yaml.YAMLError


def _refuse_unsafe(merged: Any, found: Json, context: str) -> None:
    """Refuse a context by which anybody could be the API server.

    Raises:
        ConfigError: TLS is not there or not checked, or the user's credential comes by a way that does not check it.
    """
    cluster = merged["clusters"].get_with_name(found["cluster"])["cluster"].value
    user = merged["users"].get_with_name(found["user"])["user"].value if found.get("user") else {}
    if cluster.get("insecure-skip-tls-verify"):
        hint = "put the cluster's CA into the kubeconfig (`certificate-authority-data`) and remove `insecure-skip-tls-verify`"
        raise ConfigError(f"the context {context} does not check who the API server is", hint=hint)
    if not str(cluster.get("server")).startswith("https://"):
        raise ConfigError(f"the context {context} has no https server", hint="credentials are sent to it: the server must have TLS")
    if "auth-provider" in user:
        hint = "use a credential plugin (`exec`): kubectl itself has known no auth-provider since 1.26"
        raise ConfigError(f"the context {context} has a credential of an auth-provider", hint=hint)
