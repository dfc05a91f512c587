"""The table of all metrics: name -> meaning and unit. Only metrics with an entry here can be logged.

A plug-in defines its own in the file of the same name, `<plug-in>/tracking/metrics.py`, as the dictionary BATCH.

A name under `train/` or `eval/` that TRL uses too has TRL's meaning, and other metrics have names that TRL does not
use. There is one exception: `logps/*` are sums for every objective, but TRL logs means per token for ORPO and SimPO.
Values are means over the examples of the global batch (or of the whole held-out split), computed once over all
micro-batches and processes.
"""

from __future__ import annotations

import re

from alignlab.errors import ConfigError, Problem
from alignlab.plugins import active, modules_of

# Logged as train/<name> at every step and as eval/<name> at every evaluation. Labelled answers are logged as chosen if
# they are good and as rejected if they are bad.
BATCH: dict[str, str] = {
    "loss": "loss of the objective: mean over rows, or over answer tokens for SFT",
    "rewards/chosen": "reward scale x summed log-ratio of the preferred answer (nats); for an objective without a "
    "reference, reward scale x log-probability as the objective reduces it",
    "rewards/rejected": "the same for the dispreferred answer (nats)",
    "rewards/margins": "rewards/chosen - rewards/rejected (nats)",
    "rewards/accuracies": "share of pairs whose preferred answer has the larger reward, ties count 0",
    "logps/chosen": "log-probability of the preferred answer, summed over its tokens for every objective (nats)",
    "logps/rejected": "the same for the dispreferred answer (nats)",
    "logps/chosen_per_token": "summed log-probabilities divided by summed tokens (nats per token)",
    "logps/rejected_per_token": "the same for the dispreferred answer (nats per token)",
    "logits/chosen": "logit averaged over the vocabulary, then over the tokens of preferred answers",
    "logits/rejected": "the same for dispreferred answers",
    "entropy": "entropy of the prediction of an answer token, mean over the tokens of all answers (nats per token)",
    "mean_token_accuracy": "share of answer tokens that were the most likely ones; for pairs, of the preferred answers",
    "nll_loss": "- logps/chosen_per_token of pairs (nats per token)",
    "logratios/chosen": "log pi/pi_ref of the preferred answer, not scaled by beta (nats)",
    "logratios/rejected": "the same for the dispreferred answer (nats)",
    "logratios/margins": "logratios/chosen - logratios/rejected (nats)",
    "logratios/chosen_per_token": "summed log-ratios divided by summed tokens (nats per token)",
    "logratios/rejected_per_token": "the same for the dispreferred answer (nats per token)",
    "displacement/chosen_delta": "log-probability of the preferred answer now minus that before training (nats)",
    "displacement/frac_chosen_down": "share of preferred answers that are less probable than under the reference",
    "pref/accuracy_ties_half": "share of pairs whose preferred answer has the larger reward, ties count 1/2",
    "pref/saturated_frac": "share of pairs whose reward margin m has sigmoid(-m) below 0.01 (the weight of DPO's "
    "gradient); for labelled answers, m is the reward of a good answer and minus that of a bad one",
    "pref/likelihood_accuracies": "share of pairs whose preferred answer has the larger log-probability per token "
    "under the policy, ties count 0; no reference, no reward",
    "pref/chosen_longer_frac": "share of pairs whose preferred answer has more tokens",
    "pref/length_corr": "correlation over pairs between the reward margin and the preferred answer's additional tokens",
    "kl": "KTO's reference point: mean log-ratio of mismatched answers, at least 0 (nats); GRPO: mean k3 of a token "
    "(nats per token)",
    "kto/kl_raw": "KTO's reference point before negative values are replaced by 0 (nats)",
    "bco/delta": "BCO's shift of the rewards: their running mean, with the same weight for both classes (nats)",
    "loss_min": "smallest loss of a pair; the loss of robust DPO has no lower bound",
    "log_odds_ratio": "ORPO: mean log sigmoid of the difference of log-odds",
    "log_odds_chosen": "ORPO: mean difference of log-odds, preferred minus dispreferred (the name is TRL's)",
    "log_odds_clamped_frac": "ORPO: share of pairs with a probability per token clamped below 1 to keep odds finite",
    "accuracy": "reward model: share of comparisons won by the better answer; prompts have equal weight, ties count 0",
    "margin": "reward model: mean of the better answer's reward minus the worse answer's",
    "calibration_error": "reward model: mean distance between σ(lead) and the share of comparisons won, over ten bins",
    "mean_reward": "reward model: mean reward of an answer",
    "policy/approxkl_avg": "policy gradient: half the mean squared log-ratio of a token between the current policy and "
    "the one that sampled it",
    "policy/clipfrac_avg": "policy gradient: share of tokens (RLOO, REINFORCE: of answers) whose loss is clipped",
    "policy/entropy_avg": "the same as entropy, under PPO's name (nats per token)",
    "val/ratio": "policy gradient: mean of a token's probability now / its probability when it was sampled",
    "val/token_ratio_var": "policy gradient: variance of that ratio over tokens (TRL's val/ratio_var is the variance "
    "of its means over minibatches)",
    "loss/policy_avg": "PPO: clipped surrogate, mean over tokens",
    "loss/value_avg": "PPO: loss of the critic before its weight, mean over tokens",
    "loss/ptx": "PPO-ptx: negative log-probability of the data's own answers (nats per token)",
    "val/clipfrac_avg": "PPO: share of tokens whose critic loss is that of the clipped value",
    "val/explained_variance": "PPO: 1 - variance of (returns - values) / variance of returns",
    "min_reward": "reward model: smallest reward of an answer",
    "max_reward": "reward model: largest reward of an answer",
}

