"""Priors and rewards of the worlds of papers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignlab.lab.tables import KINDS, bigrams, bump, chain, counts_of, diagonal, keywords, random, strings_of


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "keywords"])
def test_tables_have_a_row_for_each_prompt_and_priors_add_up(kind: str) -> None:
    prior, reward = KINDS[kind](7, 3)
    assert prior.shape == reward.shape
    assert len(prior) == 3
    np.testing.assert_allclose(np.exp(prior).sum(axis=1), 1.0, rtol=1e-12)
    again = KINDS[kind](7, 3)
    np.testing.assert_array_equal(prior, again[0])
    np.testing.assert_array_equal(reward, again[1])


def test_strings_are_in_alphabetical_order() -> None:
    assert strings_of(2, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert counts_of(strings_of(2, 2), 2).tolist() == [[2, 0], [1, 1], [1, 1], [0, 2]]


def test_random_rewards_have_the_scale() -> None:
    _, reward = random(0, answers=20000, scale=1.5)
    assert reward.std() == pytest.approx(1.5, rel=0.02)


def test_rewards_of_bigrams_are_centred_at_a_half() -> None:
    """The logit of the reward is twice the score minus its mean under the prior."""
    prior, reward = bigrams(0)
    assert prior.shape == (1, 4096)
    assert float(np.exp(prior[0]) @ np.log(reward[0] / (1 - reward[0]))) == pytest.approx(0.0, abs=1e-9)


def test_rewards_of_keywords_are_standardised_and_depend_on_counts() -> None:
    prior, reward = keywords(0, letters=4, length=3)
    weight = np.exp(prior[0])
    assert float(weight @ reward[0]) == pytest.approx(0.0, abs=1e-12)
    assert float(weight @ reward[0] ** 2) == pytest.approx(1.0)
    aaa, aab, aba = reward[0, [0, 1, 4]]
    assert aab == aba, "only counts matter"
    assert aaa != aab
    with pytest.raises(ValueError, match="one prompt"):
        keywords(0, 2)


def test_the_bump_is_where_it_is_wanted_and_the_author_is_not() -> None:
    prior, reward = bump(0, centre=70.0)
    assert reward[0, 70] == 1.0
    assert reward[0, 80] == pytest.approx(math.exp(-1))
    # tanh(-0.7) is the median; a half of the probability is below it
    below = np.exp(prior[0])[: round((math.tanh(-0.7) + 1) * 50)].sum()
    assert below == pytest.approx(0.5, abs=0.03)
    assert float(np.exp(prior[0]) @ reward[0]) < 0.1


def test_the_prior_of_the_diagonal_prefers_the_right_answer_and_some_others() -> None:
    prior, reward = diagonal(1, 8)
    assert reward.tolist() == np.eye(8).tolist()
    np.testing.assert_allclose(np.exp(np.diag(prior)), 0.89 / 3)
    assert (np.isclose(np.exp(prior), 0.89 / 3).sum(axis=1) == 3).all()
    np.testing.assert_allclose(np.exp(prior.min(axis=1)), 0.11 / 5)


def test_the_chain_follows_the_alphabet_and_rewards_even_letters() -> None:
    prior, reward = chain(0, letters=4, length=3, follow=0.9, odds=3.0)
    strings = strings_of(4, 3).tolist()
    up = strings.index([0, 1, 2])
    assert math.exp(prior[0, up]) == pytest.approx(0.25 * 0.925**2)
    assert math.exp(prior[0, strings.index([0, 2, 1])]) == pytest.approx(0.25 * 0.025**2)
    assert reward[0, strings.index([1, 2, 1])] == pytest.approx(math.log(3))
    assert reward[0, up] == 0.0
