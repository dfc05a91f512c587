"""The presets of published models have their published numbers of parameters, and their files name known models."""

from __future__ import annotations

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from alignlab.config.paths import conf_dir
from alignlab.models.known_configs import CONFIGS, known_config

# As published with the weights (hub, model cards, the README of Pythia). A tied embedding counts once.
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "EleutherAI/pythia-160m": 162_322_944,
    "EleutherAI/pythia-410m": 405_334_016,
    "EleutherAI/pythia-1b": 1_011_781_632,
    "EleutherAI/pythia-1.4b": 1_414_647_808,
    "EleutherAI/pythia-2.8b": 2_775_208_960,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-medium": 354_823_168,
    "openai-community/gpt2-large": 774_030_080,
    "openai-community/gpt2-xl": 1_557_611_200,
    "facebook/opt-125m": 125_239_296,
    "facebook/opt-350m": 331_196_416,
    "facebook/opt-1.3b": 1_315_758_080,
    "facebook/opt-2.7b": 2_651_596_800,
    "facebook/opt-6.7b": 6_658_473_984,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-pt": 999_885_952,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "alignment-handbook/zephyr-7b-sft-full": 7_241_732_096,
    "HuggingFaceH4/zephyr-7b-beta": 7_241_732_096,
}


def parameters(name: str, layers: int | None = None) -> int:
    """Number of parameters of a known model on the meta device; with `layers`, of one with fewer layers."""
    config = known_config(name)
    if layers is not None:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def extrapolated(name: str) -> int:
    """The number of parameters by models of one and two layers: all layers of these models are alike."""
    one, two = parameters(name, 1), parameters(name, 2)
    return one + (known_config(name).num_hidden_layers - 1) * (two - one)


# One of each family; the others are slow tests only because there are many of them.
FIRST = {name.partition("/")[2].split("-")[0]: name for name in reversed(PUBLISHED)}.values()
NAMES = [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]


@pytest.mark.parametrize("name", NAMES)
def test_a_known_config_has_the_published_number_of_parameters(name: str) -> None:
    assert extrapolated(name) == PUBLISHED[name]


def test_all_layers_of_a_model_are_alike() -> None:
    assert parameters("HuggingFaceTB/SmolLM2-135M") == PUBLISHED["HuggingFaceTB/SmolLM2-135M"]


def test_every_known_config_was_compared() -> None:
    compared = {tuple(CONFIGS[name].items()) for name in PUBLISHED}
    assert {tuple(facts.items()) for facts in CONFIGS.values()} == compared
    assert known_config("org/no-such-model") is None


def test_the_presets_name_known_models() -> None:
    named = {}
    for file in (conf_dir() / "model").glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        if content["defaults"][0] == "/schema/model/hub@_here_" and content["name"] != "???":
            named[file.stem] = content["name"]
            assert set(content) == {"defaults", "name"}
    assert len(named) == 68
    assert set(named.values()) <= CONFIGS.keys()
    assert named["smollm2_360m"].endswith("-Instruct"), "as smollm2_135m"
    for preset, name in named.items():
        if not preset.startswith("smollm2"):
            assert preset.endswith("_instruct") == name.endswith("-Instruct") or "_instruct_" in preset