# Metrics of answers that an online objective samples. They describe the policy that sampled them. train/<name> is over
# the batch of rollouts that an update trains on, eval/<name> over one answer to each held-out prompt.
ROLLOUTS: dict[str, str] = {
    "objective/kl": "summed log-ratio to the reference, mean over answers (nats per answer)",
    "objective/entropy": "minus the summed log-probability of an answer, mean (nats per answer)",
    "objective/non_score_reward": "- weight of the KL x objective/kl",
    "objective/rlhf_reward": "objective/scores + objective/non_score_reward",
    "objective/scores": "mean score of an answer, after the rules for missing ends and for clipping",
    "objective/scores_std": "standard deviation of the scores over all answers",
    "objective/gold_scores": "mean gold reward of the same answers, if the policy is trained on another reward",
    "objective/kl_coef": "weight of the KL in the reward",
    "kl_ref/sequence_k1": "the same as objective/kl, under the estimator's name (nats per answer)",
    "kl_ref/token_k3": "KL by exp(-x) - 1 + x of every token's log-ratio x, summed (nats per answer)",
    "val/num_eos_tokens": "number of answers that ended with an end token",
    "completions/mean_length": "mean tokens of an answer, including its end token",
    "completions/min_length": "tokens of the shortest answer",
    "completions/max_length": "tokens of the longest answer",
    "completions/clipped_ratio": "share of answers that were cut off",
    "completions/distinct_frac": "number of different answers / number of answers",
    "reward_std": "standard deviation of the scores of a prompt's answers, mean over prompts",
    "sampling/sampling_logp_difference/mean": "policy gradient, or an engine with weights of its own: mean distance "
    "between a token's log-probability in sampling and in training, before the policy learns from it (nats per token)",
    "frac_reward_zero_std": "share of prompts whose answers all have the same score",
}

# Metrics on the held-out pairs of the data, logged as eval/<name>. Every objective that trains a policy has them,
# unless the data has no pairs or the run has `reference=none`. In the lab, which has exact metrics, only objectives on
# pairs or halves of pairs have them.
# h = log-ratio of the preferred answer - log-ratio of the dispreferred one, summed over tokens, without beta.
# Log-ratios are relative to the start: the policy before training. There every h is 0, and the accuracy is 1/2.
PAIRS: dict[str, str] = {
    "pairs/accuracy": "share of held-out pairs with h > 0, ties count 1/2",
    "pairs/margin": "mean of h over the held-out pairs (nats per pair)",
    "pairs/distance": "mean of |h|: how far the policy moved on the held-out pairs (nats per pair)",
    "pairs/n": "number of held-out pairs",
}

