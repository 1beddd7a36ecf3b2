"""Checkpoints: what they keep, and what they refuse."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import fastrobust as fr
from fastrobust.models import checkpoint

BOOK = fr.Codebook.random(4, 6, key="tests")
HEADS = {
    "softmax ce": lambda: fr.heads.Softmax("ce"),
    "softmax mse": lambda: fr.heads.Softmax("mse"),
    "codeword": lambda: fr.heads.Codeword(BOOK),
    "linear": fr.heads.Linear,
}


def make(head="codeword", normalize=((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))):
    """Return a classifier whose running statistics differ from the initial ones."""
    head = HEADS[head]()
    net = fr.models.densenet(
        layers=(1, 2), growth=3, bottleneck=False, num_outputs=4 if head.vectors is None else 6
    )
    model = fr.Classifier(net, head, normalize)
    model(torch.rand(8, 3, 6, 6))
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("normalize", [None, (0.5, 0.25), ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))])
def test_a_classifier_comes_back_to_the_bit(path, device, head, normalize):
    model = make(head, normalize).to(device)
    checkpoint.save(path, model)
    back = checkpoint.load(path, device)
    x = torch.rand(5, 3, 6, 6, device=device)
    assert torch.equal(back(x), model.eval()(x))
    assert torch.equal(back.predict(x), model.predict(x))
    assert (type(back.head), back.head.training_loss) == (
        type(model.head),
        model.head.training_loss,
    )
    assert not any(module.training for module in back.modules())
    assert all(p.requires_grad and p.device.type == device.type for p in back.parameters())
    back.train()(x).sum().backward()  # it can go on training


def test_loading_draws_no_random_number_and_saving_changes_nothing(path):
    model = make().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    random = torch.get_rng_state()
    checkpoint.save(path, model)
    checkpoint.load(path)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training and all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_facts_are_read_without_weights(path):
    model = make()
    checkpoint.save(path, model, seed=3, accuracy=0.5, config={"epochs": 2})
    facts = checkpoint.read_facts(path)
    assert (facts["format_version"], facts["seed"], facts["accuracy"]) == (1, 3, 0.5)
    assert facts["config"] == {"epochs": 2} and facts["head"] == {"kind": "codeword"}
    assert facts["normalisation"]["std"] == pytest.approx([0.5, 0.6, 0.7])
    assert facts["architecture"] == fr.models.architecture(model.net)
    assert facts["weights_digest"] == checkpoint.weights_digest(model.state_dict())


def test_digest_sees_values_names_and_shapes():
    digest = checkpoint.weights_digest
    base = {"a": torch.tensor([1.0, 2.0])}
    assert digest(base) == digest({"a": torch.tensor([1.0, 2.0])})
    others = [
        {"a": torch.tensor([1.0, 2.0000002])},
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0]).view(torch.int32)},
    ]
    assert len({digest(state) for state in [base, *others]}) == 5


def test_save_refuses_what_load_could_not_rebuild(path):
    with pytest.raises(TypeError, match="net must be a fastrobust DenseNet"):
        checkpoint.save(path, fr.Classifier(torch.nn.Linear(4, 4), fr.heads.Softmax()))
    with pytest.raises(TypeError, match="must be float32, got torch.float64"):
        checkpoint.save(path, make().double())
    broken = make()
    broken.net.linear.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite.*net.linear.weight"):
        checkpoint.save(path, broken)
    assert not list(path.parent.iterdir()), "nothing is half-written"


def test_a_failed_save_leaves_the_old_file(path):
    checkpoint.save(path, make(), seed=1)
    with pytest.raises(TypeError):
        checkpoint.save(path, make(), seed=object())
    assert checkpoint.read_facts(path)["seed"] == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match="model.safetensors must be a checkpoint"):
        checkpoint.load(path)


def rewrite(path, *, tensors=None, facts=None, drop=(), metadata=None):
    """Write the checkpoint again with changes, as another program would."""
    with safe_open(path, "pt") as file:
        kept = json.loads(file.metadata()["fastrobust"])
        names = set(file.keys()) - set(drop)
        state = {name: file.get_tensor(name) for name in names}
    state |= tensors or {}
    kept |= facts or {}
    save_file(state, path, {"fastrobust": json.dumps(kept)} if metadata is None else metadata)


DAMAGE = {
    "not safetensors": (lambda p: p.write_bytes(b"PK\x03\x04 a zip"), "whole safetensors file"),
    "empty": (lambda p: p.write_bytes(b""), "whole safetensors file"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-5]), "whole safetensors file"),
    "no metadata": (lambda p: rewrite(p, metadata={"format": "pt"}), "without its metadata"),
    "no JSON": (lambda p: rewrite(p, metadata={"fastrobust": "{"}), "facts as JSON"),
    "no object": (lambda p: rewrite(p, metadata={"fastrobust": "[]"}), "facts as JSON"),
    "version": (lambda p: rewrite(p, facts={"format_version": 2}), "format version 1, got 2"),
    "architecture": (lambda p: rewrite(p, facts={"architecture": {"deep": 1}}), "rebuilt.*deep"),
    "head": (lambda p: rewrite(p, facts={"head": {"kind": "foot"}}), "rebuilt.*foot"),
    "missing tensor": (
        lambda p: rewrite(p, drop=["net.norm.bias"]),
        "net.norm.bias must be .*got no such tensor",
    ),
    "foreign tensor": (
        lambda p: rewrite(p, tensors={"net.extra": torch.zeros(1)}),
        "net.extra must be absent",
    ),
    "shape": (
        lambda p: rewrite(p, tensors={"net.linear.bias": torch.zeros(7)}),
        r"net.linear.bias must be \(6,\).*got \(7,\)",
    ),
    "dtype": (
        lambda p: rewrite(p, tensors={"net.linear.bias": torch.zeros(6, dtype=torch.float16)}),
        "net.linear.bias must be .*float32, got .*float16",
    ),
    "codewords": (lambda p: rewrite(p, drop=["head.vectors"]), "rebuilt.*head.vectors"),
    "not finite": (
        lambda p: rewrite(p, tensors={"net.linear.bias": torch.full((6,), torch.inf)}),
        "finite weights, got NaN or inf in net.linear.bias",
    ),
    "changed": (lambda p: rewrite(p, tensors={"net.linear.bias": torch.ones(6)}), "damaged"),
    "flipped bit": (lambda p: p.write_bytes(flip_a_bit(p.read_bytes())), "damaged|finite"),
}


def flip_a_bit(content):
    return content[:-10] + bytes([content[-10] ^ 1]) + content[-9:]


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_and_foreign_files_are_refused_by_name(path, case):
    damage, message = DAMAGE[case]
    checkpoint.save(path, make())
    damage(path)
    with pytest.raises(fr.CheckpointError, match=f"model.safetensors.*(?:{message})"):
        checkpoint.load(path)
