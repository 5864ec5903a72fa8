"""The vectors that tests run natively beside the widest ones of this CPU: AVX2 where it has AVX-512, SSE where it has
AVX2, none on ARM.
"""

from foveal.kernel.target import choices, host, narrowed

#: by name: what FOVEAL_TARGET makes of this CPU
SECOND = {name: narrowed(host(), name) for name in list(choices(host()))[1:2]}
