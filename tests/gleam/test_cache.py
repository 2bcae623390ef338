"""Values are kept up to a number of bytes; what was not used for longest goes first."""

import numpy as np
import pytest

from gleam.data.cache import Cache


class Maker:
    """Makes arrays and counts how often."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def get(self, cache: Cache, name: str, size: int = 100) -> np.ndarray:
        def make() -> np.ndarray:
            self.made.append(name)
            return np.zeros(size, np.uint8)

        return cache.get(name, make)


def test_a_value_is_made_once():
    maker, cache = Maker(), Cache(1000)
    assert maker.get(cache, "a") is maker.get(cache, "a")
    assert maker.made == ["a"]
    assert cache.nbytes == 100


def test_the_value_that_was_not_used_for_longest_goes_first():
    maker, cache = Maker(), Cache(300)
    for name in "abcadab":  # d pushes out b, then b pushes out c
        maker.get(cache, name)
    assert maker.made == ["a", "b", "c", "d", "b"]
    assert cache.nbytes == 300


@pytest.mark.parametrize("size", [301, 10_000])
def test_a_value_above_the_limit_is_made_every_time_and_pushes_nothing_out(size: int):
    maker, cache = Maker(), Cache(300)
    maker.get(cache, "a")
    for _ in range(2):
        assert len(maker.get(cache, "large", size)) == size
    maker.get(cache, "a")
    assert maker.made == ["a", "large", "large"]
    assert cache.nbytes == 100


def test_several_values_make_room_for_a_large_one():
    maker, cache = Maker(), Cache(300)
    for name in "abc":
        maker.get(cache, name)
    maker.get(cache, "large", 250)
    assert cache.nbytes == 250
    maker.get(cache, "c")
    assert maker.made == ["a", "b", "c", "large", "c"]
