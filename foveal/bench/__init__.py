"""Timing against a measured peak, and alternately with other frameworks where they are installed.

timing.py               how times are taken, and what a timed row holds
models.py               whole training steps
inference.py            one image, or a batch
under_load.py           inference, or a step, beside busy processes, or for several callers at the same time
operators.py            single operators
shapes.py               oneDNN's notation of shapes
native.py               how each operator becomes machine code
memory.py               peak memory of training steps
compiling.py            first steps, with an empty kernel cache and with a filled one
scaling.py              several threads against one
thread_model.py         how long a step takes on more threads than there are, and what is counted in it
ranks.py                several ranks against one, measured and predicted
ranks_job.py            what the ranks run
ranks_model.py          how long a step takes on many ranks
hosts.py                several hosts on this machine, in network namespaces
loss_curve.py           losses of a training run against PyTorch's
recipes.py              recipes against searches, on small sets
output.py               the line about the machine, the table, the JSON file
against_torch.py        operators, training steps and inference against PyTorch's
torch_operators.py      operators in PyTorch
torch_models/           the networks in PyTorch
against_onnxruntime.py  inference in ONNX Runtime
against_openvino.py     inference in OpenVINO
inference_only.py       what both leave out
against_several.py      several frameworks as one
onnx_graph.py           a traced model as an ONNX graph
"""
