import pytest

from edgekit.core.calibration import Calibration
from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import StepError
from edgekit.core.strategy import Quantize


def test_settings_survive_the_way_to_plain_values_and_back():
    settings = Quantize(
        precision="int8",
        activations="static",
        calibration=Calibration(method="percentile", percentile=99.9, samples=64),
        has_symmetric_activations=True,
    )
    assert from_plain(Quantize, to_plain(settings), where="x") == settings


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"percentile": 50.0}, "calibration.percentile is 50"),
        ({"percentile": 100.1}, "calibration.percentile is 100.1"),
        ({"percentile": float("nan")}, "calibration.percentile is nan"),
        ({"momentum": 1.0}, "calibration.momentum is 1.0"),
        ({"momentum": -0.1}, "calibration.momentum is -0.1"),
        ({"samples": -1}, "calibration.samples is -1"),
        ({"method": "entropie"}, "'entropie'; did you mean 'entropy'"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(settings, named):
    with pytest.raises(StepError, match=named):
        Calibration(**settings)


def test_a_misspelt_key_is_named_with_its_place():
    plain = {"precision": "int8", "activations": "static", "calibration": {"metod": "mse"}}
    with pytest.raises(StepError, match=r"x\.calibration: unknown key 'metod'; did you mean 'm"):
        from_plain(Quantize, plain, where="x", error=StepError)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"percentile": 99.9}, "percentile is 99.9, and method 'auto' .*method to \"percentile\""),
        ({"method": "mse", "momentum": 0.5}, 'momentum is 0.5, .*method to "moving_average"'),
        ({"method": "percentile", "momentum": 0.5}, "method 'percentile' has no use for it"),
    ],
)
def test_a_setting_that_the_method_does_not_read_is_refused(settings, named):
    with pytest.raises(StepError, match=named):
        Calibration(**settings)
