"""What `import` finds in a process that serves on a CPU."""

import pytest

from .test_patches import python


def run(script, **environment):
    done = python(script, **environment)
    assert done.returncode == 0, done.stderr
    return done


def test_what_sglang_imports_too_early_can_be_imported():
    run(
        """
        import sgl_kernel, torchvision, torchvision.transforms.v2, triton, triton.language as tl
        import sgl_kernel.mamba, sgl_kernel.speculative
        import torch

        assert sgl_kernel.__file__.startswith(os.getcwd())
        assert callable(torch.ops.sgl_kernel.decode_attention_cpu)
        assert triton.cdiv(7, 2) == 4

        @triton.jit
        def kernel(x: tl.constexpr): ...

        from torchvision.transforms import InterpolationMode
        assert InterpolationMode.BICUBIC.value == "bicubic"
        try:
            torchvision.transforms.Resize(3)
        except RuntimeError as error:
            assert "torchvision is not installed" in str(error)
        else:
            raise AssertionError("a stubbed transform could be built")
        """
    )


@pytest.mark.slow
def test_amx_weight_packing_stays_off_on_any_machine():
    """SGLang asks for this operator before it packs weights for kernels we do not have."""
    run(
        """
        import torch
        torch.cpu._is_amx_tile_supported = lambda: True
        from sglang.srt.utils.common import cpu_has_amx_support, is_amx_tile_supported
        assert is_amx_tile_supported
        assert not cpu_has_amx_support()
        """
    )


def test_a_real_installation_wins(tmp_path):
    (tmp_path / "sgl_kernel.py").write_text("real = True")
    (tmp_path / "torchvision.py").write_text("real = True")
    run(
        """
        import sgl_kernel, torchvision
        assert sgl_kernel.real and torchvision.real
        """,
        PYTHONPATH=str(tmp_path),
    )


def test_the_triton_stub_leaves_torch_as_it_was():
    run(
        """
        import torch
        before = torch.Tensor.to, torch.Tensor.copy_, torch.backends.mps.is_available
        names = set(vars(torch.mps))
        import triton
        assert before == (torch.Tensor.to, torch.Tensor.copy_, torch.backends.mps.is_available)
        assert names == set(vars(torch.mps))
        assert not torch.backends.mps.is_available()
        """
    )


def test_nothing_stands_in_unless_sglang_is_told_to_use_the_cpu():
    run(
        """
        import importlib.util
        assert importlib.util.find_spec("sgl_kernel") is None
        assert importlib.util.find_spec("torchvision") is None
        """,
        SGLANG_USE_CPU_ENGINE="0",
    )


def test_only_messages_nobody_can_act_on_are_dropped():
    done = run(
        """
        import logging, warnings
        registry = logging.getLogger("sglang.srt.models.registry")
        registry.warning("Ignore import error when loading sglang.srt.models.grok: no module")
        registry.warning("Ignore import error when loading sglang.srt.models.nemotron_h: broken")
        registry.warning("something else")
        warnings.warn("Only CUDA, HIP and XPU support AWQ currently.")
        warnings.warn("a real warning")
        """
    )
    for shown in ("nemotron_h: broken", "something else", "a real warning"):
        assert shown in done.stderr
    for dropped in ("grok", "AWQ"):
        assert dropped not in done.stderr
