import numpy as np
import pytest

from edgekit.core.contract import Image, Tensor
from edgekit.core.errors import WorkloadError
from edgekit.data.checks import (
    DIGESTS,
    check_disjoint,
    input_digest,
    open_checked,
    write_checked,
    write_split,
)

INPUTS = {"x": Tensor(shape=(3,))}
X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def write(path, samples, **kwargs):
    return write_checked(samples, INPUTS, path, set_name=path.name, needs_target=False, **kwargs)


def test_samples_are_written_as_they_came(tmp_path):
    found = write(tmp_path / "a", X).dataset
    assert found.count == 20
    assert np.array_equal(next(found.batches(20))["x"], X)


def test_the_digest_of_a_set_follows_its_content_and_order(tmp_path):
    same = write(tmp_path / "a", X).dataset.digest, write(tmp_path / "b", list(X)).dataset.digest
    assert same[0] == same[1]
    assert write(tmp_path / "c", X[::-1]).dataset.digest != same[0]


def test_a_limit_stops_reading(tmp_path):
    left = iter(X)
    assert write(tmp_path / "a", left, limit=5).dataset.count == 5
    assert len(list(left)) == 15


def test_an_overlap_is_refused_and_told_with_both_places(tmp_path):
    calibration = write(tmp_path / "calibration", X[:8])
    evaluation = write(tmp_path / "evaluation", np.concatenate([X[10:], X[5:7]]))
    message = (
        "calibration and evaluation data share 2 of 12 samples; the first is sample 5 of "
        "calibration and sample 10 of evaluation"
    )
    with pytest.raises(WorkloadError, match=message):
        check_disjoint({"calibration": calibration, "evaluation": evaluation})


def test_disjoint_sets_pass_and_repeats_inside_a_set_are_allowed(tmp_path):
    twice = write(tmp_path / "a", np.concatenate([X[:5], X[:5]]))
    check_disjoint({"a": twice, "b": write(tmp_path / "b", X[5:]), "c": write(tmp_path / "c", -X)})


def test_all_pairs_of_sets_are_compared(tmp_path):
    sets = {
        name: write(tmp_path / name, X[i : i + 5]) for i, name in ((0, "a"), (5, "b"), (9, "c"))
    }
    with pytest.raises(WorkloadError, match="b and c data share 1 of 5"):
        check_disjoint(sets)


def test_another_label_does_not_hide_an_overlap(tmp_path):
    one = write(tmp_path / "a", [(X[0], 0)])
    two = write(tmp_path / "b", [(X[0], 1)])
    with pytest.raises(WorkloadError, match="share 1 of 1"):
        check_disjoint({"a": one, "b": two})


def test_the_same_picture_as_bytes_and_as_floats_is_one_sample():
    from edgekit.data.samples import iterate_samples

    inputs = {"x": Image(height=2, width=2, channels=1, scale=1.0)}
    pixels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    raw, ready = iterate_samples(
        [pixels, pixels[None].astype(np.float32)], inputs, set_name="s", needs_target=False
    )
    assert input_digest(raw) == input_digest(ready)


def test_digests_are_kept_beside_the_arrays(tmp_path):
    written = write(tmp_path / "a", X)
    assert (tmp_path / "a" / DIGESTS).stat().st_size == 16 * 20
    assert np.array_equal(open_checked(tmp_path / "a").digests, written.digests)


def test_digests_that_do_not_fit_are_refused(tmp_path):
    write(tmp_path / "a", X)
    (tmp_path / "a" / DIGESTS).write_bytes(b"short")
    with pytest.raises(WorkloadError, match="5 bytes for 20 samples of 16"):
        open_checked(tmp_path / "a")


def test_a_bad_sample_leaves_no_dataset(tmp_path):
    broken = X.copy()
    broken[19, 0] = np.nan
    with pytest.raises(WorkloadError, match="calibration data, sample 19"):
        write(tmp_path / "calibration", broken)
    with pytest.raises(WorkloadError, match="no finished dataset"):
        open_checked(tmp_path / "calibration")


MANY = np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32)


def split(folder, samples, one_in=10, used=()):
    return write_split(
        samples,
        INPUTS,
        folder / "kept",
        folder / "held",
        needs_target=False,
        one_in=one_in,
        used=used,
    )


def test_a_split_loses_nothing_and_shares_nothing(tmp_path):
    kept, held = split(tmp_path, MANY)
    check_disjoint({"kept": kept, "held": held})
    # 400 draws of one in ten: 40, give or take four deviations of 6.
    assert 16 <= held.dataset.count <= 64
    both = [next(part.dataset.batches(400))["x"] for part in (kept, held)]
    assert {row.tobytes() for part in both for row in part} == {row.tobytes() for row in MANY}


def test_equal_samples_go_to_the_same_side_whatever_their_order(tmp_path):
    kept, held = split(tmp_path, np.concatenate([MANY, MANY[::-1]]))
    check_disjoint({"kept": kept, "held": held})
    assert kept.dataset.count + held.dataset.count == 800


def test_a_split_that_holds_nothing_back_has_no_second_set(tmp_path):
    digests = [input_digest({"x": row}) for row in MANY]
    stays = [
        row
        for row, digest in zip(MANY, digests, strict=True)
        if int.from_bytes(digest[:4], "little") % 10
    ]
    kept, held = split(tmp_path, stays[:4])
    assert kept.dataset.count == 4
    assert held is None


def test_what_another_set_has_is_never_held_back(tmp_path):
    """Users calibrate on the first of their training samples."""
    calibration = write(tmp_path / "calibration", MANY[:200])
    kept, held = split(tmp_path, MANY, used=[calibration])
    check_disjoint({"calibration": calibration, "held": held})
    assert kept.dataset.count + held.dataset.count == 400
    assert 4 <= held.dataset.count <= 40


def test_a_split_that_keeps_nothing_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match="20 samples are too few to hold some back"):
        split(tmp_path, X, one_in=1)


def test_sets_that_may_share_samples_are_not_compared(tmp_path):
    sets = {name: write(tmp_path / name, X[:5]) for name in ("calibration", "training")}
    check_disjoint(sets, may_share=frozenset([frozenset(["training", "calibration"])]))
    with pytest.raises(WorkloadError, match="share 5 of 5"):
        check_disjoint(sets)
