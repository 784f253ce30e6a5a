"""Functions of the client: the model's call is passed on as it is written, and the client says what came of it."""

from typing import Final

from threadkeep.contract.run_steps import CalledFunction, FunctionCallDelta, FunctionToolCall, FunctionToolCallDelta


class FunctionReading:
    """A call of the client's while its arguments arrive. They are the client's to judge, also when they are no JSON."""

    def __init__(self, index: int, call_id: str, name: str) -> None:
        self._index = index
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    @property
    def call(self) -> FunctionToolCall:
        function = CalledFunction(name=self._name, arguments="".join(self._arguments), output=None)
        return FunctionToolCall(id=self._call_id, function=function)

    def begin(self) -> FunctionToolCallDelta:
        function = FunctionCallDelta(name=self._name, arguments="", output=None)
        return FunctionToolCallDelta(index=self._index, id=self._call_id, function=function)

    def feed(self, arguments: str) -> FunctionToolCallDelta:
        self._arguments.append(arguments)
        return FunctionToolCallDelta(index=self._index, function=FunctionCallDelta(arguments=arguments))

    def finish(self) -> None:
        return None


class Function:
    """What the client's functions have in common."""

    def read(self, index: int, call_id: str, name: str) -> FunctionReading:
        return FunctionReading(index, call_id, name)

    def asked(self, call: FunctionToolCall) -> str:
        return call.function.arguments

    def said(self, call: FunctionToolCall) -> str:
        return call.function.output or ""


FUNCTION: Final = Function()
