"""What servers and their clients need to speak TLS; Debian's Redis alone is built with it."""

from __future__ import annotations

from typing import Any

from tests.tls_proxy import Certificates


def tls_config(certificates: Certificates) -> dict[str, str]:
    """Return the configuration of a server whose links to others are TLS too; its own port is set by who starts it."""
    return {
        "tls-cluster": "yes",
        "tls-replication": "yes",
        "tls-ca-cert-file": str(certificates.authority),
        "tls-cert-file": str(certificates.certificate),
        "tls-key-file": str(certificates.key),
    }


def tls_options(certificates: Certificates) -> dict[str, Any]:
    """Return redis-py's options."""
    return {
        "ssl": True,
        "ssl_ca_certs": str(certificates.authority),
        "ssl_certfile": str(certificates.certificate),
        "ssl_keyfile": str(certificates.key),
    }
