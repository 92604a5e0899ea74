"""A base for immutable classes that take no time to define. Every command uses some, also an offline dry run.

Python builds the methods of each dataclass from source text. That takes about half a millisecond a class: a third
of the start of an offline command. The classes made from this base share its methods instead.
"""

from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Value:
    """A base class. A subclass lists its fields as annotations, with defaults, as a dataclass does.

    Values are equal if their class and all fields are. They cannot be changed; `replace` makes another one.
    `_secret` names the fields of a subclass that its repr does not show.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _secret: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        own = (name for name in cls.__annotations__ if name not in cls._fields)
        cls._fields = (*cls._fields, *own)

    def __init__(self, *values: Any, **named: Any) -> None:
        if len(values) > len(self._fields):
            raise TypeError(f"expected at most {len(self._fields)} values, got {len(values)}")
        given = dict(zip(self._fields, values, strict=False))
        if given.keys() & named.keys():
            raise TypeError(f"given twice: {', '.join(given.keys() & named.keys())}")
        given |= named
        for name in self._fields:
            if name not in given and not hasattr(type(self), name):
                raise TypeError(f"missing: {name}")
            object.__setattr__(self, name, given.pop(name) if name in given else getattr(type(self), name))
        if given:
            raise TypeError(f"unknown: {', '.join(given)}")

    def replace(self, **changes: Any) -> Self:
        """The same value with other values for the fields in `changes`."""
        return type(self)(**{name: getattr(self, name) for name in self._fields} | changes)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        shown = ((name, value) for name, value in vars(self).items() if name not in self._secret)
        fields = ", ".join(f"{name}={value!r}" for name, value in shown)
        return f"{type(self).__name__}({fields})"
