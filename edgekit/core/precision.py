"""The precisions that weights are stored at: their names, their bits, and which compute in floats.

bf16: bfloat16, float32's range with 8 bits of mantissa. fp8_e4m3, fp8_e5m2: 8-bit floats with a
scale for each output channel (Micikevicius et al. 2022, arXiv:2209.05433). nf4: 4-bit codes of 16
fixed values with a scale for each block (Dettmers et al. 2023, arXiv:2305.14314).
"""

from typing import Literal

Precision = Literal["int8", "int4", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "nf4"]
LayerPrecision = Literal["int8", "int4", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "nf4", "float"]

# Of one weight where it is stored, without scales.
STORAGE_BITS: dict[str, int] = {
    "int4": 4,
    "nf4": 4,
    "int8": 8,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
    "fp16": 16,
    "bf16": 16,
    "float": 32,
}
INTEGERS = ("int8", "int4")
# Weights alone are stored so, and widened to float32 before anything is computed.
FLOAT8 = ("fp8_e4m3", "fp8_e5m2")
STORED_ONLY = ("bf16", *FLOAT8, "nf4")
# Source: Dettmers et al. 2023, section 3 (blocks of 64 weights share the largest magnitude).
NF4_BLOCK = 64
# The codes 0 to 15 stand for these shares of a block's scale. Source: the same, appendix E.
NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
