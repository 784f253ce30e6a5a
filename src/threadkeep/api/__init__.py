"""What HTTP sees: the only room that knows the web framework.

A request's way:  edge (id, log line, every error) -> routes (one list) -> resource (key, beta header, ids) -> an
endpoint in its noun's file -> answers (encoded once) or event_stream.
"""

from threadkeep.api.auth import Authenticator
from threadkeep.api.call import Context, HealthPart, Limits
from threadkeep.api.health import accepting, code_interpreter, upstreams
from threadkeep.api.routes import build

__all__ = ["Authenticator", "Context", "HealthPart", "Limits", "accepting", "build", "code_interpreter", "upstreams"]
