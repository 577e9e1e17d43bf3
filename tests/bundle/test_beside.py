"""A folder beside a zip: the same bundle or another."""

from edgekit.bundle.beside import fault_beside, zip_path
from edgekit.bundle.seal import pack
from tests.bundle.test_seal import seal


def test_a_bundle_alone_or_beside_its_own_zip_has_no_fault(tmp_path):
    made = seal(tmp_path / "b")
    assert fault_beside(tmp_path / "b", made.bundle_id) == ""
    pack(tmp_path / "b", tmp_path / "b.zip")
    assert zip_path(tmp_path / "b") == tmp_path / "b.zip"
    assert fault_beside(tmp_path / "b", made.bundle_id) == ""
    assert fault_beside(tmp_path / "b.zip", made.bundle_id) == ""


def test_another_bundles_zip_is_named_from_either_side_with_what_to_do(tmp_path):
    old = seal(tmp_path / "b", zip_out=tmp_path / "b.zip")
    new = seal(tmp_path / "b", seed=1, force=True)
    told = fault_beside(tmp_path / "b", new.bundle_id)
    assert str(tmp_path / "b.zip") in told
    assert old.bundle_id[:12] in told
    assert new.bundle_id[:12] in told
    assert f"edgekit pack {tmp_path / 'b'} --force" in told
    assert str(tmp_path / "b") in fault_beside(tmp_path / "b.zip", old.bundle_id)


def test_what_is_no_bundle_beside_it_is_named(tmp_path):
    made = seal(tmp_path / "b")
    (tmp_path / "b.zip").write_bytes(b"PK")
    assert "no whole bundle" in fault_beside(tmp_path / "b", made.bundle_id)


def test_a_zip_of_another_ending_has_nothing_beside_it(tmp_path):
    made = seal(tmp_path / "b")
    pack(tmp_path / "b", tmp_path / "c.bundle")
    assert fault_beside(tmp_path / "c.bundle", made.bundle_id) == ""
