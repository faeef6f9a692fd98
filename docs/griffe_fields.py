"""Griffe sees the constructors of equinox modules, which are made from their fields."""

from collections.abc import Iterator

import griffe


class EquinoxFields(griffe.Extension):
    """Adds an `__init__` to every class that has fields, and no constructor of its own or
    of a class that it inherits from.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        del kwargs
        # All are found first: those that are added here are not inherited.
        for member in list(_without_constructor(pkg)):
            fields = [field for field in member.attributes.values() if _is_field(field)]
            self_parameter = griffe.Parameter(
                "self", kind=griffe.ParameterKind.positional_or_keyword
            )
            parameters = griffe.Parameters(self_parameter, *map(_parameter, fields))
            init = griffe.Function("__init__", parameters=parameters, parent=member)
            if fields:
                member.set_member("__init__", init)


def _without_constructor(parent: griffe.Module | griffe.Class) -> Iterator[griffe.Class]:
    for member in list(parent.members.values()):
        if member.is_alias or not (member.is_module or member.is_class):
            continue
        yield from _without_constructor(member)
        if member.is_class and "__init__" not in member.all_members:
            yield member


def _is_field(attribute: griffe.Attribute) -> bool:
    return (
        attribute.annotation is not None
        and "property" not in attribute.labels
        and "AbstractVar" not in str(attribute.annotation)
    )


def _parameter(field: griffe.Attribute) -> griffe.Parameter:
    default = None if "eqx.field(" in str(field.value) else field.value
    return griffe.Parameter(
        field.name,
        annotation=field.annotation,
        kind=griffe.ParameterKind.positional_or_keyword,
        default=default,
    )
