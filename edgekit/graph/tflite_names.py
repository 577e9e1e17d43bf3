"""Names of the .tflite format: operators, tensor types, and the options that readers need.

Source: the LiteRT schema (schema.fbs, version 3) as of ai-edge-litert 2.3.0; a test compares.
"""

# Position is the operator's code.
_OPERATORS = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU
    RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH
    CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN
    SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN
    EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM
    ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN
    TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE
    POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND
    LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD
    RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V
    UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG
    QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4
    NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
    PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL
    COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS
    RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE
    RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC
    STABLEHLO_ADD STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE
    STABLEHLO_CLAMP STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION
    STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND
    STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM
    STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT
    STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE
    STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD
    STABLEHLO_IOTA STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT
    STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR
    REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
"""
OPERATORS = tuple(_OPERATORS.split())

# Position is the tensor type's code.
DTYPES = (
    "float32",
    "float16",
    "int32",
    "uint8",
    "int64",
    "string",
    "bool",
    "int16",
    "complex64",
    "int8",
    "float64",
    "complex128",
    "uint64",
    "resource",
    "variant",
    "uint32",
    "uint16",
    "int4",
    "bfloat16",
    "int2",
    "uint4",
    "float8_e4m3fn",
    "float8_e5m2",
)

PADDINGS = ("SAME", "VALID")
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")

# Options table code -> (attribute, field number, kind). Kinds: "i" int32, "?" bool, "f" float32,
# "v" vector of int32, "p" padding, "a" fused activation, "t" tensor type. A number after the kind
# is the default.
OPTIONS: dict[int, tuple[tuple[str, int, str], ...]] = {
    1: (
        ("padding", 0, "p"),
        ("stride_w", 1, "i"),
        ("stride_h", 2, "i"),
        ("activation", 3, "a"),
        ("dilation_w", 4, "i1"),
        ("dilation_h", 5, "i1"),
    ),
    2: (
        ("padding", 0, "p"),
        ("stride_w", 1, "i"),
        ("stride_h", 2, "i"),
        ("depth_multiplier", 3, "i"),
        ("activation", 4, "a"),
        ("dilation_w", 5, "i1"),
        ("dilation_h", 6, "i1"),
    ),
    5: (
        ("padding", 0, "p"),
        ("stride_w", 1, "i"),
        ("stride_h", 2, "i"),
        ("filter_w", 3, "i"),
        ("filter_h", 4, "i"),
        ("activation", 5, "a"),
    ),
    8: (
        ("activation", 0, "a"),
        ("weights_format", 1, "b"),
        ("keep_num_dims", 2, "?"),
        ("asymmetric_quantize_inputs", 3, "?"),
    ),
    9: (("beta", 0, "f"),),
    10: (
        ("axis", 0, "i"),
        ("activation", 1, "a"),
    ),
    11: (("activation", 0, "a"),),
    12: (("activation", 0, "a"),),
    15: (
        ("align_corners", 2, "?"),
        ("half_pixel_centers", 3, "?"),
    ),
    17: (("new_shape", 0, "v"),),
    19: (("block_size", 0, "i"),),
    21: (("activation", 0, "a"),),
    23: (
        ("axis", 0, "i"),
        ("batch_dims", 1, "i"),
    ),
    27: (("keep_dims", 0, "?"),),
    28: (("activation", 0, "a"),),
    29: (("activation", 0, "a"),),
    30: (("squeeze_dims", 0, "v"),),
    32: (
        ("begin_mask", 0, "i"),
        ("end_mask", 1, "i"),
        ("ellipsis_mask", 2, "i"),
        ("new_axis_mask", 3, "i"),
        ("shrink_axis_mask", 4, "i"),
        ("offset", 5, "?"),
    ),
    35: (("num_splits", 0, "i"),),
    37: (
        ("in_dtype", 0, "t"),
        ("out_dtype", 1, "t"),
    ),
    49: (
        ("padding", 0, "p"),
        ("stride_w", 1, "i"),
        ("stride_h", 2, "i"),
        ("activation", 3, "a"),
    ),
    59: (
        ("values_count", 0, "i"),
        ("axis", 1, "i"),
    ),
    64: (
        ("num", 0, "i"),
        ("axis", 1, "i"),
    ),
    71: (
        ("activation", 0, "a"),
        ("cell_clip", 1, "f"),
        ("proj_clip", 2, "f"),
        ("time_major", 3, "?"),
        ("asymmetric_quantize_inputs", 4, "?"),
    ),
    74: (
        ("align_corners", 0, "?"),
        ("half_pixel_centers", 1, "?"),
    ),
    75: (("alpha", 0, "f"),),
    92: (
        ("then_subgraph", 0, "i"),
        ("else_subgraph", 1, "i"),
    ),
    93: (
        ("cond_subgraph", 0, "i"),
        ("body_subgraph", 1, "i"),
    ),
    94: (("block_size", 0, "i"),),
    101: (
        ("adj_x", 0, "?"),
        ("adj_y", 1, "?"),
        ("asymmetric_quantize_inputs", 2, "?"),
    ),
    102: (
        ("exclusive", 0, "?"),
        ("reverse", 1, "?"),
    ),
    103: (("init_subgraph", 0, "i"),),
    116: (("approximate", 0, "?"),),
}
