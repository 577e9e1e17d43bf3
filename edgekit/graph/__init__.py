"""One bounds-checked reader of .tflite and .onnx."""
