"""An environment of its own for each tool, made when it is first asked for.

They lie in EDGEKIT_TOOLS, by default ``.tools`` beside this file, and hold exactly what is stated
here: the versions of the table.
"""

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool. title: as the table names it, with its version. script: runs its recipes."""

    name: str
    title: str
    script: str
    requirements: tuple[str, ...]


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            name="aeq",
            title="ai-edge-quantizer 0.10.0",
            script="with_aeq.py",
            requirements=("ai-edge-quantizer==0.10.0", "ai-edge-litert==2.3.0"),
        ),
        Tool(
            name="ort",
            title="ONNX Runtime 1.31.1",
            script="with_ort.py",
            requirements=("onnxruntime==1.31.1", "onnx==1.23.2", "sympy", "onnx-ir==1.1.0"),
        ),
        Tool(
            name="nncf",
            title="NNCF 3.4.0",
            script="with_nncf.py",
            requirements=("nncf==3.4.0", "onnxruntime==1.31.1", "onnx==1.23.2"),
        ),
        Tool(
            name="olive",
            title="Olive 0.13.0",
            script="with_olive.py",
            requirements=(
                "torch==2.13.0",
                "olive-ai==0.13.0",
                "requests",
                "onnxruntime==1.31.1",
                "onnx==1.23.2",
            ),
        ),
    )
}


def quantized(tool: Tool, recipe: str, source: Path, calibration: Path, out: Path) -> Path:
    """What a tool makes of a float model by one of its recipes.

    Raises: RuntimeError with the tool's last words where it makes nothing.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [_python(tool), HERE / "tools" / tool.script, recipe, source, calibration, out]
    done = subprocess.run(
        [str(item) for item in command],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not out.exists():
        words = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise RuntimeError("".join(words) or f"{tool.title} ended with {done.returncode}")
    return out


def _python(tool: Tool) -> Path:
    """The interpreter of a tool's environment, which is made where there is none."""
    folder = Path(os.environ.get("EDGEKIT_TOOLS", HERE / ".tools")) / tool.name
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = "\n".join(tool.requirements)
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"making the environment of {tool.title} ...", file=sys.stderr, flush=True)
    venv.create(folder, clear=True, with_pip=True)
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *tool.requirements],
        check=True,
        stdout=sys.stderr,
    )
    ready.write_text(wanted)
    return python
