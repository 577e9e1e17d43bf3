"""Learned steps: the gradients of LSQ by the paper's equations, by hand and by differences."""

import pytest
import torch

from edgekit.compress.training.lsq import (
    on_steps,
    relative,
    seen,
    step_gradient_scale,
    through_rounding,
)


def scalar(value):
    return torch.tensor(value, requires_grad=True)


def gradients(values, step, offset, lowest=0, weights=None):
    """What comes of sum(weights * seen): gradients of values, step and offset."""
    values, step, offset = values.clone().requires_grad_(), scalar(step), scalar(offset)
    found = seen(values, step, offset, lowest)
    (found * (1.0 if weights is None else weights)).sum().backward()
    return found.detach(), values.grad, float(step.grad), float(offset.grad)


# Activations.


def test_values_are_seen_as_integers_of_8_bits_hold_them():
    values = torch.tensor([-1.0, -0.04, 0.0, 0.26, 0.25, 0.75, 1000.0])
    found = seen(values, torch.tensor(0.5), torch.tensor(0.0))
    # Half a step goes to the even neighbour; above 255 steps there is nothing.
    assert found.tolist() == [0.0, 0.0, 0.0, 0.5, 0.0, 1.0, 127.5]


def test_an_offset_is_whole_steps_so_that_zero_is_on_the_grid():
    found = seen(torch.tensor([0.0, -100.0]), torch.tensor(0.3), torch.tensor(-1.0))
    # -1 is 3.33 steps, which makes 3.
    assert found.tolist() == pytest.approx([0.0, -0.9])


@pytest.mark.parametrize(
    ("value", "of_value", "of_step"),
    [
        (0.7, 1.0, 1 - 0.7 / 0.5),  # inside: q - v / s, equation 3, first line
        (100.3, 1.0, 201 - 100.3 / 0.5),
        (-0.2, 0.0, 0.0),  # below: -Qn, which is 0 here
        (500.0, 0.0, 255.0),  # above: Qp
    ],
)
def test_each_line_of_equations_3_and_5_by_hand(value, of_value, of_step):
    _, by_value, by_step, _ = gradients(torch.tensor([value]), 0.5, 0.0)
    assert by_value.tolist() == [of_value]
    assert by_step == pytest.approx(of_step, abs=1e-4)


def test_the_offset_moves_by_what_lies_outside_alone():
    values = torch.tensor([-5.0, -1.0, 0.2, 300.0, 400.0])
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    _, by_value, by_step, by_offset = gradients(values, 1.0, -2.0, weights=weights)
    assert by_value.tolist() == [0.0, 2.0, 3.0, 0.0, 0.0]
    assert by_offset == 1 + 4 + 5
    # Below 0 times the step, above 255 times, and 0.2 is rounded to 0.
    assert by_step == pytest.approx(255 * (4 + 5) - 0.2 * 3, rel=1e-5)


def test_where_values_are_clipped_the_gradients_are_those_of_differences():
    """There rounding has no part in it, and the formula is the derivative itself."""
    values = torch.tensor([-9.0, -3.0, 70.0, 90.0], dtype=torch.float32)
    step, offset, little = 0.25, -2.0, 2.0**-10

    def total(by_step, by_offset):
        # The offset is a whole number of steps before and after.
        low = offset + by_offset
        return float(values.clamp(low, low + 255 * (step + by_step)).sum())

    _, _, by_step, by_offset = gradients(values, step, offset)
    assert by_step == pytest.approx((total(little, 0) - total(-little, 0)) / (2 * little))
    assert by_offset == pytest.approx((total(0, little) - total(0, -little)) / (2 * little))


def test_inside_the_gradient_is_that_of_a_rounding_whose_error_stands_still():
    """Straight-through: v^ = s (v / s + c), with c = round(v / s) - v / s kept as it is."""
    values = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = (values / 0.01).round() - values / 0.01
    step = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    (step * (values / step + kept)).sum().backward()
    _, _, by_step, _ = gradients(values.float(), 0.01, 0.0)
    assert by_step == pytest.approx(float(step.grad), rel=1e-3)


