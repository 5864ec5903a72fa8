"""IPython while pages are built: figures as SVG, with texts as texts; nothing else is told or kept."""

c = get_config()  # noqa: F821
c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.rc = {"svg.fonttype": "none", "svg.hashsalt": "foveal", "figure.constrained_layout.use": True}
c.HistoryManager.enabled = False
# What is told about connections concerns no page.
c.IPKernelApp.log_level = 40
# How long kernels took to compile is news for who waits for them, not for a page.
c.IPKernelApp.exec_lines = ["import foveal.kernel.progress; foveal.kernel.progress.QUIET_SECONDS = float('inf')"]
