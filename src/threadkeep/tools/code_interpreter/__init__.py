"""The code interpreter: the model's Python, read while it is written, run in the thread's session, files in and out."""

from threadkeep.tools.code_interpreter.tool import CodeInterpreter

__all__ = ["CodeInterpreter"]
