import logging
import os
import sys
import warnings

import pytest

from edgekit.compile.silence import silence


def test_nothing_comes_out_of_either_stream_from_python_or_below(capfd):
    with silence():
        print("python")
        print("python", file=sys.stderr)
        os.write(1, b"native")
        os.write(2, b"native")
        logging.getLogger("x").error("logged")
        warnings.warn("warned", stacklevel=1)
    print("after")
    out, err = capfd.readouterr()
    assert (out, err) == ("after\n", "")


def test_handlers_and_levels_are_as_they_were():
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    with silence():
        root.addHandler(logging.NullHandler())
        assert not root.isEnabledFor(logging.CRITICAL)
    assert (root.handlers, root.manager.disable) == (handlers, disabled)


def test_errors_pass_through_and_streams_come_back(capfd):
    with pytest.raises(ValueError, match="real"), silence():
        raise ValueError("real")
    os.write(2, b"again")
    assert capfd.readouterr().err == "again"
