"""IPython while pages are built: figures as SVG, with texts as texts; no history is written."""

c = get_config()  # noqa: F821
c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.rc = {"svg.fonttype": "none", "svg.hashsalt": "foveal", "figure.constrained_layout.use": True}
c.HistoryManager.enabled = False
# What is told about connections concerns no page.
c.IPKernelApp.log_level = 40
