"""Timing against a measured peak, and turn by turn against PyTorch and ONNX Runtime where they are installed.

cli/bench.py the command; output.py the table and the file; timing.py turns and rows; models.py whole training steps;
inference.py one image; operators.py single operators, native.py how each is compiled, shapes.py oneDNN's notation of
them; memory.py peak memory; scaling.py several threads against one; against_torch.py, torch_models.py all that knows
PyTorch; against_onnxruntime.py, onnx_graph.py all that knows ONNX Runtime.
"""
