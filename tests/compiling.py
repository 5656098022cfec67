"""How programs are compiled that run once on small arrays; needs no jax, which reads it at import.

Code that is not optimised halves the suite, and the older emitters of loops halve it once more.
"""

XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
