"""A GGUF file becomes a folder that is saved, trained, adapted, and resumed like any other."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from case_gguf import END, START, tiny_bpe, tiny_model, write_gguf
from tokencredit.errors import UserError
from tokencredit.models.loading.gguf import PACKAGE, VERSION, convert_gguf, find_packaged_gguf
from tokencredit.models.loading.gguf_header import Header, check_against_metadata

CONTENT = b"GGUF weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def write_distribution(folder: Path, files: tuple[str, ...] = ("model.gguf",)) -> Path:
    """An installed package `fake-model` 1.2 whose code cannot be imported."""
    package, info = folder / "fake_model", folder / "fake_model-1.2.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for name in files:
        (package / name).write_bytes(CONTENT)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-model\nVersion: 1.2\n")
    listed = ["fake_model/__init__.py", *(f"fake_model/{name}" for name in files)]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in listed))
    return package


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_file_is_found_without_importing(site: Path) -> None:
    package = write_distribution(site)
    assert find_packaged_gguf("fake-model", "1.2", DIGEST) == package / "model.gguf"
    assert "fake_model" not in sys.modules


def test_absent_package_names_the_remedy(site: Path) -> None:
    with pytest.raises(UserError, match=r"not installed; .*pip install --no-deps fake-model==1\.2"):
        find_packaged_gguf("fake-model", "1.2", DIGEST)


def test_another_version_is_refused(site: Path) -> None:
    write_distribution(site)
    with pytest.raises(UserError, match=r"fake-model 1\.2 is installed, 1\.3 is needed; .*==1\.3"):
        find_packaged_gguf("fake-model", "1.3", DIGEST)


@pytest.mark.parametrize("files", [(), ("a.gguf", "b.gguf")], ids=["none", "two"])
def test_one_file_is_expected(site: Path, files: tuple[str, ...]) -> None:
    write_distribution(site, files)
    with pytest.raises(UserError, match=f"one .gguf file, found {len(files)}"):
        find_packaged_gguf("fake-model", "1.2", DIGEST)


def test_damaged_or_deleted_file_is_refused(site: Path) -> None:
    package = write_distribution(site)
    (package / "model.gguf").write_bytes(CONTENT + b"!")
    with pytest.raises(UserError, match=r"checksum of .*model\.gguf differs"):
        find_packaged_gguf("fake-model", "1.2", DIGEST)
    (package / "model.gguf").unlink()
    with pytest.raises(UserError, match="found 0"):
        find_packaged_gguf("fake-model", "1.2", DIGEST)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    bpe = tiny_bpe()
    write_gguf(path, tiny_model(bpe.get_vocab_size()), bpe)
    return path


def load(folder: Path) -> Any:
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[key]
    assert not hasattr(model.config, "quantization_config")
    return model


def test_conversion_gives_back_the_model(tiny: Path, tmp_path: Path) -> None:
    convert_gguf(tiny, tmp_path)
    bpe, model, words = tiny_bpe(), load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    original = tiny_model(bpe.get_vocab_size())
    ids = torch.arange(2, 42)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits, atol=1e-5, rtol=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert words("the movie was")["input_ids"] == bpe.encode("the movie was").ids
    assert (words.eos_token_id, words.bos_token_id, words.pad_token_id) == (END, START, END)
    assert words.model_max_length == model.config.max_position_embeddings == 64
    assert model.config.eos_token_id == model.generation_config.eos_token_id == END


def test_conversion_to_bfloat16(tiny: Path, tmp_path: Path) -> None:
    convert_gguf(tiny, tmp_path, torch.bfloat16)
    assert load(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize("cut", [3000, -3000], ids=["in_metadata", "in_tensors"])
def test_truncated_file_is_refused(tiny: Path, tmp_path: Path, cut: int) -> None:
    short, out = tmp_path / "short.gguf", tmp_path / "out"
    short.write_bytes(tiny.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"short\.gguf': this is no complete GGUF file"):
        convert_gguf(short, out)
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"this is a text and no GGUF file"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match="this is no complete GGUF file"):
        convert_gguf(tmp_path / "x.gguf", tmp_path / "out")
    with pytest.raises(UserError, match="there is no such file"):
        convert_gguf(tmp_path / "y.gguf", tmp_path / "out")


def test_unknown_architecture_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "x.gguf", "perceptron")
    writer.add_tensor("w", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"x\.gguf': transformers cannot read it"):
        convert_gguf(tmp_path / "x.gguf", tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("llama.context_length", "says 7 for the context, transformers reads 64"),
        ("tokenizer.ggml.eos_token_id", "says 7 for the eos id of the model, transformers reads 0"),
        ("tokenizer.ggml.bos_token_id", "says 7 for the bos id of the model, transformers reads 1"),
        ("tokenizer.ggml.padding_token_id", "says 7 for the pad id of the model"),
    ],
)
def test_contradicting_metadata_is_refused(tiny: Path, key: str, message: str) -> None:
    facts = Header(tiny).facts()
    model = AutoModelForCausalLM.from_pretrained(tiny.parent, gguf_file=tiny.name)
    words = AutoTokenizer.from_pretrained(tiny.parent, gguf_file=tiny.name)
    check_against_metadata(facts, model, words)
    with pytest.raises(UserError, match=message):
        check_against_metadata({**facts, key: 7}, model, words)
    words.eos_token = "<|start|>"
    with pytest.raises(UserError, match="says 0 for the eos id of the tokenizer"):
        check_against_metadata(facts, model, words)


def installed() -> bool:
    try:
        return metadata.version(PACKAGE) == VERSION
    except metadata.PackageNotFoundError:
        return False


packaged = pytest.mark.skipif(
    not installed(), reason=f"needs: pip install --no-deps {PACKAGE}=={VERSION}"
)


def one_step(model: Any, ids: torch.Tensor, lr: float = 1e-4) -> float:
    """One SGD step on the next-token loss; that loss."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = model(ids, labels=ids).loss
    loss.backward()
    torch.optim.SGD(trained, lr=lr).step()
    model.zero_grad(set_to_none=True)
    return float(loss.detach())


