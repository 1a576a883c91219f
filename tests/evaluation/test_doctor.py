"""What the doctor says."""

from mpq_export.evaluation.doctor import examine


def test_a_good_bundle_verifies_and_missing_targets_are_named(bundle_folder):
    findings = {finding.subject: finding for finding in examine(bundle_folder)}
    assert findings["bundle"].ok
    assert not findings["target ort"].ok
    assert "--target ort" in findings["target ort"].advice
    assert findings["Python"].ok


def test_a_bad_bundle_is_a_finding_not_an_error(tmp_path):
    findings = {finding.subject: finding for finding in examine(tmp_path / "nothing")}
    assert not findings["bundle"].ok
    assert "no such bundle" in findings["bundle"].detail


def test_packages_that_are_not_there_come_with_advice(monkeypatch):
    from mpq_export.evaluation import doctor

    monkeypatch.setattr(doctor, "_PACKAGES", {"no-such-package": "testing"})
    finding = next(f for f in examine(None) if f.subject == "no-such-package")
    assert not finding.ok
    assert "pip install" in finding.advice
