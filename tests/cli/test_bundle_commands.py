"""inspect, verify, compare, pack and unpack."""

import json
import zipfile
from dataclasses import replace

import pytest

from edgekit.core.figure import exact
from tests.bundle import samples
from tests.cli.conftest import BIAS, seal_picture_bundle


@pytest.fixture
def whole(tmp_path):
    """A whole bundle whose artifact nobody runs."""
    return samples.write(tmp_path / "whole.edgekit", samples.contents())


@pytest.fixture
def candidate(tmp_path):
    """A bundle with a pending limit."""
    made = samples.manifest(limits=(*samples.LIMITS, samples.PENDING))
    return samples.write(tmp_path / "candidate.edgekit", samples.contents(made))


def test_inspect_shows_contract_verdict_figures_and_lineage(whole, command):
    text = " ".join(command("inspect", whole).out.split())
    for part in (
        "float32 (1, 4)",
        "the scores of 2 labels: no, yes",
        "PROVEN: 2 of 2 limits hold",
        "model/model.tflite",
        "golden/inputs/x.npy",
        "size of the file",
        "edgekit 0.1.0",
        "a" * 40,
    ):
        assert part in text, part


def test_inspect_in_json_is_both_documents(whole, command):
    found = json.loads(command("inspect", whole, "--json").out)
    on_disk = json.loads((whole / "manifest.json").read_bytes())
    assert found["manifest"]["files"] == on_disk["files"]
    assert found["evidence"]["verdict"]["standing"] == "proven"
    assert found["bundle_id"] == found["evidence"]["bundle_id"]


def test_verify_says_whole_with_the_standing(whole, command):
    found = command("verify", whole)
    assert found.code == 0
    assert "whole, 4 files, PROVEN" in found.out


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_a_changed_file_is_refused_with_6(verb, whole, command):
    (whole / "MODEL_CARD.md").write_bytes(b"# A mode1\n")
    found = command(verb, whole)
    assert (found.code, found.out) == (6, "")
    assert "MODEL_CARD.md" in found.err


def test_verify_names_another_bundles_zip_beside_the_folder(whole, candidate, command):
    assert command("pack", candidate, "--out", f"{whole}.zip").code == 0
    found = command("verify", whole, "--json")
    assert found.code == 0
    assert "another bundle" in json.loads(found.out)["beside"]
    assert f"edgekit pack {whole} --force" in " ".join(found.err.split())
    assert command("pack", whole, "--force").code == 0
    assert "beside" not in json.loads(command("verify", whole, "--json").out)


def test_verify_can_ask_for_proof(candidate, command):
    assert command("verify", candidate).code == 0
    found = command("verify", candidate, "--require", "proven")
    assert found.code == 6
    assert "flash_bytes" in found.err


def test_verify_runs_the_golden_samples_when_asked(picture_bundle, command):
    found = command("verify", picture_bundle, "--self-test", "--json")
    result = json.loads(found.out)
    assert result["self_test"]["samples"] == 2
    assert result["self_test"]["differences"]["scores"] < 1e-4
    assert "every golden output" in command("verify", picture_bundle, "--self-test").out


def test_a_self_test_that_fails_is_refused_with_6(tmp_path, command):
    bundle = seal_picture_bundle(tmp_path / "b", golden_bias=BIAS + 0.5)
    found = command("verify", bundle, "--self-test")
    assert (found.code, found.out) == (6, "")
    assert "differs by 0.5" in found.err


def test_compare_without_a_regression_ends_with_0(whole, command):
    found = command("compare", whole, whole)
    assert found.code == 0
    assert "NO REGRESSION" in found.out
    assert "the same bundle" in " ".join(found.out.split())


@pytest.fixture
def larger(tmp_path):
    """The whole bundle's like, whose evidence says that its artifact is 10 % larger."""
    figures = (exact("artifact_bytes", 79.2, "bytes", "size of the file"), samples.figures()[1])
    made = samples.listed(samples.manifest(seed=1), samples.FILES)
    evidence = samples.evidence(made, made.bundle_id)
    verdict = replace(
        evidence.verdict,
        judgements=(
            replace(
                evidence.verdict.judgements[0],
                figure=figures[0],
                reason="79 B, at most 1 kB",
            ),
            evidence.verdict.judgements[1],
        ),
    )
    contents = samples.contents(samples.manifest(seed=1), figures=figures, verdict=verdict)
    return samples.write(tmp_path / "larger.edgekit", contents)


def test_compare_with_a_regression_ends_with_3_and_names_it(whole, larger, command):
    found = command("compare", whole, larger)
    assert found.code == 3
    assert "REGRESSED: artifact_bytes" in found.out
    assert "10.0% worse" in " ".join(found.out.split())
    assert "seed: 0 in A, 1 in B" in found.out


@pytest.mark.parametrize("tolerance", ["12", "12%", "artifact_bytes=12"])
def test_compare_takes_a_tolerance(tolerance, whole, larger, command):
    assert command("compare", whole, larger, "--tolerance", tolerance).code == 0


def test_compare_takes_a_tolerance_for_one_figure_over_the_general_one(whole, larger, command):
    options = ("--tolerance", "50", "--tolerance", "artifact_bytes=1")
    assert command("compare", whole, larger, *options).code == 3


@pytest.mark.parametrize("tolerance", ["-1", "much", "artifact_bytes=", "nan"])
def test_a_tolerance_that_is_no_percentage_is_a_usage_error(tolerance, whole, command):
    assert command("compare", whole, whole, f"--tolerance={tolerance}").code == 2


def test_a_tolerance_of_an_unknown_figure_is_an_input_error(whole, command):
    found = command("compare", whole, whole, "--tolerance", "artefact_bytes=1")
    assert found.code == 2
    assert "did you mean 'artifact_bytes'" in found.err


def test_compare_in_json_says_whether_it_regressed(whole, larger, command):
    found = command("compare", whole, larger, "--json")
    document = json.loads(found.out)
    assert document["has_regressed"] is True
    assert document["comparison"]["lines"][0]["change"] == pytest.approx(0.1)


def test_pack_and_unpack_give_the_same_bundle_back(whole, tmp_path, command):
    packed = command("pack", whole)
    path = tmp_path / "whole.edgekit.zip"
    assert packed.out.strip() == str(path)
    assert "manifest.json" in zipfile.ZipFile(path).namelist()
    unpacked = command("unpack", path, "--out", tmp_path / "again", "--json")
    assert json.loads(unpacked.out) == {"written": str(tmp_path / "again")}
    for name, content in samples.contents().items():
        assert (tmp_path / "again" / name).read_bytes() == content


def test_unpack_takes_the_zips_name_less_its_suffix(whole, tmp_path, command):
    command("pack", whole, "--out", tmp_path / "other.zip")
    assert command("unpack", tmp_path / "other.zip").out.strip() == str(tmp_path / "other")


def test_unpack_of_a_strange_name_asks_for_a_folder(whole, tmp_path, command):
    command("pack", whole, "--out", tmp_path / "bundle.bin")
    found = command("unpack", tmp_path / "bundle.bin")
    assert found.code == 2
    assert "--out" in found.err


def test_what_exists_is_replaced_only_by_force(whole, tmp_path, command):
    assert command("pack", whole).code == 0
    refused = command("pack", whole)
    assert refused.code == 2
    assert "--force" in refused.err
    assert command("pack", whole, "--force").code == 0
