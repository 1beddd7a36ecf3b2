import pytest
import torch


def devices():
    """Return every device to test on; a CUDA one is marked so that ``-m cuda`` picks it."""
    cuda = pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
        ],
    )
    return ["cpu", cuda]


@pytest.fixture(params=devices())
def device(request):
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def caller_state(request):
    """Give every test the same random numbers, and see that it leaves the global ones alone."""
    torch.manual_seed(0)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == dtype


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    import fastrobust

    doctest_namespace.update(torch=torch, nn=torch.nn, fr=fastrobust)
