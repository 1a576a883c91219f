"""Packages against the project's own metadata."""

from importlib.metadata import requires

import pytest

from mpq_export.evaluation.doctor import python
from mpq_export.evaluation.doctor.python import Requirement, python_findings, requirements


def test_least_versions_are_those_of_the_metadata():
    found = {requirement.package: requirement for requirement in requirements()}
    lines = " ".join(requires("mpq-export"))
    assert set(found) == set(python._USES)
    assert found["numpy"].extra is None
    assert found["torch"].extra is not None
    for requirement in found.values():
        assert f"{requirement.package}>={requirement.least}" in lines.replace(" ", "")


def finding_for(monkeypatch, version, least="2.9", extra="torch"):
    monkeypatch.setattr(python, "installed_version", {"torch": version}.get)
    return python._package(Requirement("torch", least, extra))


@pytest.mark.parametrize("version", ["2.9", "2.9.0", "2.13.0+cpu", "3.0"])
def test_new_enough_packages_are_fine(monkeypatch, version):
    finding = finding_for(monkeypatch, version)
    assert finding.ok
    assert version in finding.detail
    assert "mpq-export of a checkpoint" in finding.detail


def test_old_and_missing_packages_come_with_a_command(monkeypatch):
    old = finding_for(monkeypatch, "2.8.1")
    assert not old.ok
    assert "too old" in old.detail
    missing = finding_for(monkeypatch, None)
    assert not missing.ok
    assert "2.9 or newer" in missing.detail
    for finding in (old, missing):
        assert finding.advice == "pip install --upgrade 'mpq-export[torch]'"


def test_the_gpu_build_of_a_package_counts(monkeypatch):
    monkeypatch.setattr(python, "installed_version", {"onnxruntime-gpu": "1.22"}.get)
    finding = python._package(Requirement("onnxruntime", "1.20", "cpu"))
    assert (finding.subject, finding.ok) == ("onnxruntime-gpu", True)


def test_the_interpreter_comes_first(monkeypatch):
    assert python_findings()[0].subject == "Python"
    monkeypatch.setattr(python, "_LEAST_PYTHON", (99, 0))
    assert not python_findings()[0].ok
