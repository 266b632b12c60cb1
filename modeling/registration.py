"""Making the family known to Transformers' Auto classes, as often as anybody likes."""

from __future__ import annotations


def register_config() -> None:
    """Lets AutoConfig read `config.json` of this family; enough for vLLM, which has a model of its own."""
    from transformers import AutoConfig

    from modeling.pruned_config import MODEL_TYPE, PrunedConfig

    AutoConfig.register(MODEL_TYPE, PrunedConfig, exist_ok=True)


def register_with_transformers() -> None:
    """Lets AutoConfig, AutoModel and AutoModelForCausalLM load checkpoints of this family."""
    from transformers import AutoModel, AutoModelForCausalLM

    from modeling.pruned_config import PrunedConfig
    from modeling.pruned_model import PrunebenchForCausalLM, PrunedModel

    register_config()
    AutoModel.register(PrunedConfig, PrunedModel, exist_ok=True)
    AutoModelForCausalLM.register(PrunedConfig, PrunebenchForCausalLM, exist_ok=True)
