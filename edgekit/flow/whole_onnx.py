"""A float .onnx whose weights lie in files beside it, as one file."""

from pathlib import Path

from edgekit.core.errors import CompileError, MissingDependencyError

# What one protobuf message may hold.
MAX_BYTES = 2**31 - 1


def whole_onnx(path: Path, work: Path) -> Path:
    """The same model in one file: the path itself, or a file below ``work`` with all weights in.

    Weights are only taken from the folder of the model.
    Raises: CompileError for weights that are not there or that make the file too large;
    MissingDependencyError where such a file cannot be read without the package ``onnx``.
    """
    try:
        import onnx  # noqa: PLC0415  # an .onnx in one file needs it not
        from onnx.external_data_helper import uses_external_data  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if b"location" not in path.read_bytes():
            return path
        raise MissingDependencyError(
            f"{path}: its weights seem to lie in other files, and reading those needs the package "
            "onnx; pip install 'edgekit[onnx]', or export the model in one file"
        ) from missing
    try:
        bare = onnx.load(path, load_external_data=False)
    except Exception:  # noqa: BLE001  # no ONNX at all: whoever opens it next says so better
        return path
    if not any(uses_external_data(tensor) for tensor in bare.graph.initializer):
        return path
    try:
        model = onnx.load(path)
        content = model.SerializeToString()
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CompileError(
            f"{path}: its weights lie in other files that cannot be read ({reason}); keep them "
            "beside the model, or export it in one file (external_data=False)"
        ) from error
    if len(content) > MAX_BYTES:
        raise CompileError(
            f"{path}: {len(content)} bytes with its weights; one .onnx file holds {MAX_BYTES}"
        )
    merged = work / path.name
    merged.write_bytes(content)
    return merged
