"""What proves to others that a process belongs to the service: the launch secret and, between machines, TLS.

A process makes one `Security` when it starts, and hands it to whatever dials or listens. A child learns it from its
environment; other machines have certificate files of their own.
"""

from collections.abc import Mapping, MutableMapping
from functools import cached_property

from phalanx.transport.tls import VARIABLES, Files, Tls

SECRET_VARIABLE = "PHALANX_SECRET"


class Security:
    """The launch secret of a service, and the files by which this machine is known to the others."""

    def __init__(self, secret: bytes, files: Files | None = None) -> None:
        """Without `files`, connections between machines are not encrypted."""
        self.secret = secret
        self.files = None if files is None else files.absolute()

    @staticmethod
    def taken_from(environment: MutableMapping[str, str]) -> "Security | None":
        """Read what a process was started with; None if it was given no secret.

        The secret leaves the environment here, so that nothing this process starts or prints inherits it.

        Raises:
            FilesError: some of the files are named, and some are not.
        """
        secret = environment.pop(SECRET_VARIABLE, "")
        return Security(secret.encode(), Files.named_by(environment)) if secret else None

    @property
    def encrypts(self) -> bool:
        """Whether connections between machines speak TLS."""
        return self.files is not None

    @cached_property
    def tls(self) -> Tls | None:
        """What connections between machines speak; None: plain frames. The files are read when it is first needed.

        Raises:
            FilesError: they cannot be used; says why.
        """
        return None if self.files is None else Tls(self.files)

    def handed_on(self, environment: Mapping[str, str]) -> dict[str, str]:
        """An environment for a child that is to have the same security, whatever `environment` itself says of it."""
        others = {name: value for name, value in environment.items() if name not in VARIABLES}
        files = {} if self.files is None else dict(zip(VARIABLES, map(str, self.files), strict=True))
        return {**others, **files, SECRET_VARIABLE: self.secret.decode()}
