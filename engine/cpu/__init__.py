"""SGLang's Nemotron-H path on a CPU: what its CUDA, Triton and AMX kernels do, in plain torch.

    imports.py      stand-ins for modules SGLang imports before any plugin can run; triton_stub.py
    quiet.py        messages of every start that nobody can act on
    sgl_kernel/     the stand-in for SGLang's CPU kernel wheel
    patches.py      the whole list, and the check that every one took effect
    conv.py, ssd.py, ssm_step.py, state_rows.py, moe.py, attention.py, shards.py, platform.py
                    one patched subject each: the torch code, and below it the upstream symbols
                    it stands in for, with the reason
    tree.py, slots.py
                    speculative trees and cache-slot tables, reached through sgl_kernel/

Nothing here is imported, and nothing is patched, unless ``SGLANG_USE_CPU_ENGINE=1``.
"""
