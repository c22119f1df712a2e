"""The layered map against a dictionary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.mls.layered_map import LayeredMap


@given(
    st.dictionaries(st.integers(0, 99), st.integers(), max_size=50),
    st.lists(st.dictionaries(st.integers(0, 299), st.one_of(st.none(), st.integers()), max_size=100), max_size=8),
)
def test_a_layered_map_is_a_map(base: dict[int, int], commits: list[dict[int, int | None]]) -> None:
    """None deletes.  Each map stays as it was, whatever is made of it."""
    layered, plain = LayeredMap(dict(base)), base
    history = [(layered, plain)]
    for commit in commits:
        draft, plain = layered.mutate(), plain.copy()
        for key, value in commit.items():
            if value is not None:
                draft[key] = value
                plain[key] = value
            elif key in plain:
                del draft[key]
                del plain[key]
            else:
                with pytest.raises(KeyError):
                    del draft[key]
            assert (key in draft, draft.get(key)) == (key in plain, plain.get(key))
        layered = draft.finish()
        history.append((layered, plain))
    for layered, plain in history:
        assert len(layered) == len(plain)
        assert dict(layered) == plain
        assert layered == plain
        for key in range(300):
            assert layered.get(key) == plain.get(key)
            assert (key in layered) == (key in plain)
            if key not in plain:
                with pytest.raises(KeyError):
                    layered[key]