@packaged
@pytest.mark.slow
@pytest.mark.xdist_group("smollm2")  # one process, which converts the file once
class TestPackagedModel:
    """SmolLM2-135M-Instruct, from the file in the package."""

    def test_logits_and_text(self, smollm2: Path) -> None:
        gguf = find_packaged_gguf()
        direct = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        with pytest.raises(ValueError, match="not serializable"):
            direct.save_pretrained(smollm2 / "direct")
        model, words = load(smollm2), AutoTokenizer.from_pretrained(smollm2)
        batch = words("The movie was", return_tensors="pt")
        with torch.no_grad():
            expected, found = direct(**batch).logits, model(**batch).logits
            said = model.generate(**batch, max_new_tokens=16, do_sample=False)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        text = words.decode(said[0], skip_special_tokens=True)
        common = {"a", "the", "of", "and", "in", "to", "was", "is", "that", "about"}
        assert text.isascii()
        assert len(common & set(text.removeprefix("The movie was").lower().split())) >= 3, text
        assert (words.eos_token, words.bos_token, words.pad_token) == (
            "<|im_end|>",
            "<|im_start|>",
            "<|im_end|>",
        )
        assert words.model_max_length == 8192

    def test_full_fine_tuning_and_resume(self, smollm2: Path, tmp_path: Path) -> None:
        model, words = load(smollm2), AutoTokenizer.from_pretrained(smollm2)
        ids = words("The movie was a great surprise.", return_tensors="pt")["input_ids"]
        model.train()
        first, second = one_step(model, ids), one_step(model, ids)
        assert second < first
        model.save_pretrained(tmp_path)
        resumed = load(tmp_path).train()
        assert one_step(resumed, ids) == one_step(model, ids) < second

    def test_lora_trains_adapters_alone(self, smollm2: Path) -> None:
        base, words = load(smollm2), AutoTokenizer.from_pretrained(smollm2)
        ids = words("The movie was a great surprise.", return_tensors="pt")["input_ids"]
        before = {name: value.clone() for name, value in base.state_dict().items()}
        adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(base, adapter)
        first = one_step(model, ids, lr=1e-2)
        assert one_step(model, ids) < first
        after = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): value
            for name, value in model.state_dict().items()
        }
        assert all(torch.equal(after[name], value) for name, value in before.items())
        moved = [value for name, value in after.items() if "lora_B" in name]
        assert min(value.abs().max() for value in moved) > 0
