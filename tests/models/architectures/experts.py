"""Mixtures of experts, as their configs make them."""

from __future__ import annotations

from tests.models.architectures.architecture import Architecture, Call, causal

KIND = "causal"


def qwen2_moe() -> Call:
    """Qwen2-MoE: shared and routed experts."""
    return causal(
        "Qwen2Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=64
    )


def qwen3_moe() -> Call:
    """Qwen3-MoE."""
    return causal("Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=16)


def olmoe() -> Call:
    """OLMoE."""
    return causal("Olmoe", num_experts=4, num_experts_per_tok=2)


def deepseek_v2() -> Call:
    """DeepSeek V2: latent attention, groups of experts."""
    return causal(
        "DeepseekV2",
        n_routed_experts=4,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        q_lora_rank=32,
        qk_rope_head_dim=8,
        v_head_dim=16,
        qk_nope_head_dim=8,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        num_key_value_heads=4,
        n_group=1,
        topk_group=1,
    )


def deepseek_v3() -> Call:
    """DeepSeek V3: latent attention, experts chosen by sigmoids."""
    return causal(
        "DeepseekV3",
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        q_lora_rank=32,
        qk_rope_head_dim=8,
        v_head_dim=16,
        qk_nope_head_dim=8,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        num_key_value_heads=4,
    )


def phimoe() -> Call:
    """Phi-3.5-MoE: sparse mixer."""
    return causal("Phimoe", num_local_experts=4)


def granitemoe() -> Call:
    """Granite-MoE."""
    return causal("GraniteMoe", num_local_experts=4, num_experts_per_tok=2)


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        qwen2_moe,
        qwen3_moe,
        olmoe,
        deepseek_v2,
        deepseek_v3,
        phimoe,
        granitemoe,
    )
)
