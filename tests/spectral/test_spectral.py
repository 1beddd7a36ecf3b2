"""Spectra of convolutions against the dense matrix of the map, column by column."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrobust as fr
from fastrobust.spectral import conv

# size, kernel, stride, dilation, groups; (c_out, c_in / groups) is (6, 4) for all
CASES = [
    ((4, 4), (3, 3), 1, 1, 1),
    ((5, 7), (3, 3), 1, 1, 1),
    ((9, 8), (3, 2), 1, 1, 1),
    ((6, 6), (2, 2), 1, 1, 2),
    ((6, 4), (3, 3), 2, 1, 1),
    ((9, 6), (3, 3), 3, 1, 1),
    ((6, 6), (2, 4), (2, 3), 1, 3),
    ((7, 8), (3, 3), 1, 2, 1),
    ((6, 8), (3, 3), 2, (3, 2), 2),
    ((4, 5), (5, 7), 1, 1, 1),
    ((4, 4), (7, 6), 2, 3, 1),
    ((5, 6), (1, 1), 1, 1, 1),
    ((6, 4), (1, 1), 2, 1, 2),
    ((4, 6), (1, 3), (1, 2), 1, 1),
    ((1, 5), (3, 3), 1, 1, 6),
]


def dense(weight, size, stride, dilation, groups, zeros=None):
    """The matrix of a convolution, circular or between zeros, from its images of a basis."""
    pair = [(n, n) if isinstance(n, int) else n for n in (stride, dilation)]
    channels = weight.shape[1] * groups
    inputs = channels * size[0] * size[1]
    basis = torch.eye(inputs, dtype=weight.dtype).reshape(inputs, channels, *size)
    if zeros is None:
        reach = [d * (k - 1) for d, k in zip(pair[1], weight.shape[2:], strict=True)]
        rows, columns = (torch.arange(n + r) % n for n, r in zip(size, reach, strict=True))
        basis = basis[:, :, rows][:, :, :, columns]
    out = F.conv2d(basis, weight, None, pair[0], zeros or 0, pair[1], groups)
    return out.reshape(inputs, -1).T


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_singular_values(case, device):
    size, kernel, *how = case
    weight = torch.randn(6, 4, *kernel, dtype=torch.float64)
    wanted = torch.linalg.svdvals(dense(weight, size, *how))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        found = fr.spectral.conv_singular_values(weight.to(device, dtype), size, *how)
        assert found.dtype == dtype and found.device.type == device.type
        assert found.shape == wanted.shape
        assert (found.cpu() - wanted).abs().max() <= tolerance * wanted[0]
        norm = fr.spectral.conv_norm(weight.to(device, dtype), size, *how)
        assert abs(norm.cpu() - wanted[0]) <= tolerance * wanted[0]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_convolution_has_the_values_of_its_matrix(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    groups, stride = draw(1, 3), (draw(1, 3), draw(1, 3))
    size = [s * draw(-(-4 // s), 9 // s) for s in stride]
    kernel, dilation = (draw(1, 10), draw(1, 4)), (draw(1, 3), draw(1, 2))
    generator = torch.Generator().manual_seed(draw(0, 2**32))
    shape = (groups * draw(1, 4), draw(1, 3), *kernel)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    wanted = torch.linalg.svdvals(dense(weight, size, stride, dilation, groups))
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 1e-5)):
        found = fr.spectral.conv_singular_values(weight.to(dtype), size, stride, dilation, groups)
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= tolerance * wanted[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [(3, 5), (3, 3), (257, 370), (260, 257)])
def test_singular_matrices_are_done_with_more_care(channels, dtype):
    kernel = (3, 3) if max(channels) < 10 else (1, 2)
    weight = torch.randn(*channels, *kernel, dtype=dtype)
    weight[1] = weight[0]
    weight[:, 1] = weight[:, 0]
    size = (3, 2) if max(channels) < 10 else (1, 3)
    found = fr.spectral.conv_spectra([weight], size)
    careful = "kernel in float64" if dtype == torch.float32 and channels[0] == 3 else "svd"
    assert found.methods == [careful]
    wanted = torch.linalg.svdvals(dense(weight.double(), size, 1, 1, 1))
    assert wanted[-3:].max() < 1e-6
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert (found.values[0] - wanted).abs().max() <= tolerance * wanted[0]


@pytest.mark.parametrize(
    ("dtype", "least", "careful", "tolerance"),
    [(torch.float32, 1 / 30, "kernel in float64", 1e-5), (torch.float64, 1e-6, "svd", 1e-7)],
)
@pytest.mark.parametrize("channels", [(2, 3), (3, 2), (12, 48)])
def test_the_least_value_that_a_gram_matrix_keeps(channels, dtype, least, careful, tolerance):
    few = min(channels)
    for smallest, method in ((1.1 * least, "kernel"), (0.9 * least, careful)):
        values = torch.logspace(0, 1, few, 1 / smallest, dtype=torch.float64).reciprocal()
        left, right = (torch.linalg.qr(torch.randn(n, few).double()).Q for n in channels)
        weight = torch.zeros(*channels, 1, 2, dtype=dtype)
        weight[..., 0, 1] = left @ values.diag() @ right.T
        weight[..., 0, 0] = 1e-12  # so that there is more than one tap
        found = fr.spectral.conv_spectra([weight, weight[..., :1]], (2, 3))
        assert found.methods == [method, "one svd"]
        assert found.fallbacks == (method == careful)
        assert (found.values[0] - values.repeat_interleave(6)).abs().max() <= tolerance


def test_the_method_goes_by_the_shape():
    shapes = [(4, 9, 3, 3), (4, 5, 3, 3), (4, 5, 1, 1), (257, 400, 1, 2), (257, 260, 1, 2)]
    weights = [torch.randn(shape) for shape in shapes]
    found = fr.spectral.conv_spectra(weights, (4, 2))
    assert found.methods == ["kernel", "kernel in float64", "one svd", "gram", "svd"]
    assert found.fallbacks == 2
    for weight, values in zip(weights[:3], found.values[:3], strict=True):
        wanted = torch.linalg.svdvals(dense(weight.double(), (4, 2), 1, 1, 1))
        assert (values - wanted).abs().max() <= 1e-5 * wanted[0]


def test_a_delta_has_singular_values_of_one():
    for size in (1, 2, 5, (4, 7)):
        delta = torch.zeros(3, 3, 3, 3)
        delta[range(3), [2, 0, 1], 1, 2] = 1
        found = fr.spectral.conv_singular_values(delta, size)
        torch.testing.assert_close(found, torch.ones_like(found))


def test_nothing_comes_of_zeros():
    zero = torch.zeros(2, 3, 3, 3)
    assert (fr.spectral.conv_singular_values(zero, 4) == 0).all()
    assert fr.spectral.conv_norm(zero, 4) == 0
    assert fr.spectral.conv_norm(zero, 4, padding="zeros") == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
def test_scales_with_its_weight(scale):
    weight = torch.randn(4, 6, 3, 3)
    found = fr.spectral.conv_singular_values(weight * scale, 6)
    wanted = fr.spectral.conv_singular_values(weight, 6) * scale
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted[0]))


def test_many_at_once_are_each_alone():
    weights = [torch.randn(4, 6, 3, 3), torch.randn(2, 3, 1, 1), torch.randn(40, 34, 3, 3)]
    weights += [torch.randn(4, 6, 3, 3), torch.randn(6, 4, 5, 5).double()]
    sizes, strides = [8, (4, 6), 4, 8, 4], [1, 1, 2, 2, 1]
    found = fr.spectral.conv_singular_values(weights, sizes, strides)
    for values, weight, size, stride in zip(found, weights, sizes, strides, strict=True):
        assert torch.equal(values, fr.spectral.conv_singular_values(weight, size, stride))
    assert fr.spectral.conv_singular_values([], 4) == []


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_upper_bound_is_never_below_the_norm(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    groups = draw(1, 2)
    kernel, size = (draw(1, 4), draw(1, 4)), (draw(4, 7), draw(4, 7))
    stride, dilation = (draw(1, 3), draw(1, 3)), draw(1, 2)
    generator = torch.Generator().manual_seed(draw(0, 2**32))
    weight = torch.randn(
        groups * draw(1, 2), draw(1, 2), *kernel, generator=generator, dtype=torch.float64
    )
    zeros = tuple(draw(dilation * (k - 1) // 2, dilation * (k - 1) + 1) for k in kernel)
    how = (stride, dilation, groups)
    exact = torch.linalg.matrix_norm(dense(weight, size, *how, zeros=zeros), 2)
    found = fr.spectral.conv_norm(weight, size, *how, padding="zeros", zeros=zeros, details=True)
    assert exact <= found.upper * (1 + 1e-12)
    assert abs(found.value - exact) <= 1e-8 * exact
    assert found.value <= exact * (1 + 1e-12)
    assert found.residual <= 1e-6 * exact


@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize("bound", ["exact", "upper"])
def test_the_norm_is_differentiable(padding, bound):
    how = {"padding": padding, "bound": bound}
    for groups, stride, dilation in ((1, 1, 1), (2, 2, 1), (1, 1, 2)):
        weight = torch.randn(4, 3, 3, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda w, s=stride, d=dilation, g=groups: conv.conv_norm(w, 6, s, d, g, **how),
            weight,
            atol=1e-6,
        )


def test_many_norms_are_the_largest_values_with_a_gradient_or_without():
    weights = [torch.randn(4, 6, 3, 3), torch.randn(2, 3, 1, 1), torch.randn(5, 7, 2, 2).double()]
    largest = [v[0] for v in fr.spectral.conv_singular_values(weights, [4, 4, 6], groups=[1, 2, 1])]
    for learnt in (False, True):
        mine = [w.clone().requires_grad_(learnt) for w in weights]
        found = fr.spectral.conv_norms(mine, [4, 4, 6], groups=[1, 2, 1])
        for norm, weight, wanted in zip(found, mine, largest, strict=True):
            torch.testing.assert_close(norm.detach(), wanted, rtol=1e-6, atol=0)
            assert norm.requires_grad == learnt
            if learnt:
                assert torch.autograd.grad(norm, weight)[0].norm() > 0


def test_zeros_by_default_keep_the_size():
    weight = torch.randn(3, 2, 3, 5, dtype=torch.float64)
    wanted = torch.linalg.matrix_norm(dense(weight, (6, 7), 1, 1, 1, zeros=(1, 2)), 2)
    torch.testing.assert_close(fr.spectral.conv_norm(weight, (6, 7), padding="zeros"), wanted)


def test_a_search_that_has_not_ended_says_so(monkeypatch):
    from fastrobust.spectral import lanczos

    monkeypatch.setattr(lanczos, "_MOST", 2)
    with pytest.warns(UserWarning, match="only after 2 steps"):
        found = fr.spectral.conv_norm(torch.randn(4, 4, 3, 3), 8, padding="zeros", details=True)
    assert found.residual > 1e-6 * found.value and found.value < found.upper


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.ones(2, 3, 3), 4), ValueError, r"weight must have shape \(c_out"),
        ((torch.ones(2, 0, 3, 3), 4), ValueError, "weight must have shape"),
        ((torch.full((1, 1, 3, 3), torch.nan), 4), ValueError, "weight must be finite"),
        ((torch.full((1, 1, 3, 3), -torch.inf), 4), ValueError, "weight must be finite"),
        ((torch.ones(1, 1, 3, 3).half(), 4), TypeError, "float32 or float64"),
        (("weight", 4), TypeError, "weight must be a torch.Tensor, got str"),
        ((torch.ones(1, 1, 3, 3), 0), ValueError, "input_size must be one or two whole"),
        ((torch.ones(1, 1, 3, 3), (4, 4, 4)), ValueError, "input_size must be one or two whole"),
        ((torch.ones(1, 1, 3, 3), 4.0), ValueError, "input_size must be one or two whole"),
        ((torch.ones(1, 1, 3, 3), 5, 2), ValueError, "stride must divide input_size"),
        ((torch.ones(1, 1, 3, 3), 4, 1, 0), ValueError, "dilation must be one or two whole"),
        ((torch.ones(3, 1, 3, 3), 4, 1, 1, 2), ValueError, "groups must divide c_out = 3, got 2"),
    ],
)
def test_errors_say_the_wish_then_the_fact(arguments, error, words):
    for function in (fr.spectral.conv_singular_values, fr.spectral.conv_norm):
        with pytest.raises(error, match=words):
            function(*arguments)


def test_words_and_lists_that_cannot_be():
    weight = torch.ones(1, 1, 3, 3)
    with pytest.raises(ValueError, match=r"padding must be circular \| zeros, got 'reflect'"):
        fr.spectral.conv_norm(weight, 4, padding="reflect")
    with pytest.raises(ValueError, match=r"bound must be exact \| upper, got 'lower'"):
        fr.spectral.conv_norm(weight, 4, bound="lower")
    with pytest.raises(ValueError, match="must have room for the kernel, 3 wide"):
        fr.spectral.conv_norm(weight, 2, padding="zeros", zeros=0)
    with pytest.raises(ValueError, match="input_size must be one for all or a list of 2"):
        fr.spectral.conv_singular_values([weight, weight], [4])
