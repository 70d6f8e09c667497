"""The replay buffer gives back what was played: against a slow book of every transition, and against the library's buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from agents.replay import ReplaySamples, TensorReplayBuffer
from agents.sum_tree import SumTree

N, ACTIONS = 3, 11
OBSERVATION = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION = spaces.Discrete(ACTIONS)


class Book:
    """Random play of N environments into buffers, and what really happened, one environment after the other."""

    def __init__(self, seed: int = 0, ends: float = 0.15, truncations: float = 0.5) -> None:
        self.random = np.random.default_rng(seed)
        self.ends, self.truncations = ends, truncations
        self.names = 0.0
        self.now = self.fresh(N)
        self.steps: list[list[dict[str, Any]]] = []

    def fresh(self, count: int) -> np.ndarray:
        """Observations that no other transition has."""
        names = self.names + np.arange(count, dtype=np.float32)
        self.names += count
        return np.stack([names, -names], 1)

    def play(self, steps: int, *buffers: ReplayBuffer) -> None:
        for _ in range(steps):
            actions = self.random.integers(ACTIONS, size=N)
            rewards = self.random.normal(size=N).astype(np.float32)
            ended = self.random.random(N) < self.ends
            truncated = ended & (self.random.random(N) < self.truncations)
            true_next = self.fresh(N)
            following = true_next.copy()
            following[ended] = self.fresh(int(ended.sum()))
            infos = [{"TimeLimit.truncated": bool(flag)} for flag in truncated]
            for buffer in buffers:
                if isinstance(buffer, TensorReplayBuffer):
                    self.append(buffer, actions, rewards, ended & ~truncated, truncated, true_next, following)
                else:
                    buffer.add(self.now, true_next, actions, rewards, ended, infos)
            self.steps.append(
                [
                    {"observation": self.now[i], "action": actions[i], "reward": rewards[i], "next": true_next[i]}
                    | {"terminated": bool(ended[i] and not truncated[i]), "ended": bool(ended[i])}
                    for i in range(N)
                ]
            )
            self.now = following

    def append(self, buffer: TensorReplayBuffer, actions: Any, rewards: Any, terminated: Any, truncated: Any,
               true_next: np.ndarray, following: np.ndarray) -> None:  # fmt: skip
        if buffer.steps == 0:
            buffer.begin(torch.from_numpy(self.now))
        rows = np.flatnonzero(truncated)
        cut = (torch.from_numpy(rows), torch.from_numpy(true_next[rows])) if len(rows) else None
        buffer.append(*map(torch.from_numpy, (actions, rewards, terminated, following)), cut=cut)

    def expected(self, step: int, i: int, n: int, gamma: float) -> dict[str, Any]:
        """The n-step transition, by a loop."""
        total, length = 0.0, 0
        while True:
            one = self.steps[step + length][i]
            total += gamma**length * float(one["reward"])
            length += 1
            if length == n or one["ended"] or step + length == len(self.steps):
                break
        first = self.steps[step][i]
        return {"observation": first["observation"], "action": first["action"], "reward": total, "next": one["next"],
                "terminated": one["terminated"], "discount": gamma**length}  # fmt: skip


def make(rows: int = 8, **named: Any) -> TensorReplayBuffer:
    return TensorReplayBuffer(rows * N, OBSERVATION, ACTION, "cpu", N, generator=torch.Generator().manual_seed(1), **named)


def everything(buffer: TensorReplayBuffer) -> tuple[list[tuple[int, int]], ReplaySamples]:
    """All transitions that can be sampled, and the step and environment of each."""
    places = [(step, i) for step in range(buffer.steps - buffer.size(), buffer.steps) for i in range(N)]
    indices = torch.tensor([step % (buffer.buffer_size + 1) * N + i for step, i in places])
    return places, buffer.transitions(indices)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("steps", [3, 8, 9, 10, 61])
@pytest.mark.parametrize("truncations", [0.0, 0.5, 1.0])
def test_every_transition_is_what_a_slow_loop_says_also_after_wrapping_around(n: int, steps: int, truncations: float) -> None:
    buffer, book = make(n_steps=n, gamma=0.9, cut_share=0.01), Book(steps, truncations=truncations)
    book.play(steps, buffer)
    places, samples = everything(buffer)
    assert len(places) == min(steps, 8) * N
    for k, (step, i) in enumerate(places):
        expected = book.expected(step, i, n, 0.9)
        assert samples.observations[k].numpy() == pytest.approx(expected["observation"], abs=0)
        assert samples.actions[k].item() == expected["action"]
        assert samples.rewards[k].item() == pytest.approx(expected["reward"], rel=1e-5, abs=1e-6)
        assert samples.dones[k].item() == expected["terminated"]
        if not expected["terminated"]:  # nothing follows an end
            assert samples.next_observations[k].numpy() == pytest.approx(expected["next"], abs=0)
        if n > 1:
            assert samples.discounts is not None and samples.discounts[k].item() == pytest.approx(expected["discount"], rel=1e-5)


@pytest.mark.parametrize("n", [1, 4])
def test_it_gives_what_the_librarys_buffers_give(n: int) -> None:
    stock: ReplayBuffer = ReplayBuffer(8 * N, OBSERVATION, ACTION, "cpu", N)
    if n > 1:
        stock = NStepReplayBuffer(8 * N, OBSERVATION, ACTION, "cpu", N, n_steps=n, gamma=0.9)
    ours, book = make(n_steps=n, gamma=0.9), Book(3)
    book.play(29, stock, ours)
    rows = np.arange(8).repeat(20)
    np.random.seed(0)  # noqa: NPY002 - the library's generator
    expected = stock._get_samples(rows)
    np.random.seed(0)  # noqa: NPY002
    environments = np.random.randint(0, N, size=len(rows))  # noqa: NPY002
    steps = np.array([next(step for step in range(21, 29) if step % 8 == row) for row in rows])
    found = ours.transitions(torch.from_numpy(steps % 9 * N + environments))
    open_ = expected.dones[:, 0] == 0
    assert torch.equal(found.observations, expected.observations) and torch.equal(found.actions, expected.actions)
    assert torch.equal(found.next_observations[open_], expected.next_observations[open_])
    assert torch.equal(found.dones, expected.dones)
    assert torch.allclose(found.rewards, expected.rewards, rtol=1e-6, atol=1e-6)
    assert n == 1 or torch.allclose(found.discounts, expected.discounts, rtol=1e-6)  # type: ignore[arg-type]


def test_the_librarys_way_of_adding_is_the_same() -> None:
    by_tensors, by_arrays, book = make(), make(), Book(5)

    class Plain:  # an object that is not our buffer to the book: it is given arrays
        add = staticmethod(by_arrays.add)

    book.play(30, by_tensors, Plain())  # type: ignore[arg-type]
    one, other = everything(by_tensors)[1], everything(by_arrays)[1]
    going_on = one.dones[:, 0] == 0  # nothing follows an end
    assert torch.equal(one.next_observations[going_on], other.next_observations[going_on]) and going_on.any()
    for name in ("observations", "actions", "dones", "rewards"):
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("truncations", [0.0, 1.0])
def test_an_environment_that_starts_anew_cuts_its_episode_off_where_it_was(truncations: float) -> None:
    for how in ("begin", "add"):
        buffer, book = make(), Book(2, ends=0.4, truncations=truncations)
        book.play(7, buffer)
        unfinished = torch.from_numpy(book.now.copy())
        elsewhere = book.fresh(N)
        if how == "begin":
            buffer.begin(torch.from_numpy(elsewhere))
        else:
            buffer.add(elsewhere, book.fresh(N), np.zeros(N), np.zeros(N), np.zeros(N), [{}] * N)
        samples = buffer.transitions(torch.arange(6 * N, 7 * N))
        for i, last in enumerate(book.steps[-1]):
            if not last["terminated"]:
                expected = torch.from_numpy(last["next"]) if last["ended"] else unfinished[i]
                assert torch.equal(samples.next_observations[i], expected)


def test_final_observations_of_many_truncations_survive_and_are_evicted_with_the_ring() -> None:
    buffer, book = make(rows=40, cut_share=0.0), Book(9, ends=0.9, truncations=1.0)
    book.play(200, buffer)
    places, samples = everything(buffer)
    for k, (step, i) in enumerate(places):
        assert torch.equal(samples.next_observations[k], torch.from_numpy(book.steps[step][i]["next"]))
    assert buffer.cut.live <= 41 * N and len(buffer.cut.keys) <= 2 * 41 * N


@pytest.mark.parametrize("leaves", [1, 63, 5_000, 300_000])
def test_the_sum_tree_finds_what_a_running_sum_finds(leaves: int) -> None:
    random = np.random.default_rng(leaves)
    tree = SumTree(leaves, torch.device("cpu"))
    weights = np.where(random.random(leaves) < 0.3, 0.0, random.exponential(size=leaves)).astype(np.float32)
    weights[random.integers(leaves)] = 2.0
    tree.fill(0, leaves, 0.5)
    tree.fill(leaves // 3, leaves // 2 + 1, 7.0)
    tree.set(torch.arange(leaves), torch.from_numpy(weights))
    sums = weights.astype(np.float64).cumsum()
    assert tree.total.item() == pytest.approx(sums[-1], rel=1e-12)
    masses = random.random(2_000) * sums[-1]
    found = tree.find(torch.from_numpy(masses)).numpy()
    clear = np.abs(sums[np.minimum(np.searchsorted(sums, masses), leaves - 1)] - masses) > 1e-9 * sums[-1]
    assert np.array_equal(found[clear], np.searchsorted(sums, masses, side="right")[clear]) and clear.mean() > 0.9
    edges = np.concatenate([sums, [0.0, sums[-1] * 2]])  # exactly between two items, and past the last one
    assert (weights[tree.find(torch.from_numpy(edges)).numpy()] > 0.0).all()


def test_a_priority_is_sampled_in_its_share() -> None:
    buffer, book = make(prioritised=True, alpha=0.7, beta=0.5), Book(4)
    book.play(20, buffer)
    places, samples = everything(buffer)
    errors = torch.rand(len(places), generator=torch.Generator().manual_seed(3)) * 4.0
    buffer.update_priorities(samples.indices, -errors)  # the sign does not count
    shares = (errors.double() + 1e-6) ** 0.7
    shares /= shares.sum()
    draws, rounds = 500, 40
    counts = torch.zeros(9 * N, dtype=torch.float64)
    for _ in range(rounds):
        drawn = buffer.sample(draws)
        counts.index_add_(0, drawn.indices, torch.ones(draws, dtype=torch.float64))
        expected = (shares * len(places)) ** -0.5
        place = {int(index): k for k, index in enumerate(samples.indices)}
        own = torch.stack([expected[place[int(index)]] for index in drawn.indices])
        assert drawn.weights is not None and torch.allclose(drawn.weights[:, 0].double(), own / own.max(), rtol=1e-4)
    chosen = counts[samples.indices]
    assert chosen.sum() == draws * rounds  # nothing else was ever drawn
    expected_counts = shares * draws * rounds
    chi_square = float(((chosen - expected_counts) ** 2 / expected_counts).sum())
    assert chi_square < 49.7  # 99.9 % of 23 degrees of freedom; strata lie closer still
    assert float(((chosen - chosen.mean()) ** 2 / chosen.mean()).sum()) > 1_000.0  # and not uniform


def test_a_new_transition_has_the_highest_priority_and_alpha_zero_is_uniform() -> None:
    buffer, book = make(prioritised=True, alpha=1.0), Book(4)
    book.play(3, buffer)
    assert buffer.tree is not None
    buffer.update_priorities(torch.tensor([4]), torch.tensor([25.0]))
    book.play(1, buffer)
    assert buffer.tree.weights(torch.tensor([0, 4, 9, 10, 11])).tolist() == pytest.approx([1.0, 25.0, 25.0, 25.0, 25.0])
    flat, book = make(prioritised=True, alpha=0.0), Book(4)
    book.play(8, flat)
    flat.update_priorities(torch.arange(24), torch.rand(24))
    drawn = flat.sample(24)
    assert drawn.indices.tolist() == list(range(24))  # one stratum each
    assert drawn.weights is not None and torch.allclose(drawn.weights, torch.ones(24, 1))


def test_uniform_sampling_draws_every_kept_transition_and_no_other() -> None:
    for steps in (5, 8, 9, 31):
        buffer, book = make(), Book(steps)
        book.play(steps, buffer)
        drawn = set(buffer.sample(3_000).indices.tolist())
        assert drawn == set(everything(buffer)[1].indices.tolist())


def test_the_same_generator_draws_the_same() -> None:
    for prioritised in (False, True):
        one, other, book = make(prioritised=prioritised), make(prioritised=prioritised), Book(4)
        book.play(20, one, other)
        for left, right in zip(one.sample(64), other.sample(64), strict=True):
            assert (left is None and right is None) or torch.equal(left, right)


def test_masks_of_the_next_state_come_back_and_a_cut_off_one_allows_everything() -> None:
    buffer = make(masks=True, n_steps=2)
    random = np.random.default_rng(0)
    masks = [torch.from_numpy(random.random((N, ACTIONS)) < 0.5) for _ in range(15)]
    rows = torch.arange(N)
    buffer.begin(torch.zeros(N, 2), masks[0])
    for step in range(14):
        kept = buffer.valid_actions()
        assert kept is not None and torch.equal(kept, masks[step])
        cut = (rows[1:2], torch.ones(1, 2)) if step == 12 else None
        buffer.append(torch.zeros(N, dtype=torch.int64), torch.zeros(N), torch.zeros(N), torch.zeros(N, 2), cut, masks[step + 1])
    found = buffer.transitions(10 % 9 * N + rows).next_masks
    assert found is not None and torch.equal(found, masks[12])
    found = buffer.transitions(11 % 9 * N + rows).next_masks
    assert found is not None and found[1].all() and torch.equal(found[[0, 2]], masks[13][[0, 2]])


@pytest.mark.parametrize("prioritised", [False, True])
def test_it_takes_at_most_a_fifth_more_than_the_raw_bytes(prioritised: bool) -> None:
    space = spaces.Box(-1.0, 1.0, (20,), np.float32)
    n = 256
    buffer = TensorReplayBuffer(400_000, space, ACTION, "cpu", n, prioritised=prioritised, masks=True, cut_share=0.05)
    assert buffer.raw_bytes == 400_000 // n * n * (20 * 4 + 1 + 4 + 1)
    reserved = buffer.bytes
    observations = torch.zeros(n, 20)
    cut = (torch.arange(0, n, 20)[:12], torch.zeros(12, 20))  # 5 % of the transitions end at a time limit
    buffer.begin(observations)
    for _ in range(2_000):
        buffer.append(torch.zeros(n, dtype=torch.int64), torch.zeros(n), torch.zeros(n), observations, cut)
    tensors = [value for value in vars(buffer).values() if isinstance(value, torch.Tensor)]
    tensors += [buffer.cut.keys, buffer.cut.observations, *([] if buffer.tree is None else buffer.tree.levels)]
    allocated = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert abs(allocated - buffer.bytes) < 100 and buffer.bytes == reserved
    assert allocated <= 1.2 * buffer.raw_bytes


def test_other_observations_keep_their_kind() -> None:
    images = spaces.Box(0, 255, (1, 4, 5), np.uint8)
    buffer = TensorReplayBuffer(10, images, spaces.Discrete(300), "cpu", 2)
    assert buffer.observations.dtype == torch.uint8 and buffer.actions.dtype == torch.int16
    picture = np.arange(40, dtype=np.uint8).reshape(2, 1, 4, 5)
    buffer.add(picture, picture + 1, np.array([299, 0]), np.zeros(2), np.ones(2), [{"TimeLimit.truncated": True}] * 2)
    samples = buffer.transitions(torch.arange(2))
    assert torch.equal(samples.next_observations, torch.from_numpy(picture + 1)) and samples.actions[0].item() == 299


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, "alpha = 1.5; accepted is 0 to 1"),
        ({"beta": -0.1}, "beta = -0.1; accepted is 0 to 1"),
        ({"beta": float("nan")}, "beta = nan"),
        ({"n_steps": 0}, "n_steps = 0"),
        ({"gamma": 1.1}, "gamma = 1.1"),
        ({"cut_share": 2.0}, "cut_share = 2.0"),
        ({"action_space": OBSERVATION}, "accepted is Discrete"),
        ({"observation_space": spaces.Dict({"a": OBSERVATION})}, "accepted is any space but Dict"),
        ({"buffer_size": 10**15}, "accepted is a buffer that fits into memory"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    named = {
        "buffer_size": 24,
        "observation_space": OBSERVATION,
        "action_space": ACTION,
        "device": "cpu",
        "n_envs": N,
    } | arguments
    with pytest.raises(ValueError, match=message):
        TensorReplayBuffer(**named)


def test_an_empty_buffer_and_priorities_of_a_uniform_one_are_refused() -> None:
    with pytest.raises(ValueError, match="is empty"):
        make().sample(4)
    with pytest.raises(ValueError, match="prioritised = True"):
        make().update_priorities(torch.zeros(1, dtype=torch.int64), torch.zeros(1))
