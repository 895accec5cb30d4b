import numpy as np
import pytest

from mobileloop.decode.batch import generate_samples
from mobileloop.decode.generate import Generation, generate
from mobileloop.decode.sampling import Sampler
from mobileloop.errors import MobileloopError


class Counting:
    """A session whose likeliest token is the one after the last."""

    def __init__(self, vocab=10):
        self.vocab, self.seen = vocab, []

    def prefill(self, tokens):
        self.seen += tokens
        logits = np.zeros(self.vocab, np.float32)
        logits[(self.seen[-1] + 1) % self.vocab] = 5
        return logits

    def decode(self, token):
        return self.prefill([token])


def run(max_tokens, end=None, prompt=(1, 2)):
    session, shown = Counting(), []
    result = generate(session, list(prompt), max_tokens, Sampler(), lambda token: token == end, shown.append)
    return session, shown, result


def test_generates_until_the_most_tokens():
    session, shown, result = run(4)
    assert result.tokens == shown == [3, 4, 5, 6]
    assert session.seen == [1, 2, 3, 4, 5]  # the last token is not run
    assert result.prompt_tokens == 2
    assert len(result.decode_ms) == 3
    assert result.prefill_tokens_per_s > 0
    assert result.decode_tokens_per_s > 0


def test_an_end_token_ends_and_is_left_out():
    _, shown, result = run(9, end=6)
    assert result.tokens == shown == [3, 4, 5]
    _, shown, result = run(9, end=3)
    assert result.tokens == shown == []
    assert result.decode_tokens_per_s is None


def test_one_token_needs_no_decode():
    session, _, result = run(1)
    assert result.tokens == [3]
    assert session.seen == [1, 2]


def test_rates():
    result = Generation(prompt_tokens=20, prefill_ms=10, decode_ms=[1, 2, 100])
    assert result.prefill_tokens_per_s == 2000
    assert result.decode_tokens_per_s == 500  # of the median


LOGITS = np.log(np.array([0.1, 0.5, 0.05, 0.35], np.float32))


def picks(count=4000, **options):
    sampler = Sampler(**options)
    return [sampler.pick(LOGITS) for _ in range(count)]


def test_temperature_0_is_greedy():
    assert set(picks(50)) == {1}
    assert set(picks(50, temperature=0.0, top_p=0.1, seed=7)) == {1}


def test_a_seed_repeats():
    assert picks(50, temperature=1.0, seed=1) == picks(50, temperature=1.0, seed=1)
    assert picks(50, temperature=1.0, seed=1) != picks(50, temperature=1.0, seed=2)


def test_sampling_follows_the_probabilities():
    found = np.bincount(picks(temperature=1.0), minlength=4) / 4000
    assert np.abs(found - np.exp(LOGITS)).max() < 0.05
    cold = np.exp(LOGITS / 0.5)
    found = np.bincount(picks(temperature=0.5), minlength=4) / 4000
    assert np.abs(found - cold / cold.sum()).max() < 0.05


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {1}), (0.5, {1, 3}), (0.84, {1, 3}), (0.94, {0, 1, 3})])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    # float32 logarithms of 0.5 give a little less than 0.5 back, so the second token is still needed there
    if top_p == 0.5 and float(np.exp(LOGITS.astype(np.float64))[1]) >= 0.5:
        kept = {1}
    assert set(picks(400, temperature=1.0, top_p=top_p)) == kept


@pytest.mark.parametrize(("top_k", "kept"), [(1, {1}), (2, {1, 3}), (3, {0, 1, 3}), (9, {0, 1, 2, 3})])
def test_top_k_keeps_the_likeliest(top_k, kept):
    assert set(picks(400, temperature=1.0, top_k=top_k)) == kept


@pytest.mark.parametrize(("min_p", "kept"), [(1.0, {1}), (0.65, {1, 3}), (0.19, {0, 1, 3}), (0.0, {0, 1, 2, 3})])
def test_min_p_keeps_what_is_near_to_the_likeliest(min_p, kept):
    assert set(picks(400, temperature=1.0, min_p=min_p)) == kept


def test_the_filters_follow_each_other():
    # Of the two likeliest, 0.5 is 59%: top_p is a share of what top_k left.
    assert set(picks(400, temperature=1.0, top_k=2, top_p=0.55)) == {1}
    assert set(picks(400, temperature=1.0, top_k=2, top_p=0.65)) == {1, 3}
    assert set(picks(400, temperature=1.0, top_k=2, top_p=0.65, min_p=0.8)) == {1}


def test_a_token_depends_on_its_place_and_not_on_the_draws_before_it():
    drawn = picks(50, temperature=1.0, seed=4)
    later = Sampler(temperature=1.0, seed=4, position=20)
    assert [later.pick(LOGITS) for _ in range(30)] == drawn[20:]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(value):
    with pytest.raises(MobileloopError, match="no numbers"):
        Sampler(temperature=1.0).pick(np.array([1, value, 0], np.float32))
    with pytest.raises(MobileloopError, match="no numbers"):
        Sampler(temperature=1.0).pick(np.full(3, -np.inf, np.float32))


def test_huge_logits_do_not_overflow():
    sampler = Sampler(temperature=0.01)
    assert sampler.pick(np.array([3e38, -3e38, 0], np.float32)) == 0


class Rows(Counting):
    """Sequences that each count on their own; sequence k takes steps of k + 1."""

    def __init__(self):
        super().__init__()
        self.ran, self.forked, self.batches = {}, [], []

    def prefill(self, tokens):
        self.ran[0] = list(tokens)
        return self.row(0)

    def fork(self, source, target):
        self.forked.append((source, target))
        self.ran[target] = list(self.ran[source])

    def run(self, sequences, tokens):
        self.batches.append(list(sequences))
        for sequence, (token,) in zip(sequences, tokens, strict=True):
            self.ran[sequence].append(token)
        return np.stack([self.row(sequence) for sequence in sequences])

    def row(self, sequence):
        logits = np.zeros(self.vocab, np.float32)
        logits[(self.ran[sequence][-1] + (sequence + 1 if len(self.ran[sequence]) > 2 else 1)) % self.vocab] = 5
        return logits


def test_samples_share_the_prompt_and_leave_the_batch_when_they_end():
    session = Rows()
    result = generate_samples(session, [1, 2], 5, [Sampler()] * 3, lambda token: token == 7)
    assert session.forked == [(0, 1), (0, 2)]
    assert result.tokens == [[3, 4, 5, 6], [3, 5], [3, 6, 9, 2, 5]]
    assert session.batches == [[0, 1, 2], [0, 1, 2], [0, 2], [0, 2]]
    assert result.step_rows == [3, 3, 2, 2]
    assert result.lengths == [4, 2, 5]
    assert result.decode_tokens_per_s == pytest.approx(10 * 1e3 / sum(result.decode_ms))
    assert result.steps_per_s == pytest.approx(4 * 1e3 / sum(result.decode_ms))


def test_samples_of_one_token_need_no_decode():
    session = Rows()
    result = generate_samples(session, [1, 2], 1, [Sampler()] * 2, lambda token: False)
    assert result.tokens == [[3], [3]]
    assert session.batches == []
    assert result.decode_tokens_per_s is None
    assert result.steps_per_s is None


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_a_sentence(temperature, bad):
    logits = np.zeros(8, np.float32)
    logits[3] = bad
    with pytest.raises(MobileloopError, match="logits are no numbers"):
        Sampler(temperature).pick(logits)
