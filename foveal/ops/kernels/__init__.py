"""How the operators of foveal.ops are computed: kernels. No operator is defined here."""
