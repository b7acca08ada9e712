"""How often a model finds the right choice the likeliest, beside another model."""

from dataclasses import dataclass

from autocompress.export.evaluation import Estimate


@dataclass(frozen=True, slots=True)
class RightChoices:
    """What models chose, from items that nothing before has read.

    Args:
        items: How many.
        share: Of them that the model chose right; `beside` is another model's, and `difference`
            this one's less that, paired; None where there is no other.
    """

    items: int
    share: Estimate
    beside: Estimate | None
    difference: Estimate | None


def choices_in_words(choices: RightChoices, name: str, other: str) -> str:
    """Return a sentence of how often a model chose right, and how that stands beside another."""
    own = f"{name} chooses right in {_share(choices.share)} of {choices.items} items"
    if choices.beside is None or choices.difference is None:
        return f"{own}, which no decoding changes."
    low, high = choices.difference.interval
    return (
        f"{own}, and {other} in {_share(choices.beside)}, a difference of "
        f"{choices.difference.value:+.1%} [{low:+.1%}, {high:+.1%}], which no decoding changes."
    )


def _share(value: Estimate) -> str:
    low, high = value.interval
    return f"{value.value:.1%} [{low:.1%}, {high:.1%}]"
