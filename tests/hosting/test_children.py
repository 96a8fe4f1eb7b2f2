"""What a child is started with."""

import pytest

from phalanx.hosting.children import environment
from phalanx.transport.security import SECRET_VARIABLE, Security


def test_a_child_inherits_the_environment_with_the_launch_secret_and_without_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PHALANX_API_KEY", "PHALANX_ADMIN_KEY", "PHALANX_SOMETHING_ELSE"):
        monkeypatch.setenv(name, f"value of {name}")
    found = environment(Security(b"the secret"), {"FURTHER": "1"})
    assert found[SECRET_VARIABLE] == "the secret"
    assert found["FURTHER"] == "1"
    assert found["PHALANX_SOMETHING_ELSE"] == "value of PHALANX_SOMETHING_ELSE"
    assert not {"PHALANX_API_KEY", "PHALANX_ADMIN_KEY"} & found.keys()
