"""Lists of label ids in a cell: one separator a column, the one that makes known ids; what is doubtful is no guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ezxmc_ray.documents.lists import Gold, ListReader, parted_ids, separator_of
from ezxmc_ray.documents.rejected import BadRow
from ezxmc_ray.errors import UserError

IDS = ["Toys", "Games", "Toys>Games", "Home", "Home,Garden", "Garden", "St. Paul", "Paul", "7"]


def _reader(ids: Sequence[str] = IDS, given: str | None = None, settled: str | None = None) -> ListReader:
    numbers = {one: number for number, one in enumerate(ids)}
    return ListReader(numbers.get, "tags", given, settled, lambda separator: parted_ids(ids, separator))


def _ids(value: Any, reader: ListReader | None = None) -> Any:
    """Known and unknown ids; None where nothing is said."""
    found = (reader or _reader()).read(value, 1)
    return found and ([IDS[number] for number in found.numbers], found.unknown)


@pytest.mark.parametrize(
    ("cell", "known"),
    [
        ("Home,Garden", ["Home,Garden"]),  # an id as a whole, though Home and Garden are ids too
        ("Home,Garden;Toys", ["Home,Garden", "Toys"]),
        ("Toys>Games|Home", ["Toys>Games", "Home"]),
        ("St. Paul\tToys", ["St. Paul", "Toys"]),
        ("Toys\nSt. Paul\n", ["Toys", "St. Paul"]),
        ("Toys Games", ["Toys", "Games"]),
        ("; Toys ;; Games ;", ["Toys", "Games"]),
        ('["Home,Garden", 7]', ["Home,Garden", "7"]),
        ("['St. Paul', \"Toys\"]", ["St. Paul", "Toys"]),
        ("['St. Paul'\n 'Toys']", ["St. Paul", "Toys"]),
        ("('Toys',)", ["Toys"]),
        ("[7]", ["7"]),
    ],
)
def test_a_cell_is_split_by_what_makes_known_ids(cell: str, known: list[str]) -> None:
    assert _ids(cell) == (known, [])


@pytest.mark.parametrize("cell", ["Home,Garden;Garden,Paul", "A;B,C"])
def test_two_readings_that_both_make_ids_are_an_error(cell: str) -> None:
    ids = ["Home", "Home,Garden", "Garden,Paul", "Garden;Garden", "Paul", "A", "B,C", "A;B", "C"]
    with pytest.raises(BadRow, match=r"ambiguous labels: tags is .*, ids with ';' and with ',' between: set prepare"):
        _reader(ids).read(cell, 1)
    assert _reader(ids, given=";").read(cell, 1) == Gold([ids.index(one) for one in cell.split(";")], [])


@pytest.mark.parametrize("nothing", ["", " ", "\u200b", "\ufeff \u00ad"])
def test_an_item_that_shows_nothing_is_left_out(nothing: str) -> None:
    assert _ids([nothing, "Toys"]) == _ids(f"{nothing};Toys") == _ids(f'["{nothing}", "Toys"]') == (["Toys"], [])
    assert _ids(nothing) is None and _ids([nothing]) is None


CRAFTS = ["Arts", "Crafts", "Arts, Crafts", "Toys", "New York", "a", "b", "x;y;z"]


@pytest.mark.parametrize(
    ("cell", "separator", "together"),
    [
        ("Arts, Crafts, Toys", ",", "Arts, Crafts"),
        ("Toys,Arts, Crafts", ",", "Arts, Crafts"),
        ("New York a", " ", "New York"),  # though neither New nor York is an id
        ("b a New  York", " ", "New York"),
        ("a;x;y;z;b", ";", "x;y;z"),
    ],
)
def test_parts_that_are_an_id_together_are_an_error(cell: str, separator: str, together: str) -> None:
    reader = _reader(CRAFTS, settled=separator)
    for _ in range(2):  # before the reader has seen the separator, and behind that
        with pytest.raises(BadRow) as raised:
            reader.read(cell, 2)
        told = f"tags is {cell!r}, ids with {separator!r} between, and {together!r} is one of the ids: write a list as"
        assert told in str(raised.value)
        assert reader.read(f"a{separator}b", 1) == Gold([5, 6], [])
    assert reader.read(together, 1) == Gold([CRAFTS.index(together)], [])
    assert reader.read(f'["{together}", "a"]', 1) == Gold([CRAFTS.index(together), 5], [])
    given = _reader(CRAFTS, given=separator).read(cell, 1)  # who names the separator wants it so
    assert given is not None and CRAFTS.index(together) not in given.numbers


def test_parts_that_are_an_id_together_are_an_error_without_a_settled_separator() -> None:
    with pytest.raises(BadRow, match="'Arts, Crafts' is one of the ids"):
        _reader(CRAFTS).read("Arts, Crafts, Toys", 1)
    assert _reader(CRAFTS).read("Crafts, Arts, Toys", 1) == Gold([1, 0, 3], [])


def test_ids_that_a_separator_parts_are_known_by_their_first_part() -> None:
    ids = ["a", "a,b", "a, b ,c", "d;e", " ,f", "g,", "e\u0301,h"]
    assert parted_ids(ids, ",") == {"a": 3, "": 2, "g": 2, "\u00e9": 2}
    assert parted_ids(["a b", " c ", "a  b c"], " ") == {"a": 3}


def test_the_columns_separator_holds_for_what_is_not_known() -> None:
    # "Paul, Minn." is one unknown id in a column of ids with ; between, though a comma would make Paul known.
    assert _ids("Paul, Minn.", _reader(settled=";")) == ([], ["Paul, Minn."])
    assert _ids("Paul, Minn.") == (["Paul"], ["Minn."])
    assert _ids("Toys;gone;Paul, Minn.", _reader(settled=";")) == (["Toys"], ["gone", "Paul, Minn."])
    with pytest.raises(BadRow, match="ids with ',' between, where other rows have ';'"):
        _ids("Toys, Games", _reader(settled=";"))


def test_separators_are_noted_with_their_first_line() -> None:
    reader = _reader()
    for line, cell in enumerate(["Toys", "Toys;Games", "Home|Toys", "Games;Home", "gone;Toys"], 1):
        reader.read(cell, line)
    assert reader.separators == {";": 2, "|": 3}
    assert dict(reader.whole) == {";": 2, "|": 1}


@pytest.mark.parametrize("cell", [None, float("nan"), "", " ", [""], [None, " "]])
def test_what_says_nothing(cell: Any) -> None:
    assert _ids(cell) is None


@pytest.mark.parametrize("cell", [[], "[]", "()"])
def test_an_empty_list_says_that_there_is_no_label(cell: Any) -> None:
    assert _ids(cell) == ([], [])


@pytest.mark.parametrize("cell", ["(1, 20)", "(1,20,)", "{1, 20}", "[1 20]", "array([1, 20])", "frozenset({1, 20})"])
def test_numbers_as_python_prints_them(cell: str) -> None:
    reader = ListReader({"1": 0, "20": 1, "(5)": 2}.get, "tags", None)
    assert reader.read(cell, 1) == Gold([0, 1], [])
    assert reader.read("(1,)", 1) == reader.read("{1}", 1) == Gold([0], [])
    assert reader.read("array(['1', 'x'], dtype='<U1')", 1) == Gold([0], ["x"])
    assert reader.read("frozenset()", 1) == reader.read("array([], dtype=object)", 1) == Gold([], [])
    assert reader.read("(5)", 1) == Gold([2], [])
    assert reader.read("(6)", 1) == Gold([], ["(6)"])


def test_tags_as_stack_exchange_writes_them() -> None:
    assert _ids("<Toys><Games>") == (["Toys", "Games"], [])
    assert _ids("<Toys><gone><Games>") == (["Toys", "Games"], ["gone"])
    assert _ids("<Toys><Games>", _reader(given=";")) == ([], ["<Toys><Games>"])


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("{'Toys': 0.9}", "begins like a list and is none"),
        ('{"Toys": 0.9, "Games": 1}', "begins like a list and is none"),
        ("[Toys, Games]", "begins like a list and is none"),
        ("['Toys' , 'Games' 'Home']", "begins like a list and is none"),
        ("Toys;Games;Toys", "repeats 'Toys'"),
        ([0, 1, 1, 0], "repeats '1': that is no list of ids but a row of a 0/1 matrix"),
        ("[0. 1. 0.]", "repeats '0': that is no list of ids but a row of a 0/1 matrix"),
        ([["Toys"]], "bad id: tags is ['Toys'], not a string or a number"),
        ([True, False], "bad id: tags is True"),
    ],
)
def test_what_is_no_list_of_ids(cell: Any, reason: str) -> None:
    with pytest.raises(BadRow) as raised:
        _reader().read(cell, 1)
    assert reason in str(raised.value)


def test_names_of_separators() -> None:
    names = ["auto", "semicolon", "pipe", "comma", "tab", "newline", "space", ";", "||", ", "]
    assert [separator_of(one) for one in names] == [None, ";", "|", ",", "\t", "\n", " ", ";", "||", ", "]
    assert _ids("Toys||Games", _reader(given="||")) == (["Toys", "Games"], [])
    with pytest.raises(UserError, match=r"^prepare\.list_separator is empty"):
        separator_of("")
