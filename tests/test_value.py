"""Values: what a dataclass would do, without being one."""

import pytest

from fioctl_rotate.value import Value


class Point(Value):
    x: int
    y: int = 0


class Named(Point):
    y: int = 7
    name: str = "origin"


def test_fields_come_by_position_or_name_with_defaults() -> None:
    point = Point(1)
    assert (point.x, point.y) == (1, 0)
    assert Point(1, 2) == Point(y=2, x=1)
    assert repr(Point(1, 2)) == "Point(x=1, y=2)"


def test_a_subclass_adds_fields_and_changes_defaults() -> None:
    named = Named(1)
    assert (named.x, named.y, named.name) == (1, 7, "origin")


def test_values_are_equal_where_class_and_fields_are() -> None:
    assert Point(1, 7) != Named(1)
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_a_value_cannot_be_changed_and_is_replaced_by_another() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="cannot be changed"):
        point.x = 2  # type: ignore[misc]  # the type checker knows it, too
    assert point.replace(x=2) == Point(2)
    assert point == Point(1)


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})])
def test_what_does_not_fit_is_refused(values: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Point(*values, **named)