def test_torchs_own_learned_quantizer_gives_the_same_where_nothing_is_clipped():
    values = torch.randn(500, generator=torch.Generator().manual_seed(1)).clamp(-0.9, 1.5)
    ours = gradients(values, 0.01, -1.0)
    theirs = values.clone().requires_grad_()
    step = torch.tensor([0.01], requires_grad=True)
    point = torch.tensor([100.0], requires_grad=True)
    expected = torch._fake_quantize_learnable_per_tensor_affine(theirs, step, point, 0, 255, 1.0)
    expected.sum().backward()
    assert torch.equal(ours[0], expected.detach())
    assert torch.equal(ours[1], theirs.grad)
    assert ours[2] == pytest.approx(float(step.grad), abs=1e-3)


def test_a_symmetric_grid_is_as_long_below_zero_as_above():
    found, by_value, by_step, by_offset = gradients(
        torch.tensor([-50.0, 0.3, 50.0]), 0.1, -12.8, lowest=1
    )
    assert found.tolist() == pytest.approx([-12.7, 0.3, 12.7])
    assert by_value.tolist() == [0.0, 1.0, 0.0]
    # With the offset at -128 steps the step's whole gradient is -127 + 127, as Qn = Qp = 127.
    assert by_step - 128 * by_offset == pytest.approx(0.0, abs=1e-3)


def test_what_a_model_changes_in_place_afterwards_does_no_harm():
    values = torch.tensor([0.4, 3.0], requires_grad=True)
    found = seen(values, scalar(0.1), torch.tensor(0.0))
    found += 1
    found.sum().backward()
    assert values.grad.tolist() == [1.0, 1.0]


# Steps.


def test_a_ratio_gets_the_scaled_gradient_over_its_start():
    ratio = scalar(1.5)
    step = relative(ratio, torch.tensor(0.2), 0.25)
    assert float(step.detach()) == pytest.approx(0.3)
    (7 * step).backward()
    assert float(ratio.grad) == pytest.approx(7 * 0.25 / 0.2)


def test_gradient_descent_on_the_ratio_moves_the_step_as_the_paper_has_it():
    start, rate, factor, gradient = 0.2, 0.01, step_gradient_scale(64, 255), 3.0
    ratio = scalar(1.0)
    (gradient * relative(ratio, torch.tensor(start), factor)).backward()
    moved = start * (1 - rate * float(ratio.grad))
    assert moved == pytest.approx(start - rate * factor * gradient)


def test_the_scale_of_a_gradient_is_that_of_section_2_2():
    assert step_gradient_scale(64, 4) == pytest.approx(1 / 16)


# Weights.


def test_weights_by_hand():
    weight, steps = torch.tensor([[0.7, -0.3, 1.6, -9.0, 0.05]]), torch.tensor([[0.2]])
    assert torch.allclose(on_steps(weight, steps, 7), torch.tensor([[0.8, -0.4, 1.4, -1.4, 0.0]]))
    gradient = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    of_weight, of_steps = through_rounding(weight, steps, 7, gradient)
    assert of_weight.tolist() == [[1.0, 2.0, 0.0, 0.0, 5.0]]
    shares = torch.tensor([4 - 3.5, -2 + 1.5, 7.0, -7.0, 0 - 0.25])
    expected = float((gradient * shares).sum()) / (5 * 7) ** 0.5
    assert float(of_steps) == pytest.approx(expected, rel=1e-5)


def test_rows_have_gradients_of_their_own():
    draws = torch.Generator().manual_seed(2)
    weight, gradient = torch.randn(3, 8, generator=draws), torch.randn(3, 8, generator=draws)
    steps = torch.tensor([[0.1], [0.2], [0.3]])
    _, together = through_rounding(weight, steps, 7, gradient)
    for row in range(3):
        part = slice(row, row + 1)
        _, alone = through_rounding(weight[part], steps[part], 7, gradient[part])
        assert torch.allclose(together[part], alone)
