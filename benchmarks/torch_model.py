"""The same network, loss, optimiser and reverse step in PyTorch, written with its fast paths.

Fused query-key-value products, ``scaled_dot_product_attention``, fused AdamW, a multi-tensor
moving average, ``inference_mode`` for sampling; on a GPU, autocast to bfloat16.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from diffusion_jax.models.spec import DenoiserConfig
from diffusion_jax.schedules import make_schedule


class Block(nn.Module):
    """One post-LN BERT layer."""

    def __init__(self, spec: DenoiserConfig) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, spec.norm_eps)
        self.mlp_in = nn.Linear(width, spec.mlp_dim)
        self.mlp_out = nn.Linear(spec.mlp_dim, width)
        self.mlp_norm = nn.LayerNorm(width, spec.norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, L, D] to [B, L, D]."""
        spec = self.spec
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, spec.num_heads, spec.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            query, key, value, dropout_p=spec.attention_dropout if self.training else 0.0
        )
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        x = self.attention_norm(x + F.dropout(mixed, spec.dropout, self.training))
        mixed = self.mlp_out(F.gelu(self.mlp_in(x)))
        return self.mlp_norm(x + F.dropout(mixed, spec.dropout, self.training))


class Denoiser(nn.Module):
    """The published network: BERT between two projections, told the time."""

    def __init__(self, spec: DenoiserConfig) -> None:
        super().__init__()
        assert spec.vocab_size is not None
        self.spec = spec
        width, time_width = spec.hidden_dim, 4 * spec.time_dim
        self.embedding = nn.Embedding(spec.vocab_size, spec.embed_dim)
        self.head_bias = nn.Parameter(torch.zeros(spec.vocab_size))
        self.positions = nn.Parameter(torch.randn(spec.max_length, width))
        half = spec.time_dim // 2
        self.register_buffer("frequencies", torch.exp(torch.arange(half) * -math.log(1e4) / half))
        self.time = nn.Sequential(
            nn.Linear(spec.time_dim, time_width), nn.SiLU(), nn.Linear(time_width, width)
        )
        self.up = nn.Sequential(
            nn.Linear(spec.embed_dim, width), nn.Tanh(), nn.Linear(width, width)
        )
        self.input_norm = nn.LayerNorm(width, spec.norm_eps)
        self.blocks = nn.Sequential(*(Block(spec) for _ in range(spec.num_layers)))
        self.down = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, spec.embed_dim)
        )

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Estimate ``x_start`` [B, L, E] from latents and time labels [B]."""
        angles = time[:, None] * self.frequencies
        time_vector = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
        hidden = self.up(x) + self.positions[: x.shape[1]] + time_vector[:, None]
        hidden = F.dropout(self.input_norm(hidden), self.spec.dropout, self.training)
        return self.down(self.blocks(hidden))


def low_precision(spec: DenoiserConfig, device: str) -> torch.autocast:
    """Return the context in which products are made in ``spec.dtype``."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=spec.dtype == "bfloat16")


def make_train_step(
    spec: DenoiserConfig,
    num_timesteps: int,
    learning_rate: float,
    ema_rate: float,
    device: str = "cpu",
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that makes one training step of Diffusion-LM on ids [B, L]."""
    model = Denoiser(spec).train().to(device)
    params = list(model.parameters())
    averages = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=learning_rate, weight_decay=0.0, fused=True)
    alphas_cumprod = torch.from_numpy(
        make_schedule("sqrt", num_timesteps).alphas_cumprod.astype(np.float32)
    ).to(device)
    first_sigma = (1 - alphas_cumprod[0]).sqrt()

    def step(ids: torch.Tensor) -> torch.Tensor:
        t = torch.randint(num_timesteps, (ids.shape[0],), device=device)
        alpha_bar = alphas_cumprod[t][:, None, None]
        mean = model.embedding(ids)
        x_start = mean + first_sigma * torch.randn_like(mean)
        x_t = alpha_bar.sqrt() * x_start + (1 - alpha_bar).sqrt() * torch.randn_like(mean)
        with low_precision(spec, device):
            pred = model(x_t, t * (1000.0 / num_timesteps)).float()
        target = torch.where((t == 0)[:, None, None], mean, x_start)
        mse = F.mse_loss(pred, target)
        prior = (alphas_cumprod[-1] * x_start.square()).mean()
        scores = F.linear(x_start, model.embedding.weight, model.head_bias)
        nll = F.cross_entropy(scores.flatten(0, 1), ids.flatten())
        loss = mse + prior + nll
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, 1 - ema_rate)
        return loss.detach()

    return step


def make_reverse_step(
    spec: DenoiserConfig, num_timesteps: int, device: str = "cpu"
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Return one ancestral step with the clamp, (x_t [B, L, E], t) -> the state at t - 1."""
    model = Denoiser(spec).eval().to(device)
    table = make_schedule("sqrt", num_timesteps)
    embedding = model.embedding.weight.detach()
    square = embedding.square().sum(-1)

    @torch.inference_mode()
    def step(x: torch.Tensor, t: int) -> torch.Tensor:
        time = torch.full((x.shape[0],), t * 1000.0 / num_timesteps, device=device)
        with low_precision(spec, device):
            pred = model(x, time).float().flatten(0, 1)
        # argmin |e - x|^2 = argmax e.x - |e|^2 / 2, one product with the bias folded in.
        nearest = torch.addmm(-0.5 * square, pred, embedding.T).argmax(-1)
        x_start = embedding[nearest].view_as(x)
        mean = table.posterior_mean_coef1[t] * x_start + table.posterior_mean_coef2[t] * x
        return mean + math.sqrt(table.posterior_variance[t]) * torch.randn_like(x)

    return step
