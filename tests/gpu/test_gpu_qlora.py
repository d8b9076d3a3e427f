"""Four-bit weights on a CUDA device: quantised there, trained there, the same as on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builders import make_prompts
from learning import TASK, learn
from policies import stir
from quantised import NAMES, QLORA, packed_bits, qlora_config, same, saved
from tokencredit.hardware import Device, Hardware
from tokencredit.models.actors import Actors
from tokencredit.models.loading.model import Autocast, Dtype
from tokencredit.models.loading.quantization import NF4, ComputeFormat
from tokencredit.models.loading.weights import load_causal
from tokencredit.rl.engine import Engine
from tokencredit.rl.export import export_policy
from tokencredit.rl.load import load_actors
from tokencredit.rl.update import Updater
from tokencredit.rl.world import World

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
EXACT = NF4(compute_dtype=ComputeFormat.float32)


def actors_on(device: Device, folder: Path, **model: object) -> Actors:
    config = qlora_config(**model)
    config.hardware = Hardware(device=device)
    actors = load_actors(config, folder)
    stir(actors.policy)
    return actors


@pytest.mark.parametrize("architecture", NAMES)
def test_log_probabilities_are_those_of_the_cpu(architecture: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, architecture)
    cpu, gpu = (actors_on(device, folder, nf4=EXACT) for device in (Device.cpu, Device.cuda))
    assert {p.device.type for p in gpu.policy.parameters()} == {"cuda"}
    assert {p.device.type for p in cpu.policy.parameters()} == {"cpu"}  # though there is a GPU
    rollout = cpu.roll_out(make_prompts([2, 5, 3, 4]), ("gpu",))
    found = gpu.score(rollout.to("cuda")).to("cpu")
    for name in ("logp", "ref_logp", "values"):
        one, two = getattr(rollout, name), getattr(found, name)
        torch.testing.assert_close(two, one, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("dtype", list(Dtype), ids=[dtype.value for dtype in Dtype])
@pytest.mark.parametrize("autocast", list(Autocast), ids=[kind.value for kind in Autocast])
def test_it_is_trained_there(
    architecture: str, dtype: Dtype, autocast: Autocast, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = saved(tmp_path, architecture)
    actors = actors_on(Device.cuda, folder, dtype=dtype, autocast=autocast)
    actors.policy.checkpoint_activations()
    monkeypatch.setattr("learning.make_prompts", lambda *a, **k: make_prompts(*a, **k).to("cuda"))
    engine = Engine(actors.policy, TASK, World(Hardware(device=Device.cuda, micro_batch=4)))
    bits = packed_bits(actors.policy)
    before = {n: p.detach().clone() for n, p in actors.policy.named_parameters() if p.requires_grad}
    _, log = learn(actors, Updater(engine, TASK, seed=5), range(2))
    assert same(packed_bits(actors.policy), bits)
    assert log[0]["ppo/ratio_max_dev"] < 5e-2
    after = dict(actors.policy.named_parameters())
    assert all(not torch.equal(after[name], p) for name, p in before.items())
    assert {p.dtype for p in before.values()} == {torch.float32}
    export_policy(actors, QLORA, tmp_path)
    exported = load_causal(tmp_path / "policy", Dtype.float32)
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        said = actors.policy.model(input_ids=ids.cuda()).logits.float().cpu()
        assert (exported(input_ids=ids).logits - said).abs().mean() < 0.2
