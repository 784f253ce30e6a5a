"""What a call comes to, while it comes: every output is told as a delta, and they add up to the finished call."""

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
)
from threadkeep.tools.toolbox import Tell

# All logs of a call together; what is stored is read whole with every list of steps.
MAX_LOGS_BYTES: Final = 1024**2
_CUT: Final = f"The output was cut: more than {MAX_LOGS_BYTES} bytes are not kept."


class Outcome:
    """The outputs of one call so far."""

    def __init__(self, index: int, call: CodeInterpreterToolCall, tell: Tell) -> None:
        self._index = index
        self._call = call
        self._tell = tell
        # Logs in the pieces in which they came.
        self._outputs: list[list[str] | OutputImage] = []
        self._left_bytes = MAX_LOGS_BYTES
        self._is_cut = False

    @property
    def call(self) -> CodeInterpreterToolCall:
        """The call with what was told."""
        outputs: list[CodeOutput] = [
            CodeOutputLogs(logs="".join(output)) if isinstance(output, list) else CodeOutputImage(image=output)
            for output in self._outputs
        ]
        return replace(self._call, code_interpreter=replace(self._call.code_interpreter, outputs=outputs))

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
            self.tell_news(_CUT)

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
