"""Methods of modules that are called often."""

from collections.abc import Callable
from typing import Any

import jax


@jax.tree_util.register_pytree_node_class
class _Bound:
    """A bound method that is a PyTree with its object as the only child, as Equinox's
    bound methods are.
    """

    __slots__ = ("__func__", "__self__")

    def __init__(self, function: Callable[..., Any], instance: Any):
        self.__func__, self.__self__ = function, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def tree_flatten(self) -> tuple[tuple[Any], Callable[..., Any]]:
        return (self.__self__,), self.__func__

    @classmethod
    def tree_unflatten(cls, function: Callable[..., Any], parts: tuple[Any]) -> "_Bound":
        return cls(function, *parts)


class quick:
    """A method that Equinox does not wrap, since binding a wrapped one takes 10 us."""

    def __init__(self, function: Callable[..., Any]):
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self.__wrapped__ = self._function = function

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self._function if instance is None else _Bound(self._function, instance)
