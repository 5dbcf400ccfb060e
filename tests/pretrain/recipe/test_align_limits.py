"""Settings of learning from triplets that cannot be are refused when the recipe is read, not by a job hours later."""

from __future__ import annotations

from operator import attrgetter

import pytest

from pineco.data_pipeline.errors import InputError
from pineco.pretrain.recipe.load import load_recipe
from pineco.pretrain.recipe.objectives import AlignSettings

MEMBERS = "objective.ensemble=[{model: vit_tiny_p8_64}]"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.head_hidden=0", "objective.head_hidden is 0; it must be at least 1, or null"),
        ("objective.head_hidden=-8", "objective.head_hidden is -8"),
        ("objective.tune=head", "objective.tune is head, so objective.head_hidden must be set"),
        ("objective.image_size=0", "objective.image_size is 0"),
        ("objective.margin=0", r"objective.margin is 0\.0; it must be positive and finite"),
        ("objective.margin=-0.05", r"objective.margin is -0\.05"),
        ("objective.margin=.nan", "objective.margin is nan"),
        ("objective.margin=.inf", "objective.margin is inf"),
        ("objective.lora.rank=0", r"objective.lora.rank is 0; it must lie in \[1, 4096\]"),
        ("objective.lora.rank=4097", "objective.lora.rank is 4097"),
        ("objective.lora.alpha=0", "objective.lora.alpha is 0; it must be at least 1"),
        ("objective.lora.dropout=1", r"objective.lora.dropout is 1\.0; it must lie in \[0, 1\)"),
        ("data.min_votes=-1", "data.min_votes is -1; it must not be negative"),
        ("data.share=0", r"data.share is 0\.0; it must be above 0 and at most 1"),
        ("data.share=5", r"data.share is 5\.0"),
        ("data.share=.nan", "data.share is nan"),
    ],
)
def test_a_setting_that_cannot_be(override: str, message: str) -> None:
    """A run would learn nothing, climb its loss, or stop in the middle of torch after it waited in a queue."""
    with pytest.raises(InputError, match=f"^align_tiny: {message}") as caught:
        load_recipe("align_tiny", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override", ["objective.margin=0", "objective.margin=.inf", "data.share=0", "data.min_votes=-1"]
)
def test_a_first_stage_is_checked_too(override: str) -> None:
    """Perceptual initialisation reads the same triplets with the same loss, and would take what alignment refuses."""
    with pytest.raises(InputError, match=f"^pi_toy: {override.split('=')[0]} is "):
        load_recipe("pi_toy", [override])


def test_weights_of_an_ensemble_are_those_of_its_members() -> None:
    """The weights that the recipe names would be read by nobody, and the members start from random ones."""
    with pytest.raises(
        InputError, match=r"^align_tiny: objective\.weights and objective\.ensemble are both set; .*null"
    ):
        load_recipe("align_tiny", [MEMBERS, "objective.weights=/w.safetensors"])
    several, one = ([MEMBERS, "objective.weights=null"], ["objective.weights=/w.safetensors"])
    for overrides, members in ((several, 1), (one, 0)):
        objective = load_recipe("align_tiny", overrides).objective
        assert isinstance(objective, AlignSettings)
        assert len(objective.ensemble) == members


@pytest.mark.parametrize(
    "override",
    ["objective.head_hidden=1", "objective.lora.rank=4096", "objective.lora.rank=1", "objective.lora.alpha=1",
     "objective.lora.dropout=0", "data.min_votes=0", "data.share=1"],
)  # fmt: skip
def test_the_limits_themselves_are_allowed(override: str) -> None:
    """A bound that is off by one would refuse what works."""
    key, _, value = override.partition("=")
    assert attrgetter(key)(load_recipe("align_tiny", [override])) == float(value)
