"""Stand-ins for TensorRT's objects that know the bindings' signatures, and write down what is asked of them.

A recorder of a class has just the members that the surface of that version lists; calls must fit one of the
signatures, arguments by type as far as the signature tells it. Results are recorders of the annotated class, or what
the script says.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from surface import SEVERITIES, Surface

Script = dict[str, Any]
"""`Class.member` to a value, or to a function of the recorder and the arguments"""

_PLAIN = {"None": None, "bool": True, "str": "", "int": 0}


class Violation(BaseException):
    """The code asks for something that this version does not have; no `except Exception` of the code hides it."""


class HostMemory(bytes):
    """What `build_serialized_network` and `serialize` return: bytes, here."""


class Tape:
    """Calls and settings in order, over all recorders of a scenario."""

    def __init__(self, surface: Surface, script: Script) -> None:
        self.surface, self.script = surface, script
        self.entries: list[tuple[str, Any]] = []
        self.module: Any = None

    def make(self, cls: str) -> Recorder:
        return Recorder(self, cls)

    def enum(self, kind: str, name: str) -> Any:
        return getattr(getattr(self.module, kind), name)


class Recorder:
    def __init__(self, tape: Tape, cls: str) -> None:
        object.__setattr__(self, "tape", tape)
        object.__setattr__(self, "cls", cls)
        object.__setattr__(self, "state", {})

    def __getattr__(self, name: str) -> Any:
        members = self.tape.surface["classes"][self.cls]
        if name not in members:
            # an AttributeError, because the code may ask with hasattr
            raise AttributeError(f"TensorRT {self.tape.surface['version']} has no {self.cls}.{name}")
        if isinstance(members[name], list):
            return lambda *args, **kwargs: self._called(name, members[name], args, kwargs)
        key = f"{self.cls}.{name}"
        if members[name] == "read" and key not in self.tape.script and name not in self.state:
            raise Violation(f"{key} is read, and the scenario has no answer")
        answer = self.state.get(name, self.tape.script.get(key))
        return answer(self) if callable(answer) else answer

    def __setattr__(self, name: str, value: Any) -> None:
        kind = self.tape.surface["classes"][self.cls].get(name)
        if kind != "write":
            raise Violation(f"{self.cls}.{name} = {value!r} in TensorRT {self.tape.surface['version']}")
        self.state[name] = value
        self.tape.entries.append((f"{self.cls}.{name}=", plain(value)))

    def _called(self, name: str, signatures: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = f"{self.cls}.{name}"
        results = [result for parameters, result in signatures if fits(parameters, args, kwargs, self.tape.module)]
        if not results:
            raise Violation(f"{key}{args}{kwargs or ''} fits none of {signatures}")
        self.tape.entries.append((key, [plain(a) for a in args] + [[k, plain(v)] for k, v in kwargs.items()]))
        if key in self.tape.script:
            answer = self.tape.script[key]
            return answer(self, *args, *kwargs.values()) if callable(answer) else answer
        result = results[0]
        if result in _PLAIN:
            return _PLAIN[result]
        if result == "IHostMemory":
            return HostMemory(b"plan")
        if result in self.tape.surface["classes"]:
            return self.tape.make(result)
        raise Violation(f"{key} returns {result}, and the scenario has no answer")


def fits(parameters: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any], module: Any) -> bool:
    """Whether a call fits one signature, by number, keywords and types of its arguments."""
    names = [name for name, _, _ in parameters]
    if len(args) > len(names) or set(kwargs) - set(names[len(args) :]):
        return False
    given = dict(zip(names, args, strict=False)) | kwargs
    return all(suits(given[name], kind, module) if name in given else optional for name, kind, optional in parameters)


def suits(value: Any, kind: str, module: Any) -> bool:
    if kind in ("int", "SupportsInt"):
        return isinstance(value, int)
    if kind in ("str", "bool"):
        return type(value).__name__ == kind
    if kind in ("buffer", "Buffer"):
        return isinstance(value, (bytes, bytearray, memoryview))
    if kind in ("Dims", "tuple", "list"):
        sequence = (tuple, list) if kind == "Dims" else (tuple if kind == "tuple" else list)
        return isinstance(value, sequence) and all(isinstance(n, int) for n in value)
    if isinstance(value, Recorder):
        return value.cls == kind
    if kind == "IHostMemory":
        return isinstance(value, HostMemory)
    expected = getattr(module, kind, None)  # an enum, or a class that ours derive from
    if expected is None:
        raise Violation(f"a parameter of the type {kind}, which this check does not know")
    return isinstance(value, expected)


def plain(value: Any) -> Any:
    """An argument as JSON takes it."""
    if isinstance(value, Recorder):
        return f"<{value.cls}>"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("latin-1")
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if value is None or type(value) in (int, str, bool, float):
        return value
    if hasattr(type(value), "__members__"):
        return str(value)
    return f"<{type(value).__mro__[1].__name__}>"


class Enum(int):
    """A member of an enum of the bindings, where there are none."""

    def __new__(cls, name: str, value: int) -> Enum:
        member = super().__new__(cls, value)
        member.name = name  # type: ignore[attr-defined]
        return member

    __members__: dict[str, Enum]

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"  # type: ignore[attr-defined]


def hand_made(surface: Surface) -> ModuleType:
    """A module `tensorrt` of a surface alone: enums, and classes to derive from."""
    module = ModuleType("tensorrt")
    module.__version__ = surface["version"]  # type: ignore[attr-defined]
    for name, members in surface["enums"].items():
        kind = type(name, (Enum,), {})
        made = {member: kind(member, value) for member, value in members.items()}
        for member, value in made.items():
            setattr(kind, member, value)
        kind.__members__ = made
        setattr(module, name, kind)
    severity = type("Severity", (Enum,), {})
    for value, name in enumerate(SEVERITIES):
        setattr(severity, name, severity(name, value))
    for name in ("ILogger", "IProfiler", "IProgressMonitor"):
        if name in surface["classes"]:
            setattr(module, name, type(name, (), {"Severity": severity}))
    return module


def recorded(real: ModuleType, tape: Tape) -> ModuleType:
    """The module with recorders for everything that would need a GPU."""
    module = ModuleType("tensorrt")
    module.__dict__.update({k: v for k, v in vars(real).items() if not k.startswith("__")})
    module.__version__ = real.__version__  # type: ignore[attr-defined]

    def constructor(cls: str) -> Callable[..., Recorder]:
        def construct(*args: Any, **kwargs: Any) -> Recorder:
            recorder = tape.make(cls)
            tape.script.setdefault(f"{cls}.__init__", None)
            recorder._called("__init__", tape.surface["classes"][cls]["__init__"], args, kwargs)
            return recorder

        return construct

    for cls in ("Builder", "OnnxParser", "Runtime"):
        setattr(module, cls, constructor(cls))
    tape.module = module
    return module