# Metrics on the held-out labelled answers of data without pairs, logged as eval/<name> for every objective. Log-ratios
# are relative to the start. The area under the curve compares answers to different prompts, so it is not an accuracy.
LABELS: dict[str, str] = {
    "labels/auc": "how often a good answer has a larger log-ratio than a bad one, over all combinations of the two "
    "(ties 1/2): the area under the ROC curve; 1/2 at the start",
    "labels/distance": "mean absolute log-ratio of the held-out answers: how far the policy moved (nats per answer)",
    "labels/n_good": "number of held-out good answers",
    "labels/n_bad": "number of held-out bad answers",
}

# train/parts/<objective> and eval/parts/<objective> are the mean loss of a part of a mix, before its weight.
PART = "parts/"

# Logged at training steps only.
STEP: dict[str, str] = {
    "train/global_step": "optimizer updates so far; the x-axis",
    "train/epoch": "training rows seen / training rows",
    "train/learning_rate": "learning rate of this update",
    "train/grad_norm": "2-norm of the gradient before clipping",
    "train/num_tokens": "prompt and answer tokens seen so far",
    "train/tokens/per_second": "prompt and answer tokens of this step / its duration",
    "train/episode": "answers sampled so far",
    "train/step_seconds": "wall time of this update, including the preparation of its batch (s)",
}

# Logged at every evaluation of runs in the lab.
EXACT: dict[str, str] = {
    "exact/kl": "KL(policy || reference) by enumeration, mean over prompts (nats per sequence)",
    "exact/kl_reverse": "KL(reference || policy) by enumeration (nats per sequence)",
    "exact/reward": "expected gold reward of the policy by enumeration",
    "exact/reward_reference": "expected gold reward of the reference",
    "exact/frontier_reward": "largest expected gold reward of any policy at the policy's KL",
    "exact/frontier_gap": "exact/frontier_reward - exact/reward",
    "exact/frontier_strength": "beta of the optimal policy that has the policy's KL",
    "exact/winrate": "probability that an answer of the policy has a higher gold reward than one of the reference, by "
    "enumeration; equal rewards count 1/2",
    "exact/entropy": "entropy of the policy's completions (nats per sequence)",
    "exact/length": "expected tokens of an answer of the policy, its end token included, by enumeration",
    "exact/unseen": "probability of the answers that can't be in a pair, where the data leaves out some "
    "(data=enumerable with data.covered), mean over prompts",
    "exact/mass": "data=candidates: the candidates' share of the policy's probability, mean over prompts; the other "
    "exact metrics are those of a choice among the candidates",
    "exact/mass_reference": "the same share of the reference's probability",
}

# exact/action/<letter> is the probability of an action of a bandit under the policy, logged at every evaluation.
ACTION = "exact/action/"

# Batch metrics whose training values are averaged over the end of a run, because the value of one batch is noisy.
TAIL = (
    "loss", "rewards/margins", "rewards/accuracies", "logratios/margins", "logratios/chosen", "accuracy", "margin",
    "objective/kl", "objective/scores", "objective/gold_scores",
)  # fmt: skip

SUMMARY: dict[str, str] = {
    "train/tokens/truncated_frac": "share of training rows whose prompt or answer was cut",
    "eval/tokens/truncated_frac": "the same for held-out rows",
    "reward/offset": "reward model: mean reward of preferred answers, which is subtracted when the model is used",
    "reward/deviation": "reward model: standard deviation of the rewards of preferred answers",
    "start/loss": "training loss of the first batch, before any update (nats)",
    **{f"tail/{name}": f"mean of train/{name} over the last tenth of the updates" for name in TAIL},
    "time/train_seconds": "wall time of training and evaluation (s); for vectorized runs, a share of the last attempt",
    "time/sampling_seconds": "the part of time/train_seconds that evaluations during training sampled answers for (s)",
}

