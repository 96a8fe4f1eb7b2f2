"""The compiled library is only used with the sources it was compiled from."""

import shutil
from pathlib import Path

import pytest

from phalanx.kernels import cpu


def test_a_library_of_other_sources_or_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels"
    shutil.copytree(Path(cpu.__file__).parent, folder)
    monkeypatch.setattr(cpu, "__file__", str(folder / "cpu.py"))
    assert cpu.CpuKernels(1).level

    with (folder / "linear.h").open("a") as header:
        header.write("/* changed */\n")
    with pytest.raises(ImportError, match="was compiled from other sources than those beside it: install the package"):
        cpu.CpuKernels(1)

    for library in folder.glob("_cpu*"):
        library.unlink()
    with pytest.raises(ImportError, match=r"is missing: install the package again with gcc at hand"):
        cpu.CpuKernels(1)
