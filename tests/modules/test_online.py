"""The online loop on a tiny model: sampling, training on the samples, and changes that must not affect the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.data.datamodule import AlignmentData, MicroBatches
from alignlab.data.layout import PLAIN, Layout
from alignlab.data.tokenize import PromptTokens
from alignlab.errors import DivergedError, EngineError, NonFiniteError, NotEnoughMemoryError, PolicyIsNotReferenceError
from alignlab.models.heads import HeadCritic, NetworkCritic, with_scalar_head
from alignlab.models.reference import frozen_copy
from alignlab.models.sources.tiny import Tiny
from alignlab.models.tolerances import TOLERANCES
from alignlab.modules.online import OnlineModule, RolloutContext
from alignlab.objectives.best_of_n import BestOfN
from alignlab.objectives.expert_iteration import ExpertIteration
from alignlab.objectives.grpo import GRPO
from alignlab.objectives.online import Online
from alignlab.objectives.online_dpo import OnlineDPO
from alignlab.objectives.ppo import PPO
from alignlab.objectives.reinforce import Reinforce
from alignlab.objectives.rloo import RLOO
from alignlab.objectives.spin import SPIN
from alignlab.optim.adamw import AdamW
from alignlab.rollout.scoring import ScoredResponse
from alignlab.rollout.settings import Rollout
from alignlab.tracking.metrics import check_known
from alignlab.training.data_shapes import shape_of
from tests.modules.cases import END, SHARED, Trained, in_one_dtype, train
from tests.modules.test_memory import refuse, warnings_of
from tests.rollout.engines.engines import Other

LETTERS = "abcdef"
# A batch of eight has four distinct prompts, twice each. The data's answers are "aab" to "af", "bab" to "bf" and so on.
PROMPTS = [PromptTokens(i, [i % 4, 5], [i % 4, 0, 1, END], LETTERS[i % 4] + "f") for i in range(8)]
FIELDS: list[Online] = [
    PPO(kl_coef=0.05, samples=2),
    PPO(kl_coef=0.05, critic="network", ptx=0.1, entropy_bonus=0.01),
    RLOO(beta=0.05),
    GRPO(beta=0.05, samples=4),
    Reinforce(beta=0.05, samples=2),
    OnlineDPO(beta=0.1, samples=4),
    OnlineDPO(loss="simpo", beta=2.0, settings={"gamma": 0.5}, samples=4),
    SPIN(beta=0.1),
    BestOfN(samples=4),
    ExpertIteration(samples=4),
]
GRADIENTS = FIELDS[:5]
STILL = 1e-30  # a learning rate that changes nothing


def name(objective: Online) -> str:
    return f"{type(objective).__name__} {getattr(objective, 'critic', '')}{getattr(objective, 'loss', '')}".strip()


def copies(said: Sequence[ScoredResponse]) -> list[float]:
    """For each answer, how often it has the first letter of its prompt."""
    return [float(one.answer.count(str(one.prompt)[0])) for one in said]


def build(
    objective: Online,
    rollout: Rollout,
    *,
    micro: int = 8,
    layout: Layout = PLAIN,
    lr: float = 1e-2,
    scorer: Any = copies,
    gold: Any = None,
    sharpness: float = 8.0,
) -> OnlineModule:
    torch.manual_seed(0)
    model, _ = Tiny(name="t", alphabet=LETTERS, hidden_size=32).load()
    model = in_one_dtype(model.double())
    with torch.no_grad():
        model.lm_head.weight *= sharpness
    critics = {"head": lambda: HeadCritic(model).double(), "network": lambda: NetworkCritic(with_scalar_head(model, 0))}
    kind = objective.requires.critic
    context = RolloutContext(
        rollout,
        frozen_copy(model, rollout.temperature),
        [END],
        lambda ids, prompt: "".join(LETTERS[i] for i in ids if i != END),
        layout,
        scorer=scorer if objective.scored else None,
        gold=gold,
        critic=critics[kind]() if kind else None,
    )
    shape = shape_of(objective.requires)
    micro_batches = MicroBatches(lambda rows: shape.collate(rows, layout), micro, 10_000)
    made = shape.module(model, objective, AdamW(lr=lr), micro_batches, max_steps=100, clip=0.0, seed=3, context=context)
    assert isinstance(made, OnlineModule)
    return made


def rows(rollout: Rollout, steps: int) -> AlignmentData:
    size = len(PROMPTS)
    return AlignmentData(PROMPTS, PROMPTS, batch_size=size, steps=steps, seed=1, repeats=rollout.updates)


def run(module: OnlineModule, folder: Path, steps: int) -> Trained:
    return train(module, folder, steps, data=rows(module.context.rollout, steps))


def short(**fields: Any) -> Rollout:
    return Rollout(max_new_tokens=4, **fields)


@pytest.mark.parametrize("objective", FIELDS, ids=name)
def test_answers_get_better(objective: Online, tmp_path: Path) -> None:
    """The scores rise (for SPIN, the data's answers become likelier), and every metric is defined."""
    rollout = short(minibatches=2, epochs=2)
    made = build(objective, rollout, lr=1e-2)
    found = run(made, tmp_path, 24)
    for row in (*found.steps, found.held_out):
        check_known(row)
        assert all(math.isfinite(value) for value in row.values())
    first, last = found.steps[0], found.steps[-1]
    if objective.scored:
        assert found.held_out["eval/objective/scores"] > first["train/objective/scores"] + 0.2
    else:
        assert last["train/logps/chosen"] > first["train/logps/chosen"] + 1
    assert found.held_out["eval/objective/kl"] > 0.1
    assert last["train/episode"] == 6 * 8 * objective.samples
    assert last["train/epoch"] == 6.0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("objective", GRADIENTS, ids=name)
def test_at_the_first_minibatch_the_policy_is_the_one_that_answered(
    objective: Online, temperature: float, tmp_path: Path
) -> None:
    """N+ (Huang et al. 2024), details 1, 2, 12: the ratio is 1, the KL to the old policy 0, and nothing is clipped.

    Before training, the KL to the reference is 0 too.
    """
    found = run(build(objective, short(minibatches=2, epochs=2, temperature=temperature)), tmp_path, 9)
    for step in (0, 4, 8):
        assert found.steps[step]["train/val/ratio"] == pytest.approx(1.0, abs=1e-6)
        assert found.steps[step]["train/policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-10)
        assert found.steps[step]["train/policy/clipfrac_avg"] == 0.0
    assert found.steps[3]["train/policy/approxkl_avg"] > 1e-6
    assert found.steps[0]["train/objective/kl"] == pytest.approx(0.0, abs=1e-6)
    assert abs(found.steps[8]["train/objective/kl"]) > 1e-4


@pytest.mark.parametrize("objective", GRADIENTS, ids=name)
def test_portions_and_layouts_change_nothing(objective: Online, tmp_path: Path) -> None:
    """Answers are sampled and trained on one at a time or together, and share rows or not."""
    found = [
        run(build(objective, short(batch_size=size, epochs=2), micro=micro, layout=layout), tmp_path, 2)
        for size, micro, layout in ((64, 8, PLAIN), (1, 1, PLAIN), (64, 3, SHARED))
    ]
    for other in found[1:]:
        for one, two in zip(found[0].gradients, other.gradients, strict=True):
            largest = max(float(value.abs().max()) for value in one.values())
            assert largest > 1e-4
            for key in one:
                torch.testing.assert_close(two[key], one[key], atol=1e-5 * largest, rtol=0)
        keys = [key for key in found[0].steps[1] if "num_tokens" not in key]
        for key in keys:
            assert other.steps[1][key] == pytest.approx(found[0].steps[1][key], abs=1e-5), key


def test_the_same_seed_gives_the_same_answers_and_another_does_not(tmp_path: Path) -> None:
    made = [build(RLOO(beta=0.1), short(shown=99), lr=STILL) for _ in range(3)]
    made[2].seed = 4
    shown = []
    for module in made:
        run(module, tmp_path, 2)
        assert module.experience is not None
        shown.append([one["completion"] for one in module.experience.shown])
    assert len(shown[0]) == 32
    assert shown[0] == shown[1]
    assert shown[0] != shown[2]


def test_a_prompt_that_is_asked_twice_gets_other_answers_and_so_does_every_batch(tmp_path: Path) -> None:
    made = build(RLOO(beta=0.1, samples=4), short(shown=99), lr=STILL, sharpness=1.0)
    answers: list[list[str]] = []
    for step in (1, 2):
        run(made, tmp_path, step)
        assert made.experience is not None
        answers.append([one["completion"] for one in made.experience.shown if one["prompt"] == "af"])
    assert len(answers[0]) == 8
    assert len(set(answers[0])) > 4
    assert answers[0] != answers[1]


@pytest.mark.parametrize("objective", [*GRADIENTS[:2], GRPO(beta=0.05)], ids=name)
def test_the_first_epoch_spares_a_pass_for_the_old_policy(
    objective: Online, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an epoch is one update, losses, values and gradients are the same as with the extra pass.

    Half precision needs the extra pass. So does a critic whose hidden states may differ from the input of the model's
    head.
    """
    passes: list[int] = []
    passed = OnlineModule._by_token
    monkeypatch.setattr(OnlineModule, "_by_token", lambda *args: passes.append(1) or passed(*args))
    references = 3  # two batches of answers, and the held-out answers
    critic = objective.requires.critic

    def trained(layout: Layout, expected: int) -> Trained:
        passes.clear()
        found = run(build(objective, short(epochs=3), layout=layout), tmp_path, 6)
        assert len(passes) == references + 2 * expected
        return found

    spared = trained(SHARED, critic == "network")
    trained(PLAIN, critic != "")
    monkeypatch.setattr("alignlab.modules.online.precision", lambda policy: "bfloat16")
    whole = trained(SHARED, True)
    for one, two in zip(spared.steps, whole.steps, strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    for own, other in zip(spared.gradients, whole.gradients, strict=True):
        for key, value in own.items():
            torch.testing.assert_close(other[key], value, atol=1e-5, rtol=0)


def test_ratios_are_taken_of_what_the_first_epoch_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong log-probabilities from sampling (by 0.05 nats) do not change any step."""
    allowed = replace(TOLERANCES["float64"], start_ratio=1.0)
    monkeypatch.setattr("alignlab.modules.online.tolerance_of", lambda policy: allowed)
    honest, tampered = (build(GRPO(beta=0.05), short(epochs=3)) for _ in range(2))
    gather = tampered._gather

    def shifted(*args: Any) -> Any:
        found = gather(*args)
        for known in (table for group in found.groups for row in group for table in row.known):
            known[0] += 0.05
        return found

    monkeypatch.setattr(tampered, "_gather", shifted)
    expected, found = (run(made, tmp_path, 3).steps for made in (honest, tampered))
    assert expected[1]["train/policy/approxkl_avg"] > 1e-6
    off = "train/sampling/sampling_logp_difference/mean"
    assert [step.pop(off) for step in found] == [pytest.approx(0.05)] * 3
    assert [step.pop(off) for step in expected] == [pytest.approx(0.0, abs=1e-6)] * 3
    assert found == [pytest.approx(step, abs=1e-9) for step in expected]


@pytest.mark.parametrize("micro", [8, 1])
def test_old_log_probabilities_that_are_not_the_policys_are_noticed(micro: int, tmp_path: Path) -> None:
    made = build(RLOO(beta=0.1), short(), micro=micro)
    gather = made._gather

    def tampered(*args: Any) -> Any:
        found = gather(*args)
        for group in found.groups:
            for row in group:
                for table in row.known:
                    table[0] += 0.1
        return found

    made._gather = tampered  # type: ignore[method-assign]
    with pytest.raises(PolicyIsNotReferenceError, match=r"fresh answers differ by 0\.1\d* nats per token"):
        run(made, tmp_path, 1)


def test_a_policy_that_goes_too_far_has_diverged(tmp_path: Path) -> None:
    made = build(RLOO(beta=0.0), short(max_kl=0.5), lr=0.05)
    with pytest.raises(DivergedError, match=r"the KL is \d+\.\d nats per answer, above rollout.max_kl=0.5"):
        run(made, tmp_path, 60)


def test_a_policy_that_always_says_the_same_has_collapsed(tmp_path: Path) -> None:
    made = build(RLOO(beta=0.0), short(), lr=0.1, scorer=lambda said: [float(one.answer.count("a")) for one in said])
    with pytest.raises(DivergedError, match="collapsed: the same answer to all 4 prompts: 'aaaa'"):
        run(made, tmp_path, 300)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_batch_of_rollouts_survives_a_checkpoint_in_the_middle_of_it(minibatches: int, tmp_path: Path) -> None:
    """The checkpoint holds only tensors and plain values. A resumed run continues as if it had not stopped."""
    for objective in (PPO(kl_coef=0.1, target_kl=0.1, kl_horizon=10), OnlineDPO(beta=0.1), ExpertIteration()):
        rollout = short(minibatches=minibatches, epochs=4 // minibatches)
        made = build(objective, rollout)
        run(made, tmp_path, 3)
        kept: dict[str, Any] = {"state_dict": dict(made.state_dict())}
        made.on_save_checkpoint(kept)
        torch.save(kept, tmp_path / "state.ckpt")
        other = build(objective, rollout)
        other.on_load_checkpoint(torch.load(tmp_path / "state.ckpt", weights_only=True))
        assert made.experience is not None
        assert other.experience is not None
        assert other.coefficient == made.coefficient
        for part in range(4):
            for one, two in zip(
                made._minibatch(made.experience, part), other._minibatch(other.experience, part), strict=True
            ):
                assert one.answers() == two.answers()
                for first, second in zip(getattr(one, "known", []), getattr(two, "known", []), strict=True):
                    assert torch.equal(first, second)
        assert other.experience.reference == made.experience.reference


def test_between_batches_nothing_of_them_is_kept(tmp_path: Path) -> None:
    made = build(RLOO(beta=0.1), short(epochs=2))
    run(made, tmp_path, 2)
    kept: dict[str, Any] = {"state_dict": dict(made.state_dict())}
    made.on_save_checkpoint(kept)
    assert kept["experience"] is None


def test_the_critic_learns_and_is_kept_beside_the_policy(tmp_path: Path) -> None:
    made = build(PPO(kl_coef=0.05, samples=4, value_clip=0.0, value_weight=1.0), short(epochs=4), lr=2e-2)
    found = run(made, tmp_path, 60)
    assert found.steps[0]["train/val/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert found.steps[-1]["train/val/explained_variance"] > 0.3
    kept: dict[str, Any] = {"state_dict": dict(made.state_dict())}
    made.on_save_checkpoint(kept)
    assert "critic.layer.weight" in kept["state_dict"]


@pytest.mark.slow
def test_the_kl_is_held_at_its_target(tmp_path: Path) -> None:
    """The KL coefficient changes after every batch, and the KL ends near 1. Without a target it exceeds 2."""
    means = []
    for target in (0.0, 1.0):
        made = build(PPO(kl_coef=0.05, target_kl=target, kl_horizon=100, samples=8), short(epochs=2), lr=1e-2)
        found = run(made, tmp_path, 160)
        means.append(sum(row["train/objective/kl"] for row in found.steps[-40:]) / 40)
        assert (found.steps[-1]["train/objective/kl_coef"] != 0.05) == (target > 0)
    assert means[0] > 1.8
    assert means[1] == pytest.approx(1.0, abs=0.4)


def test_spin_plays_against_the_policy_that_an_iteration_began_with(tmp_path: Path) -> None:
    """The loss is ln 2 at the beginning of every iteration, and lower within it."""
    found = run(build(SPIN(beta=0.1), short(epochs=4)), tmp_path, 12)
    for step in (0, 4, 8):
        assert found.steps[step]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert found.steps[step + 3]["train/loss"] < math.log(2) - 0.01


def test_best_of_n_ranks_answers_of_the_start_however_far_the_policy_has_gone(tmp_path: Path) -> None:
    trained, still = (build(BestOfN(samples=4), short(shown=99), lr=lr) for lr in (5e-2, STILL))
    for made in (trained, still):
        run(made, tmp_path, 10)
    assert trained.experience is not None
    assert still.experience is not None
    assert trained.experience.shown == still.experience.shown
    kept = [row for group in trained.experience.groups for row in group]
    assert len(kept) == 8
    scores = [one["score"] for one in trained.experience.shown]
    best = [max(scores[i : i + 4]) for i in range(0, 32, 4)]
    assert [row.completion.count(row.prompt[0]) for row in kept] == best


def test_online_dpo_prefers_the_better_answer_and_starts_at_ln_2(tmp_path: Path) -> None:
    made = build(OnlineDPO(beta=0.1, samples=4), short())
    found = run(made, tmp_path, 1)
    assert found.steps[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert made.experience is not None
    for group in made.experience.groups:
        (pair,) = group
        right = pair.prompt[0]
        assert pair.chosen.count(right) > pair.rejected.count(right) or pair.chosen == pair.rejected


def test_the_labs_own_reward_is_watched_beside_another(tmp_path: Path) -> None:
    made = build(RLOO(beta=0.1), short(), gold=lambda said: [-one for one in copies(said)])
    found = run(made, tmp_path, 2)
    for row, prefix in ((found.steps[0], "train"), (found.held_out, "eval")):
        assert row[f"{prefix}/objective/gold_scores"] == pytest.approx(-row[f"{prefix}/objective/scores"])


def test_ends_that_are_missing_cost_what_the_settings_say(tmp_path: Path) -> None:
    made = build(RLOO(beta=0.1), short(missing_end="replace", missing_end_score=-5.0, shown=99), lr=STILL)
    run(made, tmp_path, 1)
    assert made.experience is not None
    cut = [one for one in made.experience.shown if not one["ended"]]
    assert cut
    assert {one["score"] for one in cut} == {-5.0}
    ended = [one for one in made.experience.shown if one["ended"]]
    assert [one["score"] for one in ended] == [one["completion"].count(one["prompt"][0]) for one in ended]


def test_memory_that_does_not_suffice_for_all_prompts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fewer prompts at a time give the same result. If one prompt's answers do not fit, there is an error."""
    small = run(build(RLOO(beta=0.1), short(), micro=2), tmp_path, 2)
    made = build(RLOO(beta=0.1), short(), micro=8)
    refuse(made, lambda answers: torch.is_grad_enabled() and answers > 2 * 4)
    again = run(made, tmp_path, 2)
    for one, two in zip(small.gradients, again.gradients, strict=True):
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, atol=1e-7, rtol=0)
    assert made.micro_batches.rows == 2
    assert len(warnings_of(caplog)) == 2
    hopeless = build(RLOO(beta=0.1), short())
    refuse(hopeless, lambda answers: torch.is_grad_enabled())
    with pytest.raises(NotEnoughMemoryError):
        run(hopeless, tmp_path, 1)


def test_a_score_that_is_no_number_is_told_with_the_answer(tmp_path: Path) -> None:
    for objective in (RLOO(beta=0.1), BestOfN()):
        made = build(objective, short(), scorer=lambda said: [math.nan] * len(said))
        with pytest.raises(NonFiniteError, match="the score of an answer is nan"):
            run(made, tmp_path, 1)


def test_held_out_prompts_are_always_answered_from_the_same_numbers(tmp_path: Path) -> None:
    made = build(RLOO(beta=0.1), short(), lr=STILL)
    first = run(made, tmp_path, 1).held_out
    again = made.validate(PROMPTS)
    assert {k: v for k, v in again.items() if k != "train/global_step"} == {
        k: v for k, v in first.items() if k != "train/global_step"
    }


@pytest.mark.parametrize("objective", [GRPO(beta=0.05, samples=4), PPO(kl_coef=0.05), SPIN(beta=0.1)], ids=name)
def test_log_probabilities_are_the_policy_s_whatever_the_engine_says(objective: Online, tmp_path: Path) -> None:
    """An engine whose log-probabilities are off trains the same policy. How far they are off is logged."""
    rollout = short(epochs=2)
    exact = run(build(objective, rollout), tmp_path / "exact", 4)
    module = build(objective, rollout)
    module.context = replace(module.context, engine=Other(off=0.04))
    found = run(module, tmp_path / "other", 4)
    metric = "train/sampling/sampling_logp_difference/mean"
    assert [row[metric] for row in found.steps] == pytest.approx([0.04] * 4, abs=1e-6)
    for ours, theirs in zip(found.steps, exact.steps, strict=True):
        assert {key: value for key, value in ours.items() if key != metric} == pytest.approx(
            {key: value for key, value in theirs.items() if key != metric}, abs=1e-5
        )
    assert found.held_out == pytest.approx(exact.held_out, abs=1e-5)


def test_an_engine_that_keeps_old_weights_is_refused(tmp_path: Path) -> None:
    """It answers with the right weights at first. The second batch of rollouts comes from the policy of before."""
    for objective in (GRPO(beta=0.05, samples=4), OnlineDPO(beta=0.1, samples=4)):
        module = build(objective, short(), lr=0.3)
        module.context = replace(module.context, engine=Other(off=0.0, stale=True))
        with pytest.raises(EngineError, match="the engine has other weights"):
            run(module, tmp_path, 3)
        assert module.global_step == 1


def test_an_engine_without_log_probabilities_trains_only_if_told(tmp_path: Path) -> None:
    module = build(GRPO(beta=0.05, samples=4), short())
    module.context = replace(module.context, engine=Other(silent=True))
    with pytest.raises(EngineError, match="unchecked"):
        run(module, tmp_path, 1)
    module = build(GRPO(beta=0.05, samples=4), short())
    module.context = replace(module.context, engine=Other(silent=True, unchecked=True))
    (row,) = run(module, tmp_path, 1).steps
    assert "train/sampling/sampling_logp_difference/mean" not in row
    assert row["train/objective/kl"] == pytest.approx(0.0, abs=1e-6)
