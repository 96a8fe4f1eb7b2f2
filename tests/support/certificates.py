"""Certificates for tests: an authority of its own, and what it signs, as PEM files."""

import datetime
from pathlib import Path
from typing import NamedTuple

import trustme


class Files(NamedTuple):
    certificate: Path
    key: Path
    authority: Path
    """The certificate of the authority that signed `certificate`."""


class Authority:
    """A certificate authority that exists in one folder only."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._ca = trustme.CA(organization_name=name)
        self.certificate = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.certificate)

    def issue(self, name: str = "127.0.0.1", *, expired: bool = False) -> Files:
        """A certificate for a host name or address, good for a server and for a client."""
        end = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1) if expired else None
        start = end - datetime.timedelta(days=30) if end is not None else None
        issued = self._ca.issue_cert(name, not_before=start, not_after=end)
        stem = self._folder / f"{self.certificate.stem}-{name}{'-expired' if expired else ''}"
        certificate, key = stem.with_name(f"{stem.name}-certificate.pem"), stem.with_name(f"{stem.name}-key.pem")
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return Files(certificate, key, self.certificate)
