"""What a call comes to, while it comes: every output is told as a delta, and they add up to the finished call."""

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from threadkeep.contract.run_steps import (
    CodeInterpreterCallDelta,
    CodeInterpreterToolCall,
    CodeInterpreterToolCallDelta,
    CodeOutput,
    CodeOutputDelta,
    CodeOutputImage,
    CodeOutputImageDelta,
    CodeOutputLogs,
    CodeOutputLogsDelta,
    OutputImage,
    RunStep,
    ToolCallsDetails,
)
from threadkeep.tools.toolbox import Tell

# All logs of a call together; what is stored is read whole with every list of steps.
MAX_LOGS_BYTES: Final = 1024**2
# All logs of a run's calls together. Beyond it a call keeps about as much as a model is told of one.
MAX_RUN_LOGS_BYTES: Final = 8 * MAX_LOGS_BYTES
_LEAST_LOGS_BYTES: Final = 64 * 1024


def logs_left(steps: Iterable[RunStep]) -> int:
    """How many bytes of logs a call may keep after these steps of its run."""
    kept = 0
    for step in steps:
        if isinstance(details := step.step_details, ToolCallsDetails):
            for call in details.tool_calls:
                if isinstance(call, CodeInterpreterToolCall):
                    outputs = call.code_interpreter.outputs
                    kept += sum(len(output.logs.encode()) for output in outputs if isinstance(output, CodeOutputLogs))
    return max(min(MAX_RUN_LOGS_BYTES - kept, MAX_LOGS_BYTES), _LEAST_LOGS_BYTES)


class Outcome:
    """The outputs of one call so far."""

    def __init__(self, index: int, call: CodeInterpreterToolCall, tell: Tell) -> None:
        self._index = index
        self._call = call
        self._tell = tell
        # Logs in the pieces in which they came.
        self._outputs: list[list[str] | OutputImage] = []
        self._logs_bytes = self._left_bytes = MAX_LOGS_BYTES
        self._is_cut = False

    @property
    def call(self) -> CodeInterpreterToolCall:
        """The call with what was told."""
        outputs: list[CodeOutput] = [
            CodeOutputLogs(logs="".join(output)) if isinstance(output, list) else CodeOutputImage(image=output)
            for output in self._outputs
        ]
        return replace(self._call, code_interpreter=replace(self._call.code_interpreter, outputs=outputs))

    def keep_at_most(self, logs_bytes: int) -> None:
        """All logs together, of which none have come yet."""
        self._logs_bytes = self._left_bytes = logs_bytes

    def log(self, text: str) -> None:
        """More of what the code says, as far as there is room for it."""
        if self._is_cut:
            return
        size = len(text) if text.isascii() else len(text.encode())
        if size <= self._left_bytes:
            self._left_bytes -= size
            self._add(text)
        else:
            self._is_cut = True
            self._add(text.encode()[: self._left_bytes].decode(errors="ignore"))
            self.tell_news(f"The output was cut: more than {self._logs_bytes} bytes are not kept.")

    def tell_news(self, news: str) -> None:
        """Something that the model is to know and that its code did not say; on lines of its own."""
        self._add(f"{self._line_break()}{news}\n")

    def show(self, file_id: str) -> None:
        """A picture."""
        image = OutputImage(file_id=file_id)
        self._outputs.append(image)
        self._tell_output(CodeOutputImageDelta(index=len(self._outputs) - 1, image=image))

    def _add(self, text: str) -> None:
        if not text:
            return
        last = self._outputs[-1] if self._outputs else None
        if isinstance(last, list):
            last.append(text)
        else:
            self._outputs.append([text])
        # Clients append the logs of one index to each other.
        self._tell_output(CodeOutputLogsDelta(index=len(self._outputs) - 1, logs=text))

    def _line_break(self) -> str:
        last = self._outputs[-1] if self._outputs else None
        return "\n" if isinstance(last, list) and not last[-1].endswith("\n") else ""

    def _tell_output(self, output: CodeOutputDelta) -> None:
        added = CodeInterpreterCallDelta(outputs=[output])
        self._tell(CodeInterpreterToolCallDelta(index=self._index, code_interpreter=added))
