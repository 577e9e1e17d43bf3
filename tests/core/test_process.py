"""Processes end with the one that started them."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")

PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
child.wait()
"""
CHILD = """
import os, sys, time
from edgekit.core.process import die_with_parent
die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(600)
"""


def test_a_process_dies_with_a_parent_that_was_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True
    )
    assert int(parent.stdout.readline()) != parent.pid
    parent.send_signal(signal.SIGKILL)
    # The child holds the other end of the pipe: it closes when the child is gone.
    parent.communicate(timeout=60)


def test_a_process_whose_parent_is_gone_already_kills_itself():
    code = "from edgekit.core.process import die_with_parent; die_with_parent(1 << 30)"
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
