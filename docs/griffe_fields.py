"""Griffe sees the constructors of equinox modules, which are made from their fields."""

import griffe


class EquinoxFields(griffe.Extension):
    """Adds an `__init__` to every class that has fields and no constructor."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        del kwargs
        self._visit(pkg)

    def _visit(self, parent: griffe.Module | griffe.Class) -> None:
        for member in list(parent.members.values()):
            if member.is_alias or not (member.is_module or member.is_class):
                continue
            self._visit(member)
            fields = [field for field in member.attributes.values() if _is_field(field)]
            if member.is_class and fields and "__init__" not in member.members:
                self_parameter = griffe.Parameter(
                    "self", kind=griffe.ParameterKind.positional_or_keyword
                )
                init = griffe.Function(
                    "__init__",
                    parameters=griffe.Parameters(
                        self_parameter, *map(_parameter, fields)
                    ),
                    parent=member,
                )
                member.set_member("__init__", init)


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
