"""Losses of the distillation: on Gaussians, where the answer is known, every gradient points the right way."""
from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from cf_app.training.losses import (
    anchoring,
    contextual_dmd,
    critic_loss,
    dmd_gradient,
    dmd_loss,
    guided,
    inject_errors,
    noised,
    predicted_x0,
    rollout_horizon,
    rollout_passes,
    score_sigmas,
)


def gaussian_flow(mean: Tensor | float, variance: float):
    """The exact flow of data N(mean, variance): (x - E[x0 | x]) / sigma."""
    def flow(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, *[1] * (x.ndim - 1))
        gain = (1 - s) * variance / ((1 - s) ** 2 * variance + s**2)
        return (x - mean - gain * (x - (1 - s) * mean)) / s
    return flow


def test_the_exact_flow_of_a_gaussian_is_the_mean_of_noise_minus_data() -> None:
    x0, noise, sigma = 2 + torch.randn(200_000, 1), torch.randn(200_000, 1), torch.full((200_000,), 0.6)
    x = noised(x0, noise, sigma)
    near = (x - 1).abs() < 0.05
    expected = (noise - x0)[near].mean()
    assert float(gaussian_flow(2.0, 1.0)(x, sigma)[near].mean()) == pytest.approx(float(expected), abs=0.05)


def test_the_dmd_gradient_pushes_from_where_the_student_is_to_where_the_data_are() -> None:
    x = torch.tensor([[1.0, 1.0], [3.0, -3.0]])
    assert torch.equal(dmd_gradient(x, real=x, fake=x), torch.zeros(2, 2))
    # The critic says "you come from 5 above", the teacher "the data are at 0": x0 has to fall.
    gradient = dmd_gradient(torch.full((1, 4), 5.0), torch.zeros(1, 4), torch.full((1, 4), 5.0))
    torch.testing.assert_close(gradient, torch.ones(1, 4))
    # A sample far from the teacher's prediction weighs no more than a near one.
    far = dmd_gradient(torch.tensor([[1.0], [100.0]]), torch.zeros(2, 1), torch.tensor([[1.0], [100.0]]))
    torch.testing.assert_close(far, torch.ones(2, 1))


def test_the_dmd_loss_carries_its_gradient() -> None:
    x0, gradient = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    dmd_loss(x0, gradient).backward()
    torch.testing.assert_close(x0.grad, gradient / x0.numel())


def test_anchoring_pulls_every_sample_to_its_own_truth_and_far_ones_no_harder() -> None:
    truth = torch.randn(2, 50)
    x0 = (truth + torch.tensor([[0.1], [10.0]])).requires_grad_()
    anchoring(x0, truth).backward()
    torch.testing.assert_close(x0.grad, torch.full_like(truth, 1 / x0.numel()))
    assert float(anchoring(truth, truth)) == 0


def test_contextual_dmd_moves_a_gaussian_student_onto_the_data_of_its_context() -> None:
    """Data given context c: N(2 c, 1). A student at N(a c + b, 1) with an exact critic ends at a = 2, b = 0."""
    torch.manual_seed(0)
    weights = torch.tensor([0.0, 3.0], requires_grad=True)
    optimizer = torch.optim.SGD([weights], 0.5)
    for step in range(120):
        context, noise, sigma = torch.randn(64, 32), torch.randn(64, 32), score_sigmas(64, 2.0)
        x0 = weights[0] * context + weights[1] + torch.randn(64, 32)
        student = (weights[0] * context + weights[1]).detach()
        loss = contextual_dmd(x0, noise, sigma, gaussian_flow(2 * context, 1.0), gaussian_flow(student, 1.0))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert weights.grad is not None and weights.grad[0] < 0 < weights.grad[1]
        optimizer.step()
    torch.testing.assert_close(weights.detach(), torch.tensor([2.0, 0.0]), atol=0.05, rtol=0)


def test_contextual_dmd_asks_both_scores_the_same_thing_and_gives_neither_a_gradient() -> None:
    asked, weight = [], torch.ones(1, requires_grad=True)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append((x, sigma))
        return x * weight

    x0 = torch.randn(2, 3, requires_grad=True)
    contextual_dmd(x0, torch.randn(2, 3), torch.tensor([0.3, 0.8]), score, lambda x, s: 2 * score(x, s)).backward()
    assert torch.equal(asked[0][0], asked[1][0]) and torch.equal(asked[0][1], asked[1][1])
    assert weight.grad is None and x0.grad is not None


def test_the_critic_learns_where_the_student_is() -> None:
    torch.manual_seed(0)
    mean = torch.zeros(1, requires_grad=True)
    samples = torch.full((512, 1), 1.0, requires_grad=True)
    loss = critic_loss(samples * 3, torch.randn(512, 1), score_sigmas(512, 1.0), gaussian_flow(mean, 1.0))
    loss.backward()
    assert mean.grad is not None and float(mean.grad) < 0  # gradient descent raises the mean, towards 3
    assert samples.grad is None  # the critic does not teach the student
    here = [critic_loss(3 + torch.randn(4096, 1), torch.randn(4096, 1), torch.full((4096,), .5), gaussian_flow(m, 1.0))
            for m in (0.0, 3.0, 6.0)]
    assert here[1] < min(here[0], here[2])


def test_guidance_exaggerates_what_the_prompt_adds() -> None:
    assert guided(torch.tensor(2.0), torch.tensor(1.0), 0.0) == 2
    assert guided(torch.tensor(2.0), torch.tensor(1.0), 3.0) == 5


def test_errors_are_added_where_they_hit() -> None:
    x, e = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    got = inject_errors(x, e, torch.tensor([True, False, True]))
    assert got.flatten(1).sum(1).tolist() == [4, 0, 4]


def test_scores_are_compared_inside_the_ends() -> None:
    sigma = score_sigmas(5000, 5.0)
    assert float(sigma.min()) == pytest.approx(0.02) and float(sigma.max()) <= 0.981
    assert float(sigma.mean()) > float(score_sigmas(5000, 1.0).mean()) + 0.1
    x = noised(torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([0.25, 0.5]))
    assert predicted_x0(x, -torch.ones(2, 1), torch.tensor([0.25, 0.5])).tolist() == [[1], [1]]


def test_the_rollout_grows_with_the_steps() -> None:
    horizons = [rollout_horizon(step, 100, 7, 35) for step in (0, 25, 50, 100, 1000)]
    assert horizons == [7, 14, 21, 35, 35]
    with pytest.raises(ValueError, match="expected 1 <= first <= last"):
        rollout_horizon(0, 10, 8, 4)


def test_the_context_is_clean_and_targets_leave_at_a_random_pass() -> None:
    rng, seen = random.Random(0), set()
    for _ in range(100):
        passes = rollout_passes(10, 3, 4, rng)
        assert passes[:7] == (4,) * 7
        assert len(set(passes[7:])) == 1
        seen.add(passes[-1])
    assert seen == {1, 2, 3, 4}
    with pytest.raises(ValueError, match="target chunks of 2"):
        rollout_passes(2, 3, 4, rng)
