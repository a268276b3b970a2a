"""A pass has one spelling, and its options are typed."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.errors import UsageError
from qdqgraph.passes import ALL, BY_REQUEST
from qdqgraph.passes.configure import configure
from qdqgraph.passes.place_residual import place_residual
from qdqgraph.passes.place_weighted import place_weighted
from qdqgraph.passes.share_moved import share_moved
from qdqgraph.pipeline.options import add_pass
from qdqgraph.pipeline.passes import STAGES, Pass, find_pass
from qdqgraph.pipeline.spelling import split_options, split_spelling


@pytest.mark.parametrize(
    ("made", "spelling"),
    [
        (place_residual, "place-residual"),
        (place_residual.with_options(policy="both"), "place-residual{policy=both}"),
        (place_residual.with_options(together="no"), "place-residual{together=false}"),
        (
            place_residual.with_options(scope="backbone.*", policy="both"),
            "place-residual{policy=both,scope=backbone.*}",
        ),
        (share_moved.with_options(guard="8"), "share-moved{guard=8.0}"),
        (
            configure.with_options(pattern="conv1", method="percentile{p=99.9,two_sided=true}"),
            "configure{method=percentile{p=99.9,two_sided=true},pattern=conv1}",
        ),
    ],
)
def test_a_spelling_parses_back_to_the_pass(made: Pass, spelling: str) -> None:
    assert str(made) == made.spelling == spelling
    name, options = split_spelling(spelling)
    assert find_pass(name, (*ALL, *BY_REQUEST)).with_options(**options) == made


@pytest.mark.parametrize("target", [qg.tensorrt, qg.tensorrt_rtx, qg.onnxruntime])
def test_every_pass_of_a_preset_parses_back(target: object) -> None:
    assert callable(target)
    for item in target():
        name, options = split_spelling(item.spelling)
        assert find_pass(name, ALL).with_options(**options) == item


def test_options_take_the_type_of_the_argument() -> None:
    made = place_weighted.with_options(bits="4", clone_shared="yes", depthwise="float")
    assert [made.option(key) for key in ("bits", "clone_shared", "depthwise")] == [4, True, "float"]
    assert share_moved.with_options(guard="8").option("guard") == 8.0
    assert place_weighted.option("bits") == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "four"}, "'four' is no int"),
        ({"clone_shared": "perhaps"}, "'perhaps' is no bool"),
        ({"depthwise": "int4"}, "'int4' is no choice for .*one of int8, fusible, float"),
        ({"depthwize": "int8"}, "has no option 'depthwize': did you mean 'depthwise'"),
        ({"zzz": "1"}, "has no option 'zzz': it takes depthwise, small"),
    ],
)
def test_wrong_options_say_what_is_right(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        place_weighted.with_options(**options)


@pytest.mark.parametrize("text", ["", "{", "a b", "name{", "name{a=1", "1name", "name}a{"])
def test_what_spells_no_pass(text: str) -> None:
    with pytest.raises(UsageError, match="does not spell a pass"):
        split_spelling(text)


def test_options_without_a_value() -> None:
    with pytest.raises(UsageError, match=r"'policy' in .* is not option=value"):
        split_spelling("place-residual{policy}")
    assert split_options("") == {}
    assert split_options(" a = 1 , b={x=1,y=2} ") == {"a": "1", "b": "{x=1,y=2}"}
    assert split_options("pattern=a=b") == {"pattern": "a=b"}


def test_a_pass_is_found_by_words_of_its_name() -> None:
    assert find_pass("residual", ALL).name == "place-residual"
    assert find_pass("place-residual", ALL).name == "place-residual"
    with pytest.raises(UsageError, match=r"'place' is ambiguous: did you mean place-weighted"):
        find_pass("place", ALL)
    with pytest.raises(
        UsageError, match=r"'place-residul' is unknown: did you mean place-residual"
    ):
        find_pass("place-residul", ALL)
    with pytest.raises(UsageError, match=r"'qqq' is unknown: one of fold-constants"):
        find_pass("qqq", ALL)


def test_passes_are_values() -> None:
    assert place_residual.with_options(policy="both") == place_residual.with_options(policy="both")
    assert place_residual.with_options(policy="both") != place_residual
    assert len({place_residual, place_residual.with_options(), place_weighted}) == 2


def test_every_pass_has_a_stage_a_doc_and_a_unique_name() -> None:
    every = (*ALL, *BY_REQUEST)
    assert len({item.name for item in every}) == len(every)
    assert all(item.stage in STAGES and item.doc for item in every)
    ranks = [STAGES.index(item.stage) for item in ALL]
    assert ranks == sorted(ranks)


def test_a_pass_of_the_users_own_with_nested_braces() -> None:
    place = "qdqgraph.passes.configure:configure{pattern=fc,method=percentile{p=99.9}}"
    made = add_pass(qg.tensorrt(), place)
    added = next(item for item in made if item.name == "configure")
    assert added.option("method") == "percentile{p=99.9}"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no_such_module:thing", "cannot load the pass"),
        ("qdqgraph.passes.configure:nothing", "cannot load the pass"),
        ("qdqgraph.passes.place_attention:HEAD_DIMENSIONS", "is no pass"),
    ],
)
def test_a_place_that_holds_no_pass(place: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        add_pass(qg.tensorrt(), place)