# Metrics of answers sampled from the policy, logged as eval/<name>, or as questions/<file>/<name> if the prompts come
# from a file (evaluation.questions). <judge> is the judge's name. `/se` after a name of
# kl_ref and score is its standard error, over prompts.
SAMPLED: dict[str, str] = {
    "kl_ref/sequence_k1": "KL(policy || reference), mean log-ratio of the policy's answers (nats per answer)",
    "kl_ref/sequence_k2": "the same KL by the mean of half the squared log-ratio; biased (nats per answer)",
    "kl_ref/sequence_k3": "the same KL by the mean of exp(-x) - 1 + x of the log-ratio x (nats per answer)",
    "kl_ref/token_k3": "the same KL by exp(-x) - 1 + x of every token's log-ratio x, summed (nats per answer)",
    "kl_ref/per_token": "kl_ref/sequence_k1 / mean length (nats per token)",
    "kl_ref/forward_k1": "KL(reference || policy) from the reference's answers (nats per answer)",
    "kl_ref/forward_on_data": "log-probability of the data's preferred answers under the reference minus that under "
    "the policy (nats per answer)",
    "samples/mean_length": "mean tokens of an answer, including its end token",
    "samples/eos_frac": "share of answers that ended with an end token",
    "samples/repetition": "share of an answer's four-word sequences that occur earlier in it",
    "samples/distinct_2": "number of different word pairs in all answers / number of word pairs",
    "score/<judge>/mean": "mean score of the policy's answers",
    "score/<judge>/reference": "the same for the reference, the policy before training",
    "refusals/over_refusal": "share of XSTest's safe prompts that the policy refuses, by rules",
    "refusals/refusal": "share of XSTest's unsafe prompts that the policy refuses, by rules",
    **{
        f"refusals/{name}/{part}": f"{text} refusals/{name}"
        for name in ("over_refusal", "refusal")
        for part, text in (
            ("reference", "the same share for the reference:"),
            ("ci_low", "lower end of the 95 % interval of"),
            ("ci_high", "upper end of the 95 % interval of"),
            ("n", "number of prompts of"),
        )
    },
    "benchmark/<benchmark>/<score>": "mean score of the policy over the items of a benchmark",
    "benchmark/<benchmark>/<score>/ci_low": "lower end of its 95 % interval",
    "benchmark/<benchmark>/<score>/ci_high": "upper end of its 95 % interval",
    "benchmark/<benchmark>/<score>/n": "number of items",
    "benchmark/<benchmark>/<score>/reference": "the same score of the reference",
    "benchmark/<benchmark>/<score>/difference": "policy minus reference, paired by item",
    "winrate/<judge>": "win-rate of the policy against the first baseline, ties count 1/2",
    "winrate/<judge>/reference": "win-rate of the reference against the first baseline: 1/2 if it is that baseline",
    "winrate/<judge>/ci_low": "lower end of the win-rate's 95 % interval",
    "winrate/<judge>/ci_high": "upper end of the win-rate's 95 % interval",
    "winrate/<judge>/n": "number of prompts that were judged",
    "winrate/<judge>/tie_rate": "share of judged rows that were ties",
    "winrate/<judge>/invalid": "number of rows without a verdict of the judge",
    "winrate/<judge>/order_consistency": "share of rows with the same verdict in both orders",
}

ALL: dict[str, str] = {
    **{f"{split}/{name}": text for split in ("train", "eval") for name, text in {**BATCH, **ROLLOUTS}.items()},
    **{f"eval/{name}": text for name, text in {**PAIRS, **LABELS}.items()},
    **STEP,
    **EXACT,
    **SUMMARY,
}

# Whether lower or higher is better, for metrics for which this is certain. Reward is not one of them: a policy with a
# higher reward at a higher KL need not be better.
BETTER: dict[str, str] = {
    "exact/frontier_gap": "lower",
    "eval/pairs/accuracy": "higher",
    "eval/labels/auc": "higher",
    "eval/rewards/accuracies": "higher",
    "eval/accuracy": "higher",
    "eval/loss": "lower",
}

