"""Random trees of symbolic metrics, for laws."""

from hypothesis import strategies as st

from autocompress.spaces.expression_trees import (
    FUNCTIONS,
    NEGATION,
    OPERATIONS,
    VARIABLES,
    Apply,
    Combine,
    Number,
    Tree,
    Variable,
)

LEAVES = st.one_of(
    st.sampled_from(sorted(VARIABLES)).map(Variable),
    st.sampled_from((0.0, 0.5, 1.0, 2.0, 3.0)).map(Number),
)


def _larger(smaller: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.builds(Apply, st.sampled_from((*FUNCTIONS, NEGATION)), smaller),
        st.builds(Combine, st.sampled_from(OPERATIONS), smaller, smaller),
    )


TREES: st.SearchStrategy[Tree] = st.recursive(LEAVES, _larger, max_leaves=12)
"""Of any extent, also without a variable."""
