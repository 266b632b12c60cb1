"""What vLLM calls through the entry point group `vllm.general_plugins`, in every one of its processes.

The model is named by a string, so that no process imports its module before it is needed: an import in the API server
could initialise a device before the engine's processes are forked.
"""

from __future__ import annotations

from modeling.registration import register_config

MODEL = "modeling.vllm:PrunebenchForCausalLM"


def register() -> None:
    """Idempotent, as vLLM asks: some processes call it more than once."""
    from vllm import ModelRegistry

    from modeling.pruned_config import ARCHITECTURE

    register_config()
    ModelRegistry.register_model(ARCHITECTURE, MODEL)