# Held-out metrics by which `trainer.keep_best` may choose a policy. A run that chooses by its score or by its reward
# less the KL asks for a higher one.
CHOOSES: dict[str, str] = {
    **BETTER,
    "exact/winrate": "higher",
    "eval/objective/rlhf_reward": "higher",
    "eval/objective/scores": "higher",
}

# In the summary of a run with `trainer.keep_best`: chosen/<metric> is the update of the policy that was chosen.
CHOSEN = "chosen/"
SUMMARY |= {f"{CHOSEN}{name}": f"update whose policy was chosen, because its {name} is the best" for name in CHOOSES}
ALL |= SUMMARY

# Curves of which the smallest or largest value matters as well as the last one. W&B's summary shows both, as
# <name>.min or <name>.max, and <name>.last.
CURVES: dict[str, str] = {
    "train/loss": "min",
    "eval/loss": "min",
    "train/grad_norm": "max",
    **{f"{split}/rewards/{name}": "max" for split in ("train", "eval") for name in ("margins", "accuracies")},
    "train/objective/kl": "max",
    "train/objective/scores": "max",
}


def definitions() -> dict[str, str]:
    """Name -> meaning of all metrics, with those of plug-ins. Raises ConfigError if a plug-in defines one anew."""
    found = dict(ALL)
    for plugin in active():
        for module in modules_of(plugin, "tracking"):
            own = getattr(module, "BATCH", {}) if module.__name__.endswith(".metrics") else {}
            if known := [name for name in own if f"train/{name}" in found]:
                text = f"{module.__name__} defines metrics that there are already: {', '.join(known)}"
                raise ConfigError([Problem("plugins", plugin.source, text)])
            found |= {f"{split}/{name}": text for split in ("train", "eval") for name, text in own.items()}
    return found


# Metrics that are rates: accuracies, areas under a ROC curve, win-rates and shares of refusals.
_RATE = re.compile(
    r"(train|eval|tail)/(rewards/accuracies|accuracy|pairs/accuracy|labels/auc)"
    r"|exact/winrate(/[^/]+)?|(eval|questions/[^/]+)/(winrate/[^/]+|refusals/\w+)(/reference)?"
)


def is_rate(name: str) -> bool:
    """Whether a metric is a rate, which is never below 0 or above 1."""
    return _RATE.fullmatch(name) is not None


def check_known(names: object) -> None:
    """Raise KeyError for a metric that the table does not define."""
    if set(names) <= ALL.keys():  # type: ignore[call-overload]
        return  # the usual case, for each row of metrics
    unknown = sorted(
        name
        for name in set(names) - definitions().keys()  # type: ignore[call-overload]
        if not name.partition("/")[2].startswith(PART) and not name.startswith(ACTION) and not _sampled(name)
    )
    if unknown:
        raise KeyError(f"metrics without a definition in tracking/metrics.py, of alignlab or a plug-in: {unknown}")


def definition(name: str) -> str:
    """The meaning and unit of a metric; empty for names that no table has."""
    if name in ALL:
        return ALL[name]
    if not (sampled := _sampled(name)):
        return ""
    of_file = f", on the prompts of {name.split('/')[1]}" if name.startswith("questions/") else ""
    error = "standard error of: " if name.endswith("/se") else ""
    return f"{error}{SAMPLED[sampled]}{of_file}"


def _sampled(name: str) -> str:
    """The name of SAMPLED that a name after `eval/` or `questions/<file>/` stands for; empty if there is none."""
    split, _, rest = name.partition("/")
    if split == "questions":
        split, rest = "eval", rest.partition("/")[2]
    kind, *others = rest.split("/")
    if kind in ("score", "winrate") and others:
        others[0] = "<judge>"
    if others[-1:] == ["se"] and kind in ("score", "kl_ref"):
        others[-1:] = ["mean"] if kind == "score" else []
    found = "/".join([kind, *others])
    return found if split == "eval" and found in SAMPLED else ""
